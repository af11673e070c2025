"""Drawn scenes: they never change, captions are true, shapes are inside the centre square; their folder; the judge."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from builders import SHARED
from PIL import Image, ImageDraw, ImageFilter

from daskt2i.errors import ConfigError, SourceError
from daskt2i.events import Progress
from daskt2i.protocols import Source
from daskt2i.sources.drawn.drawing import BACKGROUNDS, CLOSE_VERSION, COLOURS, SHAPE_COLOURS, SHAPES, coverage
from daskt2i.sources.drawn.grammar import SIZE_WORDS, Expectation, ExpectedShape
from daskt2i.sources.drawn.judge import SceneReading, judge, match_scene
from daskt2i.sources.scenes import (
    Scene,
    ScenesSource,
    Thing,
    captions,
    describe,
    draw,
    expected,
    jpeg,
    parse_caption,
    scene,
    write_scenes,
)
from daskt2i.types import Pixels

SIDE = 64


def seen_at_64(one: Scene) -> Pixels:
    """A scene, resized by its shorter side and cropped, as in an encode."""
    image = Image.fromarray(draw(one))
    scale = SIDE / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def made(*things: tuple[str, str, str, int, int, int], background: str = "green") -> Scene:
    """A scene of things; each is given as shape, colour, place, x, y, radius."""
    drawn = tuple(
        Thing(shape, colour, "medium", place, x, y, r, COLOURS[colour]) for shape, colour, place, x, y, r in things
    )
    return Scene(0, 0, SIDE, SIDE, background, COLOURS[background], drawn)


TWO = made(("circle", "red", "left", 250, 500, 150), ("square", "blue", "right", 750, 500, 150))
ASKED = "A red circle to the left of a blue square on a green background."


def wanted(text: str) -> Expectation:
    meant = parse_caption(text)
    assert meant is not None, text
    return meant


# --- scenes


def test_a_scene_never_changes() -> None:
    told = "\n".join(f"{scene(seed, i)} {captions(scene(seed, i))}" for seed in (0, 7) for i in (0, 1, 99, 10**7))
    digest = hashlib.sha256(told.encode()).hexdigest()
    assert digest == "227ee526febd264dc3872f6ca8cb1966bb2aad54cd26003874ea1f6c12b77929"
    pixels = b"".join(draw(scene(0, i), 96, 64).tobytes() for i in range(40))
    assert hashlib.sha256(pixels).hexdigest() == "41f1b53ea3baf564b939f07906a0db2ef08343456286aa9bc8e0a111c4d7e41c"


def test_a_scene_of_one_shape_changes_only_with_its_version() -> None:
    """Captions do not depend on the sizes, so only the version tells old pictures from new ones."""
    told = "\n".join(str(scene(seed, i, shapes=1)) for seed in (0, 7) for i in (0, 1, 99, 10**7))
    pixels = b"".join(draw(scene(0, i, shapes=1), 96, 64).tobytes() for i in range(40))
    digest = hashlib.sha256(told.encode() + pixels).hexdigest()
    assert (CLOSE_VERSION, digest) == (3, "df7674a640ce930f7b5134357b151e136c77146d492d4ec481bea0f23f7333c1")


def test_row_i_does_not_depend_on_the_number_of_rows() -> None:
    few, many = ScenesSource(rows=10, seed=3), ScenesSource(rows=5000, seed=3)
    assert list(few.rows(4, 10)) == list(many.rows(4, 10))
    assert few.read(few.rows(9, 10)[0]) == many.read(many.rows(9, 10)[0])
    assert ScenesSource(rows=10, seed=4).rows(0, 10) != few.rows(0, 10)


def test_scenes_keep_their_promises() -> None:
    places, kinds, formats, sizes = set(), set(), set(), set()
    for i in range(2000):
        one = scene(1, i)
        formats.add((one.width, one.height))
        assert one.background not in {thing.colour for thing in one.things}
        for thing in one.things:
            places.add(thing.place)
            kinds.add((thing.shape, thing.colour))
            sizes.add(thing.size)
            for middle in (thing.x, thing.y):
                assert thing.radius + 25 <= middle <= 1000 - thing.radius - 25
        if len(one.things) == 2:
            a, b = one.things
            assert (a.shape, a.colour) != (b.shape, b.colour)
            assert max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius >= 90
    assert len(kinds) == len(SHAPES) * len(SHAPE_COLOURS)
    assert len(formats) == 10
    assert places == {"centre", "left", "right", "above", "below"}
    assert sizes == {"small", "medium", "large"}


def test_the_centre_square_holds_all_that_is_drawn() -> None:
    for i in range(60):
        one = scene(2, i)
        picture = draw(one)
        assert picture.shape == (one.height, one.width, 3)
        side = min(one.width, one.height)
        left, top = (one.width - side) // 2, (one.height - side) // 2
        outside = np.ones(picture.shape[:2], bool)
        outside[top : top + side, left : left + side] = False
        assert (picture[outside] == one.background_rgb).all()


def test_colours_are_well_apart() -> None:
    names = list(BACKGROUNDS)
    apart = [np.linalg.norm(np.subtract(COLOURS[a], COLOURS[b])) for a in names for b in names if a < b]
    assert min(apart) >= 95


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_within_their_radius_and_are_smooth(shape: str) -> None:
    cover = coverage(shape, 50.0, 50.0, 40.0, 100, 100)
    assert cover.shape == (100, 100)
    rows, columns = np.nonzero(cover)
    assert min(rows.min(), columns.min()) >= 8
    assert max(rows.max(), columns.max()) <= 91
    assert ((cover > 0) & (cover < 1)).any()
    np.testing.assert_array_equal(cover, cover[:, ::-1])


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        coverage("hexagon", 5.0, 5.0, 3.0, 10, 10)


# --- captions


def test_captions_are_five_different_true_and_mostly_complete_sentences() -> None:
    complete = 0
    for i in range(1500):
        one = scene(5, i)
        facts = expected(one)
        said = captions(one)
        assert len(set(said)) == 5
        for text in said:
            meant = wanted(text)
            assert meant.background in (None, facts.background), text
            assert len(meant.things) == len(facts.things), text
            for thing in meant.things:
                (fact,) = (f for f in facts.things if (f.shape, f.colour) == (thing.shape, thing.colour))
                assert thing.place in (None, fact.place), text
                assert thing.size in (None, fact.size), text
            complete += meant.background is not None and all(thing.place for thing in meant.things)
        assert sum(wanted(text).background is not None for text in said) == 4
    assert complete == 3 * 1500


def test_captions_vary_in_their_words() -> None:
    said = [text for i in range(500) for text in captions(scene(5, i))]
    frames = {" ".join(w for w in text.lower().split() if w.strip(".,:") not in (*COLOURS, *SHAPES)) for text in said}
    assert len(frames) > 150
    assert {word for words in SIZE_WORDS.values() for word in words} <= set(" ".join(said).lower().split())


def test_the_description_names_everything_and_does_not_depend_on_the_order() -> None:
    for i in range(500):
        one = scene(6, i)
        swapped = dataclasses.replace(one, things=one.things[::-1])
        assert describe(one) == describe(swapped)
        meant = wanted(describe(one))
        assert meant.background == one.background
        assert all(thing.place and thing.colour for thing in meant.things)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("red circle left of a blue square", (None, [("circle", "red", "left"), ("square", "blue", "right")])),
        ("a blue star on grey", ("grey", [("star", "blue", None)])),
        ("A RED RING ON A GRAY BACKGROUND!!", ("grey", [("ring", "red", None)])),
        ("a circle at the top", (None, [("circle", None, "above")])),
        ("A cross with a black ring below it on red", ("red", [("cross", None, "above"), ("ring", "black", "below")])),
    ],
)  # fmt: skip
def test_prompts_similar_to_captions_are_parsed(
    text: str, meant: tuple[str | None, list[tuple[str, str | None, str | None]]]
) -> None:
    things = tuple(ExpectedShape(shape, colour, None, place) for shape, colour, place in meant[1])
    assert parse_caption(text) == Expectation(meant[0], things)


@pytest.mark.parametrize(
    "text",
    [
        "", "A man riding a wave.", "a brown circle", "three red circles", "a red and blue circle on green",
        "a circle in the upper left", "to the left of a red circle is a blue square", "a red circle on blue on green",
        "a red circle left of a blue square left", "a red circle, a blue star and a green ring", "a big background",
        "a red circle, not on green", "a pink circle", "a red hexagon beside a circle",
    ],
)  # fmt: skip
def test_an_unclear_sentence_gives_none_and_not_a_guess(text: str) -> None:
    assert parse_caption(text) is None


# --- source and folder


def test_the_source_follows_its_protocol() -> None:
    source = ScenesSource(rows=20, seed=1)
    assert isinstance(source, Source)
    info = source.info()
    assert (info.rows, info.slots, info.captions) == (20, 5, 100)
    assert info.content == {"scenes": {"rows": 20, "seed": 1, "version": 1}}
    rows = source.rows(0, 20)
    assert [row.index for row in rows] == list(range(20))
    assert len({row.image_id for row in rows}) == 20
    assert info.caption_characters == sum(len(text) for row in rows for text in row.captions)
    image = Image.open(io.BytesIO(source.read(rows[3])))
    assert (image.format, image.size) == ("JPEG", (scene(1, 3).width, scene(1, 3).height))
    assert len(source.rows(15, 99)) == 5


def test_a_source_of_a_billion_rows_reports_its_counts_at_once() -> None:
    info = ScenesSource(rows=10**9).info()
    assert info.captions == 5 * 10**9
    assert 50 < info.caption_characters / info.captions < 80


@pytest.mark.parametrize(("rows", "seed"), [(0, 0), (-3, 0), (10, -1), (True, 0), ("10", 0), (2.0, 0)])
def test_a_wrong_number_of_rows_or_a_wrong_seed_is_refused(rows: int, seed: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        ScenesSource(rows=rows, seed=seed)
    with pytest.raises(ConfigError):
        write_scenes(tmp_path / "new", rows, seed)
    assert not (tmp_path / "new").exists()


def test_the_folder_has_cocos_format_and_the_data_of_the_source(tmp_path: Path) -> None:
    calls: list[Progress] = []
    listing = write_scenes(tmp_path / "deep" / "scenes", 12, seed=2, listener=calls.append)
    assert calls == [Progress("scenes drawn", done, 12) for done in range(1, 13)]
    document = json.loads(listing.read_text(encoding="utf-8"))
    source = ScenesSource(rows=12, seed=2)
    by_image: dict[int, list[str]] = {}
    for annotation in document["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation["caption"])
    assert len({annotation["id"] for annotation in document["annotations"]}) == 60
    for row, image in zip(source.rows(0, 12), document["images"], strict=True):
        file = listing.parent / "images" / image["file_name"]
        assert file.read_bytes() == source.read(row)
        assert Image.open(io.BytesIO(file.read_bytes())).size == (image["width"], image["height"])
        assert (row.image_id, row.file_name) == (image["id"], image["file_name"])
        assert by_image[row.image_id] == list(row.captions)


def test_a_complete_folder_stays_unchanged_and_a_lost_picture_is_drawn_again(tmp_path: Path) -> None:
    listing = write_scenes(tmp_path, 5)
    files = sorted((tmp_path / "images").iterdir())
    before = [path.stat().st_mtime_ns for path in (*files, listing)]
    assert write_scenes(tmp_path, 5) == listing
    assert [path.stat().st_mtime_ns for path in (*files, listing)] == before
    lost = files[2].read_bytes()
    files[2].unlink()
    files[4].write_bytes(b"")
    write_scenes(tmp_path, 5)
    assert files[2].read_bytes() == lost
    assert files[4].stat().st_size > 1000


def test_an_interrupted_folder_is_finished(tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path, 6, listener=stop)
    assert not (tmp_path / "captions.json").exists()
    (tmp_path / "images" / "scene-0-00000002.jpg").write_bytes(b"half a pict")
    write_scenes(tmp_path, 6)
    assert (tmp_path / "images" / "scene-0-00000002.jpg").read_bytes() == jpeg(scene(0, 2))


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    write_scenes(tmp_path, 4)
    listing = tmp_path / "captions.json"
    for rows, seed in ((5, 0), (4, 1)):
        with pytest.raises(SourceError, match="rows 4, seed 0"):
            write_scenes(tmp_path, rows, seed)
    document = json.loads(listing.read_text(encoding="utf-8"))
    document["annotations"][0]["caption"] = "A dog."
    listing.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(SourceError, match="changed"):
        write_scenes(tmp_path, 4)
    listing.unlink()
    with pytest.raises(SourceError, match="another set"):
        write_scenes(tmp_path, 3)
    for other in ("notes.txt", "images/holiday.jpg"):
        folder = tmp_path / other.replace("/", "-")
        (folder / other).parent.mkdir(parents=True)
        (folder / other).write_text("mine")
        with pytest.raises(SourceError, match=other):
            write_scenes(folder, 3)
        assert [path for path in folder.rglob("*") if path.is_file()] == [folder / other]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "captions.json").write_text("[1, 2")
    with pytest.raises(SourceError, match="not of drawn scenes"):
        write_scenes(tmp_path / "broken", 3)
    with pytest.raises(SourceError):
        write_scenes(listing.parent / "notes.txt" / "notes.txt", 3)


# --- the judge


def test_the_judge_reads_clean_pictures() -> None:
    right = {1: [0, 0], 2: [0, 0]}
    for i in range(300):
        one = scene(8, i)
        verdict = match_scene(judge(seen_at_64(one)), expected(one))
        right[len(one.things)][0] += verdict.right
        right[len(one.things)][1] += 1
    for good, all_of_them in right.values():
        assert good >= 0.99 * all_of_them


def jpeg_80(picture: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=80)
    return np.asarray(Image.open(buffer))


def blurred(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(0.9)))


def noisy(picture: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 10, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def tinted(picture: Pixels) -> Pixels:
    return np.clip(picture * 0.93 + [8, -4, 6], 0, 255).astype(np.uint8)


def halved(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BILINEAR))


def enlarged(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).resize((256, 256), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("change", [jpeg_80, blurred, noisy, tinted, halved, enlarged])
def test_the_judge_accepts_flaws_that_a_person_accepts(change) -> None:  # type: ignore[no-untyped-def]
    right = [match_scene(judge(change(seen_at_64(scene(9, i)))), expected(scene(9, i))).right for i in range(100)]
    assert np.mean(right) >= 0.95


def test_the_judge_finds_that_a_picture_shows_its_own_caption() -> None:
    reading = judge(draw(TWO))
    verdict = match_scene(reading, wanted(ASKED))
    assert verdict.right
    assert reading.certain
    circle, square = sorted(reading.things, key=lambda thing: thing.x)
    assert (circle.shape, circle.colour, circle.place) == ("circle", "red", "left")
    assert (square.shape, square.colour, square.place) == ("square", "blue", "right")
    assert abs(circle.x - 250) <= 15
    assert abs(circle.radius - 150) <= 15


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("A blue circle to the left of a red square on a green background.", {"bound"}),
        ("A red circle to the right of a blue square on a green background.", {"places"}),
        ("A red circle above a blue square on a green background.", {"places"}),
        ("A red circle to the left of a blue square on a yellow background.", {"background"}),
        ("A red circle to the left of a blue star on a green background.", {"shapes", "bound"}),
        ("A red circle to the left of a white square on a green background.", {"colours", "bound"}),
        ("A red circle on a green background.", {"shapes", "bound", "clean"}),
    ],
)
def test_a_picture_of_something_else_is_not_right(text: str, fields: set[str]) -> None:
    verdict = match_scene(judge(draw(TWO)), wanted(text))
    assert not verdict.right
    found = {field.name for field in dataclasses.fields(verdict) if not getattr(verdict, field.name)}
    assert fields <= found
    assert "background" in found or "background" not in fields
    if "colours" not in fields:
        assert verdict.colours


def drawn_over(*marks: tuple[str, tuple[int, int, int, int], str]) -> Pixels:
    """The right picture with extra marks: drawn four times as large, marked, and reduced."""
    image = Image.fromarray(draw(TWO, 256, 256))
    pen = ImageDraw.Draw(image)
    for kind, box, colour in marks:
        getattr(pen, kind)(box, fill=COLOURS[colour])
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(drawn_over(("rectangle", (64, 80, 110, 180), "yellow")), id="half the circle is yellow"),
        pytest.param(drawn_over(("rectangle", (0, 0, 256, 60), "pink")), id="a strip of another background"),
        pytest.param(drawn_over(("rectangle", (100, 180, 170, 240), "white")), id="a third shape"),
        pytest.param(drawn_over(("rectangle", (120, 190, 136, 206), "black")), id="a small blot"),
        pytest.param(drawn_over(("rectangle", (50, 110, 78, 150), "green")), id="a hole in the circle"),
        pytest.param(drawn_over(("rectangle", (0, 100, 64, 160), "red")), id="the circle runs out of the picture"),
        pytest.param(drawn_over(("rectangle", (60, 124, 190, 132), "red")), id="the shapes are joined"),
        pytest.param(drawn_over(("rectangle", (25, 88, 105, 168), "green")), id="the circle is missing"),
        pytest.param(drawn_over(("rectangle", (130, 60, 250, 200), "green")), id="the square is missing"),
        pytest.param(drawn_over(("rectangle", (150, 88, 235, 128), "green")), id="the square is cut in half"),
        pytest.param(np.full((SIDE, SIDE, 3), COLOURS["green"], np.uint8), id="nothing"),
        pytest.param(np.zeros((SIDE, SIDE, 3), np.uint8), id="black"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8), id="static"),
        pytest.param(draw(made(*[("circle", "red", "left", 250, 500, 150)] * 1)), id="only the circle"),
        pytest.param(
            draw(made(("circle", "red", "left", 300, 300, 150), ("square", "blue", "right", 700, 700, 150))),
            id="as much beside as above",
        ),
        pytest.param(
            (draw(TWO) * np.linspace(0.2, 1.6, SIDE)[:, None]).clip(0, 255).astype(np.uint8), id="uneven light"
        ),
        pytest.param(draw(TWO)[:, :, ::-1].copy(), id="red and blue exchanged"),
        pytest.param(np.repeat(draw(TWO).mean(axis=2, keepdims=True), 3, axis=2).astype(np.uint8), id="grey"),
    ],
)
def test_a_picture_that_a_person_would_not_accept_is_not_right(picture: Pixels) -> None:
    assert not match_scene(judge(picture), wanted(ASKED)).right


def test_a_colour_between_two_named_colours_has_no_name() -> None:
    between = tuple(int(v) for v in np.add(COLOURS["red"], COLOURS["purple"]) // 2)
    one = dataclasses.replace(TWO, things=(dataclasses.replace(TWO.things[0], rgb=between), TWO.things[1]))
    reading = judge(draw(one))
    assert not reading.certain
    assert not match_scene(reading, wanted(ASKED)).colours


def test_photographs_are_not_taken_for_scenes() -> None:
    folder = SHARED / "coco-mini" / "images"
    if not folder.is_dir():
        pytest.skip("shared/data/coco-mini is not beside this checkout")
    for path in sorted(folder.iterdir())[:40]:
        with Image.open(path) as image:
            assert not judge(np.asarray(image.convert("RGB"))).certain


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((64, 64)), np.zeros((64, 64, 3)), np.zeros((16, 64, 3), np.uint8), np.zeros((64, 64, 4), np.uint8)],
)
def test_an_array_that_is_not_a_picture_is_refused(pixels: Pixels) -> None:
    with pytest.raises(ValueError, match="uint8"):
        judge(pixels)


def test_an_empty_reading_matches_nothing() -> None:
    verdict = match_scene(SceneReading(None, (), 1.0), wanted(ASKED))
    assert not any(getattr(verdict, field.name) for field in dataclasses.fields(verdict))


def test_scenes_of_one_shape_are_a_separate_data_set(tmp_path: Path) -> None:
    source = ScenesSource(40, 3, shapes=1)
    assert all(len(scene(3, i, 1).things) == 1 for i in range(40))
    assert any(len(scene(3, i).things) == 2 for i in range(40))
    assert all(len(parse_caption(text).things) == 1 for row in source.rows(0, 40) for text in row.captions)  # type: ignore[union-attr]
    both = ScenesSource(40, 3)
    assert source.info().content != both.info().content
    assert {row.file_name for row in source.rows(0, 40)}.isdisjoint(row.file_name for row in both.rows(0, 40))
    listing = write_scenes(tmp_path, 3, seed=3, shapes=1)
    document = json.loads(listing.read_text())
    assert [image["file_name"] for image in document["images"]] == [row.file_name for row in source.rows(0, 3)]
    assert (tmp_path / "images" / document["images"][0]["file_name"]).read_bytes() == source.read(source.rows(0, 1)[0])
    with pytest.raises(SourceError, match="holds other scenes"):
        write_scenes(tmp_path, 3, seed=3)
    with pytest.raises(ConfigError, match="need 1 or 2 for shapes"):
        ScenesSource(3, shapes=3)


def test_a_shape_that_is_always_alone_is_drawn_larger_and_recognised_as_reliably() -> None:
    close, mixed = [scene(5, i, 1) for i in range(120)], [scene(5, i) for i in range(120)]
    alone = [one.things[0].radius for one in mixed if len(one.things) == 1]
    assert np.mean([one.things[0].radius for one in close]) > 1.5 * np.mean(alone)
    for one in close:
        assert match_scene(judge(draw(one, 64, 64)), expected(one)).right, one


def crooked(shape: str, bend: float) -> Pixels:
    """A yellow shape on blue, 64 pixels; waves of `bend` pixels move its outline."""
    side, fine = 64, 4
    y, x = np.mgrid[: side * fine, : side * fine] / fine
    drawn = coverage(shape, side * fine / 2, side * fine / 2, 18.0 * fine, side * fine, side * fine)
    down, right = (
        np.clip((here + bend * np.sin(other / wave)) * fine, 0, side * fine - 1).astype(int)
        for here, other, wave in ((y, x, 5), (x, y, 4))
    )
    cover = drawn[down, right].reshape(side, fine, side, fine).mean(axis=(1, 3))[..., None]
    return np.rint(cover * COLOURS["yellow"] + (1 - cover) * COLOURS["blue"]).astype(np.uint8)


@pytest.mark.parametrize(("shape", "bend"), [("star", 1.0), ("cross", 2.0), ("ring", 2.0), ("triangle", 2.0)])
def test_a_crooked_shape_far_ahead_of_the_others_is_recognised(shape: str, bend: float) -> None:
    assert [thing.shape for thing in judge(crooked(shape, bend)).things] == [shape]


@pytest.mark.parametrize(("shape", "bend"), [("star", 2.0), ("cross", 4.0), ("ring", 4.0), ("triangle", 4.0)])
def test_a_shape_that_is_bent_too_much_is_not_recognised(shape: str, bend: float) -> None:
    assert not any(thing.shape for thing in judge(crooked(shape, bend)).things)
