"""The encode plan: everything that is known about a run before a worker starts.

Covers: the info of source and encoders, the chunks, memory and disk, whether an existing store fits, whether machine
and disk are large enough.
Does not cover: anything that needs weights or a worker (`driver`). It imports no torch, so a plan is made quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daskt2i.config.settings import DatasetSettings, Workflow
from daskt2i.config.workflow_file import LAYOUT, differences, fingerprint
from daskt2i.encode.choices.on_driver import planned
from daskt2i.encode.saved_workflow import with_source
from daskt2i.encode.shapes.arrays import info_for, mean_share, require_growing, square_info
from daskt2i.encode.shapes.views import Shapes, grid_for, shapes_of
from daskt2i.encode.shapes.words import bucket_lines, bucket_notes
from daskt2i.errors import FingerprintMismatch, PlanError, SourceError
from daskt2i.facts.bucketed import buckets_of
from daskt2i.facts.selection import source_of_run
from daskt2i.formatting import many, size, workers_words
from daskt2i.images import read as images
from daskt2i.machine.allocator import can_keep_memory
from daskt2i.machine.machine import this_machine
from daskt2i.machine.precision import FORMATS
from daskt2i.plan import (
    GIVEN,
    MIB,
    PAUSE_FRACTION,
    ChunkGrid,
    Requirements,
    WorkerLayout,
    choose_batch,
    estimate_requirements,
)
from daskt2i.protocols import ChoosesEngine, ExecutorInfo, ImageEncoder, Source, TextEncoder
from daskt2i.sources.names import name_of
from daskt2i.store.layout import about_store, stored_parts, stored_text
from daskt2i.store.ownership import refuse_foreign
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chosen, EncoderInfo, Runtime, SourceInfo
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class EncodePlan(Viewed):
    """The plan of an encode. It is data only: it can be shown, and run twice.

    Attributes:
        workflow: the resolved workflow.
        folder: the run folder.
        source: the source; `source_info`: its info.
        image_info, text_info: the info of the encoders.
        square_info: the info of the image encoder for one square of `shapes.side` pixels.
        shapes: the sizes of the pictures.
        grid: all chunks.
        requirements: memory and disk.
        stored: the `daskt2i` attribute of the existing store, or None.
        layout: workers, threads and memory on this machine; 0 workers for a cluster that daskt2i did not start. None if
            it is not known yet.
    """

    workflow: Workflow
    folder: RunFolder
    source: Source
    source_info: SourceInfo
    image_info: EncoderInfo
    text_info: EncoderInfo
    square_info: EncoderInfo
    shapes: Shapes
    grid: ChunkGrid
    requirements: Requirements
    stored: Mapping[str, Any] | None
    layout: WorkerLayout | None = None

    @property
    def chunk_info(self) -> EncoderInfo:
        """The info of the image encoder with the arrays of the chunk whose rows are largest."""
        return info_for(self.square_info, self.shapes, self.shapes.of_chunk(self.shapes.heaviest()))

    @property
    def on_gpu(self) -> bool:
        """Whether workers on this machine would use a GPU."""
        return planned_device(self.workflow.run.device) == "cuda"

    @property
    def random_weights(self) -> bool:
        """Whether an encoder has random weights."""
        return self.image_info.random_weights or self.text_info.random_weights

    @property
    def precision(self) -> str:
        """The precision of the workflow; if that is `auto`, the precision of the store, if there is one."""
        asked = self.workflow.dataset.precision
        return str(self.stored["identity"]["precision"]) if asked == "auto" and self.stored else asked

    @property
    def engine(self) -> str:
        """What computes the image encoder, as `Runtime.engine`; `auto` if the first worker chooses it."""
        asked = self.workflow.dataset.encoders.image.arguments.get("engine", "auto")
        if asked != "auto" or self.stored is None:
            return str(asked)
        return str(self.stored["identity"]["encoders"]["image"].get("engine", "torch"))

    @property
    def choices(self) -> tuple[Chosen, ...]:
        """Engine, precision, batch and threads: what is known of them now, and why. It reads the kept figures."""
        stored = None if self.stored is None else (self.engine, self.precision)
        device = planned_device(self.workflow.run.device)
        layout = None if self.layout is None or not self.layout.here else self.layout
        return planned(self.workflow, self.requirements, layout, device, stored)

    @property
    def script(self) -> str:
        """The job script or the manifest of the workers; "" if they need none."""
        return "" if self.layout is None else self.layout.script

    def identity(self, precision: str, engine: str | None = None) -> dict[str, Any]:
        """All settings that change stored arrays, for the fingerprint.

        Args:
            precision: as it was resolved; `"any"` or `"auto"` if it was not.
            engine: as it was resolved; that of the workflow or the store without it.
        """
        found = identity(self.workflow.dataset, self.source_info, self.image_info, self.text_info, precision)
        engine = self.engine if engine is None else engine
        if engine not in ("auto", "torch"):  # the stores of older versions were made with torch, and do not say so
            found["encoders"]["image"]["engine"] = engine
        return found

    @property
    def content(self) -> str:
        """Fingerprint of data, encoders and settings that change stored arrays, without precision and engine."""
        return fingerprint(self.identity("any", "torch"))

    def to_json(self) -> dict[str, Any]:
        """The object that `encode --dry-run --json` prints."""
        layout = self.layout
        return {
            "rows": self.source_info.rows,
            "captions": self.source_info.captions,
            "chunks": len(self.grid),
            "workers": 0 if layout is None else layout.workers,
            "threads": 0 if layout is None else layout.threads,
            "memory_per_worker": self.requirements.worker_memory,
            "memory_per_worker_by_engine": dict(self.requirements.engine_memory),
            "bytes": self.requirements.disk,
            "precision": self.precision,
            "chosen": [one.to_json() for one in self.choices],
            "out": str(self.folder),
            **({} if layout is None or layout.here else {"asked": layout.reason, "script": layout.script}),
            **({"left_out": self.source_info.left_out} if self.workflow.dataset.where else {}),
            **({"buckets": [one.to_json() for one in buckets]} if (buckets := buckets_of(self.source)) else {}),
        }

    def view(self) -> View:
        """Rows, chunks, encoders, workers, memory and disk."""
        info, dataset = self.source_info, self.workflow.dataset
        need, layout = self.requirements, self.layout
        chosen = {one.setting: one for one in self.choices}
        uncounted = [f"{info.orphan_captions} orphan"] * bool(info.orphan_captions)
        uncounted += [f"{info.blank_captions} blank"] * bool(info.blank_captions)
        also = f" (and {', '.join(uncounted)}, not counted)" if uncounted else ""
        rows = [
            ("source", info.label),
            ("read as", name_of(dataset.source.class_path)),
            ("rows", f"{many(info.rows, 'image')}, {many(info.captions, 'caption')}{also}"),
        ]
        rows += [("note", text) for text in info.notes]
        rows += [("left out", f"{many(info.left_out, 'image')}, by where: {dataset.where}")] * bool(dataset.where)
        rows += [
            ("chunks", f"{len(self.grid):,} of {_rows_words(self.grid)}{self._done()}"),
            *bucket_lines(buckets_of(self.source)),
            ("image encoder", self._encoder("image", f"{dataset.image.side} px -> " if not self.shapes.named else "")),
            ("text encoder", self._encoder("text", "")),
            *((name, one.words()) for name, one in chosen.items() if name != "threads"),
        ]
        if layout is None or not layout.workers:
            rows.append(("workers", "those of the cluster"))
            rows.append(("models", f"sent to hosts that lack them, up to {self.workflow.run.send_models} together"))
            allowed = ""
        else:
            words = f"{workers_words(layout.workers, layout.threads)} ({layout.reason})"
            ruled = layout.here and not layout.reason.startswith(GIVEN)
            why = f": {chosen['threads'].why}" if ruled else ""
            rows.append(("workers", f"{words}{why}" if layout.here else layout.reason))
            allowed = f", {size(layout.memory_limit)} allowed"
        others = "".join(f" ({size(memory)} with {name})" for name, memory in need.engine_memory.items())
        rows.append(("memory", f"about {size(need.worker_memory)} per worker{others}{allowed}"))
        parts = [f"{size(need.latents_disk)} latents"] * bool(self.image_info.arrays)
        parts += [f"{size(need.text_disk)} text"] * bool(self.text_info.arrays)
        disk = f"about {size(need.disk)} ({', '.join(parts)}); {size(need.disk / max(1, info.rows))} a row"
        rows += [("disk", disk), ("run folder", str(self.folder) + (" (continues)" if self.stored else ""))]
        return View(f"Plan of {self.workflow.name}", tuple(rows))

    def _done(self) -> str:
        """How many chunks are done before, of a store that exists."""
        return f"; {Receipts(self.folder).count():,} are done" if self.stored else ""

    def _encoder(self, kind: str, extra: str) -> str:
        component = getattr(self.workflow.dataset.encoders, kind)
        info = self.image_info if kind == "image" else self.text_info
        if not info.arrays:
            return "none" + "; training encodes the captions" * (self.workflow.dataset.store.text == "training")
        name = component.class_path.rpartition(".")[2]
        shown = self.chunk_info.arrays if kind == "image" else info.arrays
        large = ", ".join(f"{a.name} {'x'.join(map(str, a.shape))}" for a in shown if a.shape)
        arrays = large or ", ".join(f"{a.name}, one number a row" for a in shown)
        arrays += f" and {others} of other sizes" if (others := len(info.arrays) - len(shown)) else ""
        random = " RANDOM WEIGHTS," if info.random_weights else ""
        model = component.arguments.get("model")
        engine = f" by {self.engine}" if kind == "image" and self.engine not in ("auto", "torch") else ""
        upcast = " in fp32 (its config says force_upcast)," if info.upcast and self.precision == "fp16" else ""
        return f"{name}{f' {model}' if model else ''}{engine},{random}{upcast} {extra}{arrays}"


def identity(
    dataset: DatasetSettings, source: SourceInfo, image: EncoderInfo, text: EncoderInfo, precision: str
) -> dict[str, Any]:
    """All settings that change stored arrays, as plain data. It has content hashes instead of paths."""
    return {
        "layout": LAYOUT,
        "source": {**dataset.source.identity(), **source.content},
        "image": dataset.image.identity(images.TRANSFORM),
        "encoders": {
            "image": {**dataset.encoders.image.identity(), "weights": image.weights},
            "text": {**dataset.encoders.text.identity(), "weights": text.weights},
        },
        "precision": precision,
        "rows_per_chunk": dataset.rows_per_chunk,
        **dataset.store.identity(),
        **({} if source.where is None else {"where": dict(source.where)}),
    }


def prepare(workflow: Workflow, out: str | Path, *, draw: bool = True) -> EncodePlan:
    """Make the plan of an encode. Imports no torch.

    Args:
        out: the run folder, a path or an fsspec address.
        draw: draw the workflow's scenes if they are not there yet; if False, only count them.

    Raises:
        ConfigError, SourceError, ModelMissing: a part of the workflow is wrong or missing.
        StoreError: the run folder is not one of daskt2i.
        FingerprintMismatch: the store was made with other settings or other data.
        StoreBusy: another process is drawing the scenes, or encoding.
    """
    folder = RunFolder(out, workflow.run.storage_options)
    refuse_foreign(folder)
    workflow = with_source(workflow, folder, draw)
    dataset = workflow.dataset
    source = source_of_run(dataset, folder, keep=draw)
    image: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
    source_info, of_square = source.info(), square_info(image, dataset.image)
    text_info = stored_text(text.info(), dataset.store)
    if source_info.rows == 0:
        raise SourceError(f"The source has no rows ({source_info.label}), so there is nothing to encode.")
    buckets = buckets_of(source)
    if text.info().arrays and dataset.part is None:  # columns and parts are not trained on alone
        source_info = replace(source_info, notes=(*source_info.notes, *bucket_notes(buckets, workflow.train.batch)))
    shapes = shapes_of(dataset.image, buckets, source_info.rows, dataset.rows_per_chunk)
    require_growing(image, of_square, shapes)
    stored = about_store(ZarrStore(folder))
    prepared = EncodePlan(
        workflow=workflow,
        folder=folder,
        source=source,
        source_info=source_info,
        image_info=info_for(of_square, shapes, shapes.views),
        text_info=text_info,
        square_info=of_square,
        shapes=shapes,
        grid=grid_for(shapes, dataset.rows_per_chunk),
        requirements=Requirements(0, 0, 0, 1),
        stored=stored,
    )
    prepared = replace(prepared, requirements=_requirements(prepared, image))
    if stored is not None:
        refuse_other(prepared, stored, prepared.identity(prepared.precision))
    return prepared


def _requirements(prepared: EncodePlan, encoder: ImageEncoder) -> Requirements:
    """Memory and disk with the engine of the plan, and the memory with each other engine that a worker may choose."""
    workflow, engine = prepared.workflow, prepared.engine
    run, dataset = workflow.run, workflow.dataset
    device = planned_device(run.device)

    def by(engine: str) -> Requirements:
        image = prepared.chunk_info.by(engine)
        return estimate_requirements(
            prepared.source_info,
            image,
            prepared.text_info,
            resolution=math.isqrt(prepared.shapes.pixels),
            rows_per_chunk=dataset.rows_per_chunk,
            precision=dataset.precision,
            batch=choose_batch(image, device) if run.batch == "auto" else run.batch,
            text_batch=run.text_batch,
            on_gpu=device == "cuda",
            keep_memory=run.keep_memory and can_keep_memory(),
            stored=stored_parts(image, prepared.text_info, max(1, prepared.source_info.slots), dataset.store),
        )

    may_change = False
    if engine == "auto" and device == "cpu" and isinstance(encoder, ChoosesEngine):
        named = FORMATS.get(dataset.precision, "fp32")
        runtime, free = Runtime(device, named, 1), dataset.precision == "auto"
        chosen = encoder.choose_engine(dataset.image.side, runtime, free, measure=False)[1]
        may_change = chosen.value != "torch" or bool(chosen.seconds)  # torch without figures: a rule says so
    others = {name: by(name).worker_memory for name in prepared.image_info.engines if may_change}
    found, share = by(engine), mean_share(prepared.square_info, prepared.shapes)
    return replace(found, latents_disk=int(found.latents_disk * share), engine_memory=others)


def planned_device(device: str) -> str:
    """`"cuda"` or `"cpu"`: the device that workers on this machine would use. Only a worker knows it for certain."""
    if device == "auto":
        return "cuda" if this_machine().gpus else "cpu"
    return device.partition(":")[0]


def refuse_other(prepared: EncodePlan, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differ = differences(_naming_engine(stored["identity"]), _naming_engine(wanted))
    if differ and (column := prepared.workflow.dataset.column):
        raise FingerprintMismatch(
            f"The column {column} in {prepared.folder} was made with different settings or data: {'; '.join(differ)}. "
            "It was not touched, nor was its store. Go back to the settings of the column, or give another name "
            f"(column); to make {column} anew, delete its folder first."
        )
    if differ:
        new = "To encode rows that are new, run append. " * all(one.startswith("dataset.source.") for one in differ)
        raise FingerprintMismatch(
            f"The store in {prepared.folder} was made with different settings or data: {'; '.join(differ)}. It was not "
            f"touched. {new}Go back to the settings and data of the store, or encode into another run folder (out)."
        )


def _naming_engine(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity that names torch where it names no engine, for a message."""
    encoders = identity["encoders"]
    return {**identity, "encoders": {**encoders, "image": {"engine": "torch", **encoders["image"]}}}


