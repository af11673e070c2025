"""The protocols that your own class can implement. Each has few methods, a fake, and a conformance suite.

| protocol | fake | suite to subclass |
|---|---|---|
| `Source` | `sources.fake.FakeSource` | `testing.source.SourceSuite` |
| `ImageEncoder` | `encoders.fake.FakeImageEncoder` | `testing.encoder.ImageEncoderSuite` |
| `TextEncoder` | `encoders.fake.FakeTextEncoder` | `testing.encoder.TextEncoderSuite` |
| `LatentStore` | `store.zarr_store.ZarrStore` on a `memory://` address | `testing.store.LatentStoreSuite` |
| `Executor` | `executors.serial.SerialExecutor` | `testing.executor.ExecutorSuite` |

A workflow names a component by its dotted class path and its arguments. The constructor must be cheap: the driver calls
it for `--dry-run`, and every worker calls it again. Do heavy work in `load` or at the first `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy.typing as npt

from daskt2i.types import (
    ArraySpec,
    Chosen,
    Chunk,
    Constant,
    Encoded,
    EncoderInfo,
    Pixels,
    Row,
    Runtime,
    Shard,
    SourceInfo,
)

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Source(Protocol):
    """Image-caption rows in a fixed order."""

    def info(self) -> SourceInfo:
        """Counts and identity. The driver calls it.

        Raises:
            SourceMissing, SourceError: the source as a whole cannot be used.
        """
        ...

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`, with what the index alone shows (blank captions, unsafe paths, …).

        The driver calls it, and sends the rows to a worker inside the chunk.
        """
        ...

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row, bytes. Workers call it, from several threads at once.

        They may be `FileBytes`, which hold the stamp of the file that was opened (see `StampedSource`).

        Raises:
            RowRejected: `missing-file`, `unsafe-path`, `unreadable-image` or `image-too-large`.
            PermissionError: access was refused. Any other `OSError`: the network or the disk failed. The chunk is then
                tried again; no row is rejected.
        """
        ...


@runtime_checkable
class StampedSource(Protocol):
    """A source may also have this method. Then a resumed run finds images that were exchanged under the same names."""

    def stamps(self, rows: Sequence[Row]) -> Sequence[str] | None:
        """A text for each row that differs if the file is another one: size and times, a checksum, an etag.

        It is cheap, reads no image, and raises nothing. "" for a row without a file; None if the source cannot tell.
        """
        ...


class IndexFolder(Protocol):
    """A folder for objects. `store.run_folder.RunFolder` is one. Names have `/` between folders."""

    def read(self, name: str) -> bytes:
        """The whole object. Raises `FileNotFoundError` if there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write an object, completely or not at all."""
        ...

    def list(self, prefix: str = "") -> Iterable[str]:
        """Names of all objects below a folder."""
        ...


@runtime_checkable
class IndexedSource(Protocol):
    """A source may also have this method. Then its index is kept in the run folder for the next command."""

    def keep_index(self, folder: IndexFolder, write: bool) -> None:
        """Keep the index below `index/` of this folder. The driver calls it before `info` and `rows`.

        Args:
            folder: the run folder.
            write: False for a plan: an index that is there is read, and nothing is written.
        """
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Pixels to latents."""

    def info(self, resolution: int) -> EncoderInfo:
        """What it makes from images of `resolution` x `resolution` pixels. The driver calls it. It imports no torch.

        Raises:
            ModelMissing: the model is not on this machine, and it cannot be downloaded.
        """
        ...

    def load(self, runtime: Runtime) -> None:
        """Load the weights, once per process, before the first `encode`."""
        ...

    def encode(self, items: Pixels, batch: int) -> Mapping[str, npt.NDArray[Any]]:
        """`uint8[n, height, width, 3]` -> the arrays of `info().arrays`, first dimension n, in their dtypes.

        The model gets at most `batch` images at once. If memory runs out, raise the error of torch or numpy unchanged:
        the worker then tries a smaller batch.
        """
        ...

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Pixels | None:
        """The pictures that the arrays represent, `uint8[n, height, width, 3]`; None if the encoder cannot decode.

        It must not share the code of the pixel normalisation with `encode`, because it checks that code.
        """
        ...


@runtime_checkable
class ChoosesEngine(Protocol):
    """An image encoder may also have this method. Then the engine that is faster on a worker computes it."""

    def choose_engine(
        self, resolution: int, runtime: Runtime, free: bool, measure: bool = True
    ) -> tuple[Runtime, Chosen]:
        """The runtime with the faster engine, and why it was chosen.

        Args:
            resolution: side of the pictures, pixels.
            runtime: device, and the precision that is best for torch.
            free: whether the precision may change.
            measure: False to use only figures of an earlier measurement on this machine; the choice is `auto` without
                them. The driver asks so for a plan. It imports no torch, and it runs no model.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Captions to text states."""

    def info(self) -> EncoderInfo:
        """What it makes from one caption: `text_states` (token, feature), `text_mask` (token), `text_truncated` (),
        and `text_pooled` (feature) if there is a pooled state. The driver calls it. It must not import torch.

        Raises:
            ModelMissing: the model is not on this machine, and it cannot be downloaded.
        """
        ...

    def load(self, runtime: Runtime) -> None:
        """Load the weights, once per process, before the first `encode`."""
        ...

    def encode(self, items: Sequence[str], batch: int) -> Mapping[str, npt.NDArray[Any]]:
        """n captions -> the arrays of `info().arrays`, first dimension n, in the order given, in their dtypes.

        The model gets at most `batch` captions at once. It may group them by length. Padding tokens are zeros, unless
        the encoder has full padding. Apart from rounding, the result for a caption does not depend on the other
        captions of its batch.
        """
        ...


