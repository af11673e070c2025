"""The plots of `bench encode`: the study's plots with the ideal line, shares of worker time, memory over time.

Covers: making curves and bars from the figures of cells.
Does not cover: drawing them (`bench.page`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from daskt2i.bench.encode.columns import STAGES
from daskt2i.bench.encode.runs import Runs
from daskt2i.bench.report import Cell, Curve, Plot

MEMORY_SECONDS = 60.0
"""Minimum steady seconds of a run for a plot of its memory."""


def plots(cells: Sequence[Cell], runs: Sequence[Runs]) -> Iterable[Plot]:
    """Plots of time, speed-up, efficiency and shares for each part, and of memory over time for long runs."""
    for part in dict.fromkeys(str(cell.values["part"]) for cell in cells):
        those = [cell for cell in cells if cell.values["part"] == part and "steady_s" in cell.values]
        if not those:
            continue
        most = max(_number(cell, "workers") for cell in those)
        ticks = tuple(sorted({_number(cell, "workers") for cell in those}))
        yield Plot(f"{part}-time", f"{part}: time", "workers", "seconds, whole command", _curves(those, "wall_s", True))
        ideal = Curve("ideal", (1.0, most), (1.0, most), ideal=True)
        yield Plot(
            f"{part}-speed-up", f"{part}: speed-up (steady)", "workers", "times one worker",
            (*_curves(those, "speed_up"), ideal),
        )  # fmt: skip
        flat = Curve("ideal", ticks if len(ticks) > 1 else (1.0, most), (1.0,) * max(2, len(ticks)), ideal=True)
        yield Plot(
            f"{part}-efficiency", f"{part}: efficiency", "workers", "of perfect", (*_curves(those, "efficiency"), flat)
        )
        names = tuple(f"{cell.values['scheduler']} {cell.values['workers']}" for cell in those)
        stages = {stage: tuple(_number(cell, f"{stage}_share") for cell in those) for stage in STAGES}
        kept = {stage.replace("_", " "): values for stage, values in stages.items() if any(values)}
        yield Plot(f"{part}-shares", f"{part}: where worker time goes", "", "share", categories=names, parts=kept)
    yield from _memory_plots(runs)


def _number(cell: Cell, name: str) -> float:
    value = cell.values.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _curves(cells: Sequence[Cell], name: str, spread_too: bool = False) -> tuple[Curve, ...]:
    found = []
    for scheduler in dict.fromkeys(str(cell.values["scheduler"]) for cell in cells):
        those = [c for c in cells if c.values["scheduler"] == scheduler and c.values.get(name) is not None]
        those.sort(key=lambda cell: _number(cell, "workers"))
        if those:
            low, high = (f"{name[:-2]}_min_s", f"{name[:-2]}_max_s") if spread_too else ("", "")
            found.append(
                Curve(
                    scheduler,
                    tuple(_number(cell, "workers") for cell in those),
                    tuple(_number(cell, name) for cell in those),
                    tuple(_number(cell, low) for cell in those) if low else (),
                    tuple(_number(cell, high) for cell in those) if high else (),
                )
            )
    return tuple(found)


def _memory_plots(runs: Sequence[Runs]) -> Iterable[Plot]:
    curves: list[Curve] = []
    for one in runs:
        longest = max(one.measured, key=lambda measured: measured.steady, default=None)
        if longest is None or longest.steady < MEMORY_SECONDS or len(curves) >= 8 or not longest.memory:
            continue
        at = tuple(point[0] / 60 for point in longest.memory)
        curves.append(Curve(f"{one.cell.name}, worker", at, tuple(point[1] / 2**20 for point in longest.memory)))
        curves.append(Curve(f"{one.cell.name}, driver", at, tuple(point[2] / 2**20 for point in longest.memory)))
    if curves:
        yield Plot(
            "memory", "Memory while encoding: the largest worker, and the driver", "minutes", "MiB", tuple(curves)
        )
