"""The time to draw a picture, by sampler steps and batch size: `bench sample`.

Covers: one process that draws with a trained pipeline. Loading is measured separately.
Does not cover: spreading prompts over workers (`sample.driver`), the quality of pictures (`evaluation`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, spread
from daskt2i.config.samplers import Sampler
from daskt2i.errors import ConfigError, ModelMissing
from daskt2i.model.pipeline import INDEX
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings

COLUMNS = (
    Column("steps", "count", meaning="Number of sampler steps."),
    Column("batch", "count", unit="pictures", meaning="Pictures in one batch."),
    Column("seconds", "seconds", "per picture", meaning="Median over the repeats, without loading."),
    Column("seconds_low", "seconds", "least"),
    Column("seconds_high", "seconds", "most"),
    Column("rate", "rate", "pictures", unit="pictures", meaning="Pictures per second, at the median."),
    Column("step_seconds", "seconds", "per step and picture", meaning="Median by steps, with text and decoding."),
)

PROMPT = "a red circle in the middle of a white picture"


def bench_sample(
    place: Path,
    steps: Sequence[int],
    batches: Sequence[int],
    *,
    prompts: Sequence[str] = (PROMPT,),
    guidance: float = 3.0,
    sampler: Sampler = "dpm++",
    device: str = "cpu",
    threads: int = 1,
    repeats: int = 3,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure every combination of steps and batch with a pipeline folder.

    Args:
        place: a diffusers pipeline folder, e.g. `runs/demo/pipeline`.
        prompts: used one after the other.
        repeats: batches of each combination, after one batch that is not counted.
        command: the command as it was typed.
        tell: called with a line for each cell.

    Raises:
        ModelMissing: there is no pipeline in this folder.
        ModelError: the pipeline cannot be loaded.
        ConfigError: there are no prompts.
    """
    if not (place / INDEX).is_file():
        raise ModelMissing(
            f"There is no pipeline in {place}, so nothing was measured. Train first (train or run), or name the folder "
            "of a pipeline (pipeline)."
        )
    if not prompts:
        raise ConfigError("bench sample needs at least one prompt (prompts). Nothing was measured.")
    begun = time.perf_counter()
    painter = Painter(place, device, threads)
    load = time.perf_counter() - begun
    cells: list[Cell] = []
    size = ""
    complete = True
    try:
        for count, batch in itertools.product(steps, batches):
            look = SamplerSettings(count, guidance, sampler, batch)
            requests = [SampleRequest(prompts[n % len(prompts)], n) for n in range(batch)]
            took = []
            for number in range(repeats + 1):
                begun = time.perf_counter()
                pictures = list(painter.paint(requests, look))
                if number:
                    took.append((time.perf_counter() - begun) / batch)
                size = " of {1} x {0} pixels".format(*pictures[0].pixels.shape)
            middle, low, high = spread(took)
            tell(f"{count} steps, batch {batch}: {middle:.3g} s per picture")
            cells.append(
                Cell(
                    {
                        "steps": count,
                        "batch": batch,
                        "seconds": middle,
                        "seconds_low": low,
                        "seconds_high": high,
                        "rate": 1 / middle,
                        "step_seconds": middle / count,
                    }
                )
            )
    except KeyboardInterrupt:
        complete = False
    return BenchReport(
        name="bench-sample",
        title=f"Pictures{size} by steps and batch",
        command=command,
        columns=COLUMNS,
        cells=tuple(cells),
        facts={
            "sampler": sampler,
            "guidance": guidance,
            "device": device,
            "threads": threads,
            "load_seconds": round(load, 3),
            "repeats": repeats,
        },
        notes=("Guidance above 1 runs the denoiser twice for each step.",),
        plots=tuple(_plots(cells, steps, batches)),
        complete=complete,
    )


def _plots(cells: Sequence[Cell], steps: Sequence[int], batches: Sequence[int]) -> Iterator[Plot]:
    for over, values, other in (("steps", steps, "batch"), ("batch", batches, "steps")):
        if len(values) < 2:
            continue
        lines: dict[str, list[Cell]] = {}
        for cell in cells:
            lines.setdefault(f"{other} {cell.values[other]}", []).append(cell)
        curves = tuple(Curve.of(name, line, over, "seconds") for name, line in lines.items())
        yield Plot(f"seconds-by-{over}", f"Seconds per picture by {over}", over, "s per picture", curves)
