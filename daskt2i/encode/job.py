"""The job: all values that a worker needs besides its chunk.

Covers: making a job from a plan, and completing it with the values of the first worker (precision, batch, fingerprint).
Does not cover: encoding (`worker`, `model_cache`), chunks (`plan`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.config.image_settings import ImageSettings
from daskt2i.config.settings import EncoderSettings
from daskt2i.config.store_settings import StoreSettings
from daskt2i.config.workflow_file import fingerprint
from daskt2i.encode.chunks.admission import Terms
from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.shapes.views import Shapes, shapes_of, shapes_with
from daskt2i.facts.selection import reading_component
from daskt2i.images import read as images
from daskt2i.plan import PAUSE_FRACTION, choose_batch
from daskt2i.protocols import ExecutorInfo
from daskt2i.redact import without_secrets
from daskt2i.retries import READ_SECONDS, TRANSPORT_SECONDS
from daskt2i.store.layout import EXACT
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import View
from daskt2i.types import Chosen, Runtime

NO_TEXTS = Component.model_validate({"class": "daskt2i.encoders.nothing.NoTextEncoder"})
"""What a worker loads in place of a text encoder that it does not need."""

NO_WEIGHTS = "none"
"""`EncoderInfo.weights` of it."""


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """All values that a worker needs besides the chunk. Small and picklable.

    Attributes:
        source, image, encoders: as in the workflow.
        content: fingerprint of the data and weights. It changes when a model folder is changed in place.
        weights: the driver's identities of the image and text weights; a worker must have the same weights.
        slots: caption slots of the store.
        store: how arrays are stored.
        folder: the run folder.
        fingerprint: goes into every receipt.
        runtime: device (`"auto"`: each worker uses what it has), precision and torch threads (0: each worker has its
            own number).
        batch: images in one batch of the model; `text_batch`: captions.
        batches: kind of device (`cpu`, `cuda`) -> images in one batch there; empty if all kinds have the same batch.
        terms: what a worker must find before its first chunk; None for no check.
        reader_threads: threads that read and decode while the model runs; `"auto"`: 2, and more while the model waits
            for pictures, up to `runtime.threads`.
        gate_rows: rows of each chunk to decode back; 0 for none, as with random weights, which cannot reconstruct.
        min_psnr: dB that decode-back must reach.
        on_missing_chunk: `"fail"` or `"reject"`: what happens to a chunk whose images are all missing.
        transport_patience: seconds to try a read or write again while the network fails.
        read_timeout: seconds that one read may take.
        keep_memory: whether a worker keeps freed memory for the next batch (`machine.allocator`).
        spare_bytes: memory of a worker that this job does not need, bytes; models of other jobs may stay in it.
        allowed_bytes: memory that a worker may use, bytes; None if there is no limit.
        engine_bytes: engine that the first worker may choose -> memory of a worker with it, bytes.
        run: token of the run (`store.publishing`); "" for a chunk that no run publishes.
        views: the views of the chunks; none if all have one square of `image.side` pixels.
        upscale: whether an image may be scaled up to its pictures.
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
    reader_threads: int | Literal["auto"]
    gate_rows: int
    min_psnr: float
    on_missing_chunk: str
    transport_patience: float = TRANSPORT_SECONDS
    read_timeout: float = READ_SECONDS
    run: str = ""
    batches: Mapping[str, int] = field(default_factory=dict)
    terms: Terms | None = None
    keep_memory: bool = True
    spare_bytes: int = 0
    allowed_bytes: int | None = None
    engine_bytes: Mapping[str, int] = field(default_factory=dict)
    store: StoreSettings = EXACT
    views: tuple[View, ...] = ()
    upscale: bool = True

    @property
    def shapes(self) -> Shapes:
        """The views, and the part of an image that they show."""
        image = self.image
        views = self.views or shapes_of(image.model_copy(update={"buckets": None}), (), 2**62, 1).views
        return replace(shapes_with(views, image), upscale=self.upscale)

    def on(self, device: str) -> EncodeJob:
        """The job with the batch for a device: a GPU and a CPU have room for different batches."""
        return replace(self, batch=self.batches.get(device.partition(":")[0], self.batch))

    @property
    def limits(self) -> images.Limits:
        """Limits for the size of an image."""
        return images.Limits(min_side=self.image.min_side, max_pixels=self.image.max_pixels)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The values that one worker found before the first chunk.

    Attributes:
        runtime: device, precision and engine, resolved on the worker.
        empty: the empty prompt's arrays, without the caption dimension.
        worker: `host:pid`.
        kind: the kind of its device, in words.
        notes: what a user should know.
        choices: how engine and precision were chosen.
    """

    runtime: Runtime
    empty: Mapping[str, npt.NDArray[Any]]
    worker: str
    kind: str = ""
    notes: tuple[str, ...] = ()
    choices: tuple[Chosen, ...] = ()


def job_for(prepared: EncodePlan, executor_info: ExecutorInfo) -> EncodeJob:
    """The job of a run, without the values that only a worker knows."""
    limit, need = executor_info.memory_limit or 0, prepared.requirements.worker_memory
    workflow = prepared.workflow
    run, dataset = workflow.run, workflow.dataset
    encoders, text_weights = dataset.encoders, prepared.text_info.weights
    if dataset.store.text == "training":
        encoders, text_weights = EncoderSettings(image=encoders.image, text=NO_TEXTS), NO_WEIGHTS
    return EncodeJob(
        source=reading_component(dataset),
        image=dataset.image,
        encoders=encoders,
        store=dataset.store,
        content=prepared.content,
        weights=(prepared.image_info.weights, text_weights),
        slots=max(1, prepared.source_info.slots),
        folder=prepared.folder,
        fingerprint="",
        runtime=Runtime(run.device, "fp32", 0 if executor_info.most_threads else executor_info.threads),
        batch=prepared.requirements.batch,
        text_batch=run.text_batch,
        reader_threads=run.reader_threads,
        gate_rows=0 if prepared.image_info.random_weights else run.gate_rows,
        min_psnr=run.min_psnr,
        on_missing_chunk=run.on_missing_chunk,
        transport_patience=run.transport_patience,
        read_timeout=run.read_timeout,
        keep_memory=run.keep_memory,
        spare_bytes=max(0, int(limit * PAUSE_FRACTION) - need),
        allowed_bytes=int(limit * PAUSE_FRACTION) if limit else None,
        engine_bytes=prepared.requirements.engine_memory,
        views=prepared.shapes.views,
        upscale=prepared.shapes.upscale,
    )


def resolve_job(job: EncodeJob, prepared: EncodePlan, found: Inspection) -> EncodeJob:
    """The job with the values of a worker: precision, engine, the kind of its device, and the batch for each kind."""
    asked, stored = prepared.workflow.run.batch, prepared.stored
    mark = fingerprint(prepared.identity(found.runtime.precision, found.runtime.engine))
    if stored is not None and without_secrets(stored["identity"]) != stored["identity"]:
        mark = str(stored["fingerprint"])  # an older version fingerprinted secrets too
    info, need = prepared.chunk_info.by(found.runtime.engine), prepared.requirements
    more = need.engine_memory.get(found.runtime.engine, need.worker_memory) - need.worker_memory
    return replace(
        job,
        fingerprint=mark,
        runtime=replace(job.runtime, precision=found.runtime.precision, engine=found.runtime.engine),
        batch=choose_batch(info, found.runtime.device) if asked == "auto" else asked,
        batches={kind: choose_batch(info, kind) for kind in ("cpu", "cuda")} if asked == "auto" else {},
        spare_bytes=max(0, job.spare_bytes - more),
        terms=job.terms and replace(job.terms, kind=found.kind),
    )


def speed_settings(job: EncodeJob) -> dict[str, Any]:
    """The settings of a job that change its speed but not its bytes, without device and threads.

    The keys are those of `reports/estimate.json`, which keeps the old name of `reader_threads`.
    """
    return {"batch": job.batch, "text_batch": job.text_batch, "readers": job.reader_threads, "gate_rows": job.gate_rows}
