"""The plan of a run: chunks of rows, memory, disk and workers. It reads no files, no network and no models.

Covers: chunk boundaries, memory of a worker, bytes on disk, workers x threads for a machine.
Does not cover: which chunks are done (`encode` reads the receipts), starting workers (`deploy`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from daskt2i.errors import PlanError
from daskt2i.types import ArraySpec, Chunk, EncoderInfo, SourceInfo

MIB = 1 << 20
GIB = 1 << 30

PROCESS_BYTES = 560 * MIB
"""Memory of a worker before it loads a model, with torch, diffusers, transformers, zarr and distributed imported.

Measured: 373 MB for torch, diffusers and transformers alone (2-core x86-64, torch 2.13), and about 120 MB more with
zarr, pyarrow and a Dask worker. The rest is what the demo's workers used beyond the sum of these parts (631 to 650 MiB
in all).
"""

WRITTEN_AT_ONCE = 4
"""Arrays of a chunk that are compressed and flushed in parallel."""

PAUSE_FRACTION = 0.80
"""A Dask worker takes no new tasks above this share of its memory limit (distributed.worker.memory.pause)."""

CHARACTERS_PER_TOKEN = 4.4
"""Caption characters per CLIP token: 400 captions of COCO have 13.7 tokens on average, with start and end token."""

KEPT = 2.0
"""A CPU worker that keeps freed memory needs up to so many times the working memory: blocks of other sizes lie between.

