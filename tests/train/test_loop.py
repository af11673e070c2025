"""The training loop: interruptions do not change the losses, and a checkpoint never holds damaged weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from builders import CHILD_PATH
from builders.disks import disk_of
from rank_modules.fitting import BATCH, IDENTITY, STEPS, Drawing, Toy, fit, losses, settings

from daskt2i.errors import ConfigError, FingerprintMismatch, NonFiniteLoss, StoreError, StoreFull
from daskt2i.launch.launcher import LocalRankSpawner, launch
from daskt2i.store.run_folder import RunFolder
from daskt2i.train import loop
from daskt2i.train import plan as train_plan
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoints
from daskt2i.train.figures import step_figures
from daskt2i.train.metrics import read_metrics
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.train.upkeep import precision_probe

Told = list[dict[str, Any]]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("calm")
    fit(folder)
    return folder


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Records the events of a rank."""
    events: Told = []
    monkeypatch.setattr("daskt2i.launch.rank.tell", lambda kind, **fields: events.append({"kind": kind, **fields}))
    return events


def newest(folder: Path) -> int:
    found = Checkpoints(RunFolder(folder)).newest()
    return 0 if found is None else found.step


def interrupted(folder: Path, step: int, **changes: Any) -> None:
    """Run until just before a step, as if the process were killed there."""
    with pytest.raises(StopIteration):
        fit(folder, Toy(spoil={step: "end"}), **changes)


# --- one run --------------------------------------------------------------------------------------------------------


def test_it_learns_and_writes_figures_checkpoints_and_the_result(calm: Path) -> None:
    found = losses(calm)
    assert len(found) == STEPS
    assert np.mean(found[-3:]) < np.mean(found[:3])
    lines = read_metrics(RunFolder(calm))
    assert lines[0].keys() == {"step", "loss", "mean", "norm", "rate"}
    assert [line for line in lines if "heldout_loss" in line] == [
        {"step": step, "heldout_loss": pytest.approx(1, abs=0.9), "heldout_rows": 1.0} for step in (6, 12)
    ]
    assert [step for step in (4, 8, 12) if (calm / CHECKPOINTS / f"step-{step:07d}.json").exists()] == [8, 12]
    assert list((calm / "train/events").iterdir())


def test_the_rate_rises_to_its_peak_and_falls_along_a_cosine() -> None:
    rates = [loop.rate(settings(warmup=4, steps=20, final_rate=0.1), step) for step in range(21)]
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert rates[4] == pytest.approx(0.01)
    assert rates[12] == pytest.approx((0.01 + 0.001) / 2)
    assert rates[20] == pytest.approx(0.001)
    assert loop.rate(settings(warmup=0), 0) == pytest.approx(0.01)


def test_its_events_are_enough_for_a_progress_bar(told: Told, tmp_path: Path) -> None:
    fit(tmp_path)
    assert {"step": 0, "steps": STEPS, "ranks": 1, "precision": "fp32", "device": "cpu"}.items() <= told[0].items()
    first, *_, last = [event for event in told if event["kind"] == "step"]
    assert {"step", "loss", "rate", "samples_per_second", "shares"} <= first.keys()
    assert last["step"] == STEPS
    assert last["loss"] == pytest.approx(losses(tmp_path)[-1])
    assert last["samples_per_second"] > 0
    assert last["shares"].keys() == {"waiting", "forward", "backward", "optimiser"}
    assert 0.1 < sum(last["shares"].values()) <= 1
    assert [event["step"] for event in told if event["kind"] == "checkpoint"] == [4, 8, 12]
    assert told[-1]["kind"] == "done"
    assert told[-1]["samples_per_second"] == last["samples_per_second"]


def test_the_speed_does_not_count_the_first_step(told: Told, tmp_path: Path) -> None:
    class Slow(Toy):
        def batches(self, position: int) -> Iterator[Any]:
            time.sleep(1.0)
            yield from super().batches(position)

    fit(tmp_path, Slow())
    assert [event for event in told if event["kind"] == "step"][-1]["shares"]["waiting"] < 0.5


def test_without_a_row_that_could_be_held_out_no_loss_is_told(tmp_path: Path, told: Told) -> None:
    class Equal(Toy):
        """All its rows are equal, so none is held out."""

        def heldout(self, model: Any) -> tuple[float, int, dict[str, float]]:
            return 0.0, 0, {}

    fit(tmp_path, Equal())
    assert not any("heldout_loss" in line for line in read_metrics(RunFolder(tmp_path)))
    assert not any(event["kind"] == "heldout" for event in told)


