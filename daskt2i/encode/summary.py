"""The result of an encode: the totals of a run.

Covers: counting receipts, failed chunks, the JSON of `encode --json`, the view.
Does not cover: events during the run (`events`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from daskt2i.encode.shapes.words import bucket_lines
from daskt2i.errors import SourceError, StoreError
from daskt2i.estimate.forecast import ForecastComparison
from daskt2i.facts.bucketed import Bucket
from daskt2i.formatting import counted, duration, many, off_words, size, workers_words
from daskt2i.types import Receipt
from daskt2i.view import Section, View, Viewed

ERRORS = "errors"
"""The folder of tracebacks inside the run folder, one file for each failed chunk."""


@dataclass(frozen=True, slots=True, repr=False)
class EncodeResult(Viewed):
    """The result of an encode. `to_json` has the fields that other programs read.

    Attributes:
        out, store: addresses of the run folder and of its store.
        rows: rows of the store. `accepted`, `rejected` (reason -> rows), `captions`, `truncated` captions and `bytes`
            count the whole store, including chunks of earlier runs.
        done, skipped: chunks that this run encoded, and chunks that were finished before.
        failed: chunk -> the error of its last try; `tries`: how often each failed chunk was tried.
        left_out: rows of the source that `dataset.where` leaves out; they are not in `rows`. None without a `where`.
        rows_now, seconds: accepted rows of this run, and its wall time.
        min_accepted: share of the rows below which a run is no success (`run.min_accepted`).
        workers, threads, precision: of this run, at its start; 0 workers and threads if nothing was left to do. Workers
            that were left out are not counted. threads: of the worker with the fewest.
        most_threads: threads of the worker with the most, if each uses its own number; else 0.
        processes: worker processes that encoded a chunk in this run. They are more than `workers` if a worker was
            replaced, or joined later.
        forecast: comparison of an earlier estimate with this run; None without an estimate.
        details: reason -> number of the first row that was rejected for it with a detail, and the detail.
        buckets: the aspect buckets of the rows; none for squares.
    """

    out: str
    store: str
    rows: int
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    captions: int = 0
    truncated: int = 0
    bytes: int = 0
    done: int = 0
    skipped: int = 0
    failed: Mapping[int, str] = field(default_factory=dict)
    tries: int = 1
    rows_now: int = 0
    min_accepted: float = 0.0
    seconds: float = 0.0
    workers: int = 0
    threads: int = 0
    most_threads: int = 0
    processes: int = 0
    precision: str = ""
    left_out: int | None = None
    forecast: ForecastComparison | None = None
    details: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    buckets: tuple[Bucket, ...] = ()

    def with_chunk(self, receipt: Receipt, *, now: bool) -> EncodeResult:
        """The result with one more finished chunk.

        Args:
            now: True if this run encoded it, False if it was finished before.
        """
        rejected, details = dict(self.rejected), dict(self.details)
        for row in receipt.rejected:
            rejected[str(row.reason)] = rejected.get(str(row.reason), 0) + 1
            if row.detail:
                one = (row.row, row.detail)
                details[str(row.reason)] = min(one, details.get(str(row.reason), one))
        return replace(
            self,
            accepted=self.accepted + receipt.accepted,
            rejected=rejected,
            details=details,
            captions=self.captions + receipt.captions,
            truncated=self.truncated + receipt.truncated,
            bytes=self.bytes + sum(shard.size for shard in receipt.shards),
            done=self.done + now,
            skipped=self.skipped + (not now),
            rows_now=self.rows_now + (receipt.accepted if now else 0),
        )

    @property
    def images_per_second(self) -> float:
        """Accepted rows of this run per second of wall time."""
        return self.rows_now / self.seconds if self.seconds else 0.0

    def raise_for_failed(self) -> EncodeResult:
        """Raise an error if chunks failed or too few rows were accepted; else return the result.

        Raises:
            StoreError: chunks failed; it names the chunks and the folder of their tracebacks.
            SourceError: no row, or fewer than `min_accepted`, was accepted; it names the commonest reasons. The store
                is valid, and holds what was accepted.
        """
        if not self.failed:
            if self.too_few and not self.accepted:
                raise SourceError(
                    f"{self.too_few} The store {self.store} is valid, and has no pictures. Correct the images "
                    "or the captions, then encode into another run folder (images, captions, out)."
                )
            if self.too_few:
                raise SourceError(
                    f"{self.too_few} The store {self.store} is valid, and holds what was accepted. Correct the images "
                    "or the captions and encode into another run folder (images, captions, out), or say that so few "
                    "are enough: run.min_accepted=0."
                )
            return self
        count = len(self.failed)
        listed = ", ".join(map(str, list(self.failed)[:20])) + ", …" * (count > 20)
        raise StoreError(
            f"{count} chunk{'s' * (count != 1)} failed after {tries(self.tries)}: {listed}. All others are in "
            f"{self.store}; the tracebacks are in {self.out}/{ERRORS}. Encode again: it tries only these chunks."
        )

    @property
    def too_few(self) -> str:
        """A sentence with the commonest reasons if too few rows were accepted; "" if not, or if chunks failed."""
        if self.failed or not self.rows or (self.accepted and self.accepted >= self.min_accepted * self.rows):
            return ""
        commonest = sorted(self.rejected.items(), key=lambda pair: (-pair[1], pair[0]))[:3]
        reasons = [
            f"{count:,} {reason}"
            + (" (row {}: {:.200})".format(*self.details[reason]) if reason in self.details else "")
            for reason, count in commonest
        ]
        count = f"Only {self.accepted:,}" if self.accepted else "Not one"
        was = "were" if self.accepted > 1 else "was"
        return f"{count} of {many(self.rows, 'row')} {was} accepted: {'; '.join(reasons)}."

    def to_json(self) -> dict[str, Any]:
        """The object that `encode --json` prints."""
        return {
            "out": self.out,
            "store": self.store,
            "rows": self.rows,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "captions": self.captions,
            "chunks": {"done": self.done, "skipped": self.skipped, "failed": len(self.failed)},
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 3),
            "bytes": self.bytes,
            "workers": self.workers,
            "threads": self.threads,
            "precision": self.precision,
            **({} if self.left_out is None else {"left_out": self.left_out}),
            **({} if self.forecast is None else {"forecast": self.forecast.to_json()}),
            **({"buckets": [one.to_json() for one in self.buckets]} if self.buckets else {}),
        }

    def view(self) -> View:
        """Rows, chunks, speed and the address of the store; failures first."""
        total = sum(self.rejected.values())
        why = f" ({counted(self.rejected)})" if total else ""
        rows = [("rows", f"{self.rows:,}: {self.accepted:,} accepted, {total:,} rejected{why}")]
        if self.left_out is not None:
            rows.append(("left out", f"{many(self.left_out, 'row')}, by dataset.where"))
        cut = f", {self.truncated:,} cut to length" if self.truncated else ""
        rows.append(("captions", f"{self.captions:,}{cut}"))
        rows.append(("chunks", f"{self.done:,} encoded now, {self.skipped:,} found done, {len(self.failed):,} failed"))
        if self.rows_now:
            workers = workers_words(self.workers, self.threads, self.most_threads)
            if self.processes > self.workers:
                workers += f" at the start, {self.processes:,} processes encoded chunks"
            how = f"{duration(self.seconds)} with start and loading; {workers}, {self.precision}"
            rows.append(("speed", f"{self.images_per_second:.1f} images/s ({how})"))
        if self.forecast is not None:
            rows.append(("forecast", _forecast_words(self.forecast)))
        rows += bucket_lines(self.buckets)
        rows.append(("store", f"{self.store} ({size(self.bytes)})"))
        reasons = tuple((reason, f"{count:,}") for reason, count in sorted(self.rejected.items()))
        return View(
            "Encoded in part" if self.failed else "Encoded",
            tuple(rows),
            failures=(
                *(f"chunk {chunk} failed after {tries(self.tries)}: {why}" for chunk, why in self.failed.items()),
                *([self.too_few] if self.too_few else []),
            ),
            sections=(Section("Rejected rows by reason", reasons),) if reasons else (),
        )


def together(results: Sequence[EncodeResult]) -> EncodeResult:
    """The results of several encodes that ended well as one.

    Args:
        results: those of the stores of a run folder; `out` is that of the first.
    """
    rejected = Counter[str]()
    for one in results:
        rejected.update(one.rejected)
    sums = ("rows", "accepted", "captions", "truncated", "bytes", "done", "skipped", "rows_now", "seconds")
    summed: dict[str, Any] = {name: sum(getattr(one, name) for one in results) for name in sums}
    busiest = max(results, key=lambda one: one.workers)
    summed |= {name: getattr(busiest, name) for name in ("workers", "threads", "most_threads", "processes")}
    return results[0] if len(results) == 1 else replace(results[0], rejected=rejected, **summed)


def tries(count: int) -> str:
    """`"3 tries"`."""
    return f"{count} {'try' if count == 1 else 'tries'}"


def _forecast_words(found: ForecastComparison) -> str:
    """The error of a forecast: `"52.1 s was forecast, it took 50.0 s: 4 % too long"`."""
    if found.forecast is None or found.error is None:
        return f"reports/estimate.json was not compared: {found.reason}"
    off = off_words(found.forecast, found.seconds)
    because = f" (scaled: {found.reason})" if found.reason else ""
    return f"{duration(found.forecast)} was forecast, it took {duration(found.seconds)}: {off}{because}"
