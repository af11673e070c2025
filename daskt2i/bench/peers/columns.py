"""The columns of `bench peers`, its plots, and its cells from the runs. `docs/reference/bench.md` says more.

Covers: medians and spread over rounds, the ratio to ours of the same round, flags.
Does not cover: running (`driver`), whether a tool made what ours made (`agreement`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from daskt2i.bench.report import Cell, Column, Plot, Value, spread

COLUMNS = (
    Column("tool", "text"),
    Column("precision", "text"),
    Column("images_per_s", "rate", "rate", "Speed", "images", "Rows per second from the moment when all workers have"
           " their models until all files are written; median of the rounds."),
    Column("images_per_s_low", "rate", "least", "Speed", "images"),
    Column("images_per_s_high", "rate", "most", "Speed", "images"),
    Column("of_ours", "times", "of ours", "Speed", meaning="Rate divided by ours of the same round; median."),
    Column("of_ours_low", "times", "least", "Speed"),
    Column("of_ours_high", "times", "most", "Speed"),
    Column("encode_per_s", "rate", "in models", "Speed", "images", "Rows per second until the last batch left the"
           " models: without what the tool does once at the end; median. For ours it is the rate."),
    Column("encode_of_ours", "times", "of ours", "Speed", meaning="The same by ours of the same round; median."),
    Column("cpu_s", "seconds", "CPU an image", "Cost", meaning="Processor seconds of all its processes per row, in the"
           " same time; median. Other work on the machine changes it less than the rate."),
    Column("cpu_s_low", "seconds", "least", "Cost"),
    Column("cpu_s_high", "seconds", "most", "Cost"),
    Column("cpu_of_ours", "times", "of ours", "Cost", meaning="CPU seconds divided by ours of the same round; median."),
    Column("encode_cpu_s", "seconds", "in models", "Cost", meaning="CPU seconds an image until the last batch left"
           " the models; median."),
    Column("peak_bytes", "bytes", "peak", "Cost", meaning="Largest sum of the memory of all its processes, shared pages"
           " counted once; most of the rounds."),
    Column("written_bytes", "bytes", "written", "Cost", meaning="Bytes of its files."),
    Column("whole_s", "seconds", "whole", "Time", meaning="From the start of the process until it has closed all its"
           " files: start, models, rows, end; median."),
    Column("start_s", "seconds", "start", "Time", meaning="Until all workers have their models; median."),
    Column("latents_off", "number", "latents off", "Agreement", meaning="Mean absolute difference of the latents of a"
           " few rows to ours."),
    Column("latents_off_share", "share", "share", "Agreement", meaning="The same, divided by the difference between two"
           " rows of ours: 1 is as far off as another picture."),
    Column("states_off_share", "share", "text", "Agreement", meaning="The same share for the text states."),
    Column("elsewhere_share", "share", "by others", "Agreement", meaning="Processor seconds of all other processes,"
           " divided by seconds x cores of the machine; most of the rounds."),
    Column("rounds", "count", "", "Agreement", meaning="Number of runs."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ran:
    """One run of one tool.

    Attributes:
        round: number of the round, from 0.
        precision: of its models.
        rate: rows per second after the start; `cpu`: processor seconds per row; `encode_rate`, `encode_cpu`: the same
            until the last batch has left the models.
        start, whole: seconds.
        peak, written: bytes.
        elsewhere: processor seconds of others, divided by seconds x cores.
        latents, states: difference to ours, plain and as a share; None where it was not compared.
    """

    round: int
    precision: str
    rate: float
    cpu: float
    start: float
    whole: float
    peak: int
    written: int
    elsewhere: float
    encode_rate: float
    encode_cpu: float
    latents: tuple[float, float] | None = None
    states: tuple[float, float] | None = None


def cells(runs: Mapping[str, Sequence[Ran]], failed: Mapping[str, str], ours: str) -> Iterator[Cell]:
    """A line for each tool, in order. A tool that failed has no figures, and the reason as its flag."""
    base = {run.round: run for run in runs.get(ours, ())} if ours not in failed else {}
    for tool, made in runs.items():
        if tool in failed or not made:
            yield Cell({"tool": tool}, (failed[tool],) if tool in failed else ())
            continue
        values: dict[str, Value] = {"tool": tool, "precision": made[0].precision, "rounds": len(made)}
        pairs = [(run, base[run.round]) for run in made if run.round in base]
        spreads = {
            "images_per_s": [run.rate for run in made],
            "cpu_s": [run.cpu for run in made],
            "encode_per_s": [run.encode_rate for run in made],
            "encode_cpu_s": [run.encode_cpu for run in made],
            "encode_of_ours": [run.encode_rate / own.encode_rate for run, own in pairs],
            "of_ours": [run.rate / own.rate for run, own in pairs],
            "cpu_of_ours": [run.cpu / max(own.cpu, 1e-9) for run, own in pairs],
        }
        for name, figures in spreads.items():
            if figures:
                values |= dict(zip((name, f"{name}_low", f"{name}_high"), spread(figures), strict=True))
        values |= {"whole_s": spread([run.whole for run in made])[0], "start_s": spread([run.start for run in made])[0]}
        values |= {"peak_bytes": max(run.peak for run in made), "written_bytes": made[-1].written}
        values["elsewhere_share"] = max(run.elsewhere for run in made)
        if found := [run.latents for run in made if run.latents]:
            values |= {"latents_off": max(one[0] for one in found), "latents_off_share": max(one[1] for one in found)}
        if found := [run.states for run in made if run.states]:
            values["states_off_share"] = max(one[1] for one in found)
        yield Cell({k: v for k, v in values.items() if k in _NAMES}, tuple(_flags(made)))


_NAMES = {column.name for column in COLUMNS}


def _flags(made: Sequence[Ran]) -> Iterator[str]:
    if (most := max(run.elsewhere for run in made)) > 0.05:
        yield f"Other processes took {most:.0%} of the cores in one of its runs, so rates are too low there.".replace(
            "%", " %"
        )


def plots(lines: Sequence[Cell]) -> Iterator[Plot]:
    """Bars of images per second and of CPU seconds an image."""
    measured = [cell.values for cell in lines if "images_per_s" in cell.values]
    if not measured:
        return
    names = tuple(f"{values['tool']}, {values['precision']}" for values in measured)
    for name, key, title, unit in (
        ("rate", "images_per_s", "Images encoded per second", "images/s"),
        ("cpu", "cpu_s", "Processor seconds an image", "CPU s an image"),
    ):
        bars = tuple(float(values[key] or 0) for values in measured)
        yield Plot(name, title, "tool", unit, categories=names, parts={unit: bars})
