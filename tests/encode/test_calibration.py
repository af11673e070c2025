"""A calibration encodes real rows with the real worker function, and leaves no file behind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from builders.workflows import SOURCE, component, fake_settings, finish, with_parts

from daskt2i import workflow
from daskt2i.encode import calibration as calibrations
from daskt2i.encode import worker
from daskt2i.encode.calibration import calibrate
from daskt2i.encode.prepare import prepare
from daskt2i.errors import PlanError, SourceMissing
from daskt2i.estimate.arithmetic import Calibration, Work, disk
from daskt2i.estimate.forecast import ESTIMATE
from daskt2i.estimate.result import estimate_of
from daskt2i.events import Activity, Event
from daskt2i.executors.serial import SerialExecutor
from daskt2i.plan import spread_rows
from daskt2i.protocols import ExecutorInfo
from daskt2i.store.run_folder import MARKER, RunFolder
from daskt2i.types import Staged


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "STEADY_SECONDS", 0.2)


@pytest.mark.parametrize("total", [1, 2, 7, 97, 100, 1500])
def test_rows_are_spread_evenly_and_no_row_repeats_before_all_rows_were_used(total: int) -> None:
    assert sorted(spread_rows(total, total)) == list(range(total))
    assert spread_rows(3, total, first=4) == spread_rows(7, total)[4:]


@pytest.mark.parametrize("count", [10, 50, 333])
def test_any_number_of_rows_leaves_no_large_gap(count: int) -> None:
    rows = sorted(spread_rows(count, 10_000))
    gaps = [b - a for a, b in itertools.pairwise(rows)]
    assert max(gaps) < 3 * 10_000 / count


def test_a_calibration_measures_a_run_and_leaves_no_file_behind(tmp_path: Path) -> None:
    prepared = prepare(fake_settings(rows=40, rows_per_chunk=8), tmp_path / "out")
    found = calibrate(prepared, SerialExecutor(2), shared=True, seconds=600.0)
    assert (found.workers, found.threads, found.device, found.precision) == (1, 2, "cpu", "fp32")
    assert found.executor == "SerialExecutor"
    assert found.chunk_rows == 8
    assert found.rows == found.chunks * 8
    assert found.accepted == 1.0
    assert found.row_seconds > 0
    assert found.settings["batch"] == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARKER]
    # The size of the fakes' arrays for all rows, as an encode stores them.
    summary = finish(fake_settings(rows=40, rows_per_chunk=8), tmp_path / "real")
    assert disk(found, Work(40, 8, prepared.source_info.captions)).total == pytest.approx(summary.bytes, rel=0.1)


def test_the_requested_number_of_rows_is_measured(tmp_path: Path) -> None:
    prepared = prepare(fake_settings(rows=100, rows_per_chunk=50), tmp_path)
    found = calibrate(prepared, SerialExecutor(), shared=True, rows=12)
    assert (found.rows, found.chunk_rows, found.chunks) == (12, 6, 2)
    chosen = {one.setting: one.words() for one in found.choices}
    assert chosen == {
        "precision": "fp32: given in the settings",
        "batch": "4 images, 32 captions: given in the settings",
        "threads": "1 a worker: one worker for each core; cores that are left over are shared",
    }
    made = estimate_of("fake", Work(100, 50, 250), [found], [1], None, None, None, [])
    for shown in (repr(made), made._repr_html_()):
        assert all(text in shown for text in chosen.values())
    assert [one["setting"] for one in made.to_json()["chosen"]] == list(chosen)
    assert Calibration.from_json(json.loads(json.dumps(asdict(found)))) == replace(found, settings=dict(found.settings))


def test_rows_come_from_the_whole_data_set_in_chunks_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = fake_settings(rows=40, rows_per_chunk=4)
    read: list[int] = []
    real = worker.encode_chunk

    def spy(job: Any, chunk: Any) -> Any:
        read.extend(row.origin for row in chunk.rows)
        assert [row.index for row in chunk.rows] == list(range(chunk.start, chunk.stop))
        return real(job, chunk)

    monkeypatch.setattr(calibrations, "encode_chunk", spy)
    calibrate(prepare(settings, tmp_path), SerialExecutor(), shared=True, rows=40)
    assert set(read) == set(range(40))


class _TwoWorkers:
    """Two workers in this process. The second one starts late."""

    def __init__(self, late: int) -> None:
        self.late = late

    def start(self) -> ExecutorInfo:
        return ExecutorInfo(2, 1, None)

    def run(self, work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        for number, item in enumerate(items):
            outcome = work(item)
            if isinstance(outcome, Staged) and number >= self.late and number % 2:
                outcome = replace(outcome, receipt=replace(outcome.receipt, worker="there:2"))
            yield item, outcome

    def close(self) -> None:
        pass


def test_chunks_count_only_when_all_workers_are_busy(tmp_path: Path) -> None:
    prepared = prepare(fake_settings(rows=60, rows_per_chunk=4), tmp_path)
    seen: list[Event] = []
    found = calibrate(prepared, _TwoWorkers(late=9), shared=False, rows=16, listener=seen.append)
    assert found.rows == 16
    assert found.cores == 0
    assert found.ready_seconds is not None
    assert "there" in found.hosts
    assert any("all workers busy" in event.text for event in seen if isinstance(event, Activity))


def test_a_failure_is_raised_and_leaves_no_file_behind(tmp_path: Path) -> None:
    class Broken(SerialExecutor):
        def run(self, work: Any, items: Any) -> Iterator[tuple[Any, Any]]:
            for item, outcome in super().run(work, items):
                gone = isinstance(outcome, Staged) and item[1].index > 0
                yield item, SourceMissing("The images are gone.") if gone else outcome

    prepared = prepare(fake_settings(rows=40), tmp_path)
    with pytest.raises(SourceMissing):
        calibrate(prepared, Broken(), shared=True)
    assert [path.name for path in tmp_path.iterdir()] == [MARKER]


def test_there_is_no_estimate_if_all_rows_are_rejected(tmp_path: Path) -> None:
    settings = fake_settings(rows=40, rows_per_chunk=8, min_psnr=0, on_missing_chunk="reject")
    settings = with_parts(settings, source=component(SOURCE, rows=40, missing=list(range(40))))
    with pytest.raises(PlanError, match=r"None of .* was accepted"):
        calibrate(prepare(settings, tmp_path), SerialExecutor(), shared=True, seconds=1.0)


def test_an_encode_reports_the_error_of_its_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from builders.workflows import write_workflow

    write_workflow(tmp_path / "w.yaml", rows=40, rows_per_chunk=8)
    arguments = ["-w", str(tmp_path / "w.yaml"), "--out", str(tmp_path / "out"), "-s", "serial", "--json"]

    def run(name: str, *more: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as end:
            workflow.app([name, *arguments, *more])
        assert end.value.code == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    said = run("estimate", "--workers", "1,2", *_price_sets())
    assert [one["workers"] for one in said["forecasts"]] == [1, 2]
    assert [one["basis"] for one in said["forecasts"]] == ["measured", "scaled"]
    assert said["prices"]["runs"][0]["cost"] == pytest.approx(said["prices"]["runs"][0]["hours"] * 2.0)
    assert said["disk"]["total"] == sum(said["disk"][part] for part in ("latents", "text", "rest"))
    done = run("encode")
    assert done["forecast"]["basis"] == "measured"
    assert done["forecast"]["seconds"] == pytest.approx(done["seconds"], abs=0.01)
    kept = json.loads(RunFolder(tmp_path / "out").read(ESTIMATE))
    assert kept["checked"][0]["error"] == done["forecast"]["error"]
    assert "forecast" not in run("encode")  # nothing was left to do


def _price_sets() -> list[str]:
    given = {"currency": "EUR", "source": "test", "date": "2026-11-25", "instances": "[{name: one, per_hour: 2.0}]"}
    return [part for key, value in given.items() for part in ("--set", f"prices.{key}={value}")]


def test_a_missing_gpu_is_reported_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from builders.workflows import write_workflow

    write_workflow(tmp_path / "w.yaml", rows=40, rows_per_chunk=8)
    arguments = ["-w", str(tmp_path / "w.yaml"), "--out", str(tmp_path / "out"), "-s", "serial", "--json"]
    with pytest.raises(SystemExit) as end:
        workflow.app(["estimate", *arguments, "--devices", "cpu,cuda"])
    assert end.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["device"] for one in said["forecasts"]] == ["cpu"]
    assert "This machine has no GPU" in said["notes"][0]
    with pytest.raises(SystemExit) as end:
        workflow.app(["estimate", *arguments, "--devices", "cuda"])
    assert end.value.code == 1
    assert "Nothing was measured" in capsys.readouterr().err
