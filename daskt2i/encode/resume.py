"""What an earlier run has finished: chunks whose receipts and shards are intact, and whose images are the same.

Covers: finding these chunks; comparing the images of one of them.
Does not cover: shards and receipts themselves (`store`), encoding the other chunks (`driver`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.read_ahead import inputs_digest
from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import FingerprintMismatch, Reason
from daskt2i.events import Listener, Note
from daskt2i.faults.kinds import is_old_refusal
from daskt2i.formatting import duration
from daskt2i.store.receipts import Receipts
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt

_OF_FILES = {str(Reason.MISSING_FILE), str(Reason.UNREADABLE_IMAGE)}
"""Reasons to reject a row that end when its file is mended."""

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
        FingerprintMismatch: the images are not those that the store was made from.
    """
    run = prepared.workflow.run
    deep = run.verify_on_resume == "hash" or (run.verify_on_resume == "auto" and prepared.folder.is_local)
    store = ZarrStore(prepared.folder)
    done = bytearray(len(prepared.grid))
    valid = set[int]()

    def examine(receipt: Receipt) -> tuple[Receipt, str | None]:
        if receipt.fingerprint != fingerprint:
            return receipt, "its receipt belongs to another fingerprint"
        if receipt.chunk >= len(done) or prepared.grid[receipt.chunk].stop != receipt.stop:
            return receipt, "its receipt does not match the plan"
        if again := {r.reason for r in receipt.rejected}.intersection(run.retry_rejected):
            if store.check(receipt.shards, deep) is None:
                valid.add(receipt.chunk)
            return receipt, f"run.retry_rejected asks for rows rejected as {', '.join(sorted(again))}"
        if any(is_old_refusal(r.reason, r.detail) for r in receipt.rejected):
            valid.add(receipt.chunk)
            return receipt, "an older version rejected rows because access to them was refused"
        return receipt, store.check(receipt.shards, deep)

    def torn(name: str, why: str) -> None:
        listener(Note(f"{name} is ignored: {why}."))

    with ThreadPoolExecutor(4, thread_name_prefix="daskt2i-check") as pool:
        told = perf_counter()
        for receipt, problem in _bounded_map(pool, examine, Receipts(prepared.folder).read(torn), 16):
            if problem:
                listener(Note(f"Chunk {receipt.chunk} is encoded again: {problem}."))
                continue
            if result.skipped == 0:
                _compare_inputs(prepared, receipt, listener)
            done[receipt.chunk] = 1
            result = result.with_chunk(receipt, now=False)
            if perf_counter() - told > CHECK_SECONDS:
                told = perf_counter()
                listener(Note(f"{result.skipped:,} finished chunks checked; the store has {len(done):,} chunks."))
    return done, valid, result


def _compare_inputs(prepared: EncodePlan, receipt: Receipt, listener: Listener) -> None:
    """Read the images of one finished chunk again: the folder may hold other pictures with the same names."""
    deadly = {row.row for row in receipt.rejected if row.reason is Reason.KILLS_WORKER}  # they would kill this process
    rows = [row for row in prepared.source.rows(receipt.start, receipt.stop) if row.index not in deadly]
    seconds, said = prepared.workflow.run.transport_patience, set[str]()

    def tell(text: str) -> None:
        if text and not said:
            said.add(text)
            listener(Note(f"{text} for up to {duration(seconds)}."))

    if inputs_digest(prepared.source, rows, seconds, tell) != receipt.inputs and any(row.usable for row in rows):
        again = sorted({str(row.reason) for row in receipt.rejected} & _OF_FILES)
        listed = ", ".join(sorted({*again, *map(str, prepared.workflow.run.retry_rejected)}))
        raise FingerprintMismatch(
            f"The images of chunk {receipt.chunk} (rows {receipt.start} to {receipt.stop - 1}) are not the images "
            f"that the store in {prepared.folder} was made from. The store was not changed. Use the original "
            "images (images), or encode into another run folder (out)."
            + (f" If rejected images were mended since, set run.retry_rejected=[{listed}]." if again else "")
        )


def _bounded_map(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], window: int) -> Any:
    """Like `pool.map`, but it takes items only when it needs them."""
    ahead: list[Any] = []
    for item in items:
        ahead.append(pool.submit(function, item))
        if len(ahead) >= window:
            yield ahead.pop(0).result()
    for future in ahead:
        yield future.result()
