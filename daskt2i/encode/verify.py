"""Check a store against its receipts: hash every shard again, count rows, decode a sample back.

Covers: finding problems and naming the chunk. It changes nothing.
Does not cover: repairs. `encode`, run again, repairs damaged chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from daskt2i.config.settings import Workflow
from daskt2i.encode import gates
from daskt2i.encode.chunks.stamps import Stamps, exchanged, names
from daskt2i.encode.resume import are_rejected
from daskt2i.encode.saved_workflow import strangers, with_source
from daskt2i.encode.shapes.arrays import names_in
from daskt2i.encode.shapes.pictures import decode_views
from daskt2i.encode.shapes.views import shapes_of, shapes_with
from daskt2i.errors import GateError, LowPsnr, RowRejected, StoreError, StoreMissing
from daskt2i.events import Listener, Progress, ignore
from daskt2i.facts.bucketed import buckets_of
from daskt2i.facts.selection import source_of_store
from daskt2i.faults.patience import fetched_patiently
from daskt2i.formatting import many
from daskt2i.images import read as images
from daskt2i.plan import ChunkGrid
from daskt2i.protocols import ImageEncoder, Source
from daskt2i.store.forms.made_rows import made_layout, read_made
from daskt2i.store.layout import EMPTY_PREFIX, about_store
from daskt2i.store.parts.rows_file import is_in, removed_rows
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import PARTS, RunFolder
from daskt2i.store.views import grid_of, views_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Receipt, Record, Runtime
from daskt2i.view import View, Viewed

SAMPLE_ROWS = 8
"""Number of rows to decode back, spread over the store."""


_EXCHANGED = (
    " Where images were exchanged, put the original images back, or set run.on_changed_images=encode to encode these "
    "chunks."
)


@dataclass(frozen=True, slots=True, repr=False)
class VerifyResult(Viewed):
    """The result of `verify`.

    Attributes:
        out: address of the run folder.
        rows: rows of the store.
        chunks: chunks of the store, including open ones.
        problems: damaged chunk -> its problem, one sentence.
        exchanged: chunks among `problems` that are whole, but whose images were exchanged under the same names.
        unfinished: chunks without a receipt. They are not damaged: an encode runs, or was stopped.
        notes: checks that could not be done, and why.
        psnr: dB of the rows that were decoded back.
        shared: the problem of the arrays that belong to no chunk, or None.
    """

    out: str
    rows: int
    chunks: int
    problems: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    psnr: tuple[float, ...] = ()
    shared: str | None = None
    unfinished: tuple[int, ...] = ()
    exchanged: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every chunk is there and agrees with its receipt."""
        return not self.damaged and not self.unfinished

    @property
    def damaged(self) -> bool:
        """Whether something that was finished is not as it was written."""
        return bool(self.problems) or self.shared is not None

    def to_json(self) -> dict[str, Any]:
        """The object that `verify --json` prints."""
        bad = sorted({*self.problems, *self.unfinished})
        known = {"ok": self.ok, "rows": self.rows, "chunks": self.chunks, "bad": bad}
        return {**known, "unfinished": list(self.unfinished)}

    def raise_for_problems(self) -> VerifyResult:
        """Raise an error if the store has a problem; else return the result.

        Raises:
            StoreError: chunks are not finished, or damaged. It names the first problem and the number of others.
        """
        if self.ok:
            return self
        if not self.damaged:
            raise unfinished(self.out, len(self.unfinished), self.chunks)
        found = [*([self.shared] if self.shared else []), *(text for _, text in sorted(self.problems.items()))]
        more = f" (and {len(found) - 1:,} more)" if len(found) > 1 else ""
        raise StoreError(
            f"The store in {self.out} is not in order: {found[0]}{more}. E{self._next()[1:]}."
            f"{_EXCHANGED if self.exchanged else ''}"
        )

    def _next(self) -> str:
        """What repairs the store. An encode repairs the store of one run folder, and each part has its own."""
        told = [*self.problems.values(), *([self.shared] if self.shared else [])]
        parts = sorted({text.partition(":")[0] for text in told if text.startswith(f"{PARTS}/")})
        folders = [self.out] * any(not text.startswith(f"{PARTS}/") for text in told)
        folders += [f"{self.out}/{part}" for part in parts]
        does = "repairs damaged chunks" if self.damaged else "finishes these chunks"
        where = f" in {', then in '.join(folders)} (out)" if parts else ""
        return f"encode again{where}: it {does} and leaves the others as they are"

    def view(self) -> View:
        """Numbers of rows and chunks, and the problems."""
        chunks = f"{self.chunks:,}: {len(self.problems):,} damaged, {len(self.unfinished):,} not finished"
        rows = [("rows", f"{self.rows:,}"), ("chunks", f"{self.chunks:,}" if self.ok else chunks)]
        if self.psnr:
            tried = many(len(self.psnr), "latent")
            rows.append(
                ("decoded back", f"{tried}; the worst is {min(self.psnr):.1f} dB from its image (higher is closer)")
            )
        rows += [("note", note) for note in self.notes[:10]]
        if not self.ok:
            rows.append(("next", self._next()))
        if self.exchanged:
            chunks = "the chunks of exchanged images"
            rows.append(
                ("images", f"put the original images back, or set run.on_changed_images=encode to encode {chunks}")
            )
        shared = [f"{self.shared} (it belongs to all chunks)"] if self.shared else []
        return View(
            "The store is in order"
            if self.ok
            else "The store is not in order"
            if self.damaged
            else "The store is in order so far, but not complete",
            tuple(rows),
            failures=(*shared, *(problem for _, problem in sorted(self.problems.items()))),
        )


