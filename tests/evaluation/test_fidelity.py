"""Prompt fidelity: the judge finds what is wrong in pictures, and CLIP scores come with scores of wrong prompts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from builders.command_line import long_lines
from builders.models import clip_folder
from PIL import Image
from typer.testing import CliRunner

from daskt2i.errors import ConfigError, ModelError
from daskt2i.evaluation.clip_scores import by_clip
from daskt2i.evaluation.intervals import wilson
from daskt2i.evaluation.judging import by_judge
from daskt2i.evaluation.unseen_prompts import PROMPT_SEED, unseen_prompts
from daskt2i.evaluation.words import Words
from daskt2i.sample.painter import DrawnPicture, SampleRequest
from daskt2i.sources.drawn.grammar import Expectation, ExpectedShape, captions, parse_caption
from daskt2i.sources.drawn.judge import SceneReading, Seen
from daskt2i.sources.scenes import draw, scene
from daskt2i.types import Pixels
from daskt2i.workflow import app


def at_64(index: int) -> Pixels:
    """A scene of the prompts' seed, at the resolution of the demo."""
    picture = Image.fromarray(draw(scene(PROMPT_SEED, index)))
    scale = 64 / min(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)
    left, top = (picture.width - 64) // 2, (picture.height - 64) // 2
    return np.asarray(picture.crop((left, top, left + 64, top + 64)))


def told_whole(index: int) -> str:
    return next(text for text in captions(scene(PROMPT_SEED, index)) if text in unseen_prompts(40, ()))


def test_prompts_describe_everything_are_the_same_each_time_and_are_not_known() -> None:
    prompts = unseen_prompts(30, ())
    assert prompts == unseen_prompts(30, ())
    assert len(set(prompts)) == 30
    for prompt in prompts:
        wanted = parse_caption(prompt)
        assert wanted is not None
        assert wanted.background
        assert all(thing.colour and thing.place for thing in wanted.things)
    assert {len(parse_caption(prompt).things) for prompt in prompts} == {1, 2}  # type: ignore[union-attr]
    # The full stop and capital letters make no difference.
    fewer = unseen_prompts(29, [prompts[0].lower() + "."])
    assert prompts[0] not in fewer


def test_correct_pictures_are_right_and_for_others_the_judge_says_what_is_wrong() -> None:
    pictures = [DrawnPicture(SampleRequest(told_whole(i), 0), at_64(i)) for i in range(12)]
    found = by_judge(pictures)
    assert found.overall.of == 12 == found.single.of + found.pair.of
    assert found.overall.share("all") == 1
    assert found.problems == [""] * 12
    wrong = [DrawnPicture(pictures[i].request, pictures[(i + 1) % 12].pixels) for i in range(12)]
    said = by_judge(wrong)
    assert said.overall.share("all") == 0
    assert all(said.problems)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert by_judge([DrawnPicture(pictures[0].request, noise)]).overall.right["background"] == 0


def test_the_judge_reads_only_prompts_about_scenes() -> None:
    with pytest.raises(ConfigError, match=r"'a man in cycle' is not one.*evaluate\.clip_model"):
        by_judge([DrawnPicture(SampleRequest("a man in cycle", 0), np.zeros((64, 64, 3), np.uint8))])


