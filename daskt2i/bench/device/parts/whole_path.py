"""The whole path of `encode` on one device, beside the naive program: rows/s from files to a finished store.

Covers: calling `bench encode` (one worker in this process, and one naive process) for each side of images.
Does not cover: what `bench encode` measures (`bench.encode`).
"""

from __future__ import annotations

import time
from pathlib import Path

from daskt2i.bench.device.clock import NO_TIME, Clock, why_not
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Sizes
from daskt2i.bench.encode.columns import STAGES
from daskt2i.bench.encode.driver import EncodeBench, EncodeBenchSettings
from daskt2i.bench.encode.runs import NAIVE
from daskt2i.bench.report import Cell, Value
from daskt2i.config.workflow_file import load_workflow
from daskt2i.machine.precision import resolve
from daskt2i.store.run_folder import RunFolder

_SHOWN = (*STAGES, "read", "decode")


def measure(sizes: Sizes, clock: Clock, record: Recorder, folder: Path) -> None:
    """Record a line for each side and way. `folder` gets the run folders, which are removed again."""
    precision, took = resolve("auto", clock.device), 0.0
    for side in sizes.row_sides:
        key: dict[str, Value] = {"model": sizes.workflow, "unit": "images", "px": side}
        begun = time.monotonic()
        if record.left() <= took:  # a run cannot be cut short, so the last side tells what the next one needs
            record.cell(key, NO_TIME)
            continue
        settings = {
            **sizes.settings,
            "dataset.image.resolution": side,
            "dataset.precision": precision,
            "run.device": clock.device,
        }
        try:
            wanted = EncodeBenchSettings(("serial", NAIVE), (1,), ("both",), sizes.rows, 1, peak_seconds=0)
            bench = EncodeBench(
                load_workflow(sizes.workflow, settings), RunFolder(str(folder / f"whole-{side}")), wanted, record.tell
            )
            cells = bench.run("bench device").cells
        except Exception as error:
            record.cell(key, why_not(error))
            continue
        for cell in cells:
            _write(cell, cells, {**key, "precision": precision}, record)
        took = time.monotonic() - begun


def _write(cell: Cell, cells: tuple[Cell, ...], key: dict[str, Value], record: Recorder) -> None:
    naive = cell.values["scheduler"] == NAIVE
    values: dict[str, Value] = {
        **key,
        "way": "naive" if naive else "daskt2i",
        **({"precision": "fp32"} if naive else {}),
    }
    rate = cell.values.get("images_per_s")
    if not isinstance(rate, float):
        record.cell(values, *cell.flags)
        return
    values |= {"rate": rate, "each_s": 1 / rate}
    other = [c.values.get("images_per_s") for c in cells if c.values["scheduler"] == NAIVE]
    if other and isinstance(other[0], float):
        values["of_naive"] = rate / other[0]
    shares = {name: cell.values.get(f"{name}_share") for name in _SHOWN}
    record.fact("shares", {f"{values['way']} {key['px']} px": {k: v for k, v in shares.items() if v is not None}})
    record.cell(values, *(flag for flag in cell.flags if "chunks" not in flag))