def problem_of_shared(store: ZarrStore) -> str | None:
    """A clause about the arrays that belong to all chunks: one is damaged, or the empty prompt is not as promised."""
    if (problem := store.check_shared()) is not None:
        return problem
    for name, values in store.constants().items():
        one = read_made(
            store, name.removeprefix(EMPTY_PREFIX), 0, 0
        )  # row, slot, and the dimensions of the empty prompt
        if (values.dtype, values.shape) != (one.dtype, one.shape[2:]):
            return f"{name} is {values.dtype} {values.shape} instead of {one.dtype} {one.shape[2:]}"
        if not gates.finite_rows([values[None]]).all():
            return f"{name} (the empty prompt) has NaN or infinity"
    return None


def unfinished(out: str, count: int, chunks: int) -> StoreError:
    """The error of a store whose chunks are not all finished."""
    return StoreError(
        f"The store in {out} is not complete: {count:,} of {many(chunks, 'chunk')} {'is' if count == 1 else 'are'} "
        "not finished. Nothing was started; encode again to finish them."
    )


@dataclass(slots=True)
class _Findings:
    """The findings so far. Fields as in `VerifyResult`."""

    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    exchanged: list[int] = field(default_factory=list)
    accepted: int = 0


def verify(
    folder: RunFolder,
    workflow: Workflow | None = None,
    listener: Listener = ignore,
    trusted: bool = False,
    deep: bool = True,
) -> VerifyResult:
    """Check a run folder.

    Args:
        workflow: names the source and the encoders to decode a sample back; None skips that check.
        trusted: the workflow comes from the user and not from the folder, so it may name any class.
        listener: gets the number of checked chunks.
        deep: False compares sizes alone, and counts no rows. It reads receipts, and no shard.

    Raises:
        StoreMissing: there is no store.
        StoreError: the metadata of the store are damaged.
    """
    store = ZarrStore(folder)
    about = about_store(store)
    if about is None:
        raise StoreMissing(f"There is no latent store in {folder}. Encode first.")
    layout, fingerprint = store.layout(), about["fingerprint"]
    for name in layout["arrays"]:
        store.read(name, 0, 0)  # its metadata, which no hash of a shard covers
    grid = grid_of(layout, about)
    found = _Findings()
    shared = problem_of_shared(store)
    seen = _check_receipts(store, grid, fingerprint, found, listener, deep)
    lacking = tuple(index for index in range(len(grid)) if not seen[index] and index not in found.problems)
    least = 0.0 if workflow is None else workflow.run.min_accepted * grid.filled
    if not found.accepted and not lacking:
        found.notes.append(f"Not one of {many(grid.filled, 'row')} was accepted, so the store has no pictures.")
    elif found.accepted < least and not lacking:
        found.notes.append(f"Accepted rows: only {found.accepted:,} of {grid.filled:,}.")
    if workflow is None:
        found.notes.append("Nothing was decoded back: the settings of this run are missing.")
    elif not trusted and (named := strangers(workflow, folder)):
        found.notes.append(
            f"Nothing was decoded back: this folder's settings name {', '.join(named)}, and verify runs no class "
            "and follows no address that only a folder names. Name the workflow (workflow) if you trust it."
        )
    else:
        _check_images(store, grid, workflow, about, found)
    return VerifyResult(
        str(folder),
        grid.filled,
        len(grid),
        found.problems,
        tuple(found.notes),
        tuple(found.psnr),
        shared,
        lacking,
        tuple(sorted(found.exchanged)),
    )


