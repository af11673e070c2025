"""What a worker process keeps between chunks: the job's source and its loaded encoders.

Covers: loading each model once per process, giving its memory back when others need it, the test card that a model
meets on load, the batch size that was found to fit, what a worker finds out before the first chunk.
Does not cover: encoding a chunk (`worker`), how a model is loaded (`encoders`).

Models load lazily, in the task. A Dask `WorkerPlugin.setup` would load them on the worker's event loop, and its
failure on a worker that joins late is swallowed.
"""

from __future__ import annotations

import ctypes
import gc
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.config.settings import EncoderSettings, ImageSettings
from daskt2i.encode import gates
from daskt2i.errors import ModelError, OutOfMemory
from daskt2i.images import read as images
from daskt2i.machine.precision import check_device, default_device, resolve
from daskt2i.protocols import ImageEncoder, Source, TextEncoder
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime

T = TypeVar("T")

REPEATABLE = "AUTO,STRICT"
"""Value of MKL_CBWR, read by MKL at its first call: the same bits whatever the number of threads.

Without it 22 of 509 matrix products of a CLIP text encoder differed in a last bit between 1 and 2 threads; with it none
did, at the same speed (torch 2.13, MKL 2024.2, 2 cores with AVX2). oneDNN's convolutions need no such word.
"""

turn = threading.RLock()
"""Held while this process works on a chunk, so that one model runs at a time."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to know besides the chunk. Small, and picklable.

    Attributes:
        source, image, encoders: as in the workflow.
        content: stands for the data and weights that those name; a model folder that is changed in place has another.
        weights: what the driver's encoders say of their weights, image and text; a worker must find the same.
        slots: caption slots of the store.
        folder: the run folder.
        fingerprint: goes into every receipt.
        runtime: device (`"auto"`: each worker takes what it has), precision and torch threads.
        batch: images through the model at once; `text_batch`: captions.
        readers: threads that read and decode while the model runs.
        gate_rows: rows of each chunk to decode back; 0 for none (random weights have no likeness to show).
        min_psnr: dB that decode-back must reach.
        all_missing: `"fail"` or `"reject"`: what a chunk without a single image is.
    """

    source: Component
    image: ImageSettings
    encoders: EncoderSettings
    content: str
    weights: tuple[str, str]
    slots: int
    folder: RunFolder
    fingerprint: str
    runtime: Runtime
    batch: int
    text_batch: int
    readers: int
    gate_rows: int
    min_psnr: float
    all_missing: str

    @property
    def limits(self) -> images.Limits:
        """Sizes that an image must keep."""
        return images.Limits(min_side=self.image.min_side, max_pixels=self.image.max_pixels)


@dataclass(slots=True)
class Models:
    """Source and encoders of this process, loaded.

    Attributes:
        key: the job they belong to.
        fits: `"batch"` or `"text_batch"` -> items that were found to fit into memory, where it has run out.
    """

    key: str
    source: Source
    image: ImageEncoder
    text: TextEncoder
    fits: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def take_warnings(self) -> tuple[str, ...]:
        """Sentences since the last call."""
        taken = tuple(self.warnings)
        self.warnings.clear()
        return taken


_MEMORY_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "cudnn_status_alloc_failed",
    "cublas_status_alloc_failed",
)

_held: Models | None = None
_loads: Counter[str] = Counter()


def loads() -> dict[str, int]:
    """How often this process has loaded each model: `{"image": 1, "text": 1}` unless something is wrong."""
    return dict(_loads)


def models_for(job: Job) -> Models:
    """The models of a job, loaded if this process does not hold them yet. One job's models are held at a time.

    Raises:
        ConfigError, ModelError: an encoder cannot be built or loaded.
        GateError: the image encoder does not reconstruct the test card.
    """
    global _held
    os.environ.setdefault("MKL_CBWR", REPEATABLE)
    key = repr((job.source, job.image, job.encoders, job.content, job.runtime))
    with turn:
        if _held is None or _held.key != key:
            _held = None  # frees the last job's weights before the next ones are read
            _held = _load(job, key)
        return _held


def held() -> int:
    """How many models this process keeps."""
    return 0 if _held is None else 2


