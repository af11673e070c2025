"""The plan: rows to chunks, and what a run will cost before it starts. Pure: no files, no network, no models.

Covers: chunk boundaries, memory of a worker, bytes on disk, workers x threads for a machine.
Does not cover: which chunks are done (`encode` asks the receipts), starting anything (`deploy`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

from daskt2i.errors import PlanError
from daskt2i.types import Chunk, EncoderInfo, SourceInfo

MIB = 1 << 20
GIB = 1 << 30

PROCESS_BYTES = 560 * MIB
"""A worker before it loads a model: torch, diffusers, transformers, zarr and distributed imported.

Measured 373 MB for torch, diffusers and transformers alone (2-core x86-64, torch 2.13), and about 120 MB more with
zarr, pyarrow and a Dask worker around them. What is left over is what the demo's workers took beyond the sum of their
parts (631 to 650 MiB in all).
"""

WRITTEN_AT_ONCE = 4
"""Arrays of a chunk that are compressed and flushed side by side."""

PAUSE_FRACTION = 0.80
"""Share of its limit at which a Dask worker stops taking tasks (distributed.worker.memory.pause)."""

CHARACTERS_PER_TOKEN = 4.4
"""Caption characters per CLIP token: 400 captions of COCO have 13.7 tokens on average, begin and end included."""

CPU_BATCH_BYTES = 256 * MIB
GPU_BATCH_BYTES = 4096 * MIB
"""Working memory that an automatic batch may take. On a CPU small batches are faster: they stay in the caches."""


_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True)
class ChunkGrid(Sequence[Chunk]):
    """The chunks of a source, in order. A sequence that stores two numbers, so a million chunks cost nothing.

    Attributes:
        rows: rows of the source.
        rows_per_chunk: rows of every chunk but perhaps the last.
    """

    rows: int
    rows_per_chunk: int

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
        return Chunk(index, start, min(start + self.rows_per_chunk, self.rows))


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a run needs, in bytes. All are estimates except the latents on disk, which do not compress.

    Attributes:
        worker_memory: one worker at its peak.
        latents_disk: arrays of the image encoder.
        text_disk: arrays of the text encoder, after padding has been compressed away.
        batch: images through the model at once.
    """

    worker_memory: int
    latents_disk: int
    text_disk: int
    batch: int

    @property
    def disk(self) -> int:
        """Bytes of the whole store."""
        return self.latents_disk + self.text_disk


def choose_batch(image: EncoderInfo, device: str) -> int:
    """Images through the model at once, from 1 to 64, from what one of them takes.

    A function of the encoder and the kind of device alone, so that a resumed run makes the same batches.
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
) -> Requirements:
    """Memory and disk of a run.

    Memory is the process, the weights, one batch in the larger of the two models, the arrays of one chunk
    (`array_bytes`), and the pixels that wait for the model.
    """
    scale = 0.5 if precision in ("bf16", "fp16") else 1.0
    image_row = sum(a.row_bytes for a in image.arrays)
    weights = (image.weight_bytes + text.weight_bytes) * scale
    # Decoding a row back, for the gate, takes 1.5 times what encoding it takes.
    working = 0.0 if on_gpu else max(image.item_bytes * max(batch, 1.5), text.item_bytes * text_batch) * scale
    arrays = array_bytes(image, text, source.slots) * min(rows_per_chunk, max(1, source.rows))
    pixels = 3 * resolution**2 * batch * 4
    tokens = source.caption_characters / CHARACTERS_PER_TOKEN + 2 * source.captions
    states = max((a for a in text.arrays if "token" in a.dims), key=lambda a: a.row_bytes, default=None)
    longest = states.shape[states.dims.index("token")] if states else 1
    if text.attributes.get("pad") == "full":  # the encoder fills the padding with states of its own: not zeros
        tokens = longest * source.captions
    tokens = min(tokens, longest * source.captions)
    token_bytes = states.row_bytes / longest if states else 0
    others = sum(a.row_bytes for a in text.arrays if "token" not in a.dims)
    text_disk = tokens * token_bytes + source.captions * others + source.caption_characters
    return Requirements(
        worker_memory=int(PROCESS_BYTES + weights + working + arrays + pixels),
        latents_disk=image_row * source.rows,
        text_disk=int(text_disk),
        batch=batch,
    )


def array_bytes(image: EncoderInfo, text: EncoderInfo, slots: int) -> int:
    """What a row of a chunk takes in a worker, at the most.

    All arrays once, and more at two moments that do not meet: the states as they come from the encoder, one row for
    each different caption, until they are laid out by row and slot; and the largest arrays while they are compressed.
    """
    images = [a.row_bytes for a in image.arrays]
    texts = [a.row_bytes * max(1, slots) for a in text.arrays]
    return sum(images) + sum(texts) + max(sum(texts), sum(sorted(images + texts)[-WRITTEN_AT_ONCE:]))


@dataclass(frozen=True, slots=True)
class WorkerLayout:
    """Workers and torch threads for one machine, and why.

    Attributes:
        workers: processes.
        threads: torch threads of each; workers x threads never exceeds the cores unless workers were asked for.
        memory_limit: bytes for each worker.
        reason: one line for a person.
    """

    workers: int
    threads: int
    memory_limit: int
    reason: str


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

    Two processes of one thread each reach exactly twice one process of one thread, which no number of threads in one
    process does; so the answer is as many workers as there are cores, until memory or the number of chunks says less.

    Args:
        cores: cores of the machine.
        memory: bytes of memory of the machine.
        worker_memory: bytes that one worker needs.
        chunks: chunks left to do; more workers than that would stand idle.
        workers, threads: what the user asked for, or None.
        smaller: what makes a worker take less memory, for the message.

    Raises:
        PlanError: not even one worker fits, or the number of workers asked for does not.
    """
    if workers is not None and workers < 1:
        raise PlanError(f"{workers} workers were asked for; it takes one at least. Nothing was started.")
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
        limits = {  # where two say the same, the last one here is the better reason
            chunks: f"{chunks} chunks to do",
            fits: f"{has / 1024:.0f} GiB of memory",
            by_threads: f"{cores} cores",
        }
        reason = f"{limits[workers]} allow {workers}" if workers in limits else "one worker"
    else:
        reason = "as asked for" if workers <= cores else f"as asked for: more than the {cores} cores"
    return WorkerLayout(workers, threads or max(1, cores // workers), memory // workers, reason)


def spread_rows(count: int, total: int, first: int = 0) -> list[int]:
    """Rows of a data set, spread evenly: any `count` of them, all different while there are so many.

    Multiples of the golden ratio, modulo 1, cut a line into parts of nearly one length, however many there are
    (Knuth, The Art of Computer Programming, volume 3, 6.4, theorem S).

    Args:
        first: how many were asked for before.
    """
    # A step that has no divisor in common with the total visits every row once before any comes again.
    step = max(1, round(total * _GOLDEN_RATIO))
    while math.gcd(step, total) > 1:
        step += 1
    return [(number * step + total // 2) % total for number in range(first, first + count)]
