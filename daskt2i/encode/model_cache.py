"""The objects that a worker process keeps between chunks: the source and the loaded encoders of a job.

Covers: loading each model once per process, unloading models when others need the memory, the test card after loading,
the batch size that fits into memory, the inspection before the first chunk.
Does not cover: encoding a chunk (`worker`), how a model is loaded (`encoders`).

A task loads the models when it needs them. A Dask `WorkerPlugin.setup` would load them on the worker's event loop, and
Dask hides its failure on a worker that joins late.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import socket
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from daskt2i.encode import gates
from daskt2i.encode.choices.on_worker import choose, without_engine
from daskt2i.encode.chunks.admission import admit, admit_source
from daskt2i.encode.job import EncodeJob, Inspection
from daskt2i.encode.read_ahead import ReaderCount
from daskt2i.errors import ConfigError, ModelError, OutOfMemory
from daskt2i.faults.kinds import is_memory
from daskt2i.hosts.model_files import bring_models
from daskt2i.machine.allocator import keep_memory
from daskt2i.machine.precision import check_device, default_device, kind_of
from daskt2i.protocols import ImageEncoder, Source, TextEncoder
from daskt2i.retries import smaller_batch
from daskt2i.types import EncoderInfo

T = TypeVar("T")

REPEATABLE = "AUTO,STRICT"
"""Value of MKL_CBWR, which MKL reads at its first call. With it results have the same bits for any number of threads.

Without it 22 of 509 matrix products of a CLIP text encoder differed in a last bit between 1 and 2 threads. With it none
did, at the same speed (torch 2.13, MKL 2024.2, 2 cores with AVX2). oneDNN's convolutions need no such setting.
"""

own_threads: ContextVar[int] = ContextVar("own_threads", default=1)
"""Torch threads of this worker, for a job that leaves them to it. An executor sets it."""

turn = threading.RLock()
"""Held while this process works on a chunk, so that one model runs at a time."""


MOST_JOBS = 4
"""So many jobs may have their sources and models in this process: a source too needs memory."""

READERS = 2
"""Number of reading threads that a worker begins with."""

GPU_SHARE = 0.25
"""The part of a GPU's memory that the models of other jobs may keep."""


@dataclass(slots=True)
class Models:
    """Source and encoders of a job in this process, loaded.

    Attributes:
        key: identifies the job that they belong to.
        image, text: the encoders. Another job with the same encoder has the same object.
        image_info, text_info: their info, read when they were loaded. The model folder may be away later.
        encoder_keys: identify the two encoders.
        device: the device that holds them.
        readers: number of threads that read for this job, if `run.reader_threads` is `auto`.
        fits: `"batch"` or `"text_batch"` -> number of items that fit, if memory has run out before.
    """

    key: str
    source: Source
    image: ImageEncoder
    text: TextEncoder
    image_info: EncoderInfo
    text_info: EncoderInfo
    encoder_keys: tuple[str, str] = ("", "")
    device: str = "cpu"
    fits: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    readers: ReaderCount = field(default_factory=lambda: ReaderCount(READERS, READERS))

    def take_warnings(self) -> tuple[str, ...]:
        """Return the warnings since the last call."""
        taken = tuple(self.warnings)
        self.warnings.clear()
        return taken


_held: OrderedDict[str, Models] = OrderedDict()
"""Job -> its models. The job of the last chunk is the last one."""

_loads: Counter[str] = Counter()


def loads() -> dict[str, int]:
    """How often this process has loaded each model: `{"image": 1, "text": 1}` unless something is wrong."""
    return dict(_loads)


def models_for(job: EncodeJob) -> Models:
    """The models of a job. Loads them if needed.

    The process keeps the models of other jobs too, as long as they fit into `job.spare_bytes`; those that were not used
    for the longest time go first. Two runs that share workers need not load their models again for each chunk.

    Raises:
        ConfigError, ModelError: an encoder cannot be built or loaded.
        GateError: the image encoder does not reconstruct the test card.
        WorkerMismatch: this process has other versions, or sees other files than the driver.
    """
    os.environ.setdefault("MKL_CBWR", REPEATABLE)
    job = _with_threads(job)
    key = repr((job.source, job.image, job.encoders, job.content, job.runtime))
    with turn:
        if job.terms is not None:
            admit(job.terms, job.folder, job.runtime)
        if job.keep_memory:
            keep_memory()
        if key in _held:
            _held.move_to_end(key)
        else:
            _make_room(job)
            bring_models(job.encoders, job.image.side, job.folder, job.weights)
            with without_collection():
                _held[key] = _load_alone_if_needed(job, key)
        if job.terms is not None:
            admit_source(job.terms, _held[key].source)
        return _held[key]


