"""The arithmetic of forecasts, and the comparison of a forecast with the real run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daskt2i.config.settings import PriceSettings
from daskt2i.estimate.arithmetic import EXACT_CHUNKS, Calibration, Work, disk, forecast, makespan, price
from daskt2i.estimate.forecast import ESTIMATE, Finished, check, compare_forecast, keep
from daskt2i.store.run_folder import RunFolder

CALIBRATION = Calibration(
    device="cpu",
    precision="fp32",
    workers=2,
    threads=1,
    cores=2,
    executor="DaskExecutor",
    hosts=("here",),
    settings={"batch": 4},
    rows=80,
    chunks=8,
    chunk_rows=10,
    accepted=1.0,
    start_seconds=2.0,
    begin_seconds=5.0,
    ready_seconds=4.0,
    warm_seconds=1.0,
    row_seconds=0.1,
    chunk_seconds=0.5,
    end_seconds=1.5,
    fold_seconds=0.001,
    latents_bytes=1000.0,
    text_bytes=300.0,
    rest_bytes=50.0,
    worker_bytes=1 << 30,
    driver_bytes=1 << 28,
    limit_bytes=8 << 30,
)
WORK = Work(rows=100, rows_per_chunk=10, captions=500)


def brute(work: Work, row: float, chunk: float, ready: list[float]) -> float:
    """A simple queue: the next chunk goes to the worker that is free first."""
    free = list(ready)
    for index in range(work.chunks):
        who = free.index(min(free))
        free[who] += chunk + row * min(work.rows_per_chunk, work.rows - index * work.rows_per_chunk)
    return max(t for t, begun in zip(free, ready, strict=True) if t > begun)


@pytest.mark.parametrize("rows", [1, 10, 25, 100, 101])
@pytest.mark.parametrize("ready", [[0.0], [0.0, 3.0], [0.0, 1.0, 100.0]], ids=["one", "two", "one never needed"])
def test_the_makespan_equals_the_time_of_a_queue(rows: int, ready: list[float]) -> None:
    work = Work(rows, 10, rows)
    assert makespan(work, 0.2, 0.1, ready) == pytest.approx(brute(work, 0.2, 0.1, ready))


def test_the_makespan_of_many_chunks_is_computed_without_a_queue() -> None:
    work = Work(rows=EXACT_CHUNKS * 10 + 10, rows_per_chunk=10, captions=0)
    exact = brute(Work(EXACT_CHUNKS * 10, 10, 0), 0.1, 0.0, [0.0, 5.0, 5.0])
    assert makespan(work, 0.1, 0.0, [0.0, 5.0, 5.0]) == pytest.approx(exact, rel=1e-3)


def test_the_time_of_a_run_is_the_sum_of_start_chunks_and_end() -> None:
    found = forecast(CALIBRATION, WORK, 2)
    chunks = brute(WORK, 0.1, 0.5, [1.0, 5.0])
    assert found.seconds == pytest.approx(2 + 5 + chunks + 1.5 + 0.1)
    assert found.images_per_second == pytest.approx(100 / found.seconds)
    assert found.steady_rate == pytest.approx(2 / (0.1 + 0.05))
    assert found.basis == "measured"


def test_one_worker_with_both_cores_is_no_slower_than_two() -> None:
    one, two = forecast(CALIBRATION, WORK, 1), forecast(CALIBRATION, WORK, 2)
    assert (one.threads, one.basis) == (2, "scaled")
    assert one.steady_rate == pytest.approx(two.steady_rate)


def test_more_workers_than_cores_are_not_faster_and_a_note_says_so() -> None:
    found = forecast(CALIBRATION, WORK, 8)
    assert found.steady_rate == pytest.approx(forecast(CALIBRATION, WORK, 2).steady_rate)
    assert found.notes == ("more workers than the 2 cores: not faster",)


def test_the_rate_of_workers_with_their_own_cores_scales_with_their_number() -> None:
    elsewhere = replace(CALIBRATION, cores=0, workers=1, ready_seconds=None)
    assert forecast(elsewhere, WORK, 8).steady_rate == pytest.approx(8 * forecast(elsewhere, WORK, 1).steady_rate)
    # The other workers load after the first one, and need the same time.
    assert forecast(elsewhere, WORK, 2).seconds == pytest.approx(2 + 5 + brute(WORK, 0.1, 0.5, [1.0, 6.0]) + 1.5 + 0.1)


def test_a_note_names_more_workers_than_chunks() -> None:
    elsewhere = replace(CALIBRATION, cores=0)
    assert "there are only 10 chunks, so no more workers are busy" in forecast(elsewhere, WORK, 12).notes


def test_a_note_names_workers_that_do_not_fit_into_memory() -> None:
    assert forecast(CALIBRATION, WORK, 2, memory=4 << 30).fits
    found = forecast(CALIBRATION, WORK, 2, memory=2 << 30)
    assert not found.fits
    assert "of 1,024 MiB" in found.notes[-1]


def test_disk_scales_latents_by_rows_and_text_by_captions() -> None:
    found = disk(CALIBRATION, WORK)
    assert (found.latents, found.text, found.rest, found.total) == (100_000, 150_000, 5_000, 255_000)


def prices(*instances: dict[str, Any]) -> PriceSettings:
    about = {"currency": "EUR", "source": "a test", "date": "2026-11-25"}
    return PriceSettings.model_validate({**about, "instances": list(instances)})


def test_cost_is_hours_by_price() -> None:
    work = Work(rows=1_000_000, rows_per_chunk=10, captions=0)
    table = prices(
        {"name": "many", "cores": 64, "per_hour": 2.0},
        {"name": "told", "device": "cuda", "per_hour": 3.0, "images_per_second": 100.0},
        {"name": "unknown", "device": "cuda", "per_hour": 3.0},
        {"name": "narrow", "cores": 64, "memory_gib": 10, "per_hour": 2.0},
    )
    many, told, unknown, narrow = price(table, [CALIBRATION], work)
    # A core takes 0.1 + 0.5 / 10 seconds for a row. Start, begin and end count once.
    assert many.hours == pytest.approx((1_000_000 * 0.15 / 64 + 8.5) / 3600)
    assert many.cost == pytest.approx(many.hours * 2.0)
    assert told.hours == pytest.approx(10_000 / 3600)
    assert (unknown.hours, unknown.cost) == (None, None)
    assert "images_per_second" in unknown.basis
    assert narrow.images_per_second == pytest.approx(8 / 0.15)  # 10 GiB hold 8 workers below the pause threshold
    assert "8 workers" in narrow.basis


def test_the_rate_scales_with_the_number_of_gpus_if_a_gpu_was_calibrated() -> None:
    gpu = replace(CALIBRATION, device="cuda", workers=1, threads=2)
    four, cpu = price(
        prices({"name": "4", "device": "cuda", "gpus": 4, "per_hour": 1}, {"name": "c", "per_hour": 1}), [gpu], WORK
    )
    assert four.images_per_second == pytest.approx(4 / 0.15)
    assert cpu.images_per_second is None


FINISHED = Finished(
    content="abc",
    work=WORK,
    done=10,
    skipped=0,
    seconds=20.0,
    bytes=200_000,
    device="cpu",
    precision="fp32",
    workers=2,
    threads=1,
    executor="DaskExecutor",
    hosts=frozenset({"here"}),
    settings={"batch": 4},
)


def test_a_forecast_for_exactly_this_run_is_compared() -> None:
    found = check("abc", [CALIBRATION], FINISHED)
    wanted = forecast(CALIBRATION, WORK, 2).seconds
    assert (found.basis, found.reason, found.forecast) == ("measured", "", wanted)
    assert found.error == pytest.approx(wanted / 20 - 1)
    assert found.bytes_error == pytest.approx(0.275)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"content": "other"}, "other data"),
        ({"device": "cuda"}, "this run used cuda"),
        ({"precision": "bf16"}, "another precision"),
        ({"hosts": frozenset({"there"})}, "other machines"),
        ({"settings": {"batch": 8}}, "settings of run:"),
        ({"done": 0}, "already done"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_forecast_for_something_else_is_not_used(change: dict[str, Any], why: str) -> None:
    found = check("abc", [CALIBRATION], replace(FINISHED, **change))
    assert (found.basis, found.forecast, found.error) == ("not used", None, None)
    assert why in found.reason


def test_other_workers_and_a_part_of_the_chunks_are_scaled() -> None:
    found = check("abc", [CALIBRATION], replace(FINISHED, workers=1, threads=2, skipped=6, done=4))
    half = forecast(CALIBRATION, Work(40, 10, 200), 1, threads=2)
    assert (found.basis, found.bytes_error) == ("scaled", None)
    assert found.forecast == pytest.approx(half.seconds)
    assert "2 x 1 workers x threads were calibrated, but this run used 1 x 2" in found.reason
    assert "6 of 10 chunks were already done" in found.reason


def test_the_nearest_calibration_is_taken() -> None:
    one = replace(CALIBRATION, workers=1, threads=2, row_seconds=0.06)
    found = check("abc", [one, CALIBRATION], FINISHED)
    assert found.forecast == forecast(CALIBRATION, WORK, 2).seconds


def test_a_forecast_is_kept_and_so_is_its_error(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    keep(folder, "abc", [CALIBRATION], {"rows": 100})
    assert compare_forecast(folder, FINISHED) == check("abc", [CALIBRATION], FINISHED)
    compare_forecast(folder, replace(FINISHED, content="other"))
    keep(folder, "abc", [CALIBRATION], {"rows": 100})  # a second estimate keeps the earlier checks
    kept = json.loads(folder.read(ESTIMATE))
    assert [entry["basis"] for entry in kept["checked"]] == ["measured", "not used"]
    assert kept["rows"] == 100


@pytest.mark.parametrize("text", [None, "no JSON", "[]", "{}", '{"content": "abc", "calibrations": [{"hosts": []}]}'])
def test_without_a_readable_forecast_nothing_is_compared(tmp_path: Path, text: str | None) -> None:
    folder = RunFolder(tmp_path)
    if text is not None:
        folder.write(ESTIMATE, text.encode())
    assert compare_forecast(folder, FINISHED) is None
