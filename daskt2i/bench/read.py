"""The speed of reading training samples from a latent store in one process: `bench read`.

Covers: stores of random numbers in real shapes, by reader threads and shuffle window, read from memory, from the page
cache and from the disk.
Does not cover: the stores (`stores`), training (`bench.train`), several ranks.

Each figure is for one epoch in batches of 64. It is the speed of training if the model needed no time.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, Value, spread
from daskt2i.bench.stores import Shape, forget, shape_named, write_random
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder

BATCH = 64

WHOLE = 16 << 30
"""Size of a cache that holds any of these stores."""

LITTLE = 512 << 20
"""The default of `launch.cache`. If half of the store is less, that is used, so that no store fits into the cache."""

Origin = Literal["memory", "page cache", "disk"]

ORIGINS: tuple[Origin, ...] = ("memory", "page cache", "disk")

COLUMNS = (
    Column("store", "text"),
    Column("origin", "text", "from", meaning="memory: the cache holds all; otherwise each epoch decodes each shard."),
    Column("readers", "count", meaning="Threads that decode shards; as many others make batches."),
    Column("window", "count", unit="shards", meaning="Number of shards that are shuffled together."),
    Column("cache_bytes", "bytes", "cache", "speed", meaning="Maximum size of decoded shards in memory."),
    Column("rate", "rate", "median", "speed", "samples", meaning="Samples per second of wall time."),
    Column("rate_low", "rate", "least", "speed", "samples"),
    Column("rate_high", "rate", "most", "speed", "samples"),
    Column("busy_rate", "rate", "by CPU", "speed", "samples", meaning="Samples per processor second."),
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Samples per second over one epoch: per second of wall time, and per processor second of this process."""

    rate: float
    busy_rate: float


def bench_read(
    shapes: Sequence[str],
    readers: Sequence[int],
    windows: Sequence[int],
    origins: Sequence[Origin] = ORIGINS,
    *,
    repeats: int = 5,
    place: str | None = None,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure every combination.

    Args:
        shapes: names in `bench.stores.SHAPES`.
        readers: numbers of threads that decode shards.
        windows: numbers of shards that are shuffled together.
        repeats: epochs of each combination, after one epoch that is not counted.
        place: folder for the stores during the benchmark; None: the system's temporary folder.
        command: the command as it was typed.
        tell: called with a line for each cell.

    Raises:
        ConfigError: there is no such shape.
        StoreFull, StoreError: a store cannot be written or read.
    """
    chosen = {name: shape_named(name) for name in shapes}
    cells: list[Cell] = []
    complete = True
    try:
        for name, shape in chosen.items():
            with tempfile.TemporaryDirectory(dir=place, prefix="daskt2i-bench-") as there:
                folder = RunFolder(there)
                write_random(folder, shape)
                for origin, threads, window in itertools.product(origins, readers, windows):
                    cell = _cell(folder, name, shape, origin, threads, window, repeats)
                    rate = f"{cell.values['rate']:,.0f} samples/s"
                    tell(f"{name} from {origin}, {threads} readers, window {window}: {rate}")
                    cells.append(cell)
    except KeyboardInterrupt:
        complete = False
    return BenchReport(
        name="bench-read",
        title="Training samples out of a latent store, one process",
        command=command,
        columns=COLUMNS,
        cells=tuple(cells),
        facts={"batch": BATCH, "repeats": repeats},
        notes=("The stores hold random numbers. A sample is one image's latents and one of its captions.",),
        plots=tuple(_plots(cells, readers, windows)),
        complete=complete,
    )


def _cell(folder: RunFolder, name: str, shape: Shape, origin: Origin, readers: int, window: int, repeats: int) -> Cell:
    cache = WHOLE if origin == "memory" else min(LITTLE, shape.rows * shape.row_bytes // 2)
    found = list(epochs(folder, cache, readers, window, repeats, cold=origin == "disk"))
    rate, low, high = spread([one.rate for one in found])
    values: dict[str, Value] = {
        "rate": rate,
        "rate_low": low,
        "rate_high": high,
        "busy_rate": spread([one.busy_rate for one in found])[0],
    }
    known: dict[str, Value] = {
        "store": name,
        "origin": origin,
        "readers": readers,
        "window": window,
        "cache_bytes": cache,
    }
    cold = origin == "disk" and not forget(folder)
    return Cell({**known, **values}, ("This system keeps its page cache, so nothing was read from the disk.",) * cold)


def epochs(
    folder: RunFolder, cache: int, readers: int, window: int, repeats: int, *, cold: bool = False
) -> Iterator[Epoch]:
    """Read a store epoch by epoch. A first epoch, which fills the cache, is not counted.

    Args:
        cache: size of the cache for decoded shards, bytes.
        cold: remove the store from the page cache before each epoch.
    """
    dataset = LatentDataset(
        folder, seed=0, batch=BATCH, window=window, heldout=0, cache_bytes=cache, threads=readers, allow_random=True
    )
    try:
        for number in range(repeats + 1):
            if cold:
                forget(folder)
            found = _epoch(dataset, number)
            if number:
                yield found
    finally:
        dataset.close()


def _epoch(dataset: LatentDataset, number: int) -> Epoch:
    steps = dataset.rows // BATCH
    begun, worked = time.perf_counter(), time.process_time()
    first = number * dataset.rows
    for _ in dataset.batches(first, first + steps * BATCH):
        pass
    seconds, busy = time.perf_counter() - begun, time.process_time() - worked
    return Epoch(steps * BATCH / seconds, steps * BATCH / max(busy, 1e-9))


def _plots(cells: Sequence[Cell], readers: Sequence[int], windows: Sequence[int]) -> Iterator[Plot]:
    for over, values, fixed in (("readers", readers, windows), ("window", windows, readers)):
        if len(values) < 2:
            continue
        other = "window" if over == "readers" else "readers"
        lines: dict[str, list[Cell]] = {}
        for cell in cells:
            name = f"{cell.values['store']}, {cell.values['origin']}"
            if len(fixed) > 1:
                name += f", {other} {cell.values[other]}"
            lines.setdefault(name, []).append(cell)
        curves = tuple(Curve.of(name, line, over, "rate") for name, line in lines.items())
        yield Plot(f"rate-by-{over}", f"Samples/s by {over}", over, "samples/s", curves)