def test_validation_uses_the_moving_average_and_does_not_train(tmp_path: Path) -> None:
    """More frequent validation changes no loss, and the average differs from the trained weights."""
    task = Toy()
    fit(tmp_path / "often", task, validation_every=1)
    assert task.learning == [False] * STEPS
    fit(tmp_path / "plain", ema=0.0, validation_every=1)
    assert losses(tmp_path / "often") == losses(tmp_path / "plain")
    averaged, plain = (losses(tmp_path / name, "heldout_loss") for name in ("often", "plain"))
    assert averaged[1:] != plain[1:]


def test_the_result_is_the_moving_average(calm: Path, tmp_path: Path) -> None:
    found = Checkpoints(RunFolder(calm)).newest()
    assert found is not None
    parts = [v.contiguous().numpy().tobytes() for k, v in sorted(found.tensors.items()) if k.startswith("ema/")]
    assert (calm / "weights").read_bytes() == b"".join(parts)


def test_sheets_are_drawn_before_the_first_step_and_every_few_steps(told: Told, calm: Path, tmp_path: Path) -> None:
    """They show the moving average, and change no loss."""
    fit(tmp_path, Drawing(), grid_every=4)
    sheets = [event for event in told if event["kind"] == "sheet"]
    assert sheets == [
        {"kind": "sheet", "step": step, "file": f"sheets/{step}"} for step in (0, 4, 8)
    ]  # after step 12 the driver draws
    assert losses(tmp_path) == losses(calm)
    found = Checkpoints(RunFolder(tmp_path)).load(8)
    assert float((tmp_path / "sheets/8").read_bytes()) == pytest.approx(float(found.tensors["ema/00000"].sum()))


def test_a_task_without_sheets_trains_without_them(calm: Path, tmp_path: Path) -> None:
    fit(tmp_path, grid_every=2)
    assert losses(tmp_path) == losses(calm)


@pytest.mark.parametrize(
    ("rows", "count", "sizes"), [(8, 1, [8]), (8, 3, [3, 2, 3]), (3, 8, [1, 1, 1]), (10, 4, [2, 3, 3, 2])]
)
def test_a_batch_is_cut_into_parts_of_almost_equal_size(rows: int, count: int, sizes: list[int]) -> None:
    found = loop.cut(list(range(rows)), count)
    assert [len(part) for part, _ in found] == sizes
    assert [row for part, _ in found for row in part] == list(range(rows))
    assert [share for _, share in found] == [size / rows for size in sizes]


@pytest.mark.parametrize("count", [2, 8])
def test_a_batch_in_parts_gives_the_losses_of_a_whole_batch(count: int, calm: Path, tmp_path: Path) -> None:
    fit(tmp_path, gradient_accumulation_steps=count)
    assert losses(tmp_path) == pytest.approx(losses(calm), abs=1e-6)
    assert losses(tmp_path, "norm") == pytest.approx(losses(calm, "norm"), rel=1e-4)


def test_bf16_losses_are_close_to_those_of_fp32(calm: Path, tmp_path: Path) -> None:
    fit(tmp_path, precision="bf16")
    assert losses(tmp_path) == pytest.approx(losses(calm), rel=0.03)
    assert losses(tmp_path) != losses(calm)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # warnings of the compiler
def test_a_compiled_model_gives_the_same_losses(calm: Path, tmp_path: Path) -> None:
    """Slow: the compiler takes half a minute, even for this model."""
    fit(tmp_path, compile=True)
    assert losses(tmp_path) == pytest.approx(losses(calm), abs=1e-5)


# --- interruptions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [2, 5, 7, 12])
def test_a_resumed_run_gives_the_losses_of_an_uninterrupted_one(step: int, calm: Path, tmp_path: Path) -> None:
    """On one rank in fp32 the bits are the same, also those of the result, the moving average."""
    interrupted(tmp_path, step)
    fit(tmp_path)
    for name in ("loss", "norm", "heldout_loss"):
        assert losses(tmp_path, name) == losses(calm, name)
    assert (tmp_path / "weights").read_bytes() == (calm / "weights").read_bytes()


def test_only_steps_after_the_checkpoint_run_again(calm: Path, tmp_path: Path, told: Told) -> None:
    interrupted(tmp_path, 7)
    assert len(losses(tmp_path)) == 6
    told.clear()
    fit(tmp_path)
    assert told[0]["step"] == 4
    assert next(event["step"] for event in told if event["kind"] == "step") == 5


def test_a_finished_run_writes_its_result_again_without_a_step(calm: Path, told: Told) -> None:
    before = (calm / "weights").read_bytes()
    (calm / "weights").unlink()
    fit(calm, Toy(spoil=dict.fromkeys(range(20), "end")))
    assert (calm / "weights").read_bytes() == before
    assert [event["kind"] for event in told] == ["started", "done"]
    assert len(losses(calm)) == STEPS


