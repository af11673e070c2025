"""`look` and `--source`: what is said of a guess, and the first rows in a pipe, in a file and as JSON."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders.coco import write_coco
from builders.command_line import one_error, one_object, run
from builders.workflows import write_workflow

from daskt2i.sources.fake import bitmap, colour
from daskt2i.store.dataset import open_store


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five good pictures, one that is too small, one without a caption; the name of one could steer a terminal."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.bmp").write_bytes(bitmap(48, 40, colour(n)))
        (folder / f"{n}.txt").write_text(f"picture {n}\nthe {n} picture")
    (folder / "5.bmp").write_bytes(bitmap(48, 7, colour(5)))
    (folder / "5.txt").write_text("small")
    (folder / "6\x1b[2J.bmp").write_bytes(bitmap(48, 40, colour(6)))
    return folder


GUESS = "photos is read as folder, because its pictures have .txt files beside them. If that is wrong, name another "


def test_a_guess_is_said_before_the_plan_and_stands_in_it(photos: Path, tmp_path: Path) -> None:
    workflow = write_workflow(tmp_path / "w.yaml")
    done = run("encode", "-w", workflow, "--images", photos, "-o", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"{GUESS}source (--source)." in " ".join(done.stderr.split())
    assert re.search(r"^read as +folder *$", done.stdout, re.MULTILINE)


def test_a_named_source_is_taken_without_a_word(photos: Path, tmp_path: Path) -> None:
    workflow = write_workflow(tmp_path / "w.yaml")
    out = tmp_path / "out"
    done = run("encode", "-w", workflow, "--source", "folder", "--images", photos, "-o", out, "-s", "serial", "--json")
    assert done.returncode == 0, done.stderr
    assert "is read as" not in done.stderr
    assert one_object(done)["rejected"] == {"image-too-small": 1, "no-caption": 1}
    assert open_store(out)["caption"].values[0].tolist() == ["picture 0", "the 0 picture"]


def test_a_caption_file_of_coco_is_read_as_before(tmp_path: Path) -> None:
    coco, workflow = write_coco(tmp_path), write_workflow(tmp_path / "w.yaml")
    given = ("--images", coco / "images", "--captions", coco / "captions.json")
    done = run("encode", "-w", workflow, *given, "-o", tmp_path / "out", "--dry-run")
    assert "is read as" not in done.stderr
    assert re.search(r"^read as +coco *$", done.stdout, re.MULTILINE)


def test_the_place_may_be_given_as_the_other_commands_take_it(photos: Path) -> None:
    """What errors say of `--images` can be typed, too."""
    assert run("look", "--images", photos).stdout == run("look", photos).stdout
    for given in ((), (photos, "--images", photos)):
        done = run("look", *given)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Give one place of images" in done.stderr


def test_an_unknown_source_and_an_unclear_place_are_refused(tmp_path: Path) -> None:
    assert "Did you mean folder?" in one_error(run("look", tmp_path, "--source", "foldre"))
    coco = write_coco(tmp_path)
    assert "captions.json. If one lists them, give it too (--captions)" in one_error(run("look", coco))


def test_an_error_after_a_guess_says_what_was_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.bmp").write_bytes(bitmap(48, 40, colour(0)))
    said = one_error(run("look", tmp_path))
    assert "No picture in" in said
    assert "is read as folder, because it is a folder of pictures. If that is wrong, name another source (--s" in said


def test_look_prints_rows_and_no_pictures_into_a_pipe(photos: Path) -> None:
    done = run("look", photos)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "\u2580" not in done.stdout
    text = " ".join(done.stdout.split())
    assert "rows 7 images" in text
    assert "rejected by the list 1 of 7: 1 no-caption" in text
    assert "those of the first 7 rows; an encode would reject 2 of them (1 image-too-small, 1 no-caption)" in text
    assert "0 0.bmp 48 x 40 pixels, 5.7 KiB picture 0 the 0 picture" in text
    assert GUESS in " ".join(done.stderr.split())


def test_look_as_json_has_each_row_and_the_counts(photos: Path) -> None:
    found = one_object(run("look", photos, "--rows", "6", "--json"))
    assert (found["source"], found["rows"], found["captions"], found["rejected"]) == (
        "folder",
        7,
        11,
        {"no-caption": 1},
    )
    assert [row["reason"] for row in found["first"]] == [None] * 5 + ["image-too-small"]
    assert found["first"][1] | {"image_id": 0} == {
        "row": 1,
        "image_id": 0,
        "file_name": "1.bmp",
        "captions": ["picture 1", "the 1 picture"],
        "bytes": 5814,
        "width": 48,
        "height": 40,
        "reason": None,
        "detail": "",
    }


def test_look_writes_a_page_that_holds_its_pictures_and_no_script(photos: Path, tmp_path: Path) -> None:
    (photos / "0.txt").write_text("<script>alert(1)</script>")
    page = tmp_path / "new" / "look.html"
    done = run("look", photos, "--html", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,') == 6
    assert "&lt;script&gt;alert(1)" in text
    assert not re.search(r"<script|https?://|\x1b", text)
    assert "rejected: image-too-small" in text


def test_a_caption_as_long_as_a_book_is_cut_for_people_and_whole_in_json(photos: Path, tmp_path: Path) -> None:
    (photos / "0.txt").write_text("word " * 99_999 + "word")
    done = run("look", photos, "--html", tmp_path / "look.html")
    assert "… (499,999 characters)" in " ".join(done.stdout.split())
    assert len(done.stdout) < 100_000
    page = (tmp_path / "look.html").read_text("utf-8")
    assert "… (499,999 characters)" in page
    assert "(source)" not in page
    assert len(one_object(run("look", photos, "--json"))["first"][0]["captions"][0]) == 499_999


def test_missing_images_are_told_with_a_hint_at_their_place(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,caption\nimages/1.bmp,a dog\n")
    text = " ".join(run("look", table).stdout.split())
    assert "an encode would reject 1 of them (1 missing-file)" in text
    assert "hint file names are looked up below the place of the images" in text


def test_rejected_rows_are_listed_by_file_name(photos: Path, tmp_path: Path) -> None:
    workflow, out = write_workflow(tmp_path / "w.yaml"), tmp_path / "out"
    assert "Run encode to make one" in one_error(run("rejected", "-w", workflow, "-o", out))
    encoded = run("encode", "-w", workflow, "--source", "folder", "--images", photos, "-o", out, "-s", "serial")
    assert "with start and loading" in " ".join(encoded.stdout.split())
    found = one_object(run("rejected", "-o", out, "--json"))
    assert found["rows"] == 7
    assert [(row["row"], row["reason"]) for row in found["rejected"]] == [(5, "image-too-small"), (6, "no-caption")]
    assert found["rejected"][0]["file_name"] == "5.bmp"
    text = " ".join(run("rejected", "-o", out).stdout.split())
    assert "2 of 7 rows rejected" in text
    assert "5 5.bmp image-too-small (" in text