def _check_receipts(
    store: ZarrStore, grid: ChunkGrid, fingerprint: str, found: _Findings, listener: Listener, deep: bool
) -> bytearray:
    """Compare the shards of every receipt; if `deep`, hash them and count valid rows.

    Returns a byte per chunk: 1 if it has a receipt.
    """
    seen = bytearray(len(grid))

    def examine(receipt: Receipt) -> tuple[int, str | None]:
        if receipt.fingerprint != fingerprint:
            return receipt.chunk, "its receipt belongs to another fingerprint"
        problem = store.check(receipt.shards, deep)
        if problem is None and deep:
            valid = int(np.count_nonzero(store.read("valid", receipt.start, receipt.stop)))
            if valid != receipt.accepted:
                problem = f"{valid} rows are valid, but its receipt says {receipt.accepted}"
        return receipt.chunk, problem

    def torn(name: str, why: str) -> None:
        found.notes.append(f"{name} is ignored: {why}.")

    with ThreadPoolExecutor(4, thread_name_prefix="daskt2i-verify") as pool:
        # `map` over a generator would submit all receipts at once, so a window limits them.
        window = []
        checked = 0
        for receipt in Receipts(store.folder).read(torn):
            if receipt.chunk >= len(grid):
                found.notes.append(f"The receipt of chunk {receipt.chunk} belongs to no chunk of this store.")
                continue
            seen[receipt.chunk] = 1
            found.accepted += receipt.accepted
            window.append(pool.submit(examine, receipt))
            if len(window) >= 16:
                checked += _take(window.pop(0).result(), found)
                listener(Progress("chunks checked", checked, len(grid)))
        for future in window:
            checked += _take(future.result(), found)
            listener(Progress("chunks checked", checked, len(grid)))
    return seen


def _take(answer: tuple[int, str | None], found: _Findings) -> int:
    chunk, problem = answer
    if problem:
        found.problems[chunk] = f"chunk {chunk}: {problem}"
    return 1


def _check_images(
    store: ZarrStore, grid: ChunkGrid, workflow: Workflow, about: dict[str, Any], found: _Findings
) -> None:
    """Compare the store with the images of its source: whether they are the same files, and a few latents."""
    did = "compared with the images"
    try:
        workflow = with_source(workflow, store.folder, draw=False)  # scenes are files of the run folder
        source = source_of_store(workflow.dataset, store.folder, about["identity"])
        source.info()
        _find_exchanged(store, source, workflow, found)
        did = "decoded back"
        if about["random_weights"]:
            found.notes.append("Nothing was decoded back: the encoders have random weights.")
        else:
            _decode_back(store, grid, source, workflow, about, found)
    except (StoreError, GateError):
        raise
    except Exception as error:  # the source or the model may have moved, but the store can still be good
        found.notes.append(f"Nothing was {did}: {' '.join(str(error).split())}")


