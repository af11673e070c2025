"""Prompt, seed and sampler decide a picture; the other pictures of the batch do not change it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.pipelines import sd_folder
from builders.workflows import child_environment

from daskt2i.encoders.weights import quiet
from daskt2i.errors import ModelError
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings

LOOK = SamplerSettings(steps=3, guidance=3.0, sampler="dpm++", batch=4)
WISHES = [
    SampleRequest("a red circle on white", 1),
    SampleRequest("a blue star on grey", 2),
    SampleRequest("a red circle on white", 3),
]


@pytest.fixture(scope="module")
def painter(demo_run: Path) -> Painter:
    return Painter(demo_run / "pipeline")


def pixels(
    painter: Painter, requests: list[SampleRequest], settings: SamplerSettings = LOOK, **more: Any
) -> np.ndarray:
    return np.stack([picture.pixels for picture in painter.paint(requests, settings, **more)]).astype(int)


def test_the_same_seed_draws_the_same_picture_in_any_batch(painter: Painter) -> None:
    together = pixels(painter, WISHES)
    alone = np.concatenate([pixels(painter, [request]) for request in WISHES])
    assert np.abs(together - alone).max() <= 1
    assert np.array_equal(together, pixels(painter, WISHES))


def test_seeds_prompts_guidance_and_samplers_change_the_picture(painter: Painter) -> None:
    first, _, other_seed = pixels(painter, WISHES)
    assert np.abs(first - other_seed).mean() > 1
    for settings in (
        SamplerSettings(3, 1.0, "dpm++", 4),
        SamplerSettings(3, 3.0, "euler", 4),
        SamplerSettings(6, 3.0, "dpm++", 4),
    ):
        assert np.abs(first - pixels(painter, WISHES[:1], settings)[0]).max() > 0
    # For flow both samplers step straight along the velocity.
    euler, ddim = (pixels(painter, WISHES[:1], SamplerSettings(3, 3.0, sampler, 4)) for sampler in ("euler", "ddim"))  # type: ignore[arg-type]
    assert np.array_equal(euler, ddim)


def test_a_prompt_that_is_too_long_is_marked_and_no_library_talks_about_it(
    painter: Painter, capfd: pytest.CaptureFixture[str]
) -> None:
    long = SampleRequest("a red circle on white " * 9, 1)
    found = list(painter.paint([WISHES[0], long], LOOK))
    assert [picture.cut for picture in found] == [False, True]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow  # a process of its own, because the first import of diffusers talks
def test_loading_a_pipeline_says_nothing(demo_run: Path) -> None:
    code = "import pathlib, sys; from daskt2i.sample.painter import Painter; Painter(pathlib.Path(sys.argv[1]))"
    call = [sys.executable, "-c", code, str(demo_run / "pipeline")]
    done = subprocess.run(call, capture_output=True, text=True, env=child_environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_each_step_gives_a_preview(painter: Painter) -> None:
    seen: list[tuple[int, int, tuple[int, ...]]] = []
    pixels(painter, WISHES, on_step=lambda step, of, small: seen.append((step, of, small.shape)))
    assert seen == [(step, 3, (3, 16, 16, 3)) for step in (1, 2, 3)]


def test_a_model_that_was_trained_with_a_mask_sees_only_the_tokens_of_the_prompt(painter: Painter) -> None:
    masks: list[Any] = []
    unet = painter._pipe.unet
    handle = unet.register_forward_pre_hook(lambda m, a, kw: masks.append(kw), with_kwargs=True)
    painter.about["masked"] = True
    original = type(unet).forward

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        masks.append(kwargs["encoder_attention_mask"])
        return original(self, *args, **kwargs)

    try:
        type(unet).forward = spy
        masked = pixels(painter, WISHES[:2])
    finally:
        type(unet).forward = original
        painter.about["masked"] = False
        handle.remove()
    mask = next(entry for entry in masks if not isinstance(entry, dict))
    assert mask.shape == (4, 7)  # two empty prompts, two prompts, as many tokens as the longest has
    assert mask.sum(1).tolist()[:2] == [2, 2]
    assert mask.sum(1).tolist()[2:] == [7, 7]
    assert "forward" not in vars(unet)
    assert np.abs(masked - pixels(painter, WISHES[:2])).max() > 0


def test_a_damaged_pipeline_is_reported_in_one_sentence(demo_run: Path, tmp_path: Path) -> None:
    shutil.copytree(demo_run / "pipeline", tmp_path / "pipeline")
    (tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"cannot be loaded: .*[^.]\. The checkpoints are kept.* train again"):
        Painter(tmp_path / "pipeline")


def test_a_damaged_pipeline_of_somebody_else_is_not_to_be_trained_again(tmp_path: Path) -> None:
    base = sd_folder(tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(
        ModelError, match=r"cannot be loaded: .*[^.]\. Nothing was drawn; fetch the pipeline again"
    ) as said:
        Painter(base)
    assert "train again" not in str(said.value)


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_a_library_that_is_imported_in_a_quiet_block_is_quiet_too(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new process imports diffusers while it loads its first pipeline. Its bar for parts of a pipeline was on."""
    name = f"{library}.utils.logging"
    importlib.import_module(name)
    monkeypatch.setattr(sys.modules[f"{library}.utils"], "logging", importlib.import_module(name))
    monkeypatch.delitem(sys.modules, name)
    with quiet(library):
        assert not sys.modules[name].is_progress_bar_enabled()
    assert sys.modules[name].is_progress_bar_enabled()
