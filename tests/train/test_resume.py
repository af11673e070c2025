"""What may change when a training continues: the schedule of the rate, recorded; and no poisoned checkpoint is used."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rank_modules.fitting import BATCH, STEPS, Toy, fit_with, losses, settings

from daskt2i.config.settings import TrainSettings
from daskt2i.errors import ConfigError, FingerprintMismatch, NonFiniteLoss, StoreError
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoint, Checkpoints, not_finite
from daskt2i.train.metrics import read_metrics
from daskt2i.train.resume import check, continuing, identity_of, label, rate, refuse_older

FLAT = {"final_rate": 1.0}
"""With it the rate does not depend on the number of steps."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run. Do not change it."""
    folder = tmp_path_factory.mktemp("calm")
    fit_with(folder)
    return folder


def newest(folder: Path) -> Checkpoint:
    found = Checkpoints(RunFolder(folder)).newest()
    assert found is not None
    return found


def weights(folder: Path) -> bytes:
    return (folder / "weights").read_bytes()


class Labelled(Toy):
    """A toy that keeps its label with its result, as our trainers do."""

    def __init__(self, **toy: Any) -> None:
        super().__init__(**toy)
        self.label: dict[str, Any] = {}

    def finish(self, model: Any, folder: RunFolder) -> dict[str, Any]:
        folder.write("label.json", json.dumps(self.label).encode())
        return super().finish(model, folder)


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "label.json").read_bytes())
    return found


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes of a rank."""
    notes: list[str] = []
    monkeypatch.setattr(
        "daskt2i.launch.rank.tell", lambda kind, **fields: notes.append(fields["text"]) if kind == "note" else None
    )
    return notes


# --- more steps, another rate -----------------------------------------------------------------------------------------


def test_more_steps_give_the_bits_of_a_longer_training_if_the_rate_does_not_depend_on_their_number(
    tmp_path: Path, told: list[str]
) -> None:
    fit_with(tmp_path / "long", Labelled(), steps=16, validation_every=4, **FLAT)
    fit_with(tmp_path / "grown", Labelled(), validation_every=4, **FLAT)
    assert told == []
    fit_with(tmp_path / "grown", Labelled(), steps=16, validation_every=4, **FLAT)
    assert [text for text in told if "the curve is that of one training" in text]
    assert read_metrics(RunFolder(tmp_path / "grown")) == read_metrics(RunFolder(tmp_path / "long"))
    assert weights(tmp_path / "grown") == weights(tmp_path / "long")
    assert card(tmp_path / "grown") == card(tmp_path / "long")
    left, right = newest(tmp_path / "grown"), newest(tmp_path / "long")
    assert left.about == right.about
    assert all(torch.equal(left.tensors[name], value) for name, value in right.tensors.items())


def test_with_a_cosine_more_steps_follow_the_longer_schedule_from_the_old_end_on(
    tmp_path: Path, told: list[str]
) -> None:
    fit_with(tmp_path, Labelled())
    before, first = losses(tmp_path), card(tmp_path)
    fit_with(tmp_path, Labelled(), steps=20)
    assert losses(tmp_path)[:STEPS] == before
    short, long = settings(), settings(steps=20)
    assert losses(tmp_path, "rate") == pytest.approx(
        [rate(short if step < STEPS else long, step) for step in range(20)]
    )
    (note,) = told
    assert "steps 12 -> 20" in note
    assert f"is {rate(long, STEPS):.3g}; without the change it would be {rate(short, STEPS):.3g}" in note
    changes = [{"step": STEPS, "steps": [12, 20]}]
    assert newest(tmp_path).about["changes"] == card(tmp_path)["changes"] == changes
    straight = label(newest(tmp_path).about["identity"], 20, ())
    assert len({first["fingerprint"], card(tmp_path)["fingerprint"], straight["fingerprint"]}) == 3
    assert [line for line in read_metrics(RunFolder(tmp_path)) if "new_steps" in line] == [
        {"step": 12, "new_steps": 20}
    ]


def test_another_rate_counts_from_the_checkpoint_on_and_is_recorded_once(tmp_path: Path) -> None:
    def broken(at: int, **changes: Any) -> None:
        with pytest.raises(StopIteration):
            fit_with(tmp_path, Labelled(spoil={at: "end"}), **changes)

    broken(6)
    broken(7, learning_rate=0.5)  # it wrote no checkpoint, so nothing of it stays
    broken(7, learning_rate=0.002)
    broken(10, learning_rate=0.002)
    fit_with(tmp_path, Labelled(), learning_rate=0.004, warmup=11)
    high, low, last = settings(), settings(learning_rate=0.002), settings(learning_rate=0.004, warmup=11)
    schedule = [high] * 4 + [low] * 4 + [last] * 4
    assert losses(tmp_path, "rate") == pytest.approx([rate(one, step) for step, one in enumerate(schedule)])
    first, second = {"step": 4, "learning_rate": [0.01, 0.002]}, {
        "step": 8, "learning_rate": [0.002, 0.004], "warmup": [3, 11],
    }  # fmt: skip
    assert card(tmp_path)["changes"] == [first, second]
    assert [line for line in read_metrics(RunFolder(tmp_path)) if "new_learning_rate" in line] == [
        {"step": 4, "new_learning_rate": 0.002},
        {"step": 8, "new_learning_rate": 0.004, "new_warmup": 11},
    ]


def test_what_decides_the_curve_may_not_change_even_together_with_the_rate(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        fit_with(tmp_path, Toy(spoil={6: "end"}))
    with pytest.raises(FingerprintMismatch, match=r"belong to another training: train\.weight_decay: 0\.01 there"):
        fit_with(tmp_path, weight_decay=0.5, learning_rate=0.001)


def test_a_rate_that_no_step_would_use_is_another_training(tmp_path: Path) -> None:
    fit_with(tmp_path)
    with pytest.raises(FingerprintMismatch, match=r"train\.learning_rate: 0\.01 there, 0\.5 now"):
        fit_with(tmp_path, learning_rate=0.5)
    with pytest.raises(
        ConfigError, match=r"has 12 steps, but this training would end after 8.*Set steps to 12 or more"
    ):
        fit_with(tmp_path, steps=8)


SCHEDULES = st.fixed_dictionaries(
    {
        "steps": st.integers(1, 12),
        "learning_rate": st.sampled_from([0.1, 0.01]),
        "warmup": st.integers(0, 12),
        "final_rate": st.sampled_from([0.0, 0.5, 1.0]),
    }
)


@given(st.lists(SCHEDULES, min_size=2, max_size=4), st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_the_record_of_changes_gives_the_rate_of_each_step_that_was_done(
    schedules: list[dict[str, Any]], lengths: list[int]
) -> None:
    about: dict[str, Any] = {"identity": {"train": schedules[0]}}
    done: list[float] = []
    for schedule, length in zip(schedules, lengths, strict=False):
        plan = continuing(len(done), about, {"train": schedule})
        if plan.differs or schedule["steps"] < len(done):
            continue
        about = {"identity": {"train": schedule}, "changes": list(plan.changes)}
        end = min(len(done) + length, schedule["steps"])
        done += [rate(settings(**schedule), step) for step in range(len(done), end)]
    by_step = {}
    now = about["identity"]["train"]  # from the last schedule back to the first
    for change in reversed(about.get("changes", [])):
        by_step.setdefault(change["step"], now)
        now = {name: change[name][0] if name in change else value for name, value in now.items()}
    for step, found in enumerate(done):
        now = by_step.get(step, now)
        assert rate(settings(**now), step) == found


def test_a_checkpoint_of_another_objective_is_not_called_one_of_an_older_version() -> None:
    def identity(**changes: Any) -> dict[str, Any]:
        stored = {"fingerprint": "f", "text_encoder": {"pad": "full"}, "identity": {"encoders": {"text": {}}}}
        return identity_of(TrainSettings.model_validate(changes), stored)

    refuse_older({"identity": identity()}, identity(objective="v"), "here")
    plan = continuing(2, {"identity": identity()}, identity(objective="v"))
    with pytest.raises(FingerprintMismatch, match=r"another training: train\.objective: flow there, v now"):
        check(plan, 1000, "here", "out")
    older = {key: value for key, value in identity(objective="v").items() if key != "v_weight"}
    with pytest.raises(FingerprintMismatch, match="older version, which weighted the loss of v"):
        refuse_older({"identity": older}, identity(objective="v"), "here")


# --- poisoned checkpoints ---------------------------------------------------------------------------------------------


def poison(folder: Path, step: int, name: str, value: float) -> None:
    """Save the checkpoint of a step again with one value replaced."""
    checkpoints = Checkpoints(RunFolder(folder), keep=9)
    found = checkpoints.load(step)
    tensors = {key: tensor.clone() for key, tensor in found.tensors.items()}
    tensors[name].view(-1)[0] = value
    later = [path for path in (folder / CHECKPOINTS).iterdir() if int(path.name[5:12]) > step]
    kept = {path: path.read_bytes() for path in later}
    checkpoints.save(step, found.position, tensors, found.about)
    for path, data in kept.items():
        path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model/0.weight", math.nan),
        ("model/0.bias", math.inf),
        ("optimiser/00000/exp_avg_sq", math.inf),
        ("ema/00001", math.nan),
    ],
)
def test_a_poisoned_checkpoint_is_marked_and_the_one_before_is_used(
    name: str, value: float, calm: Path, tmp_path: Path, told: list[str]
) -> None:
    with pytest.raises(StopIteration):
        fit_with(tmp_path / "run", Toy(spoil={10: "end"}))
    poison(tmp_path / "run", 8, name, value)
    told.clear()
    fit_with(tmp_path / "run", keep_checkpoints=3)
    assert told == [f"The checkpoint of step 8 is skipped: {name} in it holds values that are not finite."]
    assert losses(tmp_path / "run") == losses(calm)
    assert weights(tmp_path / "run") == weights(calm)


def test_when_all_checkpoints_are_poisoned_a_sentence_says_so_and_nothing_is_removed(tmp_path: Path) -> None:
    with pytest.raises(StopIteration):
        fit_with(tmp_path, Toy(spoil={10: "end"}))
    for step in (4, 8):
        poison(tmp_path, step, "model/0.bias", math.nan)
    for _ in range(2):
        with pytest.raises(StoreError, match=r"weights of steps 4, 8 are not finite.*Remove this folder, and train"):
            fit_with(tmp_path)
        assert Checkpoints(RunFolder(tmp_path)).poisoned() == [8, 4]
        assert len(list((tmp_path / CHECKPOINTS).iterdir())) == 4


def test_a_checkpoint_whose_next_step_is_not_finite_is_marked_and_a_lower_rate_goes_on_before_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(NonFiniteLoss) as caught:
        fit_with(tmp_path, Toy(spoil={9: "loss"}))
    assert (
        "The checkpoint of step 8 gives this each time, so it is marked as poisoned. The checkpoint of step 4"
        in str(caught.value)
    )
    fit_with(tmp_path, learning_rate=0.001)
    assert losses(tmp_path, "rate")[4] == pytest.approx(rate(settings(learning_rate=0.001), 4))
    assert len(losses(tmp_path)) == STEPS


def test_in_another_precision_the_same_checkpoint_may_be_right_so_it_is_not_marked(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match=r"step 8 is kept.*launch\.precision=fp32"):
        fit_with(tmp_path, Toy(spoil={9: "loss"}), precision="bf16")
    fit_with(tmp_path, precision="fp32")
    assert Checkpoints(RunFolder(tmp_path)).poisoned() == []


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Broken(Toy):
        """One weight changes nothing, so no loss shows that it is infinite."""

        def build(self, device: str) -> Any:
            self.model = super().build(device)
            self.model.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
            return self.model

        def batches(self, position: int) -> Any:
            for step, batch in enumerate(super().batches(position), position // BATCH + 1):
                if step == 8:
                    self.model.unused.data[0] = math.inf
                yield batch

    with pytest.raises(NonFiniteLoss, match=r"A value of model/unused at step 8 is nan.*step 4 is kept"):
        fit_with(tmp_path, Broken())
    assert newest(tmp_path).step == 4


def test_minus_infinity_is_a_mask_in_the_weights_and_poison_elsewhere() -> None:
    tensors = {"model/mask": torch.tensor([0.0, -math.inf]), "model/count": torch.tensor([1])}
    assert not_finite(tensors) == ""
    assert not_finite({**tensors, "ema/00000": torch.tensor([-math.inf])}) == "ema/00000"
    assert not_finite({**tensors, "model/a": torch.tensor([math.nan])}) == "model/a"


def test_a_poisoned_checkpoint_displaces_no_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(RunFolder(tmp_path), keep=2)
    for step in (1, 2):
        checkpoints.save(step, step, {"a": torch.ones(1)}, {})
    checkpoints.mark_poisoned(2, "it is")
    checkpoints.save(3, 3, {"a": torch.ones(1)}, {})
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).glob("*.json")) == [
        "step-0000001.json",
        "step-0000003.json",
    ]


def test_an_old_checkpoint_goes_on(calm: Path, tmp_path: Path) -> None:
    """One of before: without marks, changes, and settings that came later."""
    with pytest.raises(StopIteration):
        fit_with(tmp_path / "run", Toy(spoil={6: "end"}))
    path = tmp_path / "run" / CHECKPOINTS / "step-0000004.json"
    old = json.loads(path.read_bytes())
    assert not {"poisoned", "changes"} & {*old, *old["about"]}
    train = old["about"]["identity"]["train"]
    for new, name in (("max_grad_norm", "clip"), ("validation", "heldout")):
        train[name] = train.pop(new)
    del train["optimiser"]
    path.write_text(json.dumps(old))
    shutil.copytree(tmp_path / "run", tmp_path / "slower")
    fit_with(tmp_path / "run")
    assert losses(tmp_path / "run") == losses(calm)
    fit_with(tmp_path / "slower", learning_rate=0.001)
    assert newest(tmp_path / "slower").about["changes"] == [{"step": 4, "learning_rate": [0.01, 0.001]}]