def test_a_damaged_checkpoint_only_costs_more_steps(calm: Path, tmp_path: Path, told: Told) -> None:
    interrupted(tmp_path, 10)
    assert newest(tmp_path) == 8
    os.truncate(tmp_path / CHECKPOINTS / "step-0000008.safetensors", 100)
    told.clear()
    fit(tmp_path)
    assert [event["text"][:39] for event in told if event["kind"] == "note"] == [
        "The checkpoint of step 8 is skipped: it"
    ]
    assert losses(tmp_path) == losses(calm)
    assert (tmp_path / "weights").read_bytes() == (calm / "weights").read_bytes()


def test_settings_that_do_not_change_the_losses_may_change_on_resume(calm: Path, tmp_path: Path) -> None:
    interrupted(tmp_path, 6, checkpoint_every=1)
    fit(tmp_path, gradient_accumulation_steps=4, keep_checkpoints=1, validation_every=6)
    assert losses(tmp_path) == pytest.approx(losses(calm), abs=1e-6)


def test_auto_keeps_the_precision_of_the_first_start(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"fp32": 2.0, "bf16": 1.0}
    monkeypatch.setattr(precision_probe, "resolve", lambda *given: "bf16")  # a processor that is fast at bf16
    monkeypatch.setattr(precision_probe, "measure", lambda step: dict(seconds))
    interrupted(tmp_path, 6, precision="auto")
    seconds["bf16"] = 3.0
    fit(tmp_path, precision="auto")
    started = [event for event in told if event["kind"] == "started"]
    assert [event["precision"] for event in started] == ["bf16", "bf16"]
    assert [event["step_seconds"] for event in started] == [{"fp32": 2.0, "bf16": 1.0}] * 2


