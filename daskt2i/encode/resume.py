"""What an earlier run has finished: chunks whose receipts and shards are intact, and whose images are the same.

Covers: finding these chunks; comparing sizes and times of all images, and the content of those that differ.
Does not cover: shards and receipts themselves (`store`), encoding the other chunks (`driver`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import Any

from daskt2i.encode.chunks.stamps import Stamps, digits, exchanged, names, new_rows
from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.read_ahead import inputs_digest
from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import FingerprintMismatch, Reason, RowRejected
from daskt2i.events import Listener, Note
from daskt2i.faults.kinds import is_old_refusal
from daskt2i.faults.patience import fetched_patiently
from daskt2i.formatting import duration, many
from daskt2i.store.parts.rows_file import in_ranges, removed_rows
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt, Row

_OF_FILES = {str(Reason.MISSING_FILE), str(Reason.UNREADABLE_IMAGE)}
"""Reasons to reject a row that end when its file is mended."""

_NOW_THERE = "Images that were missing are there now"
_MENDED = "Images whose rows were rejected are there now, or are others now"

_SINGLE_LINES = 3
"""If more chunks are encoded again for the same reason, one line tells their number."""

CHECK_SECONDS = 5.0
"""How often a long check of finished chunks reports its progress."""


def find_done(
    prepared: EncodePlan, fingerprint: str, result: EncodeResult, listener: Listener
) -> tuple[bytearray, set[int], EncodeResult]:
    """Find finished chunks. Others are reported, and encoded again.

    Nothing is removed here: a receipt stays until its successor is published.

    Args:
        fingerprint: of the store that is there.
        result: the totals so far.

    Returns:
        one byte for each chunk, 1 if its receipt and shards are intact; the chunks that are encoded again although
        their receipts are valid; the totals with the finished chunks.

    Raises:
        FingerprintMismatch: the images are not those that the store was made from, or rejected ones are there now.
    """
    run = prepared.workflow.run
    deep = run.verify_on_resume == "hash" or (run.verify_on_resume == "auto" and prepared.folder.is_local)
    store, pictures = ZarrStore(prepared.folder), _Pictures(prepared, listener)
    done = bytearray(len(prepared.grid))
    valid = set[int]()
    again: list[tuple[int, str]] = []

    def examine(receipt: Receipt) -> tuple[Receipt, str | None]:
        if receipt.fingerprint != fingerprint:
            return receipt, "its receipt belongs to another fingerprint"
        if receipt.chunk >= len(done) or prepared.grid[receipt.chunk].stop != receipt.stop:
            return receipt, "its receipt does not match the plan"
        if (problem := store.check(receipt.shards, deep)) is not None:
            return receipt, problem
        if asked := {r.reason for r in receipt.rejected}.intersection(run.retry_rejected):
            valid.add(receipt.chunk)
            return receipt, f"run.retry_rejected asks for rows rejected as {', '.join(sorted(asked))}"
        if any(is_old_refusal(r.reason, r.detail) for r in receipt.rejected):
            valid.add(receipt.chunk)
            return receipt, "an older version rejected rows because access to them was refused"
        return receipt, pictures.changed(receipt)

    def torn(name: str, why: str) -> None:
        listener(Note(f"{name} is ignored: {why}."))

    with ThreadPoolExecutor(4, thread_name_prefix="daskt2i-check") as pool:
        told = perf_counter()
        for receipt, problem in _bounded_map(pool, examine, Receipts(prepared.folder).read(torn), 16):
            if problem is None and result.skipped == 0:
                problem = pictures.changed(receipt, every=True)
            if problem:
                if run.on_changed_images == "encode" or receipt.chunk not in pictures.others:
                    again.append((receipt.chunk, problem))
                continue
            done[receipt.chunk] = 1
            result = result.with_chunk(receipt, now=False)
            if perf_counter() - told > CHECK_SECONDS:
                told = perf_counter()
                listener(
                    Note(f"{many(result.skipped, 'finished chunk')} checked; the store has {many(len(done), 'chunk')}.")
                )
    for text in told_again(again):
        listener(Note(text))
    if pictures.others and run.on_changed_images == "fail":
        pictures.refuse()
    if pictures.arrived:
        listener(
            Note(
                f"{_NOW_THERE} ({names(pictures.arrived)}); their rows stay rejected. Set "
                "run.retry_rejected=[missing-file] to encode their chunks again."
            )
        )
    if pictures.unknown:
        listener(
            Note(
                f"Sizes and times of the images of {many(len(pictures.unknown), 'finished chunk')} cannot be read "
                "now. If "
                "images were exchanged there, it is not noticed."
            )
        )
    for receipt in pictures.touched:
        Receipts(prepared.folder).write(receipt)
    return done, valid, result


def _reason(problem: str) -> str:
    """A problem without the names in it, so that problems of one kind are equal."""
    return re.sub(r"\S*[/\d]\S*", "…", problem.partition(" (")[0])


def told_again(found: Iterable[tuple[int, str]]) -> list[str]:
    """Sentences about chunks that are encoded again: one for each chunk, or one for many chunks with one reason.

    Args:
        found: number of each chunk, and its problem.
    """
    kinds: dict[str, list[tuple[int, str]]] = {}
    for chunk, problem in found:
        kinds.setdefault(_reason(problem), []).append((chunk, problem))
    said = list[str]()
    for alike in kinds.values():
        if len(alike) <= _SINGLE_LINES:
            said += [f"Chunk {chunk} is encoded again: {problem}." for chunk, problem in alike]
            continue
        first = "; ".join(f"chunk {chunk}: {problem}" for chunk, problem in alike[:_SINGLE_LINES])
        said.append(f"{many(len(alike), 'chunk')} are encoded again. The first of them: {first}.")
    return said


class _Pictures:
    """Finds finished chunks whose images are others now, under the same names.

    Attributes:
        others: chunk -> rows of other files (none if they are not known), and its receipt.
        arrived: rows that had no file, and have one now.
        touched: receipts with new stamps: their files have other times, and the same content.
        unknown: chunks whose files were known, and cannot be compared now.
    """

    def __init__(self, prepared: EncodePlan, listener: Listener) -> None:
        self._prepared, self._listener = prepared, listener
        # Longer than while chunks are encoded: without stamps, exchanged images are not noticed.
        self._stamps = Stamps(prepared.source, prepared.workflow.run.read_timeout)
        self._said, self._removed = set[str](), removed_rows(prepared.folder)
        self.others: dict[int, tuple[list[Row], Receipt]] = {}
        self.arrived: list[Row] = []
        self.touched: list[Receipt] = []
        self.unknown: list[int] = []

    def changed(self, receipt: Receipt, every: bool = False) -> str | None:
        """A clause that names other files; None if the images are those of before.

        Sizes and times of all files are compared, and the content where these differ.

        Args:
            every: compare the content of all images of the chunk.

        Raises:
            AccessRefused, TransportFailed, ReadStalled: an image cannot be read now.
        """
        source, run = self._prepared.source, self._prepared.workflow.run
        if not self._prepared.image_info.arrays:
            return None  # no picture was read
        rows = source.rows(receipt.start, receipt.stop)
        # An older version kept no stamps. If other images are to be encoded, they must be found all the same.
        if every or (not receipt.stamps and run.on_changed_images == "encode"):
            return self._compare_all(receipt, rows)
        now = self._stamps.of(rows)
        if receipt.stamps and not now:
            self.unknown.append(receipt.chunk)
        self.arrived.extend(new_rows(receipt.stamps, now, rows))

        others, stamps = exchanged(receipt, now, rows, self._read, self._removed)
        if others:
            self.others[receipt.chunk] = others, receipt
            return _clause(receipt, others)
        if stamps != receipt.stamps:
            self.touched.append(replace(receipt, stamps=stamps))
        return None

    def _compare_all(self, receipt: Receipt, rows: Sequence[Row]) -> str | None:
        deadly = {row.row for row in receipt.rejected if row.reason is Reason.KILLS_WORKER}  # would kill this process
        read = [row for row in rows if row.index not in deadly]
        if not any(row.usable for row in read) or inputs_digest(read, self._read) == receipt.inputs:
            return None
        others = self._others(receipt, read)
        if others and not (others := [row for row in others if not in_ranges(row.index, self._removed)]):
            return None  # no reader sees these rows
        self.others[receipt.chunk] = others, receipt
        return _clause(receipt, others)

    def _others(self, receipt: Receipt, rows: Sequence[Row]) -> list[Row]:
        """Which of these rows have another file than before, by their content; none if that cannot be found out."""
        width = len(digits(b""))
        if len(receipt.contents) == width * (receipt.stop - receipt.start):
            places = [width * (row.index - receipt.start) for row in rows]
            before = [receipt.contents[place : place + width] for place in places]
            return [row for row, old in zip(rows, before, strict=True) if row.usable and self._content(row) != old]
        missing = {row.row for row in receipt.rejected if row.reason is Reason.MISSING_FILE}  # an older receipt
        if inputs_digest((row for row in rows if row.index not in missing), self._read) != receipt.inputs:
            return []
        return [row for row in rows if row.index in missing and self._content(row) != digits(b"")]

    def _content(self, row: Row) -> str:
        try:
            return digits(hashlib.sha256(self._read(row)).digest())
        except RowRejected:
            return digits(b"")

    def _read(self, row: Row) -> bytes:
        run = self._prepared.workflow.run
        return fetched_patiently(self._prepared.source, row, run.transport_patience, self._tell, run.read_timeout)

    def refuse(self) -> None:
        """Refuse the images.

        Raises:
            FingerprintMismatch: always.
        """
        found = [self.others[chunk] for chunk in sorted(self.others)]
        if all(are_rejected(receipt, others) for others, receipt in found):
            reasons = {rejected_files(receipt)[row.index] for others, receipt in found for row in others}
            rows = [*(row for others, _ in found for row in others), *self.arrived]
            raise FingerprintMismatch(
                f"{_NOW_THERE if reasons == {Reason.MISSING_FILE} else _MENDED} ({names(rows)}). Their rows are still "
                f"rejected in {self._prepared.folder}, and nothing was changed. Set "
                f"run.retry_rejected=[{self._listed(reasons)}] to encode their chunks again; the others stay."
            )
        again = {r.reason for _, receipt in found for r in receipt.rejected if str(r.reason) in _OF_FILES}
        rows = [row for others, receipt in found for row in others if row.index not in rejected_files(receipt)]
        chunks = sorted(self.others)
        which = f"chunk {chunks[0]}" if len(chunks) == 1 else f"{len(chunks):,} chunks, the first of them {chunks[0]},"
        raise FingerprintMismatch(
            f"The images of {which} are not the images that the store in {self._prepared.folder} was made from"
            f"{f': {names(rows)}' if rows else ''}. The store was not changed. Put the original images back (images), "
            "set run.on_changed_images=encode to encode these chunks again, or encode into another run folder (out)."
            + (f" If rejected images were mended, set run.retry_rejected=[{self._listed(again)}]." if again else "")
        )

    def _listed(self, reasons: Iterable[Reason]) -> str:
        """These reasons and those that are set already, for `run.retry_rejected`."""
        return ", ".join(sorted({*map(str, reasons), *map(str, self._prepared.workflow.run.retry_rejected)}))

    def _tell(self, text: str, limit: float) -> None:
        if text and not self._said:
            self._said.add(text)
            self._listener(Note(f"{text}{f' for up to {duration(limit)}' if limit else ''}."))


def rejected_files(receipt: Receipt) -> dict[int, Reason]:
    """Row -> its reason, for rows that were rejected for their files. No array was made from these."""
    return {r.row: r.reason for r in receipt.rejected if str(r.reason) in _OF_FILES}


def are_rejected(receipt: Receipt, others: Sequence[Row]) -> bool:
    """Whether all these rows were rejected for their files; no if none is named."""
    return bool(others) and all(row.index in rejected_files(receipt) for row in others)


def _clause(receipt: Receipt, others: Sequence[Row]) -> str:
    named = f" ({names(others)})" if others else ""
    if are_rejected(receipt, others):
        return f"images whose rows were rejected are there now, or are others now{named}"
    return f"its images are others now{named}"


def _bounded_map(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], window: int) -> Any:
    """Like `pool.map`, but it takes items only when it needs them."""
    ahead: list[Any] = []
    for item in items:
        ahead.append(pool.submit(function, item))
        if len(ahead) >= window:
            yield ahead.pop(0).result()
    for future in ahead:
        yield future.result()
