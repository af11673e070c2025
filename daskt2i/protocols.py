"""The seams: what a newcomer's class must do. Each has at most four methods, a fake, and a conformance suite.

| seam | fake | suite to subclass |
|---|---|---|
| `Source` | `sources.fake.FakeSource` | `testing.source.SourceSuite` |
| `ImageEncoder` | `encoders.fake.FakeImageEncoder` | `testing.encoder.ImageEncoderSuite` |
| `TextEncoder` | `encoders.fake.FakeTextEncoder` | `testing.encoder.TextEncoderSuite` |
| `LatentStore` | `store.zarr_store.ZarrStore` on a `memory://` address | `testing.store.LatentStoreSuite` |
| `Executor` | `executors.serial.SerialExecutor` | `testing.executor.ExecutorSuite` |

A component named in a workflow is a dotted class path plus arguments. Its constructor is cheap: it is called on the
driver for `--dry-run` and again in every worker; heavy things happen in `load` or at the first `read`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy.typing as npt

from daskt2i.types import ArraySpec, Chunk, Constant, Encoded, EncoderInfo, Pixels, Row, Runtime, Shard, SourceInfo

T = TypeVar("T")
R = TypeVar("R")


@runtime_checkable
class Source(Protocol):
    """Image-caption rows in a fixed order."""

    def info(self) -> SourceInfo:
        """Counts and identity. Called on the driver.

        Raises:
            SourceMissing, SourceError: the source as a whole cannot be used.
        """
        ...

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`, with what the index alone tells (blank captions, unsafe paths, …).

        Called on the driver; the rows travel to the worker inside the chunk.
        """
        ...

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row, bytes. Called on workers, from several threads at once.

        Raises:
            RowRejected: `missing-file`, `unsafe-path`, `unreadable-image` or `image-too-large`.
        """
        ...


@runtime_checkable
class ImageEncoder(Protocol):
    """Pixels to latents."""

    def info(self, resolution: int) -> EncoderInfo:
        """What it makes of images of `resolution` x `resolution` pixels. Imports no torch; called on the driver.

        Raises:
            ModelMissing: the model is neither here nor reachable.
        """
        ...

    def load(self, runtime: Runtime) -> None:
        """Load the weights, once per process, before the first `encode`."""
        ...

    def encode(self, items: Pixels, batch: int) -> Mapping[str, npt.NDArray[Any]]:
        """`uint8[n, height, width, 3]` -> the arrays of `info().arrays`, first dimension n, in their dtypes.

        At most `batch` images go through the model at once. Running out of memory may surface as the engine's own
        error: the worker tries a smaller batch.
        """
        ...

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Pixels | None:
        """The pictures that the arrays stand for, `uint8[n, height, width, 3]`; None where there is no way back.

        Must not share the pixel normalisation with `encode`: it is the check on it.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """Captions to text states."""

    def info(self) -> EncoderInfo:
        """What it makes of one caption: `text_states` (token, feature), `text_mask` (token), `text_truncated` (),
        and `text_pooled` (feature) where there is a pooled state. Imports no torch; called on the driver.

        Raises:
            ModelMissing: the model is neither here nor reachable.
        """
        ...

    def load(self, runtime: Runtime) -> None:
        """Load the weights, once per process, before the first `encode`."""
        ...

    def encode(self, items: Sequence[str], batch: int) -> Mapping[str, npt.NDArray[Any]]:
        """n captions -> the arrays of `info().arrays`, first dimension n, in the order given, in their dtypes.

        At most `batch` captions go through the model at once; it may group them by length. Padding tokens are zeros
        unless the encoder was asked for full padding. What a caption becomes does not depend on its neighbours
        beyond rounding.
        """
        ...


class LatentStore(Protocol):
    """Arrays in whole shards, one shard of every array per chunk. Receipts are kept elsewhere (`store.receipts`)."""

    def create(
        self,
        rows: int,
        rows_per_chunk: int,
        arrays: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
        constants: Sequence[Constant] = (),
    ) -> None:
        """Make the empty arrays, and write the constants; a store that is already there with the same is kept.

        Driver only.

        Raises:
            FingerprintMismatch: what is there has other arrays or attributes.
        """
        ...

    def write(self, chunk: Chunk, encoded: Encoded) -> tuple[Shard, ...]:
        """Write a chunk's part of every array and flush it to disk. Twice the same gives the same bytes.

        Raises:
            StoreFull: no space is left.
        """
        ...

    def read(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Rows `start <= row < stop` of one array."""
        ...

    def check(self, shards: Iterable[Shard], deep: bool = True) -> str | None:
        """What is wrong with these objects, one sentence, or None. `deep` re-hashes them; else their sizes count."""
        ...


@dataclass(frozen=True, slots=True)
class ExecutorInfo:
    """What an executor has at hand.

    Attributes:
        workers: processes that run chunks side by side.
        threads: torch threads of each.
        memory_limit: bytes that one worker may use; None where nothing limits it.
        address: where the scheduler listens, or "" without one.
        dashboard: link to a dashboard, or "".
    """

    workers: int
    threads: int
    memory_limit: int | None
    address: str = ""
    dashboard: str = ""


class Executor(Protocol):
    """Where chunks run."""

    def start(self) -> ExecutorInfo:
        """Start or attach. Called once, before `run`.

        Raises:
            SchedulerError: no scheduler could be started or reached.
        """
        ...

    def run(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R | BaseException]]:
        """Each item with its result, or with the error that it ended in, in order of completion.

        `work` is picklable. `items` is drawn lazily: about two per worker are in flight. An item whose worker dies is
        run again, up to 3 times and then once alone, before it ends in `WorkerLost`. Closing the iterator cancels
        what is in flight.
        """
        ...

    def close(self) -> None:
        """Stop what `start` started; what was attached to goes on. May be called twice."""
        ...
