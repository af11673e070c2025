"""Ways to compute a step, each with skipped spikes and several averages: the losses are those of the plain way."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_modules.fitting import fit_with, losses, settings

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoint, Checkpoints
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.task import cut
from train.test_spikes import AT, STEPS, Spiking, marked

USUAL: Mapping[str, Any] = {
    "steps": STEPS,
    "on_spike": "skip",
    "emas": [0.5, 0.8],
    "checkpoint_every": 1,
    "keep_checkpoints": STEPS,
}
WAYS: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "parts": ({"gradient_accumulation_steps": 2}, 1e-5),
    "activations": ({"gradient_checkpointing": True}, 1e-6),
    "compiled": ({"compile": True}, 1e-4),
    "bf16": ({"precision": "bf16"}, 2e-2),
    "muon": ({"optimiser": "muon"}, 0.0),
    "muon in parts of bf16": (
        {"optimiser": "muon", "gradient_accumulation_steps": 2, "precision": "bf16"},
        5e-2,
    ),
}
"""By name: settings, and how far the losses may be from those of the plain way (relative)."""


class Wide(Spiking):
    """One with an inner matrix for Muon, which can compute its activations a second time."""

    def __init__(self) -> None:
        super().__init__(spoil={AT: "spike"}, width=16)

    def build(self, device: str) -> Any:
        model = super().build(device)
        self.recomputed = 0

        def begin() -> None:
            whole = model.forward

            def again(inputs: Any) -> Any:
                self.recomputed += 1
                return whole(inputs)

            model.forward = lambda inputs: torch.utils.checkpoint.checkpoint(again, inputs, use_reentrant=False)

        model.enable_gradient_checkpointing = begin
        return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """By optimiser, a training in the plain way."""
    folder = tmp_path_factory.mktemp("plain")
    for optimiser in ("adamw", "muon"):
        fit_with(folder / optimiser, Wide(), **{**USUAL, "optimiser": optimiser})
    return {optimiser: folder / optimiser for optimiser in ("adamw", "muon")}


def at(folder: Path, step: int) -> Checkpoint:
    found = Checkpoints(RunFolder(folder)).load(step)
    assert found is not None
    return found


# Inductor of torch itself imports what torch calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.slow if way == "compiled" else ()) for way in WAYS]
)
def test_a_way_has_the_losses_of_the_plain_one_and_a_skipped_step_changes_nothing(
    way: str, plain: Mapping[str, Path], tmp_path: Path
) -> None:
    given, apart = WAYS[way]
    if given.get("compile") and not shutil.which("c++"):
        pytest.skip("torch.compile needs a compiler, and there is no c++ here")
    task = Wide()
    fit_with(tmp_path, task, **USUAL, **given)
    usual = plain[given.get("optimiser", "adamw")]
    for name in ("loss", "heldout_loss", "heldout_loss_ema0.5", "heldout_loss_ema0.8"):
        assert losses(tmp_path, name) == pytest.approx(losses(usual, name), rel=apart), name
    assert marked(tmp_path) == marked(usual) == [AT]
    assert (task.recomputed > STEPS) == bool(given.get("gradient_checkpointing"))
    before, after = at(tmp_path, AT - 1), at(tmp_path, AT)
    assert {"ema/00000", "ema0.5/00000", "ema0.8/00000"} < set(before.tensors)
    assert all(torch.equal(after.tensors[name], value) for name, value in before.tensors.items())
    assert after.about["ema_step"] == before.about["ema_step"]
    following = at(tmp_path, AT + 1).tensors
    assert any(not torch.equal(following[name], value) for name, value in after.tensors.items())


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_skipped_step_in_fp16_leaves_the_scaler_as_it_was_too(optimiser: str) -> None:
    task = Wide()
    given = settings(optimiser=optimiser, emas=[0.5])
    state = TrainState(task.build("cpu"), given, "cpu", "fp16")
    batches = task.batches(0)

    def learn(taken: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        state.learn(cut(next(batches), 2), task.loss, 0.01, lambda loss, norm: taken)
        return {name: value.clone() for name, value in state.tensors().items()}, state.about()

    before, about = learn(True)
    skipped, said = learn(False)
    assert said == about
    assert about["scaler"]["_growth_tracker"] == 1
    assert all(torch.equal(skipped[name], value) for name, value in before.items())
    after, said = learn(True)
    assert said["scaler"]["_growth_tracker"] == 2
    assert not torch.equal(after["model/0.weight"], skipped["model/0.weight"])