def _load_alone_if_needed(job: EncodeJob, key: str) -> Models:
    try:
        return _load(job, key)
    except OutOfMemory:
        if not _held:
            raise
    _held.clear()
    gc.collect()
    _release_memory()
    return _load(job, key)


def _make_room(job: EncodeJob) -> None:
    """Free models of other jobs, the longest unused first, until the rest fits beside those of this job."""
    ours = _encoder_keys(job)
    spare = job.spare_bytes
    if (device := _device(job)).startswith("cuda"):
        import torch

        spare = int(GPU_SHARE * torch.cuda.mem_get_info(device)[1])
    freed = False
    while _held:
        others = {
            key: info.weight_bytes
            for models in _held.values()
            for key, info in zip(models.encoder_keys, (models.image_info, models.text_info), strict=True)
            if key not in ours
        }
        if len(_held) < MOST_JOBS and sum(others.values()) <= spare:
            break
        _held.popitem(last=False)
        freed = True
    if freed:
        gc.collect()
        _release_memory()


def held() -> int:
    """Number of models that this process holds."""
    return len({id(encoder) for models in _held.values() for encoder in (models.image, models.text)})


def unload(seconds: float) -> bool:
    """Unload the models, and give their memory back to the system. The next chunk loads them again.

    Args:
        seconds: how long to wait for a chunk in work, which needs its models until its end.

    Returns:
        False if a chunk is still in work; then nothing was unloaded.
    """
    if not turn.acquire(timeout=seconds):
        return False
    try:
        if _held:
            _held.clear()
            gc.collect()
            _release_memory()
    finally:
        turn.release()
    return True


def _load(job: EncodeJob, key: str) -> Models:
    source = job.source.build(Source, "dataset.source")
    image = job.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text = job.encoders.text.build(TextEncoder, "dataset.encoders.text")
    image_info, text_info = image.info(job.image.side), text.info()
    found = (image_info.weights, text_info.weights)
    if found != job.weights:
        raise ModelError(
            f"{process_name()} has other weights ({', '.join(found)}) than the driver ({', '.join(job.weights)}), so "
            "it encoded nothing. Give all workers the same model folder, or name a revision of the hub id."
        )
    device = _device(job)
    runtime = replace(job.runtime, device=device)
    keys = _encoder_keys(job)
    loaded = [other for other in _held.values() if other.encoder_keys[0] == keys[0]]
    read = [other for other in _held.values() if other.encoder_keys[1] == keys[1]]
    with _explaining_memory():
        if loaded:
            image = loaded[0].image
        else:
            image.load(runtime)
            _loads["image"] += 1
        if job.gate_rows:
            # The model must reconstruct a known picture: this finds a wrong pixel range before the first image is read.
            card = gates.test_card(job.image.side)
            decoded = image.decode(image.encode(card, 1))
            if decoded is not None:
                gates.require_psnr(card, decoded, gates.CARD_PSNR, "the test card", known=True)
        if read:
            text = read[0].text
        else:
            text.load(runtime)
            _loads["text"] += 1
    readers = ReaderCount(READERS, max(READERS, runtime.threads))
    return Models(key, source, image, text, image_info, text_info, keys, device, readers=readers)


def _device(job: EncodeJob) -> str:
    return default_device() if job.runtime.device == "auto" else check_device(job.runtime.device)


def _with_threads(job: EncodeJob) -> EncodeJob:
    """The job with the torch threads of this worker."""
    threads = job.runtime.threads or max(1, own_threads.get())
    return replace(job, runtime=replace(job.runtime, threads=threads))


def _encoder_keys(job: EncodeJob) -> tuple[str, str]:
    """Two jobs may share an encoder if its class, its arguments, its weights and its runtime are the same."""
    runtime = replace(job.runtime, device=_device(job))
    image, text = job.weights
    return repr((job.encoders.image, image, runtime)), repr((job.encoders.text, text, runtime))


