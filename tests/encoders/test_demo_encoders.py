"""The encoders of the package: ordinary model folders, small, and good enough on unseen scenes."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SHARED
from PIL import Image

import daskt2i
from daskt2i.sources.drawn.judge import judge, match_scene
from daskt2i.sources.scenes import captions, describe, draw, expected, jpeg, parse_caption, scene
from daskt2i.types import Pixels

DEMO = Path(daskt2i.__file__).parent / "demo"
UNSEEN = 31_337
"""A seed that the training of these encoders never used."""


@cache
def vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(DEMO / "vae", local_files_only=True, low_cpu_mem_usage=False).eval()


@cache
def text_model() -> tuple[Any, Any]:
    from transformers import AutoTokenizer, CLIPTextModel

    tokenizer = AutoTokenizer.from_pretrained(DEMO / "text", local_files_only=True)
    return tokenizer, CLIPTextModel.from_pretrained(DEMO / "text", local_files_only=True).eval()


def seen_at(side: int, data: bytes) -> Pixels:
    """A JPEG, resized by its shorter side and cropped, as in an encode."""
    with Image.open(io.BytesIO(data)) as image:
        scale = side / min(image.size)
        size = (max(side, round(image.width * scale)), max(side, round(image.height * scale)))
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def there_and_back(pictures: Pixels) -> tuple[Pixels, Any]:
    """The pictures after encoding to the mean of the posterior and decoding to 8 bits; and the latents."""
    import torch

    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        latents = vae().encode(pixels).latent_dist.mode()
        back = vae().decode(latents).sample
    return ((back.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8), latents


def psnr(a: Pixels, b: Pixels) -> list[float]:
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    return [float(v) for v in 10 * np.log10(255**2 / np.maximum(error, 1e-3))]


def pooled(texts: list[str]) -> np.ndarray[Any, Any]:
    import torch

    tokenizer, model = text_model()
    with torch.inference_mode():
        states = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).pooler_output
    return np.asarray(states / states.norm(dim=1, keepdim=True))


def test_together_they_are_small_and_nothing_is_pickled() -> None:
    files = [path for path in DEMO.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}
    assert all(path.stat().st_size for path in files)


def test_their_settings_hold_no_path_of_the_machine_that_made_them() -> None:
    for path in DEMO.rglob("*.json"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        assert not any(str(settings.get(key, "")).startswith("/") for key in ("_name_or_path", "name_or_path"))


def test_scenes_survive_the_autoencoder() -> None:
    pictures = np.stack([seen_at(64, jpeg(scene(UNSEEN, i))) for i in range(64)])
    back, latents = there_and_back(pictures)
    assert tuple(latents.shape) == (64, 4, 16, 16)
    values = psnr(pictures, back)
    assert np.mean(values) >= 34  # measured: 36.9 of 256
    assert min(values) >= 26
    right = [match_scene(judge(picture), expected(scene(UNSEEN, i))).right for i, picture in enumerate(back)]
    assert np.mean(right) >= 0.9  # measured: 0.97 of 256


@pytest.mark.parametrize("side", [96, 128])
def test_other_sizes_work_as_well(side: int) -> None:
    pictures = np.stack([draw(scene(UNSEEN, i), side, side) for i in range(16)])
    back, latents = there_and_back(pictures)
    assert tuple(latents.shape) == (16, 4, side // 4, side // 4)
    assert np.mean(psnr(pictures, back)) >= 34


def test_unseen_photographs_stay_recognisable() -> None:
    folder = SHARED / "coco-mini" / "images"
    if not folder.is_dir():
        pytest.skip("shared/data/coco-mini is not beside this checkout")
    files = sorted(folder.iterdir())[:24]
    pictures = np.stack([seen_at(64, path.read_bytes()) for path in files])
    assert np.mean(psnr(pictures, there_and_back(pictures)[0])) >= 20


def test_the_scaling_factor_makes_the_latents_of_variance_one() -> None:
    pictures = np.stack([seen_at(64, jpeg(scene(UNSEEN, i))) for i in range(64)])
    latents = there_and_back(pictures)[1] * vae().config.scaling_factor
    assert 0.85 <= float(latents.std()) <= 1.15
    assert vae().config.scaling_factor != 0.18215


def test_the_text_model_is_a_clip_text_model_whose_end_token_is_found() -> None:
    import torch

    tokenizer, model = text_model()
    assert model.config.eos_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
    assert model.config.bos_token_id == tokenizer.bos_token_id
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.model_max_length == model.config.max_position_embeddings == 77
    assert next(model.parameters()).dtype == torch.float32
    ids = tokenizer(["a red circle", "a red circle above a blue square on green"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        made = model(**ids)
    ends = [int((row == tokenizer.eos_token_id).nonzero()[0]) for row in ids["input_ids"]]
    for row, end in enumerate(ends):
        torch.testing.assert_close(made.pooler_output[row], made.last_hidden_state[row, end])


def test_later_words_of_a_caption_do_not_change_earlier_states() -> None:
    import torch

    tokenizer, model = text_model()
    with torch.inference_mode():
        short = model(**tokenizer("a red circle", return_tensors="pt")).last_hidden_state[0, :4]
        long = model(**tokenizer("a red circle on a blue background", return_tensors="pt")).last_hidden_state[0, :4]
        full = model(**tokenizer("a red circle", padding="max_length", return_tensors="pt")).last_hidden_state[0, :4]
    torch.testing.assert_close(short, long, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(short, full, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text",
    ["a red circle", "Ein grüner Kreis", "红色的圆", "🙂🚲 café", "naïve façade №5", "zzz qqq 0123456789"],
)
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    tokenizer, _ = text_model()
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]
    back = tokenizer.decode(ids[1:-1]).replace(" ", "")
    assert back == text.lower().replace(" ", "")


def test_captions_of_scenes_are_one_token_a_word() -> None:
    tokenizer, _ = text_model()
    for i in range(50):
        for text in captions(scene(UNSEEN, i)):
            words = text.replace(".", " .").replace(",", " ,").replace(":", " :").split()
            assert len(tokenizer(text)["input_ids"]) == len(words) + 2


def test_the_empty_caption_and_an_endless_one_are_encoded() -> None:
    assert np.isfinite(pooled(["", "word " * 500])).all()


@pytest.mark.parametrize(
    "other",
    [
        "A blue circle to the left of a blue square on a green background.",
        "A blue circle to the left of a red square on a green background.",
        "A red circle to the right of a blue square on a green background.",
        "A red circle above a blue square on a green background.",
        "A red star to the left of a blue square on a green background.",
        "A red circle to the left of a blue square on a grey background.",
        "A red circle on a green background.",
    ],
)
def test_captions_that_differ_in_one_word_are_farther_apart_than_captions_of_one_meaning(other: str) -> None:
    said, again, not_said = pooled(
        [
            "A red circle to the left of a blue square on a green background.",
            "On a green background, a blue square is to the right of a red circle.",
            other,
        ]
    )
    assert said @ again > said @ not_said


def test_a_caption_finds_another_of_the_same_scene_among_64() -> None:
    scenes, index = [], 0
    while len(scenes) < 64:
        one = scene(UNSEEN, index)
        index += 1
        if describe(one) not in {describe(other) for other in scenes}:
            scenes.append(one)
    told = [[t for t in captions(one) if _tells_all(t)][:2] for one in scenes]
    first, second = pooled([a for a, _ in told]), pooled([b for _, b in told])
    assert ((first @ second.T).argmax(axis=1) == np.arange(64)).mean() >= 0.9


def _tells_all(text: str) -> bool:
    meant = parse_caption(text)
    return meant is not None and meant.background is not None and all(thing.place for thing in meant.things)


def test_the_weights_have_names_that_all_versions_of_transformers_know() -> None:
    from safetensors import safe_open

    with safe_open(DEMO / "text" / "model.safetensors", "np") as file:
        assert all(name.startswith("text_model.") for name in file.keys())  # noqa: SIM118
