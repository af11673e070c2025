"""`bench read`, `bench train` and `bench sample`: their measurements and their reports."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders.runs import tiny_workflow
from rank_modules.fitting import Toy, settings

from daskt2i.bench import read, sample, stores, train
from daskt2i.errors import ConfigError, ModelMissing, RankLost, StoreError
from daskt2i.events import LaunchEvent
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.loop import cut
from daskt2i.train.optimisation.train_state import TrainState


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> stores.Shape:
    shape = replace(stores.SHAPES["demo"], rows=160, rows_per_chunk=32)
    monkeypatch.setitem(stores.SHAPES, "tiny", shape)
    return shape


# --- stores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["length", "full"])
def test_a_loader_reads_a_store_of_random_numbers(tmp_path: Path, tiny: stores.Shape, pad: str) -> None:
    folder = RunFolder(tmp_path)
    stores.write_random(folder, replace(tiny, pad=pad, used=(3, 9)))
    dataset = LatentDataset(folder, seed=0, batch=16, heldout=0, allow_random=True)
    batch = next(dataset.batches(0))
    dataset.close()
    assert (dataset.rows, dataset.latent_shape, dataset.features) == (160, (4, 16, 16), 128)
    assert dataset.masked == (pad == "length")
    assert np.isfinite(batch.latents).all()
    counted = batch.text_mask[batch.slots >= 0].sum(axis=1)
    assert counted.min() >= 3
    assert counted.max() <= 9


def test_training_refuses_a_store_of_random_numbers(tmp_path: Path, tiny: stores.Shape) -> None:
    stores.write_random(RunFolder(tmp_path), tiny)
    with pytest.raises(StoreError, match="random weights"):
        LatentDataset(RunFolder(tmp_path), seed=0, batch=16)


# --- read -----------------------------------------------------------------------------------------------------------


def test_each_combination_is_measured(tiny: stores.Shape, tmp_path: Path) -> None:
    told: list[str] = []
    report = read.bench_read(["tiny"], [1, 2], [2], repeats=2, place=str(tmp_path), tell=told.append)
    keys = [(cell.values["origin"], cell.values["readers"]) for cell in report.cells]
    assert keys == [(origin, readers) for origin in read.ORIGINS for readers in (1, 2)]
    for cell in report.cells:
        assert 0 < cell.values["rate_low"] <= cell.values["rate"] <= cell.values["rate_high"]
    assert report.cells[0].values["cache_bytes"] == read.WHOLE
    assert report.cells[-1].values["cache_bytes"] == 160 * tiny.row_bytes // 2  # never the whole store
    assert set(report.cells[0].values) <= {column.name for column in report.columns}
    assert [plot.name for plot in report.plots] == ["rate-by-readers"]
    assert len(told) == 6
    assert list(tmp_path.iterdir()) == []


def test_an_epoch_has_all_samples_and_the_first_epoch_is_not_counted(
    tiny: stores.Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.write_random(RunFolder(tmp_path), tiny)
    asked: list[int] = []
    real = LatentDataset.batches
    monkeypatch.setattr(LatentDataset, "batches", lambda self, *at: asked.append(at[0]) or real(self, *at))
    found = list(read.epochs(RunFolder(tmp_path), read.WHOLE, 1, 2, repeats=3))
    assert asked == [0, 160, 320, 480]
    assert len(found) == 3


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'huge'.*sd15-full"):
        read.bench_read(["huge"], [1], [8])


# --- train ----------------------------------------------------------------------------------------------------------

SHARES = {"waiting": 0.1, "forward": 0.3, "backward": 0.35, "exchange": 0.1, "optimiser": 0.05}


def launched(rates: dict[int, list[float]], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A launcher that only returns speeds. It records its arguments."""
    asked: list[dict[str, Any]] = []

    def launch(module: str, job: Any, spawner: Any, ranks: int, threads: int, listener: Any, **more: Any) -> Any:
        asked.append({"module": module, "job": job, "ranks": ranks, "threads": threads, **more})
        if not rates[ranks]:
            raise RankLost("A rank died.")
        listener(LaunchEvent("started", 1, 0))
        shares = {k: v for k, v in SHARES.items() if k != "exchange" or ranks > 1}
        return SimpleNamespace(last={"done": {"samples_per_second": rates[ranks].pop(0), "shares": shares}})

    monkeypatch.setattr(train, "launch", launch)
    monkeypatch.setattr(train, "this_machine", lambda: SimpleNamespace(cores=4))
    return asked


