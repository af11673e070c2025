"""Encode one chunk on a worker. Every executor runs `encode_chunk`.

Covers: batches in a fixed order, rejected rows, the gates, stage times, and the order of writes of a chunk.
Does not cover: publishing the chunk (`store.publishing`), the models (`model_cache`), reading ahead (`read_ahead`), the
choice of chunks and retries (`driver`), where a chunk runs (`executors`).

A process encodes one chunk at a time, even if several threads call. Two chunks at once would need twice the memory of
the plan, and would share the same cores.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from daskt2i.encode import gates
from daskt2i.encode.chunks.stamps import digits, had_file, names, of_reads, settled
from daskt2i.encode.chunks.watch import Watch
from daskt2i.encode.job import EncodeJob
from daskt2i.encode.model_cache import Models, loads, models_for, process_name, retry_smaller_batch, turn
from daskt2i.encode.read_ahead import Care, Reading, reading_ahead, without_picture
from daskt2i.encode.shapes.arrays import info_of_chunk, names_in
from daskt2i.encode.shapes.pictures import encode_views, psnr_of_views
from daskt2i.errors import ImagesMissing, Reason
from daskt2i.faults.patience import fetched_patiently, patiently
from daskt2i.machine.machine import peak_bytes
from daskt2i.store.forms.chunks import as_read, to_stored
from daskt2i.store.forms.form import Forms
from daskt2i.store.layout import empty_chunk, made_arrays, store_forms
from daskt2i.store.publishing.attempts import begin_attempt, require_run
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Chunk, Encoded, Pixels, Receipt, Record, Rejection, Row, Shard, Staged

interruption: ContextVar[Callable[[], None]] = ContextVar("interruption", default=lambda: None)
"""A function that is called between batches. An executor may set one that raises, to move the chunk elsewhere."""

MANY_MISSING = 4
"""If a chunk has this many images or more and all are missing, a missing mount is more likely than missing files."""

_VERSIONED = ("daskt2i", "torch", "diffusers", "transformers", "numpy", "pillow", "zarr", "numcodecs")

T = TypeVar("T")

Arrays = dict[str, npt.NDArray[Any]]


def encode_chunk(job: EncodeJob, chunk: Chunk) -> Staged:
    """Read, encode, check and write one chunk: the arrays first, then the receipt, into a place of its own.

    Nobody sees the chunk before the driver publishes it. So a retry or a duplicate does no harm, and neither does a
    worker whose run is over.

    Raises:
        TakenOver: the run is over.
        GateError: the latents do not decode back to the pictures; nothing of the chunk is stored.
        AccessRefused, TransportFailed, ReadStalled: an image cannot be read now; nothing of the chunk is stored.
        ImagesExchanged: images became others while the chunk was encoded; nothing of it is stored.
        ImagesMissing: its images went away, or are all missing, and `job.on_missing_chunk` is `"fail"`.
        OutOfMemory: not even a batch of one item fits.
        StoreFull, StoreError: the chunk could not be written.
        Exception: an error of `interruption` or of a third-party component.
    """
    with turn, Watch(job.folder, chunk.index, process_name()) as watch:
        try:
            return _ChunkRun(job, chunk, watch).run()
        except Exception as error:
            error.add_note(f"on {process_name()}")
            raise


def try_rows(job: EncodeJob, chunk: Chunk) -> int:
    """Read and encode rows, and keep nothing. Whether this process survives it shows whether a row kills it.

    Returns:
        the number of rows.

    Raises:
        Exception: as `encode_chunk`, without checks of the result.
    """
    with turn, Watch(job.folder, chunk.index, process_name()) as watch:
        _ChunkRun(job, chunk, watch).rehearse()
        return len(chunk.rows)


@dataclass(slots=True)
class _ChunkRun:
    """The state of one `encode_chunk`."""

    job: EncodeJob
    chunk: Chunk
    watch: Watch
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    rejected: dict[int, Rejection] = field(default_factory=dict)
    psnr: tuple[float, ...] = ()
    digest: Any = field(default_factory=hashlib.sha256)
    contents: list[str] = field(default_factory=list)
    stamps: dict[int, str] = field(default_factory=dict)

    def run(self) -> Staged:
        begun = time.perf_counter()
        job, chunk = self.job, self.chunk
        if job.run:
            require_run(job.folder, job.run)
        with self._timed("load"):
            models = models_for(job)
        self.job = job = job.on(models.device)
        arrays = empty_chunk(self._specs(models), len(chunk))
        with self._reading(models) as readings:
            with self._timed("wait"):
                head = next(readings)  # an unreachable network shows here, before captions are encoded
            readings = itertools.chain([head], readings)
            away = isinstance(head.outcome, Rejection) and head.outcome.reason is Reason.MISSING_FILE
            unusable = set() if away else self._encode_texts(models, arrays)  # threads read pictures at the same time
            records = self._encode_images(models, arrays, readings)
            self._require_images()
            if away:  # only the first image was missing, so the captions are needed after all
                unusable = self._encode_texts(models, arrays)
        self._reject_texts(records, unusable)
        self._lay_rows(models, arrays, records)
        attempt = begin_attempt(job.folder, job.run, chunk.index)
        try:
            with self._timed("write"):
                store, encoded = ZarrStore(job.folder), Encoded(to_stored(self._forms(models), arrays))
                shards = self._patiently(lambda: store.write(chunk, encoded, attempt), "the store")
            self.seconds["total"] = time.perf_counter() - begun
            receipt = self._settled(models, self._receipt(models, arrays, records, shards))
            self._patiently(lambda: Receipts(job.folder).write(receipt, attempt), "the receipt")
        except BaseException:
            attempt.discard()
            raise
        return Staged(receipt, attempt.name)

    def _receipt(
        self, models: Models, arrays: Arrays, records: Mapping[int, Record], shards: tuple[Shard, ...]
    ) -> Receipt:
        job, chunk = self.job, self.chunk
        return Receipt(
            chunk=chunk.index,
            start=chunk.start,
            stop=chunk.stop,
            fingerprint=job.fingerprint,
            accepted=len(records),
            captions=sum(len(r.row.captions) for r in records.values()),
            truncated=int(arrays["text_truncated"].sum()) if "text_truncated" in arrays else 0,
            rejected=tuple(self.rejected[i] for i in sorted(self.rejected)),
            inputs=self.digest.hexdigest(),
            seconds={stage: round(value, 6) for stage, value in self.seconds.items()},
            worker=process_name(),
            loads=loads(),
            batch=models.fits.get("batch", job.batch),
            peak_bytes=peak_bytes(),
            warnings=models.take_warnings(),
            versions=_versions(),
            psnr=tuple(round(min(v, 99.0), 2) for v in self.psnr),  # equal pictures: infinity is not JSON
            shards=shards,
            stamps=of_reads(chunk.stamps, self.stamps) if models.image_info.arrays else "",
            contents="".join(self.contents),
        )

    def _settled(self, models: Models, receipt: Receipt) -> Receipt:
        job, source = self.job, models.source
        if not models.image_info.arrays:
            return receipt

        def read(row: Row) -> bytes:
            return fetched_patiently(source, row, job.transport_patience, timeout=job.read_timeout)

        return settled(receipt, self.chunk, source, read)

    def rehearse(self) -> None:
        """Read and encode the rows, without gates, and write nothing."""
        with self._timed("load"):
            models = models_for(self.job)
        with self._reading(models) as readings:
            self._encode_texts(models, None)
            for batch in self._batches(readings):
                self._encode_batch(models, batch)

    def _reading(self, models: Models) -> AbstractContextManager[Iterator[Reading]]:
        job = self.job
        if not models.image_info.arrays:
            return nullcontext(map(without_picture, self.chunk.rows))

        def look(what: str, since: float, limit: float) -> None:
            self.watch.waits(what, since, limit)
            interruption.get()()

        return reading_ahead(
            models.source,
            self.chunk.rows,
            job.shapes.framing(self.chunk.index),
            job.limits,
            threads=models.readers if job.reader_threads == "auto" else job.reader_threads,
            window=2 * job.batch,
            care=Care(job.transport_patience, job.read_timeout, look),
        )

    def _patiently(self, call: Callable[[], T], what: str) -> T:
        """Call a function that writes; while the network fails, call it again."""
        begun = time.monotonic()

        def tell(text: str, limit: float) -> None:
            self.watch.waits(text, begun, limit)
            interruption.get()()

        return patiently(call, what, self.job.transport_patience, tell)

    def _specs(self, models: Models) -> tuple[ArraySpec, ...]:
        image = info_of_chunk(models.image_info, self.job.shapes, self.chunk.index)
        return made_arrays(image, models.text_info, self.job.slots, self.job.store)

    def _forms(self, models: Models) -> Forms:
        image = info_of_chunk(models.image_info, self.job.shapes, self.chunk.index)
        return store_forms(image, models.text_info, self.job.slots, self.job.store)

    def _encode_images(self, models: Models, arrays: Arrays, readings: Iterator[Reading]) -> dict[int, Record]:
        """Fill the image encoder's arrays. Returns the accepted records by row, without their pixels."""
        kept: dict[int, Record] = {}
        sample = self._sample()
        for batch in self._batches(readings):
            interruption.get()()
            with self._timed("encode_image"):
                made = self._encode_batch(models, batch)
            finite = gates.finite_rows(made.values()) if made else np.ones(len(batch), bool)
            for i, record in enumerate(batch):
                row = record.row
                if not finite[i]:
                    self._reject(row, Reason.NOT_FINITE, "the image encoder gave NaN or infinity")
                    continue
                for name in made.keys() & arrays.keys():  # the settings may leave one out
                    arrays[name][row.index - self.chunk.start] = made[name][i]
                kept[row.index] = replace(record, pixels=record.pixels[:0], more=())
                if sample is not None:
                    sample.offer(row.index, record)
        if sample is not None and (chosen := sample.taken()):
            self._gate(models, arrays, chosen)
        return kept

    def _encode_batch(self, models: Models, batch: list[Record]) -> Arrays:
        """The image encoder's arrays of a batch, of all views."""

        def encode(pixels: Pixels) -> Mapping[str, Any]:
            return self._sized(models, "batch", functools.partial(models.image.encode, pixels), len(batch))

        return encode_views(models.image_info, self.job.shapes, self.chunk.index, batch, encode)

    def _require_images(self) -> None:
        """Refuse a chunk whose images went away, or are all missing: a mount is missing, not many files."""
        if self.job.on_missing_chunk != "fail":
            return
        rows = [row for row in self.chunk.rows if row.usable]
        missing = {i for i, r in self.rejected.items() if r.reason is Reason.MISSING_FILE}
        missing.intersection_update(row.index for row in rows)
        if len(missing) == len(rows) >= MANY_MISSING:
            what = f"None of the {len(rows)} images of chunk {self.chunk.index} is there."
        elif seen := [row for row in had_file(self.chunk.stamps, self.chunk.rows) if row.index in missing]:
            what = f"Images of chunk {self.chunk.index} were there before, and are not there now: {names(seen)}."
        else:
            return
        raise ImagesMissing(
            f"{what} Nothing of it was stored. Check that the workers can read the image folder. If the images are "
            "really missing, set run.on_missing_chunk=reject."
        )

    def _batches(self, readings: Iterator[Reading]) -> Iterator[list[Record]]:
        """Records in row order, in batches of `job.batch`.

        The batches depend only on the rows, so every run of a chunk makes the same batches and the same bits.
        """
        batch: list[Record] = []
        while (reading := self._next(readings)) is not None:
            if isinstance(reading.outcome, Rejection):
                self.rejected[reading.row.index] = reading.outcome
                continue
            batch.append(reading.outcome)
            if len(batch) == self.job.batch:
                yield batch
                batch = []
        if batch:
            yield batch

    def _next(self, readings: Iterator[Reading]) -> Reading | None:
        with self._timed("wait"):
            reading = next(readings, None)
        if reading is not None:
            self.watch.moved()
            self.seconds["read"] += reading.fetch_seconds
            self.seconds["decode"] += reading.decode_seconds
            self.digest.update(reading.digest)
            self.contents.append(digits(reading.digest))
            if reading.stamp:
                self.stamps[reading.row.index - self.chunk.start] = reading.stamp
        return reading

    def _sample(self) -> gates.Sample[Record] | None:
        """Chooses the rows to decode back; None if this chunk is not checked."""
        chunk, count = self.chunk, self.job.gate_rows
        rows_per_chunk = chunk.start // chunk.index if chunk.index else len(chunk)  # the last chunk may be shorter
        checked = gates.is_checked(chunk.index, rows_per_chunk, count) or self.job.shapes.begins(chunk.index)
        return gates.Sample([row.index for row in chunk.rows if row.usable], count) if count and checked else None

    def _gate(self, models: Models, arrays: Arrays, samples: Mapping[int, Record]) -> None:
        job, info, number = self.job, models.image_info, self.chunk.index
        places = [index - self.chunk.start for index in samples]
        named = [name for name in names_in(info, job.shapes, number) if name in arrays]
        made = as_read(self._forms(models), {name: arrays[name][places] for name in named})  # no more than is stored
        with self._timed("gate"):
            self.psnr = psnr_of_views(models.image, info, job.shapes, number, samples, made, job.min_psnr)

    def _encode_texts(self, models: Models, arrays: Arrays | None) -> set[int]:
        """Fill the text encoder's arrays for every row that may have an image. Equal captions are encoded once.

        Returns the rows whose text states are not finite.
        """
        interruption.get()()
        rows = [row for row in self.chunk.rows if row.usable]
        captions = list(dict.fromkeys(c for row in rows for c in row.captions))
        if not captions or not models.text_info.arrays:
            return set()
        with self._timed("encode_text"):
            made = self._sized(models, "text_batch", functools.partial(models.text.encode, captions), len(captions))
        gates.require_promised(models.text_info.arrays, made, len(captions), "The text encoder")
        finite = gates.finite_rows(made.values())
        place = {caption: i for i, caption in enumerate(captions)}
        unusable = set()
        for row in rows:
            chosen = [place[c] for c in row.captions]
            if not finite[chosen].all():
                unusable.add(row.index)
            for name, array in made.items():
                if arrays is None:
                    break
                slots = arrays[name][row.index - self.chunk.start]
                slots[...] = 0  # zeros in unused slots and padding compress to almost nothing
                slots[: len(chosen)] = array[chosen]
        return unusable

    def _reject_texts(self, records: dict[int, Record], unusable: set[int]) -> None:
        """Reject rows whose text states are not finite. A problem of the image, if any, was recorded before."""
        for index in unusable & records.keys():
            self._reject(records.pop(index).row, Reason.NOT_FINITE, "the text encoder gave NaN or infinity")

    def _lay_rows(self, models: Models, arrays: Arrays, records: Mapping[int, Record]) -> None:
        """Fill the arrays that come from the rows, and clear the encoders' output of rejected rows."""
        blank = empty_chunk(self._specs(models), 1)
        for row in self.chunk.rows:
            i = row.index - self.chunk.start
            arrays["image_id"][i], arrays["file_name"][i] = row.image_id, row.file_name
            record = records.get(row.index)
            if record is None:
                for name in arrays.keys() - {"image_id", "file_name"}:
                    arrays[name][i] = blank[name][0]
                continue
            arrays["caption"][i, : len(row.captions)] = row.captions
            arrays["crop_box"][i], arrays["source_size"][i] = record.crop_box, record.source_size
            arrays["valid"][i] = True

    def _sized(
        self,
        models: Models,
        which: Literal["batch", "text_batch"],
        call: Callable[[int], Mapping[str, Any]],
        items: int,
    ) -> Mapping[str, Any]:
        return retry_smaller_batch(models, which, min(items, getattr(self.job, which)), call)

    def _reject(self, row: Row, reason: Reason, detail: str) -> None:
        self.rejected[row.index] = Rejection(row.index, row.image_id, reason, detail)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        self.watch.moved(stage)
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
