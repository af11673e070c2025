"""For each class of denoisers: its folder opens in the plain pipeline of its class, and draws the same picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from daskt2i.config.workflow_file import load_workflow
from daskt2i.encoders.weights import quiet
from daskt2i.errors import ModelError
from daskt2i.model.denoisers.denoiser import DenoiserKind, StoreFacts
from daskt2i.model.denoisers.kinds import KINDS
from daskt2i.model.pipeline import ABOUT, SIDES, publish, scheduler_config
from daskt2i.model.pipeline_parts import refuse_foreign_parts
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.sample.prompt_states import FolderStates
from daskt2i.store.run_folder import PIPELINE, RunFolder

FACTS = StoreFacts(((4, 16, 16),), 128, 26)
PIXART, UVIT = "diffusers.PixArtTransformer2DModel", "daskt2i.model.denoisers.uvit.UViT"
SMALL: Mapping[str, Mapping[str, Any]] = {
    PIXART: {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2},
    UVIT: {"width": 32, "layers": 3, "heads": 2},
}
PROMPT, SEED, STEPS, GUIDANCE = "a red circle on a blue background", 7, 3, 3.0


def random_model(kind: DenoiserKind) -> Any:
    """A model whose output is not zero, as after a training."""
    model = kind.build(kind.config(None, SMALL[kind.class_path], FACTS), 0)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.02 * torch.randn(values.shape, generator=torch.Generator().manual_seed(values.numel()))
    return model


def published(place: Path, kind: DenoiserKind, objective: Any = "flow") -> Path:
    """A pipeline folder with the demo's encoders, as training writes it."""
    encoders = load_workflow("demo").dataset.encoders
    image, text = (one.model_dump(by_alias=True) for one in (encoders.image, encoders.text))
    about = {"objective": objective, "masked": False, SIDES: [16, 16]}
    latents = np.zeros((0, 4, 16, 16), np.float32)
    publish(RunFolder(place), random_model(kind), image, text, scheduler_config(objective), about, latents, kind)
    return place / PIPELINE


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: published(tmp_path_factory.mktemp("kind"), KINDS[name]) for name in SMALL}


def drawn(place: Path) -> np.ndarray:
    look = SamplerSettings(STEPS, GUIDANCE, "dpm++", 2)
    wishes = [SampleRequest("a green square", 3), SampleRequest(PROMPT, SEED)]
    return [one.pixels for one in Painter(place).paint(wishes, look)][1]


def loaded(place: Path) -> Any:
    with quiet("diffusers", "transformers"):
        pipe = diffusers.DiffusionPipeline.from_pretrained(str(place), use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plainly(place: Path, **how: Any) -> np.ndarray:
    """The picture of the plain pipeline, 0 to 255."""
    generator = torch.Generator().manual_seed(SEED)
    with quiet("diffusers", "transformers"):
        made = loaded(place)(
            **how, generator=generator, num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="np"
        )
    return (made.images[0] * 255).round()


def test_a_stable_diffusion_pipeline_draws_with_a_uvit_as_its_unet(folders: dict[str, Path]) -> None:
    ours = drawn(folders[UVIT])
    assert abs(plainly(folders[UVIT], prompt=PROMPT) - ours).max() <= 1
    assert ours.std() > 5
    assert type(loaded(folders[UVIT])).__name__ == "StableDiffusionPipeline"


def test_a_plain_pixart_pipeline_draws_the_same_with_the_same_text_states(folders: dict[str, Path]) -> None:
    place = folders[PIXART]
    states = FolderStates(place).states(["", PROMPT], "cpu")
    mask = torch.ones_like(states.mask)
    how = {"prompt_embeds": states.states[1:], "prompt_attention_mask": mask[1:], "negative_prompt": None}
    how |= {"negative_prompt_embeds": states.states[:1], "negative_prompt_attention_mask": mask[:1]}
    ours = drawn(place)
    assert abs(plainly(place, **how, use_resolution_binning=False) - ours).max() <= 1
    assert ours.std() > 5
    assert (loaded(place).text_encoder, type(loaded(place)).__name__) == (None, "PixArtSigmaPipeline")


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_has_the_parts_of_its_pipeline_and_no_others(name: str, folders: dict[str, Path]) -> None:
    place = folders[name]
    refuse_foreign_parts(place)
    parts = {"unet" if name == UVIT else "transformer", "vae", "scheduler", "text_encoder", "tokenizer"}
    assert {path.name for path in place.iterdir() if path.is_dir()} == parts
    assert json.loads((place / ABOUT).read_text())["class"] == name


def test_each_step_is_told(folders: dict[str, Path]) -> None:
    for name, place in folders.items():
        seen = []
        look = SamplerSettings(STEPS, 1.0, "euler", 1)
        tell = lambda step, steps, small: seen.append((step, steps, small.shape))  # noqa: B023, E731
        list(Painter(place).paint([SampleRequest(PROMPT, SEED)], look, tell))
        assert seen == [(step, STEPS, (1, 16, 16, 3)) for step in range(1, STEPS + 1)], name


def test_a_folder_that_names_another_class_is_not_imported(folders: dict[str, Path], tmp_path: Path) -> None:
    place = tmp_path / "pipeline"
    shutil.copytree(folders[UVIT], place)
    label = json.loads((place / ABOUT).read_text())
    (place / ABOUT).write_text(json.dumps(label | {"class": "antigravity.Denoiser"}))
    with pytest.raises(ModelError, match=r"antigravity\.Denoiser, and daskt2i cannot draw"):
        Painter(place)
    (place / ABOUT).write_text(json.dumps(label))
    assert Painter(place)