@pytest.fixture
def clip_model(tmp_path: Path) -> Path:
    """A full CLIP repository with random weights and OpenAI's preprocessor."""
    folder = clip_folder(tmp_path / "clip", "CLIPModel")
    sizes = {"crop_size": 16, "size": 16, "do_center_crop": True, "do_resize": True, "do_normalize": True}
    means = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
    kinds = {"feature_extractor_type": "CLIPFeatureExtractor", "image_processor_type": "CLIPImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps({**sizes, **means, **kinds, "resample": 3}))
    return folder


def test_clip_scores_are_cosines_and_come_with_the_scores_of_other_prompts(clip_model: Path) -> None:
    import torch
    from transformers import CLIPModel, CLIPProcessor

    pictures = [
        DrawnPicture(SampleRequest(text, 0), at_64(i)) for i, text in enumerate(["a red dog", "two cats", "a red dog"])
    ]
    found = by_clip(pictures, str(clip_model))
    model, processor = CLIPModel.from_pretrained(str(clip_model)), CLIPProcessor.from_pretrained(str(clip_model))
    given = processor(
        text=["a red dog", "two cats"], images=[Image.fromarray(p.pixels) for p in pictures], return_tensors="pt",
        padding=True,
    )  # fmt: skip
    with torch.no_grad():
        out = model(**given)
    cosines = (out.image_embeds @ out.text_embeds.T).clamp(min=0).numpy() * 100
    np.testing.assert_allclose(found.scores, [cosines[0, 0], cosines[1, 1], cosines[2, 0]], rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.mismatched, [cosines[0, 1], cosines[1, 0], cosines[2, 1]], rtol=1e-3, atol=1e-2)
    assert found.to_json()["count"] == 3
    assert 0 <= found.retrieval <= 1


def test_a_model_that_is_not_clip_is_refused_in_one_sentence(clip_model: Path) -> None:
    (clip_model / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"cannot be loaded as a CLIP model.*both towers"):
        by_clip([DrawnPicture(SampleRequest("a dog", 0), at_64(0))], str(clip_model))


def test_the_command_gives_shares_with_counts_and_a_contact_sheet(demo_run: Path, tmp_path: Path) -> None:
    for name in ("pipeline", "latents.zarr"):
        shutil.copytree(demo_run / name, tmp_path / name)
    small = [f"--set=evaluate.{key}={value}" for key, value in (("prompts", 3), ("seeds", 2))]
    words = ["evaluate", *small, "--set=sample.steps=2", "-o", str(tmp_path), "-s", "serial"]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["prompts"], said["seeds"], said["count"]) == (3, 2, 6)
    assert said["single"]["count"] + said["pair"]["count"] == 6
    assert set(said) >= {"background", "colour", "shape", "place", "all"}
    low, high = said["intervals"]["all"]
    assert low <= said["all"] <= high
    assert set(said["words"]) == {"background", "colour", "shape", "place", "count"}
    assert json.loads((tmp_path / "reports" / "evaluate.json").read_text())["count"] == 6
    with Image.open(said["sheet"]) as page:
        assert page.width > 200
    table = CliRunner().invoke(app, words, catch_exceptions=False, env={"COLUMNS": "80"}).stdout
    assert "all pictures (6)" in table
    assert "By word" in table
    assert long_lines(table, tmp_path) == []


def test_shares_come_by_word_and_each_with_its_interval() -> None:
    prompts = ["a red circle on a blue background", "a red circle and a yellow star on a blue background"]
    circle, pair = (parse_caption(text) for text in prompts)
    assert circle is not None
    assert pair is not None
    words = Words()
    red_circle = seen("circle", "red")
    words.add(SceneReading("blue", (red_circle,), 0.0), circle)
    words.add(SceneReading("blue", (red_circle,), 0.0), pair)  # the star is missing
    found = words.to_json()
    assert found["shape"]["circle"]["share"] == found["colour"]["red"]["share"] == 1
    assert found["shape"]["star"] == {"count": 1, "share": 0, "interval": [0, 0.7935]}
    assert found["background"]["blue"]["count"] == 2
    assert {word: about["share"] for word, about in found["count"].items()} == {"one": 1, "two": 0}
    assert [word for kind, word, *_ in words.rows() if kind == "shape"] == ["star", "circle"], "the worst first"


def test_two_of_a_word_are_not_shown_by_one() -> None:
    wanted = Expectation(None, (ExpectedShape("circle", "red"), ExpectedShape("circle", "blue")))
    words = Words()
    words.add(SceneReading("white", (seen("circle", "red"),), 0.0), wanted)
    assert words.right["shape", "circle"] == 0
    assert words.right["colour", "red"] == 1


@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(0, 0, 0, 1), (0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (222, 256, 0.8201, 0.9034), (8, 10, 0.4902, 0.9433)],
)
def test_the_interval_of_a_share_is_wilsons(right: int, of: int, low: float, high: float) -> None:
    np.testing.assert_allclose(wilson(right, of), (low, high), atol=5e-5)


def test_the_end_of_an_interval_is_exact_where_none_or_all_are_right() -> None:
    assert {wilson(0, of)[0] for of in range(1, 100)} == {0.0}
    assert {wilson(of, of)[1] for of in range(1, 100)} == {1.0}


def seen(shape: str, colour: str) -> Seen:
    return Seen(shape, colour, "large", None, 500, 500, 200, (200, 0, 0), 0.95)
