"""Everything that can be known about a run before a worker starts.

Covers: source and encoders by what they say of themselves, the plan, its cost, whether the store that is there fits,
whether machine and disk are large enough.
Does not cover: anything that needs weights or a worker (`encode`). Imports no torch, so `--dry-run` answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings, Workflow
from daskt2i.config.workflow_file import LAYOUT, SCENES_SOURCE, differences, fingerprint
from daskt2i.encode.model_cache import Inspection, Job
from daskt2i.errors import ConfigError, FingerprintMismatch, PlanError, SourceError
from daskt2i.facts.selection import open_source, reading_component
from daskt2i.images import read as images
from daskt2i.machine.machine import this_machine
from daskt2i.plan import GIB, MIB, PAUSE_FRACTION, Cost, Plan, choose_batch, cost
from daskt2i.protocols import ImageEncoder, Source, TextEncoder, Workforce
from daskt2i.store import lock
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import EncoderInfo, Runtime, SourceInfo

SCENES = "scenes"
"""Where a workflow's scenes are drawn, below the run folder."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run before it starts. Data only: it can be shown, and run twice.

    Attributes:
        workflow: resolved.
        folder: the run folder.
        source: what is read; `source_info`: what it says of itself.
        image_info, text_info: what the encoders say of themselves.
        plan: all chunks.
        cost: memory and disk.
        stored: what the store that is already there holds under `daskt2i`, or None.
    """

    workflow: Workflow
    folder: RunFolder
    source: Source
    source_info: SourceInfo
    image_info: EncoderInfo
    text_info: EncoderInfo
    plan: Plan
    cost: Cost
    stored: Mapping[str, Any] | None

    @property
    def on_gpu(self) -> bool:
        """Whether workers on this machine would take a GPU."""
        return planned_device(self.workflow.run.device) == "cuda"

    @property
    def random_weights(self) -> bool:
        """Whether any encoder was never trained."""
        return self.image_info.random_weights or self.text_info.random_weights

    @property
    def precision(self) -> str:
        """As the store has it, else as the workflow asks; `auto` where neither says."""
        asked = self.workflow.dataset.precision
        return str(self.stored["identity"]["precision"]) if asked == "auto" and self.stored else asked

    def identity(self, precision: str) -> dict[str, Any]:
        """Everything that decides bytes, for the fingerprint."""
        return identity(self.workflow.dataset, self.source_info, self.image_info, self.text_info, precision)

    @property
    def content(self) -> str:
        """Fingerprint of data, encoders and settings that decide bytes, whatever the precision."""
        return fingerprint(self.identity("any"))


def job_for(prepared: Prepared, workforce: Workforce) -> Job:
    """The job of a run, before a worker has been asked what only it can tell."""
    workflow = prepared.workflow
    run, dataset = workflow.run, workflow.dataset
    return Job(
        source=reading_component(dataset),
        image=dataset.image,
        encoders=dataset.encoders,
        content=prepared.content,
        weights=(prepared.image_info.weights, prepared.text_info.weights),
        slots=max(1, prepared.source_info.slots),
        folder=prepared.folder,
        fingerprint="",
        runtime=Runtime(run.device, "fp32", workforce.threads),
        batch=prepared.cost.batch,
        text_batch=run.text_batch,
        readers=run.readers,
        gate_rows=0 if prepared.image_info.random_weights else run.gate_rows,
        min_psnr=run.min_psnr,
        all_missing=run.all_missing,
    )


def settle(job: Job, prepared: Prepared, found: Inspection) -> Job:
    """The job with what a worker found: precision, and the batch for its device."""
    asked = prepared.workflow.run.batch
    return replace(
        job,
        fingerprint=fingerprint(prepared.identity(found.runtime.precision)),
        runtime=replace(job.runtime, precision=found.runtime.precision),
        batch=choose_batch(prepared.image_info, found.runtime.device) if asked == "auto" else asked,
    )


def speed_settings(job: Job) -> dict[str, Any]:
    """Those settings of a job that decide its speed and not its bytes, device and threads aside."""
    return {"batch": job.batch, "text_batch": job.text_batch, "readers": job.readers, "gate_rows": job.gate_rows}


def identity(
    dataset: DatasetSettings, source: SourceInfo, image: EncoderInfo, text: EncoderInfo, precision: str
) -> dict[str, Any]:
    """Everything that decides bytes, as plain data. Where things lie is left out: content hashes stand for it."""
    return {
        "layout": LAYOUT,
        "source": {**dataset.source.identity(), **source.content},
        "image": {**dataset.image.model_dump(), **images.TRANSFORM},
        "encoders": {
            "image": {**dataset.encoders.image.identity(), "weights": image.weights},
            "text": {**dataset.encoders.text.identity(), "weights": text.weights},
        },
        "precision": precision,
        "rows_per_chunk": dataset.rows_per_chunk,
        **({} if source.where is None else {"where": dict(source.where)}),
    }


def prepare(workflow: Workflow, out: str | Path, *, draw: bool = True) -> Prepared:
    """Find out everything that can be known before a worker starts. Imports no torch.

    Args:
        out: the run folder, a path or an fsspec address.
        draw: draw the workflow's scenes if they are not there yet; else only count them.

    Raises:
        ConfigError, SourceError, ModelMissing: something that the workflow names is wrong or not there.
        FingerprintMismatch: the store was made with other settings or other data.
        StoreBusy: somebody else is drawing the scenes, or encoding.
    """
    folder = RunFolder(out, workflow.run.storage_options)
    workflow = with_source(workflow, folder, draw)
    dataset = workflow.dataset
    source = open_source(dataset, folder, keep=draw)
    image: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
    source_info, image_info, text_info = source.info(), image.info(dataset.image.resolution), text.info()
    if source_info.rows == 0:
        raise SourceError(f"The source has no rows ({source_info.label}), so there is nothing to encode.")
    attributes = ZarrStore(folder).attributes()
    stored = attributes["daskt2i"] if attributes else None
    batch = workflow.run.batch
    prepared = Prepared(
        workflow=workflow,
        folder=folder,
        source=source,
        source_info=source_info,
        image_info=image_info,
        text_info=text_info,
        plan=Plan(source_info.rows, dataset.rows_per_chunk),
        cost=cost(
            source_info,
            image_info,
            text_info,
            resolution=dataset.image.resolution,
            rows_per_chunk=dataset.rows_per_chunk,
            precision=dataset.precision,
            batch=choose_batch(image_info, planned_device(workflow.run.device)) if batch == "auto" else batch,
            text_batch=workflow.run.text_batch,
            on_gpu=planned_device(workflow.run.device) == "cuda",
        ),
        stored=stored,
    )
    if stored is not None:
        refuse_other(prepared, stored, prepared.identity(prepared.precision))
    return prepared


def with_source(workflow: Workflow, folder: RunFolder, draw: bool) -> Workflow:
    """The workflow with absolute paths, and with its scenes as a COCO folder in the run folder.

    Args:
        draw: draw them if they are not there yet; else their source draws them when they are asked for.
    """
    workflow = _absolute(workflow)
    if workflow.scenes is not None and workflow.dataset.source.class_path == SCENES_SOURCE:
        workflow = _with_scenes(workflow, folder, draw)
    return workflow


def planned_device(device: str) -> str:
    """`"cuda"` or `"cpu"`: what workers on this machine would use. Only a worker knows for sure."""
    if device == "auto":
        return "cuda" if this_machine().gpus else "cpu"
    return device.partition(":")[0]


def _absolute(workflow: Workflow) -> Workflow:
    """The workflow with absolute paths."""
    dataset = workflow.dataset
    encoders = dataset.encoders.model_copy(
        update={"image": dataset.encoders.image.absolute(), "text": dataset.encoders.text.absolute()}
    )
    changed = dataset.model_copy(update={"source": dataset.source.absolute(), "encoders": encoders})
    return workflow.model_copy(update={"dataset": changed})


def _with_scenes(workflow: Workflow, folder: RunFolder, draw: bool) -> Workflow:
    """The workflow with its scenes as a COCO folder, or as a drawing source when nothing is to be written."""
    from daskt2i.sources.scenes import write_scenes

    assert workflow.scenes is not None
    scenes = workflow.scenes
    if not folder.is_local:
        raise ConfigError(f"Scenes are drawn into a folder on this machine, and {folder} is none. Use --images.")
    place = folder.local_path(SCENES)
    if draw:
        with lock.hold(folder, "draw scenes"):
            write_scenes(place, scenes.rows, scenes.seed, scenes.shapes)
    captions = place / "captions.json"
    arguments = {"images": str(place / "images"), "captions": str(captions)}
    source = Component.model_validate({"class": "daskt2i.sources.coco.CocoSource", **arguments})
    if not draw and (not captions.is_file() or source.build(Source, "scenes").info().rows != scenes.rows):
        return workflow  # its source draws the rows when they are asked for: good enough to count them
    return workflow.model_copy(update={"dataset": workflow.dataset.model_copy(update={"source": source})})


def refuse_other(prepared: Prepared, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = differences(stored["identity"], wanted)
    if differ:
        raise FingerprintMismatch(
            f"The store in {prepared.folder} was made with something else: {'; '.join(differ)}. It was not touched. "
            "Go back to those settings, or encode into another folder with --out."
        )


def preflight(prepared: Prepared, workforce: Workforce) -> None:
    """Refuse workers that would live above their pause threshold: they would stand still for ever.

    Raises:
        PlanError: with what a worker needs and has.
    """
    limit, need = workforce.memory_limit, prepared.cost.worker_memory
    if limit is not None and need > limit * PAUSE_FRACTION:
        raise PlanError(
            f"Each worker needs about {need / MIB:,.0f} MiB, and its limit is {limit / MIB:,.0f} MiB: Dask pauses "
            f"it at {PAUSE_FRACTION:.0%} of that, and nothing would move. Nothing was encoded. Use fewer workers, give "
            "them more memory, or make run.batch or dataset.rows_per_chunk smaller."
        )


def check_disk(prepared: Prepared) -> str | None:
    """Refuse what cannot fit the disk for certain. Returns a warning where the estimate says that it may not.

    Raises:
        PlanError: the latents alone need more than is free.
    """
    free = prepared.folder.free_bytes()
    if free is None or prepared.stored is not None or not prepared.workflow.run.check_disk:
        return None
    need = prepared.cost
    if need.latents_disk * 0.8 > free:  # float16 latents compress by 1.18 times at most
        raise PlanError(
            f"The latents alone take about {need.latents_disk / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free where "
            f"{prepared.folder} lies. Nothing was started; free some space, choose another --out, or set "
            "run.check_disk=false."
        )
    if need.disk > free:
        return f"The store will take about {need.disk / GIB:.2f} GiB, and {free / GIB:.2f} GiB are free."
    return None
