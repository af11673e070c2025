"""The columns of `bench device`, its plots, and its notes. `docs/reference/bench.md` says more.

Covers: names, units and meanings; bars of rates and of kinds of kernels.
Does not cover: measuring (the parts), the page (`markdown`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from daskt2i.bench.report import Cell, Column, Plot

COLUMNS = (
    Column("case", "text", meaning="Model, side of an image in pixels, precision, batch."),
    Column("way", "text"),
    Column("part", "text", "", "Case"),
    Column("model", "text", "", "Case"),
    Column("px", "count", "", "Case", meaning="Side of an image."),
    Column("precision", "text", "", "Case"),
    Column("layout", "text", "", "Case", meaning="Order of the numbers of an image in memory."),
    Column("batch", "count", "", "Case"),
    Column("unit", "text", "", "Case", meaning="What is counted."),
    Column("rate", "rate", "", "Speed", meaning="Items per second; median of the rounds."),
    Column("rate_low", "rate", "least", "Speed"),
    Column("rate_high", "rate", "most", "Speed"),
    Column("each_s", "seconds", "an item", "Speed"),
    Column("of_naive", "times", "by plain code", "Speed", meaning="Rate divided by that of plain code."),
    Column("of_module", "share", "of the module", "Limit", meaning="Rate divided by that of the bare module in the same"
           " precision, whose input and output stay on the device."),
    Column("tflops", "number", "", "Limit", "TFLOP/s", meaning="Counted operations per second."),
    Column("of_peak", "share", "of the peak", "Limit", meaning="Divided by the rate of matrix products in the same"
           " precision."),
    Column("waiting", "share", "waits for data", "Limit", meaning="Share of the trainer's time."),
    Column("work_bytes", "bytes", "memory of a call", "Limit", meaning="Largest memory of torch on the GPU during a"
           " call, beyond what was there before it (weights)."),
)  # fmt: skip

NOTES = (
    "All ways of a group take turns: each has two calls to warm up, and then one sample in every round. Rates are "
    "medians over the rounds.",
    "On a GPU a sample is the time between two CUDA events, with an empty queue before and after it, so it includes "
    "the time in which the GPU waits for the CPU.",
    "fp32 of daskt2i's encoders is true fp32. The naive program, training and drawing have torch's defaults: on a GPU, "
    "convolutions in fp32 use TF32.",
)


def finished(cells: Sequence[Cell], peaks: Mapping[str, float]) -> tuple[Cell, ...]:
    """The cells with their case in words, and with their share of the peak.

    fp32 with torch's defaults is compared with TF32 on a GPU.
    """
    found = []
    for cell in cells:
        values, precision = {"case": case(cell), **cell.values}, str(cell.values.get("precision"))
        defaults = values.get("part") in ("training", "drawing") or values.get("way") == "naive"
        peak = peaks.get("tf32" if precision == "fp32" and defaults and "tf32" in peaks else precision)
        speed = values.get("tflops")
        if peak and isinstance(speed, float) and values.get("part") != "device":
            values["of_peak"] = 1e12 * speed / peak
        found.append(Cell(values, cell.flags))
    return tuple(found)


def case(cell: Cell) -> str:
    """What a cell is about, in few words."""
    forms = {"model": "{}", "px": "{} px", "precision": "{}", "layout": "{}", "batch": "x{}"}
    words = [form.format(cell.values[name]) for name, form in forms.items() if cell.values.get(name)]
    return " ".join(words) or str(cell.values["part"])


def plots(cells: Sequence[Cell], facts: Mapping[str, Any]) -> Iterator[Plot]:
    """Bars of the rates of each model and side; bars of kinds of kernels; bars of the whole path's stages."""
    groups: dict[tuple[str, str, str], dict[str, float]] = {}
    for cell in cells:
        values = cell.values
        if isinstance(rate := values.get("rate"), float):
            key = (str(values["part"]), str(values["model"]), str(values["unit"]))
            groups.setdefault(key, {})[f"{values['way']}, {case(cell).removeprefix(f'{key[1]} ')}"] = rate
    for (part, model, unit), bars in groups.items():
        yield Plot(
            f"{part}-{model}", f"{model}: {unit}/s", "", f"{unit}/s", categories=tuple(bars),
            parts={f"{unit}/s": tuple(bars.values())},
        )  # fmt: skip
    kinds = {title: found["kinds"] for title, found in facts.get("profile", {}).items()}
    for name, title, table in (
        ("kernels", "Time in kernels, by kind", kinds),
        ("stages", "The whole path: worker time by stage; read and decode beside it", facts.get("shares", {})),
    ):
        parts = list(dict.fromkeys(kind for found in table.values() for kind in found))
        if parts:
            bars_of = {part: tuple(float(found.get(part, 0.0)) for found in table.values()) for part in parts}
            yield Plot(name, title, "", "share", categories=tuple(table), parts=bars_of)