Seen: 1.5 (TAESD, 8 images), 1.8 (Stable Diffusion's VAE, 4 images), and less than once with one image.
"""

CPU_BATCH_BYTES = 256 * MIB
GPU_BATCH_BYTES = 4096 * MIB
"""Working memory that an automatic batch may use. On a CPU small batches are faster: they stay in the caches."""


_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class ChunkGrid(Sequence[Chunk]):
    """The chunks of a source, in order. The sequence stores only a few numbers, so a million chunks need no memory.

    The first row of a chunk is always its number times `rows_per_chunk`. So after a short chunk row numbers are left
    out: nothing has them.

    Attributes:
        rows: one more than the largest row number: the number of rows, and of row numbers that are left out.
        rows_per_chunk: rows in every chunk; the last chunk may have fewer.
        short: other chunks that have fewer rows -> how many.
    """

    rows: int
    rows_per_chunk: int
    short: Mapping[int, int] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        return -(-self.rows // self.rows_per_chunk)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.rows_per_chunk
        return Chunk(index, start, min(start + self.short.get(index, self.rows_per_chunk), self.rows))

    def row(self, place: int) -> int:
        """The number of a row, by its place among all rows, from 0: they differ after a short chunk."""
        for chunk in sorted(self.short):
            if place >= chunk * self.rows_per_chunk + self.short[chunk]:
                place += self.rows_per_chunk - self.short[chunk]
        return place

    @property
    def filled(self) -> int:
        """Number of rows of all chunks together."""
        return self.rows - sum(self.rows_per_chunk - rows for rows in self.short.values())


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run needs, in bytes. All numbers are estimates, except the latents on disk: they do not compress.

    Attributes:
        worker_memory: peak memory of one worker.
        latents_disk: arrays of the image encoder.
        text_disk: arrays of the text encoder. The padding compresses to nothing.
        batch: images in one batch.
        engine_memory: another engine of the image encoder that the first worker may choose -> `worker_memory` with it.
    """

    worker_memory: int
    latents_disk: int
    text_disk: int
    batch: int
    engine_memory: Mapping[str, int] = field(default_factory=dict)

    @property
    def disk(self) -> int:
        """Bytes of the whole store."""
        return self.latents_disk + self.text_disk


def choose_batch(image: EncoderInfo, device: str) -> int:
    """The batch of the image encoder, from 1 to 64, computed from the working memory of one image.

    It depends only on the encoder and the kind of device, so a resumed run makes the same batches.
    """
    budget = GPU_BATCH_BYTES if device.startswith("cuda") else CPU_BATCH_BYTES
    return int(max(1, min(64, budget // max(1, image.item_bytes))))


def estimate_requirements(
    source: SourceInfo,
    image: EncoderInfo,
    text: EncoderInfo,
    *,
    resolution: int,
    rows_per_chunk: int,
    precision: str,
    batch: int,
    text_batch: int,
    on_gpu: bool = False,
    keep_memory: bool = False,
    stored: tuple[Sequence[ArraySpec], Sequence[ArraySpec]] | None = None,
) -> Requirements:
    """Memory and disk that a run needs.

    Memory is the sum of the process, the weights, one batch in the larger of the two models, the arrays of one chunk
    (`array_bytes`), and the pixels that wait for the model.

    Args:
        keep_memory: whether workers keep freed memory (`machine.allocator`).
        stored: arrays that are stored of the image encoder, and of the text encoder with the dimension `slot`; None if
            they are those of the encoders.
    """
    scale = 0.5 if precision in ("bf16", "fp16") else 1.0
    image_scale = 1.0 if precision == "fp16" and image.upcast else scale
    image_row = sum(a.row_bytes for a in (image.arrays if stored is None else stored[0]))
    weights = image.weight_bytes * image_scale + text.weight_bytes * scale
    # The gate decodes rows, and decoding a row takes 1.5 times the memory of encoding it.
    pictures, captions = image.item_bytes * max(batch, 1.5) * image_scale, text.item_bytes * text_batch * scale
    working = 0.0 if on_gpu else max(pictures, captions)
    working *= KEPT if keep_memory else 1.0
    arrays = array_bytes(image, text, source.slots)
    if stored is not None:  # a form of an array is a copy of it
        exact = {(a.name, a.dtype) for a in (*image.arrays, *text.arrays)}
        arrays += sum(a.row_bytes for part in stored for a in part if (a.name, a.dtype) not in exact)
    arrays *= min(rows_per_chunk, max(1, source.rows))
    pixels = 3 * resolution**2 * batch * 4
    tokens = source.caption_characters / CHARACTERS_PER_TOKEN + 2 * source.captions
    states = max((a for a in text.arrays if "token" in a.dims), key=lambda a: a.row_bytes, default=None)
    longest = states.shape[states.dims.index("token")] if states else 1
    if text.attributes.get("pad") == "full":  # here the padding holds states of the encoder, not zeros
        tokens = longest * source.captions
    tokens = min(tokens, longest * source.captions)
    token_bytes = states.row_bytes / longest if states else 0
    others: float = sum(a.row_bytes for a in text.arrays if "token" not in a.dims)
    if stored is not None and states:
        slots = max(1, source.slots)
        of_tokens = [a for a in stored[1] if {"token", "place"} & {*a.dims}]
        token_bytes = sum(a.row_bytes for a in of_tokens if a.dtype != "bool") / (slots * longest)
        others = sum(a.row_bytes for a in stored[1] if a not in of_tokens) / slots
    text_disk = tokens * token_bytes + source.captions * others + source.caption_characters
    return Requirements(
        worker_memory=int(PROCESS_BYTES + weights + working + arrays + pixels),
        latents_disk=image_row * source.rows,
        text_disk=int(text_disk),
        batch=batch,
    )


def array_bytes(image: EncoderInfo, text: EncoderInfo, slots: int) -> int:
    """The largest memory that one row of a chunk takes in a worker, bytes.

    A worker holds all arrays once. It needs more in two phases, which do not overlap. First it also holds the states
    from the encoder, one row for each different caption, until it has arranged them by row and slot. Later it also
    holds the largest arrays while it compresses them.
    """
    images = [a.row_bytes for a in image.arrays]
    texts = [a.row_bytes * max(1, slots) for a in text.arrays]
    return sum(images) + sum(texts) + max(sum(texts), sum(sorted(images + texts)[-WRITTEN_AT_ONCE:]))


GIVEN = "the number that you gave"
"""The reason for so many workers, if the user named their number."""


@dataclass(frozen=True, slots=True)
class WorkerLayout:
    """Workers and torch threads, with the reason.

    Attributes:
        workers: number of processes.
        threads: torch threads in each. Workers x threads exceeds the cores only if the user sets the number of workers.
        memory_limit: bytes for each worker.
        reason: one line for a person.
        here: whether they are on this machine.
        script: the job script or the manifest of a cluster on other machines; "" if there is none.
        only: which workers of a running cluster are used: `run.only` or `launch.only`.
    """

    workers: int
    threads: int
    memory_limit: int
    reason: str
    here: bool = True
    script: str = ""
    only: str = "all"


def divide_machine(
    *,
    cores: int,
    memory: int,
    worker_memory: int,
    chunks: int,
    workers: int | None = None,
    threads: int | None = None,
    smaller: str = "Make dataset.rows_per_chunk or run.batch smaller",
) -> WorkerLayout:
    """Divide a machine among workers.

    Two processes of one thread each are exactly twice as fast as one process of one thread. More threads in one process
    do not reach that. So there is one worker for each core, or fewer if memory or the number of chunks limits them.

    Args:
        cores: number of cores of the machine.
        memory: bytes of memory of the machine.
        worker_memory: bytes that one worker needs.
        chunks: number of open chunks. More workers than chunks would be idle.
        workers, threads: what the user asked for, or None.
        smaller: what makes a worker take less memory, for the message.

    Raises:
        PlanError: not even one worker fits, or the number of workers that the user asked for does not fit.
    """
    if workers is not None and workers < 1:
        raise PlanError(f"{workers} workers were asked for; at least one is needed. Nothing was started.")
    fits = int(memory * PAUSE_FRACTION // worker_memory)
    need, has = worker_memory / MIB, memory / MIB
    if fits < (workers or 1):
        advice = f"Ask for {fits} worker{'s' * (fits > 1)}" if fits else smaller
        raise PlanError(
            f"{workers or 1} worker(s) of {need:,.0f} MiB each do not fit below the pause threshold "
            f"({PAUSE_FRACTION:.0%}) of {has:,.0f} MiB. Nothing was started. {advice}, or use a larger machine."
        )
    if workers is None:
        by_threads = max(1, cores // threads) if threads else cores
        workers = max(1, min(by_threads, fits, chunks))
        limits = {  # if two limits are equal, the last one is the better reason
            chunks: f"{chunks} chunk{'s allow' if chunks != 1 else ' allows'}",
            fits: f"{has / 1024:.0f} GiB of memory allow",
            by_threads: f"{cores} core{'s allow' if cores != 1 else ' allows'}",
        }
        reason = f"{limits[workers]} {workers}" if workers in limits else "one worker"
    else:
        reason = GIVEN if workers <= cores else f"{GIVEN}; this machine has {cores} core{'s' * (cores != 1)}"
    return WorkerLayout(workers, threads or max(1, cores // workers), memory // workers, reason)


def spread_rows(count: int, total: int, first: int = 0) -> list[int]:
    """`count` row numbers, spread evenly over a data set. They are all different if the data set has enough rows.

    Multiples of the golden ratio, modulo 1, cut a line into parts of nearly equal length, for any number of parts
    (Knuth, The Art of Computer Programming, volume 3, 6.4, theorem S).

    Args:
        first: number of rows that earlier calls returned.
    """
    # A step that shares no divisor with the total visits every row once before it repeats a row.
    step = max(1, round(total * _GOLDEN_RATIO))
    while math.gcd(step, total) > 1:
        step += 1
    return [(number * step + total // 2) % total for number in range(first, first + count)]