def _find_exchanged(store: ZarrStore, source: Source, workflow: Workflow, found: _Findings) -> None:
    """Find chunks whose images are others now, under the same names: by size and times, then by content."""
    timeout, unknown, removed = workflow.run.read_timeout, 0, removed_rows(store.folder)
    stamps = Stamps(source, timeout)
    for receipt in Receipts(store.folder).read():
        if not receipt.stamps or receipt.chunk in found.problems:
            continue
        rows = source.rows(receipt.start, receipt.stop)
        now = stamps.of(rows)
        unknown += not now
        others, _ = exchanged(
            receipt, now, rows, lambda row: fetched_patiently(source, row, 0.0, timeout=timeout), removed
        )
        if are_rejected(receipt, others):
            found.notes.append(
                f"Chunk {receipt.chunk}: images whose rows were rejected are others now ({names(others)})."
            )
        elif others:
            found.exchanged.append(receipt.chunk)
            found.problems[receipt.chunk] = (
                f"chunk {receipt.chunk}: its images are not those that it was made from ({names(others)})"
            )
    if unknown:
        found.notes.append(f"Sizes and times of the images of {many(unknown, 'chunk')} cannot be read now.")


def _decode_back(
    store: ZarrStore,
    grid: ChunkGrid,
    source: Source,
    workflow: Workflow,
    stored: dict[str, Any],
    found: _Findings,
) -> None:
    """Decode a few rows, and compare them with their images from the source."""
    dataset, run = workflow.dataset, workflow.run
    encoder: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    limits = images.Limits(min_side=dataset.image.min_side, max_pixels=dataset.image.max_pixels)
    kept, promised = made_layout(store)["arrays"], encoder.info(dataset.image.side)
    shapes = shapes_of(dataset.image, buckets_of(source), grid.rows, grid.rows_per_chunk)
    if views := views_of(stored):
        shapes = shapes_with(views, dataset.image)
    loaded, removed = False, removed_rows(store.folder)
    for chunk in _spread(grid, found):
        valid = np.flatnonzero(store.read("valid", chunk.start, chunk.stop))
        valid = valid[~is_in(chunk.start + valid, removed)]
        if not len(valid):
            continue
        index = chunk.start + int(valid[len(valid) // 2])
        row = next(iter(source.rows(index, index + 1)))
        try:
            data = fetched_patiently(source, row, 0.0, timeout=run.read_timeout)
            seen = images.read_framed(data, shapes.framing(chunk.index), limits, row.image_id)
        except RowRejected as error:
            found.notes.append(f"Row {index} was not decoded back: its image cannot be read now ({error}).")
            continue
        if not loaded:
            from daskt2i.machine.precision import default_device

            device = default_device() if run.device == "auto" else run.device
            encoder.load(Runtime(device, "fp32" if device == "cpu" else stored["identity"]["precision"], 1))
            loaded = True
        record = {index: Record(row, seen.pixels, seen.source_size, seen.crop_box, seen.more)}
        names_of_views = [name for name in names_in(promised, shapes, chunk.index) if name in kept]
        made = {name: read_made(store, name, index, index + 1) for name in names_of_views}
        back = decode_views(encoder, promised, shapes, chunk.index, record, made)
        if not back:
            found.notes.append("Nothing was decoded back: this image encoder cannot decode.")
            return
        for view, original, decoded in back:
            try:
                found.psnr.extend(gates.require_psnr(original, decoded, run.min_psnr, f"row {index}{view}"))
            except LowPsnr as error:  # an unusual picture; encoding it again would give the same result
                found.psnr.append(gates.psnr(original, decoded))
                found.notes.append(str(error))
            except GateError as error:
                found.psnr.append(gates.psnr(original, decoded))
                found.problems.setdefault(chunk.index, f"chunk {chunk.index}: {error}")


def _spread(grid: ChunkGrid, found: _Findings) -> list[Chunk]:
    """Chunks to decode back, spread evenly over the chunks without a problem."""
    good = [i for i in range(len(grid)) if i not in found.problems]
    count = min(SAMPLE_ROWS, len(good))
    return [grid[good[i * len(good) // count]] for i in range(count)]