class LatentStore(Protocol):
    """Arrays in whole shards: each chunk is one shard of every array. `store.receipts` keeps the receipts."""

    def create(
        self,
        rows: int,
        rows_per_chunk: int,
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        constants: Sequence[Constant] = (),
    ) -> None:
        """Make the empty arrays and write the constants. A store that exists with the same arrays is kept.

        Only the driver calls it.

        Raises:
            FingerprintMismatch: the store exists with other arrays or attributes.
        """
        ...

    def write(self, chunk: Chunk, encoded: Encoded, attempt: Any = None) -> tuple[Shard, ...]:
        """Write a chunk's part of every array to disk, where nobody reads it before `publish`. The same arrays always
        give the same bytes. Several attempts may write the same chunk at once.

        Args:
            attempt: the place to write to, an object with a `place`; None for a new one that no run publishes.

        Raises:
            StoreFull: no space is left.
        """
        ...

    def publish(self, place: str, shards: Iterable[Shard]) -> None:
        """Move what an attempt wrote to where `read` finds it. Only the driver calls it.

        Raises:
            FileNotFoundError: the place of the attempt is gone.
        """
        ...

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start <= row < stop` of one array."""
        ...

    def check(self, shards: Iterable[Shard], deep: bool = True) -> str | None:
        """One sentence that says what is wrong with these objects, or None. `deep` hashes them; else sizes count."""
        ...


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """The workers of an executor.

    Attributes:
        workers: number of processes that run chunks in parallel.
        threads: torch threads in each process, or in the one with the fewest.
        memory_limit: bytes that one worker may use; None if there is no limit.
        address: address of the scheduler, or "" without one.
        dashboard: link to a dashboard, or "".
        most_threads: threads of the process with the most, if each uses its own number; 0 if all use `threads`.
    """

    workers: int
    threads: int
    memory_limit: int | None
    address: str = ""
    dashboard: str = ""
    most_threads: int = 0


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """A worker died while it ran items. These run again.

    Attributes:
        worker: `host:pid`, or its address; "" if it is not known which one died.
        how: how it ended, a clause without subject: `"was killed by SIGKILL"`.
        items: the items that run again.
        left: number of workers that go on; those that already replace it are counted.
    """

    worker: str
    how: str
    items: tuple[Any, ...]
    left: int


@dataclass(frozen=True, slots=True)
class WorkersJoined:
    """Workers joined after the start.

    Attributes:
        new: how many more there are than the user was told.
        workers: how many there are now.
    """

    new: int
    workers: int


class Executor(Protocol):
    """Runs chunks on workers.

    It may have attributes that are looked at while `run` runs: `waiting`, an `events.Waiting` or None; `worker_deaths`
    and `worker_joins`, a `deque` of `WorkerDeath` and one of `WorkersJoined`, from which the reader takes what it tells
    the user; `processes`, a mapping of `host:pid` to the name and the threads of a worker that has ended an item.
    """

    def start(self) -> ExecutorInfo:
        """Start workers, or connect to a scheduler. It is called once, before `run`.

        Raises:
            SchedulerError: no scheduler could be started or reached.
        """
        ...

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        """Each item with its result or its error, in order of completion.

        `work` can be pickled. `run` takes `items` lazily: about two per worker are in flight. If a worker dies, its
        item runs again, up to 3 times beside others and then once alone; after that its error is `WorkerLost`. With
        `alone` items run one after the other, and the first death is enough. An error has the attribute `worker`:
        `host:pid` of the process that ran the item. Closing the iterator cancels the items in flight.
        """
        ...

    def avoid(self, workers: Collection[str]) -> int:
        """Give no more items to these workers (`host:pid`); others that an earlier call named get items again.

        It may be called while `run` runs. It stops no process that `start` did not start. It may replace those that
        `start` started.

        Returns:
            how many workers get items.
        """
        ...

    def close(self) -> None:
        """Stop what `start` started. A cluster that `start` only connected to keeps running. May be called twice."""
        ...


@runtime_checkable
class AsksWorkers(Protocol):
    """An optional part of an executor whose workers may be on other hosts than the driver."""

    def ask(self, question: Callable[[], R], seconds: float) -> Mapping[str, R]:
        """Call a function once in each worker process that gets items, after `start`.

        Returns:
            name of a worker, for `leave_out` -> its answer. A worker that gave none within `seconds`, or raised an
            error, is not in it.
        """
        ...

    def leave_out(self, workers: Collection[str]) -> ExecutorInfo:
        """Give no items to these workers as long as they are there, whatever `avoid` says.

        Returns:
            the workers that get items.
        """
        ...
