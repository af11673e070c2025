"""Memory is bounded: in a worker by the chunk, in the driver by the window. These tests take minutes, so use --slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GROWTH = 1.10

DRIVER = """
import sys
from daskt2i.session.schedulers import Scheduler, open_executor
from daskt2i.session.worker_layout import encode_layout
from builders.workflows import load_workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.worker import peak_bytes

if __name__ == "__main__":
    prepared = prepare(load_workflow(sys.argv[1]), sys.argv[2])
    scheduler = Scheduler.parse(sys.argv[3])
    summary = encode(prepared, open_executor(scheduler, encode_layout(scheduler, prepared)))
    print(summary.done, peak_bytes())
"""


def worker_peak(out: Path, rows: int) -> int:
    words = [
        "encode",
        "-s",
        "local:1",
        "-o",
        str(out),
        "--set",
        f"scenes.rows={rows}",
        "--set",
        "dataset.precision=fp32",
    ]
    subprocess.run([sys.executable, "-m", "daskt2i.workflow", *words, "--json"], check=True, capture_output=True)
    return max(receipt.peak_bytes for receipt in Receipts(RunFolder(out)).read())


def test_a_workers_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    few, many = worker_peak(tmp_path / "few", 1_000), worker_peak(tmp_path / "many", 8_000)
    print(f"\nworker, peak MiB: {few / 2**20:.0f} for 1,000 scenes, {many / 2**20:.0f} for 8,000")
    assert many <= GROWTH * few


def driver_peak(folder: Path, chunks: int, scheduler: str) -> int:
    folder.mkdir()
    dataset = {
        "source": {"class": "daskt2i.sources.fake.FakeSource", "rows": chunks, "captions": 1},
        "image": {"resolution": 32},
        "encoders": {
            "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder"},
            "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
        },
        "precision": "fp32",
        "rows_per_chunk": 1,
    }
    (folder / "many.yaml").write_text(json.dumps({"name": "many", "dataset": dataset}))
    (folder / "driver.py").write_text(DRIVER)
    script = [sys.executable, str(folder / "driver.py"), str(folder / "many.yaml"), str(folder / "out"), scheduler]
    done = subprocess.run(script, check=True, capture_output=True, text=True)
    count, peak = map(int, done.stdout.split())
    assert count == chunks
    return peak


@pytest.mark.parametrize("scheduler", ["local:2", "multiprocessing:2"])
def test_the_drivers_memory_does_not_grow_with_the_chunks(scheduler: str, tmp_path: Path) -> None:
    few, many = driver_peak(tmp_path / "few", 200, scheduler), driver_peak(tmp_path / "many", 20_000, scheduler)
    print(f"\ndriver on {scheduler}, peak MiB: {few / 2**20:.0f} for 200 chunks, {many / 2**20:.0f} for 20,000")
    assert many <= GROWTH * few