@pytest.mark.parametrize(("bf16", "chosen"), [(0.5, "bf16"), (0.99, "fp32"), (4.0, "fp32")])
def test_auto_takes_what_a_real_step_of_this_model_is_faster_in(
    bf16: float, chosen: str, calm: Path, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of this test goes on by what each precision is said to take; the step itself is done."""
    now, done = [0.0], list[str]()

    def measure(step: Any) -> dict[str, float]:
        def timed(name: str) -> None:
            step(name)
            done.append(name)
            now[0] += {"fp32": 1.0, "bf16": bf16}[name]

        return real(timed, lambda: now[0])

    real = precision_probe.measure
    monkeypatch.setattr(precision_probe, "resolve", lambda *given: "bf16")
    monkeypatch.setattr(precision_probe, "measure", measure)
    fit(tmp_path, precision="auto")
    assert next(event["precision"] for event in told if event["kind"] == "started") == chosen
    assert done[:4] == ["fp32", "bf16"] * 2
    assert len(done) <= 10
    if chosen == "fp32":  # measuring has changed neither weights nor random numbers
        assert losses(tmp_path) == losses(calm)


def test_where_a_convolution_alone_is_slower_in_bf16_no_step_is_measured(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_probe, "resolve", lambda *given: "fp32")
    fit(tmp_path, precision="auto")
    assert {"precision": "fp32", "step_seconds": {}}.items() <= told[0].items()


def test_a_checkpoint_of_other_settings_is_refused_and_the_error_names_the_difference(tmp_path: Path) -> None:
    interrupted(tmp_path, 6)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other = {"train": {**IDENTITY["train"], "seed": 1}}
    with pytest.raises(FingerprintMismatch, match=r"train\.seed: 0 there, 1 now") as caught:
        fit(tmp_path, identity=other, seed=1)
    assert str(tmp_path / CHECKPOINTS) in str(caught.value)
    with pytest.raises(FingerprintMismatch, match="step 4 is sample 32, not 64"):
        fit(tmp_path, batch=16)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    class Wider(Toy):
        def build(self, device: str) -> Any:
            from torch import nn

            return nn.Conv2d(3, 3, 1)

    interrupted(tmp_path, 6)
    with pytest.raises(StoreError, match=r"step 4 .* belongs to another model"):
        fit(tmp_path, Wider())


def test_a_moving_average_that_never_forgets_is_refused() -> None:
    with pytest.raises(ValueError, match="less than 1"):
        settings(betas=[0.9, 1.0])


def test_a_plan_says_if_the_rate_never_reaches_its_peak() -> None:
    assert train_plan._rate(settings()) == "0.01 after 3 steps, then a cosine down"
    assert "rises until the end" in train_plan._rate(settings(warmup=STEPS))


def test_a_checkpoint_that_is_older_than_a_setting_can_be_resumed(calm: Path, tmp_path: Path) -> None:
    """`train.optimiser` is a newer setting. Older trainings used what is now its default."""
    interrupted(tmp_path, 6)
    today = {"train": {**IDENTITY["train"], "optimiser": "adamw"}}
    fit(tmp_path, identity=today)
    assert losses(tmp_path) == losses(calm)
    with pytest.raises(FingerprintMismatch, match=r"train\.optimiser: adamw there, muon now"):
        fit(tmp_path, identity={"train": {**IDENTITY["train"], "optimiser": "muon"}})


def test_a_checkpoint_of_another_optimiser_is_refused_even_with_the_same_identity(tmp_path: Path) -> None:
    fit(tmp_path, Toy(width=16))
    with pytest.raises(StoreError, match=r"optimisers are AdamW, not Muon and AdamW"):
        fit(tmp_path, Toy(width=16), optimiser="muon")


# --- losses that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "says"), [("loss", "The loss"), ("gradient", "The gradient")])
@pytest.mark.parametrize(("precision", "step"), [("fp32", 4), ("fp32", 7), ("bf16", 4)])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_the_last_good_checkpoint_is_kept(
    what: str, says: str, precision: str, step: int, tmp_path: Path
) -> None:
    """A bad gradient damages the weights before a loss shows it, so the checkpoint of step 4 would hold them."""
    stands = "step 4 is kept" if step == 7 else "There is no checkpoint yet"
    task = Toy(spoil={step: what})
    with pytest.raises(NonFiniteLoss, match=rf"{says} at step {step} is nan.*{stands}.*lower learning_rate"):
        fit(tmp_path, task, precision=precision)
    assert task.closed
    assert newest(tmp_path) == (4 if step == 7 else 0)
    assert len(losses(tmp_path)) == step - 1
    assert np.isfinite(losses(tmp_path, "norm")).all()


def test_after_such_a_stop_the_same_command_resumes_from_good_weights(calm: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss):
        fit(tmp_path, Toy(spoil={8: "gradient"}))
    fit(tmp_path)
    assert losses(tmp_path) == losses(calm)


def test_a_held_out_loss_that_is_not_finite_stops_the_run_too(tmp_path: Path) -> None:
    class Blind(Toy):
        def heldout(self, model: Any) -> tuple[float, int, dict[str, float]]:
            return math.nan, 4, {}

    with pytest.raises(NonFiniteLoss, match=r"loss on held-out rows at step 6 is nan.*step 4 is kept"):
        fit(tmp_path, Blind())


# --- fp16 -----------------------------------------------------------------------------------------------------------


def device() -> str:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("fp16 training wants a CUDA device, and torch sees none here")
    return "cuda"


def test_fp16_trains_on_a_gpu(calm: Path, tmp_path: Path) -> None:
    fit(tmp_path, precision="fp16", device=device())
    assert losses(tmp_path) == pytest.approx(losses(calm), rel=0.03)


def test_on_a_gpu_a_resumed_run_has_the_same_losses(tmp_path: Path) -> None:
    for name in ("calm", "cut"):
        if name == "cut":
            interrupted(tmp_path / name, 7, precision="fp16", device=device())
        fit(tmp_path / name, precision="fp16", device=device())
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "calm"), rel=1e-3)


def test_fp16_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp16 does not run on a CPU"):
        fit(tmp_path, precision="fp16")


@pytest.fixture
def fp16_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 on a CPU: slow, but with the same scaler."""
    monkeypatch.setattr(precision_probe, "resolve", lambda wanted, *rest: wanted)


@pytest.mark.usefixtures("fp16_here")
def test_in_fp16_a_gradient_that_overflows_costs_only_its_step(tmp_path: Path) -> None:
    fit(tmp_path, Toy(spoil={5: "gradient"}), precision="fp16")
    lines = [line for line in read_metrics(RunFolder(tmp_path)) if "loss" in line]
    assert [line["step"] for line in lines if "overflow" in line] == [5]
    assert "norm" not in lines[4]
    assert [line["rate"] for line in lines] == [pytest.approx(loop.rate(settings(), step)) for step in range(STEPS)]
    found = Checkpoints(RunFolder(tmp_path)).newest()
    assert found is not None
    assert found.about["scaler"]["scale"] == 32768.0  # half of the initial scale
    assert float(found.tensors["optimiser/00000/step"]) == STEPS - 1
    assert all(bool(t.isfinite().all()) for t in found.tensors.values())


@pytest.mark.usefixtures("fp16_here")
def test_in_fp16_a_resumed_run_keeps_its_scale(tmp_path: Path) -> None:
    spoil = {2: "gradient", 6: "gradient"}
    fit(tmp_path / "calm", Toy(spoil=spoil), precision="fp16")
    with pytest.raises(StopIteration):
        fit(tmp_path / "cut", Toy(spoil={**spoil, 8: "end"}), precision="fp16")
    fit(tmp_path / "cut", Toy(spoil=spoil), precision="fp16")
    assert losses(tmp_path / "cut") == losses(tmp_path / "calm")
    assert (tmp_path / "cut" / "weights").read_bytes() == (tmp_path / "calm" / "weights").read_bytes()


@pytest.mark.usefixtures("fp16_here")
def test_in_fp16_too_many_overflows_in_a_row_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_figures, "MOST_OVERFLOWS", 4)
    with pytest.raises(NonFiniteLoss, match="gradient at step 9"):
        fit(tmp_path, Toy(spoil=dict.fromkeys([2, 3, 5, 6, 7, 8, 9], "gradient")), precision="fp16")


