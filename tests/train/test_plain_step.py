"""A step of training is that of a plain loop of PyTorch, for each class and objective, on any ranks, in any parts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.plain_loop import Call, plain_step
from builders.runs import encoded, tiny_workflow, trained_here

from daskt2i.config.settings import Workflow
from daskt2i.model.denoisers.kinds import KINDS
from daskt2i.model.diffusion import Diffusion
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import PIPELINE, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.metrics import read_metrics
from daskt2i.train.resume import identity_of, plain
from daskt2i.train.task import cut

UNET, PIXART = "diffusers.UNet2DConditionModel", "diffusers.PixArtTransformer2DModel"
UVIT = "daskt2i.model.denoisers.uvit.UViT"
MODELS: Mapping[str, Mapping[str, Any]] = {
    UNET: {"preset": "demo", "config": {"block_out_channels": [16, 32, 32]}},
    PIXART: {"class": PIXART, "config": {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2}},
    UVIT: {"class": UVIT, "config": {"width": 32, "layers": 3, "heads": 2}},
}
CALLS: Mapping[str, Call] = {
    UNET: lambda model, x, t, states: model(x, t, states).sample,
    PIXART: lambda model, x, t, states: model(x, encoder_hidden_states=states, timestep=t).sample,
    UVIT: lambda model, x, t, states: model(x, t, states).sample,
}


def of_class(workflow: Workflow, name: str) -> Workflow:
    model = type(workflow.train.model).model_validate(MODELS[name])
    return workflow.model_copy(update={"train": workflow.train.model_copy(update={"model": model})})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Workflow]:
    out = tmp_path_factory.mktemp("store") / "run"
    return out, encoded(out)


Tasks = Callable[[str, int], list[Denoiser]]


@pytest.fixture(scope="module")
def tasks(store: tuple[Path, Workflow]) -> Iterator[Tasks]:
    """The tasks of all ranks of a training: (class, ranks) -> one each."""
    out, workflow = store
    made: dict[tuple[str, int], list[Denoiser]] = {}
    stored = about_store(ZarrStore(RunFolder(out)))
    assert stored is not None

    def of(name: str, world: int) -> list[Denoiser]:
        if (name, world) not in made:
            ours = of_class(workflow, name)
            encoders = ours.dataset.encoders
            identity = identity_of(ours.train, stored)
            job = DenoiserJob(
                *(str(out), None, plain(ours.train), plain(ours.launch), identity, 2**28, plain(encoders.image)),
                *(plain(encoders.text), plain(ours.sample), ours.train.batch),
            )
            made[name, world] = []
            for rank in range(world):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("RANK", str(rank))
                    patch.setenv("WORLD_SIZE", str(world))
                    made[name, world].append(Denoiser(job))
        return made[name, world]

    yield of
    for task in (one for every in made.values() for one in every):
        task.close()


@pytest.mark.parametrize("objective", ["flow", "v", "epsilon"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_has_the_loss_and_the_gradient_of_a_plain_loop(name: str, objective: Any, tasks: Tasks) -> None:
    (alone,) = tasks(name, 1)
    assert alone.kind is KINDS[name]
    model: Any = alone.build("cpu")
    with torch.no_grad():  # a new model's last layer is zero, and hides the gradients behind it
        for values in model.parameters():
            values += 0.05 * torch.randn(values.shape, generator=torch.Generator().manual_seed(values.numel()))
    whole = next(alone.batches(0))
    loss, wanted = plain_step(model, whole, objective, CALLS[name])
    scale = torch.cat([one.flatten() for one in wanted.values()]).norm()
    for world in (1, 2):
        for parts in (1, 2):
            found = 0.0
            model.zero_grad()
            for task in tasks(name, world):
                task.diffusion = Diffusion(objective)
                mine = whole if world == 1 else next(task.batches(0))
                for part, share in cut(mine, parts):
                    one = task.loss(model, part)[0] * share / world
                    one.backward()
                    found += float(one.detach())
            assert found == pytest.approx(loss, rel=1e-5), (world, parts)
            apart = [(one.grad - wanted[key]).norm() for key, one in model.named_parameters() if key in wanted]
            assert torch.stack(apart).norm() < 1e-5 * scale, (world, parts)


@pytest.mark.parametrize("name", [PIXART, UVIT])
def test_a_training_of_each_class_ends_with_a_folder_that_draws(
    name: str, store: tuple[Path, Workflow], tmp_path: Path
) -> None:
    shutil.copytree(store[0], tmp_path / "run")
    workflow = of_class(tiny_workflow("train.learning_rate=0.002"), name)
    trained_here(workflow, tmp_path / "run")
    losses = [line["loss"] for line in read_metrics(RunFolder(tmp_path / "run")) if "loss" in line]
    assert len(losses) == workflow.train.steps
    place = tmp_path / "run" / PIPELINE
    assert json.loads((place / "daskt2i.json").read_text())["identity"]["train"]["model"]["class"] == name
    (made,) = Painter(place).paint([SampleRequest("a red circle", 1)], SamplerSettings(2, 2.0, "dpm++", 1))
    assert made.pixels.shape == (64, 64, 3)