def preflight(prepared: EncodePlan, executor_info: ExecutorInfo) -> None:
    """Refuse workers that would use more memory than their pause threshold: Dask would pause them for ever.

    Raises:
        PlanError: the workers have too little memory; it names what a worker needs and has.
    """
    limit, need = executor_info.memory_limit, prepared.requirements.worker_memory
    if limit is not None and need > limit * PAUSE_FRACTION:
        raise PlanError(
            f"Each worker needs about {need / MIB:,.0f} MiB, but its limit is {limit / MIB:,.0f} MiB, and Dask pauses "
            f"it at {PAUSE_FRACTION:.0%} of that. Nothing was encoded. Use fewer workers, give them more memory, or "
            f"make {memory_settings(prepared)} smaller."
        )


def _rows_words(grid: ChunkGrid) -> str:
    """How many rows a chunk has: the last one may have fewer."""
    most = min(grid.rows, grid.rows_per_chunk)
    return f"{'up to ' if grid.rows % max(1, most) or grid.short else ''}{most:,} row{'s' * (most != 1)}"


def memory_settings(prepared: EncodePlan) -> str:
    """The settings that decide what a worker needs, for messages. A store that is there keeps its rows_per_chunk."""
    return "run.batch" if prepared.stored is not None else "dataset.rows_per_chunk or run.batch"


def check_disk(prepared: EncodePlan) -> str | None:
    """Refuse a run that certainly does not fit on the disk. Returns a warning if it may not fit, else None.

    Raises:
        PlanError: the latents alone need more space than is free.
    """
    free = prepared.folder.free_bytes()
    if free is None or prepared.stored is not None or not prepared.workflow.run.check_disk:
        return None
    need = prepared.requirements
    if need.latents_disk * 0.8 > free:  # float16 latents compress by 1.18 times at most
        raise PlanError(
            f"The latents alone need about {size(need.latents_disk)}, but only {size(free)} are free "
            f"on the disk of {prepared.folder}. Nothing was started. Free some space, choose a run folder on another "
            "disk (out), or set run.check_disk=false."
        )
    if need.disk > free:
        return f"The store will need about {size(need.disk)}, but only {size(free)} are free. The encode starts anyway."
    return None
