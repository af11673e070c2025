"""`bench loaders`: samples per second of our loader and of others, and of ours by the size of its cache.

Covers: one process for each loader, epochs in alternating order, medians, the report.
Does not cover: the work of a loader (`peer`), the rows (`rows`), environments (`bench.peers.environments`).

All processes are started first. Each reads a first epoch, after its files were taken out of the page cache where the
system can do that. Then every repeat has one epoch of each loader, forwards and backwards by turns, with the files in
the page cache. So a machine that slows down affects all alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daskt2i.bench.loaders import peer
from daskt2i.bench.loaders.rows import ROWS, bytes_of, decoded_bytes, shape_of, write
from daskt2i.bench.peers.environments import python_for, version_in
from daskt2i.bench.report import BenchReport, Cell, Column, Curve, Plot, Value, spread
from daskt2i.bench.stores import forget_files
from daskt2i.errors import ConfigError, ExecutorError
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder

OURS = "daskt2i"
LOADERS = (OURS, *peer.LOADERS)
PACKAGES = {"litdata": "litdata", "mosaicml-streaming": "mosaicml-streaming", "webdataset": "webdataset"}
"""Peer -> its package. Memory-mapped numpy needs none."""

THREADS, WINDOW = 2, 8
SHARES = (1 / 8, 1.0)
"""Sizes of our cache, as shares of a shuffle window; and one more that holds the whole store."""

WHOLE = 16 << 30

MAPPED = "cache folder"
"""Origin of our rows that are decoded in files."""

COLUMNS = (
    Column("text", "text", meaning="compact: 9 to 21 tokens of a caption are kept; full: 77."),
    Column("loader", "text"),
    Column(
        "origin",
        "text",
        "from",
        meaning="memory: the cache holds all rows; cache folder: rows are decoded in files; store: each epoch decodes.",
    ),
    Column("cache_bytes", "bytes", "cache", meaning="Size of our cache."),
    Column("windows", "times", "cache / window", meaning="Size of our cache divided by the rows of a shuffle window."),
    Column("rate", "rate", "median", "speed", "samples", meaning="Samples per second of wall time."),
    Column("rate_low", "rate", "least", "speed", "samples"),
    Column("rate_high", "rate", "most", "speed", "samples"),
    Column("bytes_rate", "rate", "bytes", "speed", "bytes", meaning="Decoded bytes of samples per second, median."),
    Column("first_rate", "rate", "first epoch", "speed", "samples", meaning="Of a new process, files not in memory."),
    Column("peak", "bytes", "memory", meaning="Peak memory of the process, with mapped files."),
    Column("busy_rate", "rate", "by CPU", "speed", "samples", meaning="Samples per processor second, median."),
    Column("of_best", "times", "of best peer", "speed", meaning="Rate divided by that of the fastest peer."),
    Column("of_numpy", "times", "of numpy", "speed", meaning="Rate divided by that of memory-mapped numpy."),
    Column("busy_of_best", "times", "of best by CPU", "speed", meaning="The same per processor second."),
    Column("busy_of_numpy", "times", "of numpy by CPU", "speed"),
    Column("sample_bytes", "count", "bytes a sample", "disk", meaning="Bytes on disk divided by samples."),
)


@dataclass(frozen=True)
class Wanted:
    """A process that is wanted.

    Attributes:
        name: of the loader.
        cache: size of our cache in bytes.
        windows: the same as a share of a shuffle window; None if all rows are there.
        origin: where our rows come from.
    """

    name: str
    cache: int | None = None
    windows: float | None = None
    origin: str | None = None


@dataclass
class Runner:
    """The process of one loader, and what its epochs took."""

    text: str
    name: str
    process: subprocess.Popen[str]
    sample_bytes: int = 0
    cache: int | None = None
    windows: float | None = None
    origin: str | None = None
    first: float | None = None
    peak: int = 0
    rates: list[float] = field(default_factory=list)
    busy_rates: list[float] = field(default_factory=list)

    def epoch(self, counted: bool = True) -> None:
        """Run one epoch.

        Raises:
            ExecutorError: the process ended.
        """
        found = self.answer("go")
        rate = found["samples"] / found["seconds"]
        self.peak = found["peak"]
        if not counted:
            self.first = rate
        else:
            self.rates.append(rate)
            self.busy_rates.append(found["samples"] / max(found["busy"], 1e-9))

    def answer(self, line: str = "") -> dict[str, Any]:
        """Send a line, and read the answer; without a line read only."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if line:
                self.process.stdin.write(line + "\n")
                self.process.stdin.flush()
            told = self.process.stdout.readline()
        except OSError:
            told = ""
        if not told:
            raise ExecutorError(f"The process of {self.name} ended, so it was not measured. The other loaders were.")
        return dict(json.loads(told))

    def close(self) -> None:
        """End the process: its input ends."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def bench_loaders(
    texts: Sequence[str],
    loaders: Sequence[str] = LOADERS,
    *,
    shares: Sequence[float] = SHARES,
    repeats: int = 5,
    rows: int = ROWS,
    place: str | None = None,
    environments: str | None = None,
    command: str = "",
    tell: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure all loaders on the same rows.

    Args:
        texts: `compact`, `full` or both.
        loaders: names in `LOADERS`.
        shares: sizes of our cache, as shares of a shuffle window.
        repeats: counted epochs of each loader.
        rows: number of rows.
        place: folder for the temporary files; None: the system's.
        environments: folder that keeps the environments of the peers; None: they are made and deleted.
        command: the command as it was typed.
        tell: called with lines of progress.

    Raises:
        ConfigError: there is no such text or loader. Nothing was measured.
        StoreFull, StoreError: the rows cannot be written.
    """
    if wrong := [name for name in loaders if name not in LOADERS]:
        raise ConfigError(f"There is no loader {wrong[0]!r}. Nothing was measured. Use some of {', '.join(LOADERS)}.")
    shapes = {text: shape_of(text, rows) for text in texts}
    cells: list[Cell] = []
    complete, versions = True, dict[str, str]()
    with tempfile.TemporaryDirectory(dir=place, prefix="daskt2i-bench-") as there:
        pythons, missing = _pythons(loaders, Path(environments or f"{there}/environments"), tell)
        versions = {name: version_in(pythons[name], PACKAGES[name]) for name in pythons if name in PACKAGES}
        try:
            for text, shape in shapes.items():
                folder = Path(there, text)
                folder.mkdir()
                write(folder, shape)
                with ExitStack() as stack:
                    runners, failed = _started(stack, folder, text, pythons, shares, tell)
                    forget_files(folder)
                    for number in range(repeats + 1):
                        for runner in runners if number % 2 else runners[::-1]:
                            runner.epoch(counted=number > 0)
                    cells += _cells(runners, decoded_bytes(shape))
                    lost = {**missing, **failed}.items()
                    cells += [Cell({"text": text, "loader": name}, (why,)) for name, why in lost]
                    for runner in runners:
                        tell(f"{text}, {_title(runner)}: {statistics.median(runner.rates):,.0f} samples/s")
        except KeyboardInterrupt:
            complete = False
    return BenchReport(
        name="bench-loaders",
        title="Training samples beside other loaders, one process each",
        command=command,
        columns=COLUMNS,
        cells=tuple(cells),
        facts={"rows": rows, "batch": peer.BATCH, "repeats": repeats, "our threads": THREADS, **versions},
        notes=(
            "Each loader reads its rows, draws from the posterior, and pads captions, in batches of 64. "
            "Peers draw the numbers of a batch with one call of torch; ours belong to seed, epoch and row. Peers read "
            f"in one thread, ours in {THREADS}; the figures per processor second leave that out.",
        ),
        plots=tuple(_plots(cells)),
        complete=complete,
    )


