"""A sample means the same alone, in any batch, on any rank and when it is drawn: prediction and gradient are equal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.runs import encoded
from hypothesis import given, settings, target
from hypothesis import strategies as st

from daskt2i import open_store
from daskt2i.config.settings import Workflow
from daskt2i.sample.painter import Painter
from daskt2i.sample.prompt_states import by_pipeline
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.resume import identity_of

BATCH = 4
SIZES = {"block_out_channels": (16, 32, 32), "norm_num_groups": 8}
MODELS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "demo": ("demo", SIZES),
    "not pooled": ("demo", {**SIZES, "addition_embed_type": None}),
    "as in Stable Diffusion": (
        None,
        {
            **SIZES,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "attention_head_dim": 4,
            "layers_per_block": 1,
        },
    ),
    "pooled, own blocks": (
        "demo",
        {
            **SIZES,
            "down_block_types": ("DownBlock2D", "DownBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("SimpleCrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        },
    ),
}
TOLERANCE = {"fp32": 2e-5, "bf16": 5e-2}
"""Largest difference of a prediction or a gradient, relative to its norm. Without the mask it was 0.1 and more."""


class Ranks:
    """The ranks of a training on one run folder, all in this process."""

    def __init__(self, out: Path, workflow: Workflow) -> None:
        self.out, self.workflow = out, workflow
        self._tasks: dict[tuple[str, int, int], Denoiser] = {}
        self._models: dict[str, torch.nn.Module] = {}

    def task(self, model: str, rank: int = 0, world: int = 1) -> Denoiser:
        """The task of one rank, made as the driver makes it."""
        if (key := (model, rank, world)) not in self._tasks:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("RANK", str(rank))
                patch.setenv("WORLD_SIZE", str(world))
                self._tasks[key] = Denoiser(job_for(self.workflow, self.out, *MODELS[model]))
        return self._tasks[key]

    def model(self, name: str) -> torch.nn.Module:
        """A model whose zeros are small numbers, as after some training: a new one predicts zero."""
        if name not in self._models:
            unet = self._models[name] = self.task(name).build("cpu")
            draw = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in unet.parameters():
                    if not parameter.any():
                        parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
        return self._models[name]

    def answers(
        self, name: str, world: int, position: int, precision: str
    ) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
        """Prediction of each row of a batch that ranks share, and the mean of their gradients."""
        unet, predicted, gradients = self.model(name), dict[int, torch.Tensor](), list[torch.Tensor]()
        for rank in range(world):
            task = self.task(name, rank, world)
            batch = next(task.batches(position))
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                made, asked = task.predicted(unet, batch)
                found = torch.autograd.grad(task.diffusion.loss(made, asked).mean(), list(unet.parameters()))
            predicted |= {int(row): one.detach().float() for row, one in zip(batch.rows, made, strict=True)}
            gradients.append(torch.cat([gradient.flatten().float() for gradient in found]))
        return predicted, torch.stack(gradients).mean(0)

    def close(self) -> None:
        for task in self._tasks.values():
            task.close()


def job_for(workflow: Workflow, out: Path, preset: str | None, config: Mapping[str, Any]) -> DenoiserJob:
    model = workflow.train.model.model_copy(update={"preset": preset, "config": dict(config)})
    train = workflow.train.model_copy(update={"batch": BATCH, "model": model})
    stored = about_store(ZarrStore(RunFolder(out)))
    assert stored is not None
    encoders = workflow.dataset.encoders
    return DenoiserJob(
        folder=str(out),
        storage_options=None,
        train=json.loads(train.model_dump_json()),
        launch=json.loads(workflow.launch.model_dump_json()),
        identity=identity_of(train, stored),
        cache_bytes=2**28,
        vae=json.loads(encoders.image.model_dump_json(by_alias=True)),
        text=json.loads(encoders.text.model_dump_json(by_alias=True)),
        sample=json.loads(workflow.sample.model_dump_json()),
        batch=BATCH,
    )


@pytest.fixture(scope="module", params=["length", "full"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Ranks on a store of each padding. Its captions have 7 to 20 tokens."""
    out = tmp_path_factory.mktemp("alone") / "run"
    found = Ranks(out, encoded(out, f"dataset.encoders.text.pad={request.param}", "train.caption_dropout=0.3"))
    yield found
    found.close()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@settings(max_examples=max(1, settings().max_examples // 4))
@given(
    model=st.sampled_from(list(MODELS)),
    precision=st.sampled_from(list(TOLERANCE)),
    position=st.integers(0, 200),
    world=st.sampled_from([1, 2]),
)
def test_a_sample_is_the_same_alone_and_in_any_batch_on_any_rank(
    ranks: Ranks, model: str, precision: str, position: int, world: int
) -> None:
    alone, mean = ranks.answers(model, BATCH, position, precision)
    shared, gradient = ranks.answers(model, world, position, precision)
    assert shared.keys() == alone.keys()
    most = max(difference(shared[row], alone[row]) for row in alone)
    target(most)
    assert most < TOLERANCE[precision]
    assert difference(gradient, mean) < TOLERANCE[precision]


@pytest.mark.parametrize("model", MODELS)
def test_a_prompt_that_is_drawn_means_what_its_caption_meant_in_training(
    ranks: Ranks, model: str, tmp_path: Path
) -> None:
    task, unet = ranks.task(model), ranks.model(model)
    task.finish(unet, RunFolder(tmp_path))
    painter = Painter(tmp_path / "pipeline")
    batch = next(task.batches(0))
    captions = open_store(ranks.out)["caption"].values
    texts = ["" if slot < 0 else str(captions[row, slot]) for row, slot in zip(batch.rows, batch.slots, strict=True)]
    assert len({len(text) for text in texts}) > 1
    drawn = painter._pipe.unet
    with torch.no_grad(), painter._conditioned(texts, guided=False) as given:
        states = given.get("prompt_embeds")
        if states is None:
            states = by_pipeline(painter._pipe, texts).states
        made, asked = task.predicted(unet, batch)
        again = drawn(asked.inputs, asked.times, states, return_dict=False)[0]
    assert difference(again, made) < 2e-3, "the store keeps states in half precision"