def test_after_ctrl_c_the_report_has_the_finished_cells(
    monkeypatch: pytest.MonkeyPatch, tiny: stores.Shape, tmp_path: Path
) -> None:
    launched({1: [9.0], 2: [18.0]}, monkeypatch)

    @contextlib.contextmanager
    def spawner(ranks: int, threads: int) -> Iterator[Any]:
        if ranks == 2:
            raise KeyboardInterrupt
        yield None

    workflow = tiny_workflow()
    report = train.bench_train(
        [1, 2], workflow.train, workflow.launch, shape="tiny", steps=5, repeats=1, spawner=spawner
    )
    assert (report.complete, [cell.values["ranks"] for cell in report.cells]) == (False, [1])
    assert (report.facts["optimiser"], report.facts["precision"]) == (workflow.train.optimiser, "fp32")

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    halfway = read.bench_read(["tiny"], [1], [2], repeats=1, place=str(tmp_path), tell=interrupted)
    assert not halfway.complete
    assert list(tmp_path.iterdir()) == []


def test_efficiency_takes_the_number_of_cores_into_account(monkeypatch: pytest.MonkeyPatch, tiny: stores.Shape) -> None:
    asked = launched({1: [9.0, 10.0, 11.0], 2: [18.0, 16.0, 17.0], 4: [22.0] * 3}, monkeypatch)
    workflow = tiny_workflow()
    report = train.bench_train([1, 2, 4], workflow.train, workflow.launch, shape="tiny", steps=5)
    one, two, four = (cell.values for cell in report.cells)
    assert (one["rate"], one["rate_low"], one["rate_high"]) == (10.0, 9.0, 11.0)
    assert (two["speedup"], two["efficiency"]) == (pytest.approx(1.7), pytest.approx(0.85))
    assert four["efficiency"] == pytest.approx(0.55)
    assert {call["threads"] for call in asked} == {1}
    assert "exchange" not in one
    assert (two["exchange"], two["rest"]) == (0.1, pytest.approx(0.1))
    job = asked[0]["job"]
    assert asked[0]["module"] == "daskt2i.train.denoiser_rank"
    assert (job["train"]["steps"], job["train"]["validation"], job["launch"]["profile_allreduce"]) == (5, 0, True)
    assert [plot.name for plot in report.plots] == ["rate-by-ranks", "shares-by-ranks"]


def test_unreliable_figures_are_flagged(monkeypatch: pytest.MonkeyPatch, tiny: stores.Shape) -> None:
    launched({1: [10.0], 2: [30.0], 4: []}, monkeypatch)
    workflow = tiny_workflow()
    report = train.bench_train([1, 2, 4], workflow.train, workflow.launch, shape="tiny", threads=3, repeats=1)
    one, two, four = report.cells
    assert one.flags == ()
    assert "More threads than the 4 cores" in two.flags[0]
    assert "above 105 %" in two.flags[1]
    assert "Failed after 0 of 1" in four.flags[0]
    assert "rate" not in four.values


def test_ranks_that_cannot_share_the_batch_are_refused_before_the_start(tiny: stores.Shape) -> None:
    workflow = tiny_workflow()
    with pytest.raises(ConfigError, match="3 ranks cannot share a batch of 4"):
        train.bench_train([1, 3], workflow.train, workflow.launch, shape="tiny")


@pytest.mark.slow
def test_the_real_trainer_reports_the_shares_of_a_step(tiny: stores.Shape, tmp_path: Path) -> None:
    workflow = tiny_workflow()
    report = train.bench_train(
        [1], workflow.train, workflow.launch, shape="tiny", steps=3, repeats=1, place=str(tmp_path)
    )
    (cell,) = report.cells
    assert cell.flags == ()
    assert cell.values["rate"] > 0
    assert 0.3 < sum(cell.values[name] for name in ("waiting", "forward", "backward", "optimiser")) <= 1.01
    assert list(tmp_path.iterdir()) == []