def unload(seconds: float) -> bool:
    """Let go of the models, and give their memory back to the system. The next chunk loads them again.

    Args:
        seconds: how long to wait for a chunk that is being worked on: it keeps its models to its end.

    Returns:
        False: a chunk is still being worked on, and nothing was let go.
    """
    global _held
    if not turn.acquire(timeout=seconds):
        return False
    try:
        if _held is not None:
            _held = None
            gc.collect()
            _release_memory()
    finally:
        turn.release()
    return True


def _load(job: Job, key: str) -> Models:
    source = job.source.build(Source, "dataset.source")
    image = job.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text = job.encoders.text.build(TextEncoder, "dataset.encoders.text")
    found = (image.info(job.image.resolution).weights, text.info().weights)
    if found != job.weights:
        raise ModelError(
            f"{process_name()} holds other weights ({', '.join(found)}) than the driver ({', '.join(job.weights)}), so "
            "it encoded nothing. Give all workers the same model folder, or a revision of the hub id."
        )
    device = default_device() if job.runtime.device == "auto" else check_device(job.runtime.device)
    runtime = replace(job.runtime, device=device)
    image.load(runtime)
    _loads["image"] += 1
    if job.gate_rows:
        # A picture of known pixels must come back: catches a wrong range before the first image is read.
        card = gates.card(job.image.resolution)
        decoded = image.decode(image.encode(card, 1))
        if decoded is not None:
            gates.require_likeness(card, decoded, gates.CARD_PSNR, "the test card", known=True)
    text.load(runtime)
    _loads["text"] += 1
    return Models(key, source, image, text)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What one worker found before the first chunk.

    Attributes:
        runtime: device and precision as resolved there.
        empty: the empty prompt's arrays, without the caption dimension.
        worker: `host:pid`.
    """

    runtime: Runtime
    empty: Mapping[str, npt.NDArray[Any]]
    worker: str


def inspect(job: Job, precision: str) -> Inspection:
    """Resolve device and precision on a worker, load the models there, and encode the empty prompt.

    Args:
        job: its `runtime.precision` is not used; its `runtime.device` may be `"auto"`.
        precision: as the workflow says: `auto`, `fp32`, `bf16` or `fp16`.

    Raises:
        ConfigError: the device cannot do this precision.
        ModelError, GateError: the models do not load, or do not reconstruct the test card.
    """
    with turn:
        os.environ.setdefault("MKL_CBWR", REPEATABLE)
        device = default_device() if job.runtime.device == "auto" else check_device(job.runtime.device)
        runtime = replace(job.runtime, precision=resolve(precision, device, job.runtime.threads))
        models = models_for(replace(job, runtime=runtime))
        empty = models.text.encode([""], 1)
        return Inspection(
            replace(runtime, device=device), {name: array[0] for name, array in empty.items()}, process_name()
        )


def back_off(models: Models, which: Literal["batch", "text_batch"], wanted: int, call: Callable[[int], T]) -> T:
    """Call with a batch size, halved each time memory runs out. What is found to fit stays for this process.

    Args:
        which: the setting under `run:` that gives the batch size.
        wanted: its value, or the number of items where there are fewer.
        call: takes the batch size.

    Raises:
        OutOfMemory: one item at a time does not fit either.
    """
    while True:
        size = min(wanted, models.fits.get(which, wanted))
        try:
            return call(size)
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            if size == 1:
                raise OutOfMemory(
                    f"Not even one item at a time fits into memory ({error}). What is committed stays. "
                    "Use fewer workers, a smaller dataset.image.resolution, or a machine with more memory."
                ) from error
        # Outside the except block: the traceback would keep the tensors alive.
        _release_memory()
        models.fits[which] = size // 2
        models.warnings.append(f"run.{which}: memory ran out at {size}; {process_name()} goes on with {size // 2}.")


def _is_out_of_memory(error: Exception) -> bool:
    """torch.OutOfMemoryError on a GPU; a RuntimeError of the CPU allocator, which has no type of its own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _MEMORY_SIGNS)


def _release_memory() -> None:
    """What is free goes back to the system: torch keeps a GPU's, glibc what lies below the top of its heaps."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


def process_name() -> str:
    """`host:pid` of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"
