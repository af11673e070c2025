"""Benchmarks: the content of a report in each format, flags on unreliable figures, exact counts of rows."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from builders import TESTS
from builders.browser import visit
from builders.workflows import child_environment, fake_settings, load_workflow
from PIL import Image
from rich.console import Console

from daskt2i.bench import page
from daskt2i.bench.cell import run_encode
from daskt2i.bench.child import perform
from daskt2i.bench.encode.driver import EncodeBench, EncodeBenchSettings
from daskt2i.bench.encode.naive import gather, require_plain
from daskt2i.bench.encode.peak import peak
from daskt2i.bench.encode.rows import BenchRows, Part, with_rows
from daskt2i.bench.encode.runs import CellSettings, Ground, Runs
from daskt2i.bench.encode.scaling import make_report
from daskt2i.bench.measured import BenchTask, Measured
from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, show, spread
from daskt2i.bench.scheduler import SchedulerBench, growth
from daskt2i.bench.scheduler import SimulationSettings as Simulation
from daskt2i.errors import ConfigError, ExecutorError, Reason
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

HOSTILE = "</script><script>alert(1)</script>"

REPORT = BenchReport(
    name="bench-test",
    title="A test",
    command=f"daskt2i bench test {HOSTILE}",
    columns=(
        Column("scheduler", "text"),
        Column("workers", "count"),
        Column("wall_s", "seconds", "wall", "Time", meaning="Wall seconds."),
        Column("rate", "rate", "", "Speed", "images"),
        Column("efficiency", "share", "", "Speed"),
        Column("peak_bytes", "bytes", "worker", "Memory"),
        Column("never", "number", "", "Memory"),
    ),
    cells=(
        Cell(
            {"scheduler": "serial", "workers": 1, "wall_s": 12.345, "rate": 3.21, "efficiency": 1.0}
            | {"peak_bytes": 2**30}
        ),
        Cell({"scheduler": "local, \"two\"", "workers": 2, "wall_s": 0.05}, ("One flag.", f"Another {HOSTILE}.")),
    ),
    facts={"peak": "two GFLOP/s", "nested": {"a": 1}},
    notes=("A note.",),
    plots=(
        Plot(
            "time", "Time", "workers", "s",
            (Curve("serial", (1, 2), (3, 4), (2, 3), (4, 5)), Curve("ideal", (1, 2), (3, 1), ideal=True)),
        ),
        Plot("shares", "Shares", "", "share", categories=("a", "b"), parts={"read": (0.1, 0.2), "encode": (0.8, 0.7)}),
    ),
    machine={"cores": 2},
    versions={"torch": "2"},
    when="2026-01-01T00:00:00+00:00",
)  # fmt: skip


# The report in its formats


def test_json_holds_plain_values_and_null_for_figures_that_were_not_measured() -> None:
    told = json.loads(json.dumps(REPORT.to_json()))
    assert told["cells"][0]["peak_bytes"] == 2**30
    assert told["cells"][1]["flags"][0] == "One flag."
    assert told["facts"]["nested"] == {"a": 1}
    assert {column["name"]: column["heading"] for column in told["columns"]}["rate"] == "rate, images/s"
    assert told["complete"] is True


def test_csv_has_a_line_per_cell_and_empty_fields_for_figures_that_were_not_measured() -> None:
    heading, first, second = csv.reader(io.StringIO(REPORT.to_csv().decode()))
    assert heading == ["scheduler", "workers", "wall_s", "rate", "efficiency", "peak_bytes", "never", "flags"]
    assert first == ["serial", "1", "12.345", "3.21", "1.0", str(2**30), "", ""]
    assert second[0] == 'local, "two"'
    assert second[3:7] == ["", "", "", ""]
    assert second[7].startswith("One flag. Another ")


def test_a_terminal_of_80_columns_shows_groups_flags_and_notes() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(REPORT.view())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in (
        "Time",
        "Speed",
        "Memory",
        "serial",
        "12.3",
        "1,024",
        "100 %",
        "(2)",
        "One flag.",
        "A note.",
        "GFLOP/s",
    ):
        assert word in text, word
    assert "never" not in text


def test_every_format_says_if_the_benchmark_was_stopped() -> None:
    stopped = replace(REPORT, complete=False)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(stopped.view())
    assert "Stopped before all was measured" in console.export_text()
    assert "Stopped before all was measured" in page.render(stopped)
    assert stopped.to_json()["complete"] is False


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("count", 1204, "1,204"), ("share", 0.953, "95 %"), ("share", 0.012, "1.2 %"), ("seconds", 0.0123, "0.0123"),
        ("bytes", 3 * 2**20, "3.00"), ("times", 1.9, "1.90"), ("number", None, "–"), ("text", "x", "x"),
    ],
)  # fmt: skip
def test_values_are_shown_with_suitable_digits(kind: Any, value: Any, shown: str) -> None:
    assert show(kind, value) == shown


def test_spread_is_median_smallest_and_largest() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    assert spread([4.0, 2.0]) == (3.0, 2.0, 4.0)


def test_files_are_written_and_text_does_not_become_markup(tmp_path: Path) -> None:
    places = page.save(REPORT, RunFolder(tmp_path))
    html = Path(places["html"]).read_text()
    assert HOSTILE not in html
    assert "default-src 'none'" in html
    assert json.loads(Path(places["json"]).read_text())["title"] == "A test"
    assert Path(places["csv"]).read_bytes() == REPORT.to_csv()
    if find_spec("matplotlib"):
        for name in ("time", "shares"):
            picture = Image.open(places[f"png {name}"]).convert("RGB")
            colours = {colour for _, colour in picture.getcolors(1 << 24) or []}
            assert (0x44, 0x77, 0xAA) in colours, name


def test_without_matplotlib_there_are_no_pngs_and_a_sentence_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    places = page.save(REPORT, RunFolder(tmp_path))
    assert places["no png"] == page.WITHOUT_PNG
    assert not list(tmp_path.rglob("*.png"))
    assert (tmp_path / "reports" / "bench-test.html").is_file()


def test_a_browser_draws_the_page_from_a_file(tmp_path: Path, browser: str) -> None:
    url = Path(page.save(REPORT, RunFolder(tmp_path))["html"]).as_uri()
    complaints, asked, picture = asyncio.run(visit(browser, url))
    assert complaints == []
    assert [one for one in asked if not one.startswith("data:")] == [url]
    colours = {c: n for n, c in Image.open(io.BytesIO(picture)).convert("RGB").getcolors(1 << 24) or []}
    assert colours[0x44, 0x77, 0xAA] > 500


# Figures and flags


def measured(**changes: Any) -> Measured:
    """One worker that encodes 100 rows in 10 s, in 10 chunks, at 80 % in the model."""
    plain = Measured(
        workers=1, threads=1, precision="bf16", rows=100, accepted=98, rejected=2, cold=5.0, steady=10.0, finish=1.0,
        cpu=9.8, elsewhere=0.0, stages={"encode_image": 6.0, "encode_text": 2.0, "write": 1.0, "total": 9.5},
        chunk_seconds=(0.95,) * 10, worker_peak=7, driver_peak=5, written=11, captions=200, distinct=100, batch=4,
    )  # fmt: skip
    return replace(plain, **changes)


def table(*cells: tuple[str, int, Measured | str], cores: int = 4, ground: Ground | None = None) -> BenchReport:
    """Cells (scheduler, workers, the measurement or the failure), with one run each."""
    runs = []
    for scheduler, workers, found in cells:
        one = Runs(CellSettings("both", scheduler, workers, 1))
        if isinstance(found, str):
            one.failure = found
        else:
            one.add(found, 100)
        runs.append(one)
    return make_report(runs, {"both": ground} if ground else {}, rows=100, name="test", cores=cores)


def test_speed_up_and_efficiency_compare_with_the_best_single_worker() -> None:
    report = table(
        ("serial", 1, measured()),
        ("local", 1, measured(steady=12.0)),
        ("local", 2, measured(workers=2, steady=5.5)),
    )
    serial, one, two = (cell.values for cell in report.cells)
    assert (serial["speed_up"], serial["efficiency"]) == (1.0, 1.0)
    assert one["efficiency"] == pytest.approx(10 / 12)
    assert two["speed_up"] == pytest.approx(10 / 5.5)
    assert two["efficiency"] == pytest.approx(10 / 11)
    assert two["images_per_s"] == pytest.approx(98 / 5.5)


def test_stage_shares_add_up_to_all_worker_time() -> None:
    values = table(("local", 2, measured(workers=2))).cells[0].values
    stages = ("encode_image", "encode_text", "gate", "wait", "write", "other", "idle")
    assert sum(values[f"{stage}_share"] for stage in stages) == pytest.approx(1.0)  # type: ignore[misc]
    assert values["model_share"] == pytest.approx(8.0 / 20.0)
    assert values["idle_share"] == pytest.approx(10.5 / 20.0)


@pytest.mark.parametrize(("steady", "flagged"), [(4.9, False), (4.7, True)])
def test_an_efficiency_above_105_percent_is_flagged_as_a_broken_baseline(steady: float, flagged: bool) -> None:
    report = table(("serial", 1, measured()), ("local", 2, measured(workers=2, steady=steady)))
    assert any("baseline is broken" in flag for flag in report.cells[1].flags) is flagged


def test_more_workers_than_cores_are_flagged() -> None:
    report = table(("serial", 1, measured()), ("local", 4, measured(workers=4)), cores=2)
    assert report.cells[0].flags == ()
    assert any(flag.startswith("More workers than cores: 4 x 1 thread on 2") for flag in report.cells[1].flags)


def test_naive_is_not_the_baseline_but_others_are_compared_with_it() -> None:
    report = table(("naive", 1, measured(threads=4, steady=8.0, chunk_seconds=())), ("serial", 1, measured()))
    naive, serial = (cell.values for cell in report.cells)
    assert serial["speed_up"] == 1.0
    assert naive["efficiency"] == pytest.approx(10 / 8 / 4)  # one process of four threads on four cores
    assert serial["vs_naive"] == pytest.approx(0.8)


def test_work_of_other_processes_and_too_few_chunks_are_flagged() -> None:
    noisy = measured(elsewhere=8.0, workers=4, chunk_seconds=(1.0,) * 8)
    (cell,) = table(("local", 4, noisy)).cells
    assert any("Other processes used 20%" in flag for flag in cell.flags)
    assert any("8 chunks for 4 workers" in flag for flag in cell.flags)


def test_the_share_of_the_peak_counts_encoded_images_and_captions() -> None:
    ground = Ground("bf16", {"bf16": {1: 200.0}, "fp32": {1: 100.0}}, 10.0, 2.0, 8.0)
    values = table(("serial", 1, measured()), ground=ground).cells[0].values
    flop = 98 * 10.0 + 100 * 2.0
    assert values["peak_share"] == pytest.approx(flop / 10.0 / 200.0)
    assert values["model_peak_share"] == pytest.approx(flop / 8.0 / 200.0)
    naive = measured(precision="fp32", distinct=200)
    values = table(("naive", 1, naive), ground=ground).cells[0].values
    assert values["peak_share"] == pytest.approx((98 * 10.0 + 200 * 8.0) / 10.0 / 100.0)


def test_a_wrong_number_of_rows_fails_the_cell() -> None:
    runs = Runs(CellSettings("both", "local", 2, 1))
    with pytest.raises(ExecutorError, match=r"99 rows were counted .97 accepted, 2 rejected., but the run has 100"):
        runs.add(measured(accepted=97), 100)
    assert not runs.good


def test_a_cell_that_failed_stays_in_the_table_without_figures() -> None:
    report = table(("serial", 1, measured()), ("local", 2, "It did not fit."))
    assert report.cells[1].flags == ("Failed: It did not fit.",)
    assert "steady_s" not in report.cells[1].values


# Rows and cells


def test_a_source_with_fewer_rows_is_repeated() -> None:
    rows = BenchRows({"class": "daskt2i.sources.fake.FakeSource", "rows": 3}, 8)
    assert [(row.index, row.origin) for row in rows.rows(0, 8)] == [(i, i % 3) for i in range(8)]
    assert [row.index for row in rows.rows(2, 5)] == [2, 3, 4]
    info = rows.info()
    assert (info.rows, info.captions) == (8, 16)
    assert rows.read(rows.rows(4, 5)[0]) == rows.read(rows.rows(1, 2)[0])


def test_a_part_uses_a_fake_for_the_encoder_that_it_does_not_measure() -> None:
    settings = fake_settings()
    vae, text = (with_rows(settings, 4, part).dataset for part in ("vae", "text"))
    source = vae.source.build(object, "source")
    assert {caption for row in source.rows(0, 4) for caption in row.captions} == {"a picture"}
    assert vae.encoders.image == settings.dataset.encoders.image
    assert text.encoders.text == settings.dataset.encoders.text
    pictures = text.source.build(object, "source")
    assert len({pictures.read(row) for row in pictures.rows(0, 4)}) == 1


def test_the_options_decide_the_cells() -> None:
    wanted = EncodeBenchSettings(("serial", "joblib", "naive"), (1, 2), ("both",), rows=8)
    assert [(cell.scheduler, cell.workers) for cell in wanted.cells()] == [
        ("serial", 1), ("joblib", 1), ("joblib", 2), ("naive", 1), ("naive", 2),
    ]  # fmt: skip
    for wrong in (
        replace(wanted, schedulers=("nowhere",)),
        replace(wanted, schedulers=("local:3",)),
        replace(wanted, parts=("images",)),  # type: ignore[arg-type]
        replace(wanted, repeats=0),
    ):
        with pytest.raises(ConfigError):
            wrong.cells()


def test_naive_refuses_encoders_other_than_its_two() -> None:
    with pytest.raises(ConfigError, match="Leave naive out"):
        require_plain(fake_settings(), "vae")


def test_the_peak_of_two_threads_is_not_below_that_of_one() -> None:
    assert peak("fp32", 1, 0.01, (64,)) > 1e6


def test_the_error_of_a_child_process_keeps_its_sentence(tmp_path: Path) -> None:
    workflow = with_rows(fake_settings(), 4, "both").to_yaml()
    with pytest.raises(ExecutorError, match="nowhere") as caught:
        perform(BenchTask("encode", workflow, str(tmp_path / "run"), "both", "nowhere", workers=1))
    assert isinstance(caught.value.__cause__, ConfigError)
    assert str(caught.value) == " ".join(str(caught.value.__cause__).split())


class Unsafe(FakeSource):
    """Row 1 has captions that are not encoded, because its file name is refused."""

    def rows(self, start: int, stop: int) -> list[Row]:
        return [replace(row, reason=Reason.UNSAFE_PATH) if row.index == 1 else row for row in super().rows(start, stop)]


@pytest.mark.parametrize("part", ["vae", "text", "both"])
@pytest.mark.parametrize("source", [{"uncaptioned": [1]}, {"class": "bench.test_bench.Unsafe"}])
def test_each_part_is_encoded_and_counted(tmp_path: Path, part: Any, source: dict[str, Any]) -> None:
    workflow = with_rows(fake_settings(rows=6, rows_per_chunk=4, source=source, gate_rows=1), 8, part)
    task = BenchTask("encode", workflow.to_yaml(), str(tmp_path / "run"), part, "serial", begun=time.time())
    found = run_encode(task, workflow)
    assert (found.rows, found.accepted, found.rejected) == (8, 6, 2)
    assert len(found.chunk_seconds) == 2
    assert found.distinct == {"vae": 2, "text": 12, "both": 12}[part]
    assert min(found.cold, found.steady, found.finish, found.worker_peak, found.written) > 0


def _dies_at(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_killed_process_of_naive_ends_the_run_with_an_error() -> None:
    with (
        get_context("spawn").Pool(2) as pool,
        pytest.raises(ExecutorError, match=r"was killed after \d+ of 8 rows; memory is the usual cause"),
    ):
        gather(pool, _dies_at, range(8), 8)


# Whole benchmarks


@pytest.mark.slow  # by default, tests/advice/test_bench.py measures encodes of fakes
@pytest.mark.parametrize("part", ["vae", "both"])
def test_encode_is_measured_with_a_pool_and_with_naive(tmp_path: Path, part: Part) -> None:
    told: list[str] = []
    settings = load_workflow("demo", ["dataset.rows_per_chunk=4"])
    wanted = EncodeBenchSettings(
        ("multiprocessing", "naive"),
        (1,),
        (part,),
        rows=8,
        repeats=1,
        peak_seconds=0.01,
        peak_sides=(256,),
        peak_convolutions=((16, 32),),
    )
    report = EncodeBench(settings, RunFolder(tmp_path), wanted, told.append).run("bench encode")
    assert report.complete
    assert [cell.values["scheduler"] for cell in report.cells] == ["multiprocessing", "naive"]
    for cell in report.cells:
        values = cell.values
        assert not [flag for flag in cell.flags if flag.startswith("Failed")]
        assert (values["rows"], values["rejected"]) == (8, 0)
        assert 0 < values["steady_s"] < values["wall_s"]  # type: ignore[operator]
        assert 0 < values["peak_share"] < 1.5  # type: ignore[operator]
        for name in ("cold_s", "cpu_share", "worker_peak_bytes", "written_bytes", "model_share", "vs_naive"):
            assert values[name] > 0, name  # type: ignore[operator]
    assert not list((tmp_path / "cells").iterdir())
    assert len(told) == 4
    assert report.facts[f"ground {part}"]["image_flop"] > 1e6


@pytest.mark.slow  # it measures
def test_a_scheduler_is_simulated(tmp_path: Path) -> None:
    asked = Simulation(rows=120, chunks=40, workers=(2,), chunk_seconds=(0.0,), arrays=True)
    report = SchedulerBench(RunFolder(tmp_path), asked).run("bench scheduler")
    (cell,) = report.cells
    assert cell.flags == ()
    assert (cell.values["rows"], cell.values["chunks"]) == (120, 40)
    assert report.facts["overhead_s"] == cell.values["seconds_per_chunk"]
    assert report.facts["most_workers"]["60"] == int(60 / report.facts["overhead_s"])
    assert not list((tmp_path / "cells").iterdir())


def test_growth_is_the_slope_of_memory() -> None:
    assert growth([(0, 100), (500, 600), (1000, 1100)]) == pytest.approx(1000.0)
    assert growth([(0, 100), (1, 100)]) is None


def test_a_long_simulation_gets_fewer_chunks() -> None:
    asked = Simulation(1_000_000, 4000, (2, 32), (0.0, 0.5), max_seconds=100.0)
    assert [asked.chunks_of(2, 0.0), asked.chunks_of(2, 0.5), asked.chunks_of(32, 0.5)] == [4000, 400, 4000]


@pytest.mark.slow  # by default, tests/bench/test_training_benches.py stops two benchmarks in this process
def test_after_ctrl_c_the_report_has_the_finished_measurements(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "daskt2i.workflow", "bench", "scheduler", "--rows", "100", "--chunks", "20"),
        *("--workers", "2", "--chunk-seconds", "0,30", "--out", str(tmp_path), "--json"),
    ]
    root = TESTS.parent
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=child_environment(), cwd=root) as running:
        assert running.stderr is not None
        lines = []
        for line in running.stderr:
            lines.append(line)
            if "chunks of 30 s" in line:
                break
        time.sleep(0.2)
        os.kill(running.pid, signal.SIGINT)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130, lines
    told = json.loads(out)
    assert told["complete"] is False
    assert [cell["rows"] for cell in told["cells"]] == [100]
    assert (tmp_path / "reports" / "bench-scheduler.csv").is_file()