def test_the_exchange_is_timed_separately_and_changes_no_gradient(tmp_path: Path) -> None:
    """In a group of one process the hook is called too, and the sum is the process's own gradient."""
    import torch
    from torch import distributed

    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "meeting"), 1), rank=0, world_size=1
    )
    try:
        task = Toy()
        states = [
            TrainState(task.build("cpu"), settings(), "cpu", "fp32", world=2, profile_allreduce=timed)
            for timed in (False, True)
        ]
        batch = next(task.batches(0))
        norms = [state.learn(cut(batch, 2), task.loss, 0.01)[1]["norm"] for state in states]
        plain, timed = states
        assert set(plain.seconds) == {"forward", "backward", "optimiser"}
        assert set(timed.seconds) == {*plain.seconds, "exchange"}
        assert timed.seconds["exchange"] > 0
        assert timed.seconds["backward"] > 0
        # The bits may differ: unlike a rank, this process may use MKL without MKL_CBWR.
        torch.testing.assert_close(norms[0], norms[1], rtol=1e-5, atol=0)
        for one, other in zip(plain.parameters, timed.parameters, strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    finally:
        distributed.destroy_process_group()


# --- sample ---------------------------------------------------------------------------------------------------------


class Painter:
    """Draws black pictures, and records the requests."""

    asked: list[tuple[int, int, int]]

    def __init__(self, place: Path, device: str, threads: int) -> None:
        Painter.asked = []

    def paint(self, requests: Any, look: Any) -> Any:
        Painter.asked.append((look.steps, look.batch, len(requests)))
        for wish in requests:
            yield SimpleNamespace(wish=wish, pixels=np.zeros((8, 16, 3), np.uint8))


def test_pictures_are_timed_by_steps_and_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sample, "Painter", Painter)
    (tmp_path / "model_index.json").write_text("{}")
    report = sample.bench_sample(tmp_path, [2, 4], [1, 3], repeats=2)
    assert [(cell.values["steps"], cell.values["batch"]) for cell in report.cells] == [(2, 1), (2, 3), (4, 1), (4, 3)]
    assert Painter.asked[:6] == [(2, 1, 1)] * 3 + [(2, 3, 3)] * 3  # one more than repeats
    for cell in report.cells:
        assert cell.values["rate"] == pytest.approx(1 / cell.values["seconds"])
        assert cell.values["step_seconds"] == pytest.approx(cell.values["seconds"] / cell.values["steps"])
    assert "16 x 8" in report.title
    assert [plot.name for plot in report.plots] == ["seconds-by-steps", "seconds-by-batch"]


@pytest.mark.parametrize("finished", [0, 3])
def test_after_ctrl_c_the_report_has_the_finished_timings(
    finished: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Interrupted(Painter):
        def paint(self, requests: Any, look: Any) -> Any:
            if len(Painter.asked) == 2 * finished:  # each cell: one batch to warm up, one that counts
                raise KeyboardInterrupt
            yield from super().paint(requests, look)

    monkeypatch.setattr(sample, "Painter", Interrupted)
    (tmp_path / "model_index.json").write_text("{}")
    report = sample.bench_sample(tmp_path, [2, 4], [1, 3], repeats=1)
    assert not report.complete
    assert [(cell.values["steps"], cell.values["batch"]) for cell in report.cells] == [(2, 1), (2, 3), (4, 1)][
        :finished
    ]
    assert ("16 x 8" in report.title) == bool(finished)
    assert "0 x 0" not in report.title


def test_without_a_pipeline_nothing_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match="no pipeline in"):
        sample.bench_sample(tmp_path, [2], [1])


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_commands_write_their_reports(
    tiny: stores.Shape, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from daskt2i import workflow

    monkeypatch.chdir(tmp_path)
    arguments = ["--shapes", "tiny", "--readers", "1", "--from", "memory", "--repeats", "1", "--out", "r", "--json"]
    with pytest.raises(SystemExit) as end:
        workflow.app(["bench", "read", *arguments])
    assert end.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["report"] == "bench-read"
    assert said["cells"][0]["rate"] > 0
    assert list((tmp_path / "r").rglob("bench-read*.json"))
    for wrong in (["read", "--from", "tape"], ["sample", "--sampler", "none"], ["train", "--ranks", "two"]):
        with pytest.raises(SystemExit) as end:
            workflow.app(["bench", *wrong])
        assert end.value.code == 1
        assert "error: " in capsys.readouterr().err


def test_the_date_of_a_price_table_must_be_a_date() -> None:
    from daskt2i.config.settings import PriceSettings

    given = {"currency": "EUR", "source": "x", "date": datetime.date(2026, 11, 25), "instances": [{"name": "a"}]}
    with pytest.raises(ValueError, match="per_hour"):
        PriceSettings.model_validate(given)
    given["instances"] = [{"name": "a", "per_hour": 1}]
    assert PriceSettings.model_validate(given).date.isoformat() == "2026-11-25"
