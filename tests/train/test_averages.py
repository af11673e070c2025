"""Averages of several lengths beside that of `ema`: validated, kept in checkpoints, and no change of the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.denoisers import TRANSFORMERS
from pydantic import ValidationError
from rank_modules.fitting import STEPS, Toy, fit, fit_with, launching, losses, settings

from daskt2i.config.settings import TrainSettings
from daskt2i.model.denoisers.denoiser import StoreFacts
from daskt2i.model.denoisers.kinds import KINDS, kind_of
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, State, progress
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.metrics import read_metrics
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.resume import continuing, curve_settings, label
from daskt2i.train.upkeep.model_size import parameters_of
from daskt2i.train.upkeep.rank_memory import rank_bytes
from train.test_resume import Labelled, card
from train.test_resume import told as told

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


def test_they_stand_in_an_identity_only_if_they_are_set() -> None:
    assert "emas" not in curve_settings(TrainSettings.model_validate({}))
    assert curve_settings(TrainSettings.model_validate(EMAS))["emas"] == [0.5, 0.8]


def test_a_training_does_not_go_on_with_other_averages() -> None:
    began = {"train": curve_settings(TrainSettings.model_validate(EMAS))}
    now = {"train": curve_settings(TrainSettings.model_validate({}))}
    assert continuing(5, {"identity": began}, began).differs == ()
    (differs,) = continuing(5, {"identity": began}, now).differs
    assert differs.startswith("train.emas: ")


def test_the_plan_counts_one_copy_of_the_weights_for_each_but_not_the_one_of_ema_again() -> None:
    def need(**changes: Any) -> int:
        return rank_bytes(TrainSettings.model_validate({"model": {"preset": "demo"}, **changes}), launching())

    one = need(emas=[0.5]) - need()
    assert one > 0
    assert need(emas=[0.5, 0.9, 0.5, 0.999]) - need() == 2 * one


SMALL: dict[str, dict[str, Any]] = {
    "diffusers.PixArtTransformer2DModel": {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2},
    "daskt2i.model.denoisers.uvit.UViT": {"width": 64, "layers": 3, "heads": 2},
    **{f"diffusers.{name}": config for name, config in TRANSFORMERS.items()},
}


@pytest.mark.parametrize("kind", [None, *(path for path in KINDS if not path.endswith("UNet2DConditionModel"))])
def test_the_plan_counts_the_parameters_of_a_model_without_a_preset_and_its_averages(kind: str | None) -> None:
    config = {"block_out_channels": [32, 32, 32], "layers_per_block": 1} if kind is None else SMALL[kind]
    blocks = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3} if kind is None else {}
    facts = StoreFacts(((4, 16, 16),), 32, 26, 16, False, encoders=())

    def settings_of(**changes: Any) -> TrainSettings:
        model = {"class": kind, "preset": None, "config": {**config, **blocks}}
        return TrainSettings.model_validate({"model": model, **changes})

    given = settings_of()
    found, known = parameters_of(given, facts), kind_of(kind)
    built = known.build(known.config(None, given.model.config, facts), 0)
    assert found == sum(one.numel() for one in built.parameters()) > 0
    plain, averaged = (rank_bytes(one, launching(), 0, found) for one in (given, settings_of(emas=[0.5, 0.8])))
    assert averaged - plain == 2 * 4 * found


# --- which of them the result gets ------------------------------------------------------------------------------------


def exported(folder: Path) -> bytes:
    return (folder / "weights").read_bytes()


def heldout(folder: Path) -> dict[float, float]:
    """The last held-out loss by decay."""
    return {
        0.9: losses(folder, "heldout_loss")[-1],
        **{decay: losses(folder, f"heldout_loss_ema{decay}")[-1] for decay in EMAS["emas"]},
    }


@pytest.mark.parametrize("decay", [0.5, 0.8, 0.9])
def test_the_result_gets_the_average_of_the_chosen_decay(tmp_path: Path, told: list[str], decay: float) -> None:
    found = fit(tmp_path / "chosen", export_ema=decay, **EMAS)
    fit(tmp_path / "usual", ema=decay)
    assert exported(tmp_path / "chosen") == exported(tmp_path / "usual")
    loss = heldout(tmp_path / "chosen")[decay]
    assert (found["exported_ema"], found["exported_heldout_loss"]) == (decay, round(loss, 6))
    assert told == [f"The trained model is the average with the decay {decay:g} (held-out loss {loss:.4f})."]


@pytest.mark.parametrize("rate", [1e-2, 0.3])
def test_best_is_the_one_with_the_lowest_heldout_loss(tmp_path: Path, rate: float) -> None:
    more: dict[str, Any] = {"learning_rate": rate, "final_rate": 1.0}
    found = fit(tmp_path / "best", export_ema="best", **more, **EMAS)
    by_decay = heldout(tmp_path / "best")
    decay = min(by_decay, key=by_decay.__getitem__)
    fit(tmp_path / "usual", ema=decay, **more)
    assert found["exported_ema"] == decay
    assert exported(tmp_path / "best") == exported(tmp_path / "usual")


def test_without_the_average_of_ema_the_weights_themselves_may_be_the_best(tmp_path: Path, told: list[str]) -> None:
    found = fit(tmp_path / "best", ema=0.0, emas=[0.99], export_ema="best")
    fit(tmp_path / "usual", ema=0.0)
    assert found["exported_ema"] == 0.0
    assert exported(tmp_path / "best") == exported(tmp_path / "usual")
    assert told[0].startswith("The trained model is the weights without an average (held-out loss 0.")


def test_a_finished_training_gives_another_average_and_its_label_says_which(tmp_path: Path, told: list[str]) -> None:
    fit_with(tmp_path, Labelled(), **EMAS)
    before, lines = card(tmp_path), read_metrics(RunFolder(tmp_path))
    usual = exported(tmp_path)
    fit_with(tmp_path, Labelled(), export_ema="best", **EMAS)
    best = min(heldout(tmp_path).items(), key=lambda one: one[1])
    assert card(tmp_path)["exported"] == {"ema": best[0], "heldout_loss": pytest.approx(best[1], rel=1e-6)}
    assert card(tmp_path)["fingerprint"] != before["fingerprint"]
    assert "changes" not in card(tmp_path)
    assert read_metrics(RunFolder(tmp_path)) == lines
    assert exported(tmp_path) != usual
    fit_with(tmp_path, Labelled(), **EMAS)
    assert (card(tmp_path), exported(tmp_path)) == (before, usual)
    assert "exported" not in before
    assert len(told) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"export_ema": 0.7, "emas": [0.5]}, "the decay 0.7 is kept for export_ema: it can be best or 0.999 or 0.5"),
        ({"export_ema": "best", "validation": 0}, "so validation must be 1 or more"),
        ({"export_ema": "newest"}, "export_ema"),
    ],
)
def test_an_average_that_cannot_be_exported_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings.model_validate(given)


def test_the_status_of_a_pipeline_that_got_another_average_after_the_last_step_is_finished(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    fit_with(tmp_path, Labelled(), **EMAS)
    newest = Checkpoints(folder).newest(tensors=False)
    assert newest is not None
    identity = newest.about["identity"]
    other = {**identity, "train": {**identity["train"], "export_ema": "best"}}
    another = {**identity, "train": {**identity["train"], "seed": 5}}
    folder.write("pipeline/model_index.json", b"{}")
    files = {"model_index.json": {"size": 2}}
    for theirs, state in ((other, State.FINISHED), (another, State.OTHER)):
        said = {**label(theirs, STEPS, ()), "files": files}
        folder.write("pipeline/daskt2i.json", json.dumps(said).encode())
        found = progress(folder, PIPELINE_FOLDER)
        assert found is not None
        assert found.model.state is state