def inspect(job: EncodeJob, precision: str, engine: str = "auto") -> Inspection:
    """Resolve device, precision and engine on a worker, load the models there, and encode the empty prompt.

    Args:
        job: its `runtime.precision` is not used; its `runtime.device` may be `"auto"`.
        precision: from the workflow: `auto`, `fp32`, `bf16` or `fp16`.
        engine: from the workflow or the store: `auto`, `torch` or `ncnn`.

    Raises:
        ConfigError: the device does not support this precision.
        ModelError, GateError: the models do not load, or do not reconstruct the test card, or the empty prompt is not
            finite.
        OutOfMemory: the models, or one item, do not fit into memory.
    """
    with turn:
        os.environ.setdefault("MKL_CBWR", REPEATABLE)
        bring_models(job.encoders, job.image.side, job.folder, job.weights)
        job, device = _with_threads(job), _device(job)
        choice = choose(job, device, precision, engine)
        notes, choices = list(choice.notes), choice.choices
        runtime, torchs = (replace(one, device=job.runtime.device) for one in (choice.runtime, choice.by_torch))
        try:
            models = models_for(replace(job, runtime=runtime))
        except ConfigError as error:  # ncnn cannot run this model, though it could be measured, or it is missing here
            if runtime.engine == "torch":
                raise
            if engine != "auto":
                raise ConfigError(f"The worker {process_name()} encoded nothing: {error}") from error
            runtime, why = torchs, str(error.__cause__ or error)
            notes.append(f"torch computes the image encoder, because {why}.")
            choices = without_engine(choices, torchs, why)
            models = models_for(replace(job, runtime=runtime))
        with _explaining_memory():
            empty = models.text.encode([""], 1)
        gates.require_empty_prompt(models.text_info, empty)
        if note := getattr(models.text, "note", ""):
            notes.append(str(note))
        return Inspection(
            replace(runtime, device=device),
            {name: array[0] for name, array in empty.items()},
            process_name(),
            kind_of(device) if precision == "auto" else "",
            tuple(notes),
            choices,
        )


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Turn garbage collection off while torch and diffusers are imported.

    Python scans all their objects again and again: a fifth of the import time (4.9 s with it, 3.8 s without).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def retry_smaller_batch(
    models: Models, which: Literal["batch", "text_batch"], wanted: int, call: Callable[[int], T]
) -> T:
    """Call a function with a batch size, and halve it each time memory runs out. The process remembers the size.

    Args:
        which: the setting under `run:` that gives the batch size.
        wanted: its value, or the number of items if there are fewer.
        call: takes the batch size.

    Raises:
        OutOfMemory: a batch of one item does not fit either.
    """
    while True:
        size = min(wanted, models.fits.get(which, wanted))
        try:
            return call(size)
        except Exception as error:
            if not is_memory(error):
                raise
            smaller = smaller_batch(size)
            if smaller is None and not _others(models):
                raise _out_of_memory(error) from error
        # Outside the except block, because the traceback would keep the tensors alive.
        if others := _others(models):  # models of other jobs go, before a batch is made smaller
            for key in others:
                del _held[key]
            gc.collect()
        _release_memory()
        if others or smaller is None:
            continue
        models.fits[which] = smaller
        models.warnings.append(f"run.{which}: memory ran out at {size}; {process_name()} continues with {smaller}.")


@contextlib.contextmanager
def _explaining_memory() -> Iterator[None]:
    """A block that works on one item at a time: where memory runs out there is nothing to halve."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_memory(error):
            raise
        raise _out_of_memory(error) from error


def _out_of_memory(error: Exception) -> OutOfMemory:
    return OutOfMemory(
        f"Not even a batch of one item fits into memory ({error}). Finished chunks are kept. "
        "Use fewer workers, a machine with more memory, or another run folder with a smaller dataset.image.resolution."
    )


def _others(models: Models) -> list[str]:
    return [key for key, other in _held.items() if other is not models]


def _release_memory() -> None:
    """Give free memory back to the system: torch keeps free GPU memory, and glibc keeps free heap memory."""
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
