"""How an encode ended: the totals of a run.

Covers: counting receipts, the object that `encode --json` prints.
Does not cover: what a run tells while it goes on (`events`), showing totals (`display.encode`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from daskt2i.estimate.forecast import ForecastComparison
from daskt2i.types import Receipt


@dataclass(slots=True)
class EncodeResult:
    """How a run ended. `to_json` has the fields that other programs read.

    Attributes:
        accepted, rejected, captions, truncated, bytes: of the whole store, chunks of earlier runs included.
        done, skipped: chunks encoded now, and found done; `failed`: chunks that did not succeed.
        left_out: rows of the source that `dataset.where` leaves out, none of `rows`; None without a `where`.
        rows_now, seconds: accepted rows of this run, and its wall time.
        forecast: what an estimate had said, beside what came of it; None without one.
    """

    out: str
    store: str
    rows: int
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    captions: int = 0
    truncated: int = 0
    bytes: int = 0
    done: int = 0
    skipped: int = 0
    failed: list[int] = field(default_factory=list)
    rows_now: int = 0
    seconds: float = 0.0
    workers: int = 0
    threads: int = 0
    precision: str = ""
    left_out: int | None = None
    forecast: ForecastComparison | None = None

    def add(self, receipt: Receipt) -> None:
        """Count a chunk that is in the store."""
        self.accepted += receipt.accepted
        self.rejected.update(str(r.reason) for r in receipt.rejected)
        self.captions += receipt.captions
        self.truncated += receipt.truncated
        self.bytes += sum(s.size for s in receipt.shards)

    @property
    def images_per_second(self) -> float:
        """Accepted rows of this run per second of wall time."""
        return self.rows_now / self.seconds if self.seconds else 0.0

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
        }
