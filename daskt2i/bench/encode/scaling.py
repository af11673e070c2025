"""Make the study's tables from runs: time, speed-up, efficiency, and the figures that explain them.

Covers: medians over repeats, the baseline, shares of worker time, shares of the machine's peak, flags. All functions
are pure.
Does not cover: running anything (`driver`).

T(n) are the steady seconds of n workers. The baseline is the fastest single worker of the same part:

    speed-up   = T(baseline) / T(n)
    efficiency = speed-up / (cores that n workers may keep busy, or n if that is more)

By default a single worker has one thread. A naive worker has torch's default, which is all cores. So naive is only the
baseline if there is no other single worker, and then it counts with all its cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from daskt2i.bench.encode.columns import COLUMNS, STAGES
from daskt2i.bench.encode.plots import plots
from daskt2i.bench.encode.rows import Part
from daskt2i.bench.encode.runs import NAIVE, Ground, Runs
from daskt2i.bench.measured import Measured
from daskt2i.bench.report import BenchReport, Cell, Value, spread
from daskt2i.machine.machine import this_machine

BROKEN = 1.05
"""Efficiency above which the baseline is not reliable."""

NOISY = 0.05
"""A cell is flagged if other processes use more than this share of all cores, or if repeats spread by twice as much."""

CHUNKS = 4
"""With fewer chunks per worker than this, workers are idle during the last chunks."""


def make_report(
    runs: Iterable[Runs],
    ground: Mapping[Part, Ground],
    *,
    rows: int,
    name: str,
    notes: Sequence[str] = (),
    cores: int = 0,
) -> BenchReport:
    """Make the report of all cells. Cells that never ran are left out.

    Args:
        ground: peaks of the parts that have one.
        rows: rows of each repeat.
        name: name of the workflow.
        cores: cores of the machine; 0: of this machine.
    """
    cores = cores or this_machine().cores
    kept = [one for one in runs if one.measured or one.failure]
    base = {part: _baseline(part, kept) for part in dict.fromkeys(one.cell.part for one in kept)}
    cells = tuple(_cell(one, base[one.cell.part], ground.get(one.cell.part), kept, cores) for one in kept)
    least = min((len(one.measured) for one in kept if one.good), default=0)
    said = [*notes, *_baseline_notes(base)]
    if 0 < least < 3:
        said.append(f"Medians of {least} run{'s' * (least > 1)}: three or more runs would show the spread.")
    facts: dict[str, Any] = {"rows of each run": rows}
    for part, one in ground.items():
        facts |= _ground_facts(part, one)
    return BenchReport(
        name="bench-encode",
        title=f"Encoding {rows:,} rows of {name}",
        command="",
        columns=COLUMNS,
        cells=cells,
        facts=facts,
        notes=tuple(said),
        plots=tuple(plots(cells, kept)),
    )


def _baseline(part: Part, runs: Sequence[Runs]) -> Runs | None:
    """The fastest single worker with the fewest threads; naive only if there is no other."""
    single = [one for one in runs if one.cell.part == part and one.good and one.measured[0].workers == 1]
    chosen = [one for one in single if one.cell.scheduler != NAIVE] or single
    return min(chosen, key=lambda one: (one.measured[0].threads, _steady(one)), default=None)


def _baseline_notes(base: Mapping[Part, Runs | None]) -> list[str]:
    notes = []
    for part, one in base.items():
        if one is None:
            notes.append(f"{part}: no single worker was measured, so there is no speed-up. Add 1 to the workers.")
        else:
            threads = one.measured[0].threads
            notes.append(
                f"{part}: the baseline is one {one.cell.scheduler} worker of {threads} thread{'s' * (threads > 1)}."
            )
    return notes


def _steady(runs: Runs) -> float:
    return spread([one.steady for one in runs.measured])[0]


def _cores_of(measured: Measured, cores: int) -> int:
    """Number of cores that these workers may keep busy, or the number of workers if that is more."""
    return max(measured.workers, min(measured.workers * measured.threads, cores))


def _cell(runs: Runs, base: Runs | None, ground: Ground | None, all_runs: Sequence[Runs], cores: int) -> Cell:
    cell = runs.cell
    key: dict[str, Value] = {"part": cell.part, "scheduler": cell.scheduler, "workers": cell.workers or None}
    if not runs.good:
        return Cell({**key, "threads": cell.threads or None}, (f"Failed: {runs.failure}",))
    first = runs.measured[0]
    key |= {"workers": first.workers, "threads": first.threads}
    values = {**key, **_times(runs.measured), **_shares(runs.measured), **_memory(runs.measured)}
    if base is not None:
        speed_up = _steady(base) / _steady(runs)
        values["speed_up"] = speed_up
        values["efficiency"] = speed_up * _cores_of(base.measured[0], cores) / _cores_of(first, cores)
    naive = [_rate(one) for one in all_runs if one.good and (one.cell.part, one.cell.scheduler) == (cell.part, NAIVE)]
    if naive:
        values["vs_naive"] = _rate(runs) / max(naive)
    values |= _limits(runs, ground, cores)
    return Cell(values, tuple(_flags(runs, values, cores)))


def _rate(runs: Runs) -> float:
    return spread([one.accepted / one.steady for one in runs.measured])[0]


def _times(measured: Sequence[Measured]) -> dict[str, Value]:
    wall, least, most = spread([one.wall for one in measured])
    chunks = [seconds for one in measured for seconds in one.chunk_seconds]
    return {
        "wall_s": wall,
        "wall_min_s": least,
        "wall_max_s": most,
        "cold_s": spread([one.cold for one in measured])[0],
        "steady_s": spread([one.steady for one in measured])[0],
        "finish_s": spread([one.finish for one in measured])[0],
        "images_per_s": spread([one.accepted / one.steady for one in measured])[0],
        "chunk_s": spread(chunks)[0] if chunks else None,
    }


def _shares(measured: Sequence[Measured]) -> dict[str, Value]:
    """Shares of workers x steady seconds, over all repeats together."""
    whole = sum(one.workers * one.steady for one in measured)
    sums = {stage: sum(one.stages.get(stage, 0.0) for one in measured) for one in measured for stage in one.stages}
    own = {stage: sums.get(stage, 0.0) for stage in STAGES[:5]}
    total = sums.get("total", 0.0)
    inside = sum(own.values())
    if not any(one.chunk_seconds for one in measured):  # naive reads in the same thread
        own["wait"] = sums.get("read", 0.0) + sums.get("decode", 0.0)
        inside += own["wait"]
    own |= {"other": max(0.0, total - inside), "idle": max(0.0, whole - total)}
    found: dict[str, Value] = {f"{stage}_share": seconds / whole for stage, seconds in own.items()}
    found |= {f"{stage}_share": sums.get(stage, 0.0) / whole for stage in ("read", "decode")}
    found["model_share"] = (own["encode_image"] + own["encode_text"]) / whole
    return found


def _memory(measured: Sequence[Measured]) -> dict[str, Value]:
    return {
        "worker_peak_bytes": max(one.worker_peak for one in measured),
        "driver_peak_bytes": max(one.driver_peak for one in measured),
        "written_bytes": spread([one.written for one in measured])[0],
        "rows": measured[0].accepted + measured[0].rejected,
        "rejected": measured[0].rejected,
        "repeats": len(measured),
    }


def _limits(runs: Runs, ground: Ground | None, cores: int) -> dict[str, Value]:
    measured = runs.measured
    found: dict[str, Value] = {"cpu_share": spread([one.cpu / (one.steady * cores) for one in measured])[0]}
    others = [one.elsewhere / (one.steady * cores) for one in measured if one.elsewhere is not None]
    if others:
        found["elsewhere_share"] = spread(others)[0]
    first = measured[0]
    busy = min(cores, first.workers * first.threads)
    peak = ground.peaks.get(first.precision, {}).get(busy) if ground else None
    if ground is None or not peak:
        return found
    caption = ground.padded_flop if runs.cell.scheduler == NAIVE else ground.caption_flop
    flop = first.accepted * ground.image_flop + first.distinct * caption
    found["peak_share"] = flop / _steady(runs) / peak
    inside = sum(one.stages.get(stage, 0.0) for one in measured for stage in ("encode_image", "encode_text"))
    if inside:  # seconds of all workers side by side, on `busy` cores
        found["model_peak_share"] = flop * len(measured) / inside * first.workers / peak
    return found


def _flags(runs: Runs, values: Mapping[str, Value], cores: int) -> Iterable[str]:
    first = runs.measured[0]
    efficiency, elsewhere = values.get("efficiency"), values.get("elsewhere_share")
    if isinstance(efficiency, float) and efficiency > BROKEN:
        yield (
            f"Efficiency of {efficiency:.0%}: the baseline is broken, because more than 100 % is not possible. Measure "
            "again on a quiet machine, with more rows."
        )
    if first.workers * first.threads > cores:
        kind = "workers" if first.workers > cores else "threads"
        yield (
            f"More {kind} than cores: {first.workers} x {first.threads} thread{'s' * (first.threads > 1)} on {cores}."
        )
    share = values.get("peak_share")
    if isinstance(share, float) and share > 1.0:
        yield "More than 100 % of the peak: the machine was slower when its peak was measured."
    if isinstance(elsewhere, float) and elsewhere > NOISY:
        yield f"Other processes used {elsewhere:.0%} of the cores at the same time. Repeat on a quiet machine."
    _, least, most = spread([one.steady for one in runs.measured])
    if most - least > 2 * NOISY * least:
        yield f"The repeats took between {least:.2f} and {most:.2f} s."
    chunks = len(first.chunk_seconds)
    if chunks and chunks < CHUNKS * first.workers and first.workers > 1:
        yield f"{chunks} chunks for {first.workers} workers: at the end some workers are idle. Use more rows."
    if runs.failure:
        yield f"Failed: {runs.failure}"


def _ground_facts(part: Part, ground: Ground) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, rates in ground.peaks.items():
        told = ", ".join(f"{rate / 1e9:,.0f} on {busy}" for busy, rate in sorted(rates.items()))
        facts[f"peak {name}, {part}"] = f"{told} cores, GFLOP/s (one thread each, at once, in one process)"
    parts = [("image", ground.image_flop), ("caption", ground.caption_flop), ("padded caption", ground.padded_flop)]
    facts[f"operations, {part}"] = ", ".join(f"{flop / 1e9:,.2f} GFLOP per {what}" for what, flop in parts if flop)
    facts[f"ground {part}"] = {
        "precision": ground.precision,
        "peaks": {name: {str(busy): rate for busy, rate in rates.items()} for name, rates in ground.peaks.items()},
        "image_flop": ground.image_flop,
        "caption_flop": ground.caption_flop,
        "padded_flop": ground.padded_flop,
    }
    return facts