def _pythons(
    loaders: Sequence[str], folder: Path, tell: Callable[[str], None]
) -> tuple[dict[str, str], dict[str, str]]:
    """Loader -> its Python, and loader -> why it has none."""
    found, missing = dict[str, str](), dict[str, str]()
    for name in loaders:
        try:
            found[name] = python_for(name, PACKAGES.get(name), folder, "loaders")
        except ExecutorError as error:
            missing[name] = str(error)
            tell(str(error))
    return found, missing


def _started(
    stack: ExitStack,
    folder: Path,
    text: str,
    pythons: dict[str, str],
    shares: Sequence[float],
    tell: Callable[[str], None],
) -> tuple[list[Runner], dict[str, str]]:
    """A process for each loader and for each size of our cache. Each wrote its files; and loader -> why it failed."""
    wanted = [Wanted(name) for name in pythons if name != OURS]
    if OURS in pythons:
        window = _window_bytes(folder)
        wanted += [Wanted(OURS, int(share * window) + 1, share, "store") for share in shares]
        wanted += [Wanted(OURS, WHOLE, None, "memory"), Wanted(OURS, 1, None, MAPPED)]
    rows = len(peer.Rows(str(folder / "rows")))
    runners, failed = list[Runner](), dict[str, str]()
    for one in wanted:
        name, place = one.name, folder / one.name
        place.mkdir(exist_ok=True)
        more = [] if one.cache is None else [str(one.cache)]
        more += [str(folder / "decoded")] if one.origin == MAPPED else []
        command = [pythons[name], str(Path(peer.__file__)), name, str(folder / "rows"), str(place), *more]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        if name == OURS:
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        else:
            environment.pop("PYTHONPATH", None)
        log = folder / f"{name}.txt"
        said = stack.enter_context(log.open("w", encoding="utf-8"))
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=environment, cwd=folder
        )
        runner = Runner(text, name, process, cache=one.cache, windows=one.windows, origin=one.origin)
        stack.callback(runner.close)
        try:
            runner.answer()
        except ExecutorError as error:
            lines = log.read_text(encoding="utf-8").strip().splitlines()
            failed[name] = f"{error} It said: {lines[-1] if lines else 'nothing'}"
            tell(failed[name])
            continue
        runner.sample_bytes = bytes_of(folder, name) // rows
        runners.append(runner)
    return runners, failed


