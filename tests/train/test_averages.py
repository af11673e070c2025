"""Averages of several lengths beside that of `ema`: validated, kept in checkpoints, and no change of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rank_modules.fitting import Toy, fit, launching, losses, settings

from daskt2i.config.settings import TrainSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.resume import curve_settings
from daskt2i.train.upkeep.rank_memory import rank_bytes

EMAS = {"emas": [0.5, 0.8]}


def bits(folder: Path, prefix: str) -> list[bytes]:
    found = Checkpoints(RunFolder(folder)).newest()
    assert found is not None
    names = sorted(name for name in found.tensors if name.startswith(f"{prefix}/"))
    return [found.tensors[name].contiguous().numpy().tobytes() for name in names]


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_each_is_the_average_of_a_training_with_its_decay_and_changes_nothing(tmp_path: Path, optimiser: str) -> None:
    more: dict[str, Any] = {"optimiser": optimiser}
    fit(tmp_path / "several", Toy(width=16), **more, **EMAS)
    fit(tmp_path / "usual", Toy(width=16), **more)
    assert losses(tmp_path / "several") == losses(tmp_path / "usual")
    assert losses(tmp_path / "several", "heldout_loss") == losses(tmp_path / "usual", "heldout_loss")
    assert bits(tmp_path / "several", "ema") == bits(tmp_path / "usual", "ema")
    for decay in EMAS["emas"]:
        fit(tmp_path / str(decay), Toy(width=16), ema=decay, **more)
        assert bits(tmp_path / "several", f"ema{decay}") == bits(tmp_path / str(decay), "ema") != []
        assert losses(tmp_path / "several", f"heldout_loss_ema{decay}") == losses(tmp_path / str(decay), "heldout_loss")


def test_an_interrupted_run_resumes_with_the_same_averages(tmp_path: Path) -> None:
    fit(tmp_path / "calm", **EMAS)
    with pytest.raises(StopIteration):
        fit(tmp_path / "cut", Toy(spoil={7: "end"}), **EMAS)
    fit(tmp_path / "cut", **EMAS)
    for prefix in ("ema", "ema0.5", "ema0.8"):
        assert bits(tmp_path / "cut", prefix) == bits(tmp_path / "calm", prefix) != []


def test_without_the_average_of_ema_the_others_are_kept_and_restored(tmp_path: Path) -> None:
    fit(tmp_path / "calm", ema=0.0, **EMAS)
    with pytest.raises(StopIteration):
        fit(tmp_path / "cut", Toy(spoil={7: "end"}), ema=0.0, **EMAS)
    fit(tmp_path / "cut", ema=0.0, **EMAS)
    assert bits(tmp_path / "cut", "ema") == []
    assert bits(tmp_path / "cut", "ema0.8") == bits(tmp_path / "calm", "ema0.8") != []


def test_only_trained_weights_are_averaged() -> None:
    model = Toy().build("cpu")
    first = next(model.parameters())
    first.requires_grad_(False)
    state = TrainState(model, settings(**EMAS), "cpu", "fp32")
    kept = [name for name in state.tensors() if name.startswith("ema0.5/")]
    assert len(kept) == len(list(model.parameters())) - 1


def test_they_stand_in_an_identity_only_if_they_are_set_so_others_are_refused() -> None:
    assert "emas" not in curve_settings(TrainSettings.model_validate({}))
    assert curve_settings(TrainSettings.model_validate(EMAS))["emas"] == [0.5, 0.8]


def test_the_plan_counts_one_copy_of_the_weights_for_each_but_not_the_one_of_ema_again() -> None:
    def need(**changes: Any) -> int:
        return rank_bytes(TrainSettings.model_validate({"model": {"preset": "demo"}, **changes}), launching())

    one = need(emas=[0.5]) - need()
    assert one > 0
    assert need(emas=[0.5, 0.9, 0.5, 0.999]) - need() == 2 * one
