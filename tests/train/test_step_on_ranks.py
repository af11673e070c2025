"""One step on two real ranks over gloo, with replicas and with shards, is that of a plain loop, for each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from builders import CHILD_PATH
from builders.denoisers import TRANSFORMERS, disturbed, plain_loss
from builders.plain_loop import plain_step
from safetensors.torch import load_file

from daskt2i.launch.launcher import launch
from daskt2i.launch.rank_spawners import LocalRankSpawner
from daskt2i.model.denoisers.denoiser import Conditions
from daskt2i.train.denoiser_rank import Denoiser
from train.test_plain_step import CALLS, MODELS
from train.test_sizes import task
from train.test_transformers import SHIFT
from train.test_transformers import masked as masked
from train.test_transformers import whole as whole

pytestmark = pytest.mark.slow

BATCH = {"batch": 8}
CLASSES: Mapping[str, Mapping[str, Any]] = {
    **{name: {"model": model, **BATCH} for name, model in MODELS.items()},
    **{
        name: {"model": {"class": f"diffusers.{name}", "config": config}, "shift": SHIFT, **BATCH}
        for name, config in TRANSFORMERS.items()
    },
}


def objectives(name: str) -> tuple[str, ...]:
    return ("flow", "v", "epsilon") if name in MODELS else ("flow",)


def padded(name: str) -> bool:
    return name in MODELS or name.startswith("SD3")


@pytest.fixture(scope="module")
def alone(masked: Path, whole: Path) -> Mapping[str, Denoiser]:
    """A task of one rank for each class."""
    with pytest.MonkeyPatch.context() as patch:
        return {name: task(whole if padded(name) else masked, patch, **given) for name, given in CLASSES.items()}


@pytest.fixture(scope="module")
def found(alone: Mapping[str, Denoiser], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two ranks found, for all classes in one launch."""
    folder = tmp_path_factory.mktemp("found")
    cases = [{"job": asdict(one.job), "objectives": objectives(name)} for name, one in alone.items()]
    env = {"PYTHONPATH": CHILD_PATH}
    job = {"folder": str(folder), "cases": cases}
    launch("rank_modules.one_step", job, LocalRankSpawner(2), 2, 1, lambda event: None, env=env)
    return folder


def plain(name: str, one: Denoiser, objective: str) -> dict[str, torch.Tensor]:
    """Loss and gradients of a plain loop."""
    model: Any = disturbed(one.build("cpu"))
    batch = next(one.batches(0))
    if name in MODELS:
        loss, grads = plain_step(model, batch, objective, CALLS[name])
        return {"loss": torch.tensor([loss]), **grads}
    theirs = getattr(diffusers, name)(**model.config)
    theirs.load_state_dict(model.state_dict())
    latents, noise, normal = (torch.from_numpy(values) for values in (batch.latents, batch.noise, batch.normal))
    states, mask = torch.from_numpy(batch.text_states).float(), torch.from_numpy(batch.text_mask)
    pooled = None if batch.sized is None else torch.from_numpy(batch.sized.pooled).float()
    loss = plain_loss(theirs, latents, noise, normal, SHIFT, Conditions(states, None if padded(name) else mask, pooled))
    loss.backward()
    grads = {key: value.grad for key, value in theirs.named_parameters() if value.grad is not None}
    return {"loss": loss.detach().reshape(1), **grads}


@pytest.mark.parametrize("name", CLASSES)
def test_two_ranks_have_the_loss_and_the_gradient_of_a_plain_loop(
    name: str, alone: Mapping[str, Denoiser], found: Path
) -> None:
    number = list(CLASSES).index(name)
    for objective in objectives(name):
        wanted = plain(name, alone[name], objective)
        weights = [key for key in wanted if key != "loss"]
        size = torch.cat([wanted[key].flatten() for key in weights]).norm()
        for layout in ("replicas", "shards"):
            for parts in (1, 2):
                mine = load_file(found / f"{number}-{layout}-{objective}-{parts}.safetensors")
                where = (layout, objective, parts)
                assert mine.keys() == wanted.keys(), where
                assert float(mine["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-5), where
                apart = torch.cat([(mine[key] - wanted[key]).flatten() for key in weights]).norm()
                assert apart <= 1e-5 * size, where