def _window_bytes(folder: Path) -> float:
    """Bytes of the decoded rows of a shuffle window of our store."""
    data = LatentDataset(RunFolder(folder / OURS), seed=0, batch=1, heldout=0, window=WINDOW, allow_random=True)
    data.close()
    return data.window_bytes


def _title(runner: Runner) -> str:
    if runner.origin is None:
        return runner.name
    return f"{runner.name}, {runner.origin}" + ("" if runner.windows is None else f", {runner.windows:g} windows")


def _cells(runners: Sequence[Runner], decoded: float) -> Iterator[Cell]:
    """A line for each loader.

    Args:
        decoded: bytes of a decoded sample.
    """
    others = {runner.name: runner for runner in runners if runner.name != OURS}
    peers = [runner for name, runner in others.items() if name != "numpy"]
    for runner in runners:
        rate, low, high = spread(runner.rates)
        busy = spread(runner.busy_rates)[0]
        values: dict[str, Value] = {
            "text": runner.text,
            "loader": runner.name,
            "rate": rate,
            "rate_low": low,
            "rate_high": high,
            "busy_rate": busy,
            "bytes_rate": rate * decoded,
            "first_rate": runner.first,
            "peak": runner.peak,
            "sample_bytes": runner.sample_bytes,
        }
        if runner.origin is not None:
            values["origin"] = runner.origin
            values |= {"cache_bytes": None if runner.windows is None else runner.cache, "windows": runner.windows}
        if peers:
            values["of_best"] = rate / max(spread(one.rates)[0] for one in peers)
            values["busy_of_best"] = busy / max(spread(one.busy_rates)[0] for one in peers)
        if numpy := others.get("numpy"):
            values["of_numpy"] = rate / spread(numpy.rates)[0]
            values["busy_of_numpy"] = busy / spread(numpy.busy_rates)[0]
        yield Cell(values)


def _plots(cells: Sequence[Cell]) -> Iterator[Plot]:
    measured = [cell for cell in cells if "rate" in cell.values]
    by_cache = [cell for cell in measured if cell.values.get("windows") is not None]
    for text in dict.fromkeys(str(cell.values["text"]) for cell in measured):
        mine = [cell for cell in measured if cell.values["text"] == text]
        shown = [cell.values for cell in mine if cell.values.get("windows") in (None, 1.0)]
        bars = {_bar(values): float(values["rate"] or 0) for values in shown}
        yield Plot(
            f"rate-{text}",
            f"Samples/s, {text} text",
            "loader",
            "samples/s",
            categories=tuple(bars),
            parts={"samples/s": tuple(bars.values())},
        )
    lines: dict[str, list[Cell]] = {}
    for cell in by_cache:
        lines.setdefault(f"{cell.values['text']} text", []).append(cell)
    if any(len(line) > 1 for line in lines.values()):
        curves = tuple(Curve.of(name, line, "windows", "rate") for name, line in lines.items())
        yield Plot("rate-by-cache", "Samples/s by size of the cache", "cache / shuffle window", "samples/s", curves)


def _bar(values: Mapping[str, Value]) -> str:
    return ", ".join(str(values[key]) for key in ("loader", "origin") if values.get(key))