# --- disk -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 KiB."""
    with disk_of(tmp_path / "small", "512k") as place:
        yield place


@pytest.mark.parametrize("left", [0, 8192])
def test_a_full_disk_stops_the_run_in_one_sentence_and_with_free_space_the_same_command_resumes(
    left: int, small: Path, calm: Path
) -> None:
    """There is no space for the next figures, or only none for the next checkpoint."""

    class Filling(Toy):
        def batches(self, position: int) -> Iterator[Any]:
            for step, batch in enumerate(super().batches(position), position // BATCH + 1):
                if step == 6:
                    free = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
                    (small / "filler").write_bytes(b"x" * max(0, free - left))
                yield batch

    with pytest.raises(StoreFull, match="free some space and run it again"):
        fit(small / "run", Filling())
    (small / "filler").unlink()
    assert newest(small / "run") == 4
    fit(small / "run")
    assert losses(small / "run") == losses(calm)


def test_a_remote_run_folder_is_resumed_too(calm: Path) -> None:
    folder = RunFolder(f"memory://{uuid4().hex}")
    with pytest.raises(StopIteration):
        fit(folder, Toy(spoil={7: "end"}))
    fit(folder)
    assert losses(folder) == losses(calm)
    assert folder.read("weights") == (calm / "weights").read_bytes()


# --- several ranks --------------------------------------------------------------------------------------------------


LONG = {"steps": 50, "ema": 0.0}


def two_ranks(folder: Path, die_at: int) -> Any:
    folder.mkdir()
    job = {
        "folder": str(folder),
        "batch": BATCH,
        "die_at": die_at,
        "settings": LONG,
        "launch": {"checkpoint_every": 10},
    }
    env = {"PYTHONPATH": CHILD_PATH}
    return launch("rank_modules.fitting", job, LocalRankSpawner(2), 2, 1, lambda event: None, env=env)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    fit(folder, **LONG)
    return folder


@pytest.mark.slow  # by default, tests/train/test_denoiser_rank.py tests both with the real trainer
@pytest.mark.parametrize(
    ("die_at", "within"),
    [pytest.param(0, 1e-4, id="calm"), pytest.param(27, 1e-5, id="one is killed on the way")],
)
def test_two_ranks_give_the_losses_of_one(die_at: int, within: float, alone: Path, tmp_path: Path) -> None:
    """Over 50 steps in fp32. A killed rank costs the steps since the checkpoint, and changes no loss."""
    assert two_ranks(tmp_path / "two", die_at).attempts == (2 if die_at else 1)
    assert len(losses(tmp_path / "two")) == 50
    for name in ("loss", "norm", "heldout_loss"):
        assert losses(tmp_path / "two", name) == pytest.approx(losses(alone, name), abs=within)


# --- the train state ----------------------------------------------------------------------------------------------


def test_the_optimisers_means_keep_the_memory_order_of_their_weights() -> None:
    """Fused AdamW pairs means and weights by memory order. With another order it would change the wrong weights."""
    task = Toy()
    first, second = (TrainState(task.build("cpu"), settings(), "cpu", "fp32") for _ in range(2))
    batch = next(task.batches(0))
    first.learn([(batch, 1.0)], task.loss, 0.01)
    contiguous = {name: value.contiguous() for name, value in first.tensors().items()}
    second.restore(contiguous, first.about())
    for mine, theirs in zip(first.parameters, second.parameters, strict=True):
        means = second.optimisers[0].state[theirs]["exp_avg"]
        assert means.stride() == theirs.stride()
        assert bool((means == first.optimisers[0].state[mine]["exp_avg"]).all())
