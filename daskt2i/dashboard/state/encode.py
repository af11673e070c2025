"""The figures of an encode, folded from its messages.

Covers: totals, chunks by state, rates, time left, parts, workers, rejected rows, PSNR.
Does not cover: what all stages have (`run_state`), trainings (`train`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from daskt2i.dashboard.state.series import PSNR_EDGES, Series, figures_of, number, whole

MOST_WORKERS, MOST_REJECTED = 1000, 24

PSNR_MEANING = (
    "PSNR of checked pictures, after encoding and decoding them again. 25 to 40 dB is usual. Below the limit "
    "a chunk is refused: then the encoder is damaged, runs in a precision that is too low, or got wrong pixels."
)
"""What a bad PSNR means, for a person."""

IMAGE_IDS = 2**64
"""Above every id of an image: it is 63 bits of a hash where the data have none."""

_ENCODE_COUNTS = ("rows", "rows_before", "rows_done", "accepted", "captions", "truncated", "bytes", "chunks")


_WORKER_NUMBERS = ("at", "rate", "memory", "limit", "batch", "chunk", "chunks", "rows", "spilled", "threads")
_WORKER_TEXTS = ("engine", "last", "name")


def worker_figures(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a message tells of a worker; what is of another type is left out."""
    return figures_of(told, _WORKER_NUMBERS, _WORKER_TEXTS)


class EncodeFigures:
    """The newest encode.

    Attributes:
        rows, chunks: of the whole store. rows_per_chunk. rows_before, bytes_before: what was there when this encode
            began.
        rows_done, accepted, captions, truncated, bytes: of the whole store so far. rejected: reason -> rows.
        removed: rows that were removed since (`remove`); they are neither accepted nor rejected.
        chunk_states: `waiting`, `running` (with a worker, or next in line), `written`, `again` (failed, tried again),
            `failed` -> chunks.
        strip: a letter for each of at most 1,000 cells; see `series.Strip`.
        rates: (time, rows per second of all workers). rate: the newest, or None.
        eta: (seconds left, low, high), or None.
        rejected_series: (time, {reason: rows so far}).
        parts: part -> seconds of all workers together, in this encode: `load`, `wait` (for pictures), `encode_image`,
            `encode_text`, `gate`, `write`. `read` and `decode` are seconds of threads that work beside them.
        workers: `host:pid` -> `at` (time of the newest message), `rate` (rows per second), `memory` (largest so far,
            bytes), `limit` (bytes or None), `batch`, `engine`, `chunk`, `chunks`, `rows` (in this encode), `last` (a
            sentence), `name` and `threads` (as its scheduler knows them). workers_seen: number of workers that ended a
            chunk; more than are kept if it is above 1,000.
        worker_count, threads, memory_limit, device, precision, engine, batch: of this encode, at its start.
        newest_rejected: (row, reason, caption, thumbnail as data URI or "", detail, file), the newest last.
        psnr_edges: dB. psnr_counts: checked pictures in each class of this encode. psnr_lowest: dB or None.
            min_psnr: the limit, dB.
    """

    def _begin_encode(self) -> None:
        self.encode_begun: float | None = None
        self.encode_ended: float | None = None
        self.rows = self.rows_before = self.rows_done = self.accepted = self.captions = self.truncated = 0
        self.bytes = self.bytes_before = self.chunks = self.chunks_before = 0
        self.removed = 0
        self.rejected: dict[str, int] = {}
        self.chunk_states = dict.fromkeys(("waiting", "running", "written", "again", "failed"), 0)
        self.strip = ""
        self.rates, self.rejected_series = Series(), Series(most=200)
        self.rate: float | None = None
        self.eta: tuple[float, float, float] | None = None
        self.parts: dict[str, float] = {}
        self.workers: dict[str, dict[str, Any]] = {}
        self.workers_seen = self.worker_count = self.threads = self.batch = 0
        self.memory_limit: int | None = None
        self.device = self.precision = self.engine = self.dashboard = ""
        self.newest_rejected: deque[tuple[int, str, str, str, str, str]] = deque(maxlen=MOST_REJECTED)
        self.psnr_edges = PSNR_EDGES
        self.psnr_counts = [0] * (len(PSNR_EDGES) - 1)
        self.psnr_lowest: float | None = None
        self.min_psnr = 0.0

    def _hear_found(self, m: Mapping[str, Any], at: float) -> None:
        self._totals(m)
        self.rows_before, self.bytes_before = whole(m["rows_before"]), whole(m["bytes_before"])
        self.chunks_before = whole(m["chunks_before"])
        self.rejected_series.add(at, dict(self.rejected))

    def _hear_workers(self, m: Mapping[str, Any], at: float) -> None:
        self.worker_count, self.threads = whole(m["workers"]), whole(m["threads"])
        self.memory_limit = None if m.get("memory_limit") is None else whole(m["memory_limit"])
        self.dashboard = str(m.get("dashboard", ""))

    def _hear_model(self, m: Mapping[str, Any], at: float) -> None:
        self.device, self.precision, self.engine = str(m["device"]), str(m["precision"]), str(m["engine"])
        self.batch, self.min_psnr = whole(m["batch"]), number(m["min_psnr"])

    def _hear_chunks(self, m: Mapping[str, Any], at: float) -> None:
        self.waiting = ""
        self._totals(m)
        if "rate" in m:
            self.rate = number(m["rate"])
            self.rates.add(at, self.rate)
            left, low, high = map(number, m["eta"]) if "eta" in m else (None, None, None)
            self.eta = None if left is None or low is None or high is None else (left, low, high)
        self.parts = {str(k): number(v) for k, v in m["parts"].items()}
        for name, told in m["workers"].items():
            self._fold_worker(str(name), told)
        self.workers_seen = whole(m["workers_seen"])
        psnr = m["psnr"]
        counts = [whole(one) for one in psnr["counts"]][: len(self.psnr_counts)]
        self.psnr_counts = counts + [0] * (len(self.psnr_counts) - len(counts))
        self.psnr_lowest = None if psnr.get("lowest") is None else number(psnr["lowest"])
        for one in m["newest"]:
            self._reject(one)
        if self.rejected:
            self.rejected_series.add(at, dict(self.rejected))

    def _totals(self, m: Mapping[str, Any]) -> None:
        for name in _ENCODE_COUNTS:
            if name in m and name != "rows_before":
                setattr(self, name, whole(m[name]))
        self.rejected = {str(k): whole(v) for k, v in m["rejected"].items()}
        self.chunk_states = {name: whole(m["states"].get(name, 0)) for name in self.chunk_states}
        self.strip = str(m["strip"])

    def _fold_worker(self, name: str, told: Mapping[str, Any]) -> None:
        before = self.workers.pop(name, {})  # the newest is last
        self.workers[name] = {"limit": self.memory_limit, **before, **worker_figures(told)}
        while len(self.workers) > MOST_WORKERS:
            del self.workers[next(iter(self.workers))]

    def hear_receipt(self, worker: str, chunk: int, rows: int, rate: float, memory: int) -> None:
        """Count a chunk of a worker that no message told of. `rate` is rows per second, `memory` bytes."""
        before = self.workers.get(worker, {})
        chunks, all_rows = before.get("chunks", 0) + 1, before.get("rows", 0) + rows
        told = {"chunk": chunk, "chunks": chunks, "rows": all_rows, "rate": rate, "memory": memory, "last": ""}
        self._fold_worker(worker, told)

    def _reject(self, one: Mapping[str, Any]) -> None:
        name = str(one.get("file", "")) or (f"image {whole(one['image'], IMAGE_IDS)}" if "image" in one else "")
        texts = (str(one[field]) for field in ("reason", "caption", "thumbnail", "detail"))
        reason, caption, thumbnail, detail = texts
        found = (whole(one["row"]), reason, caption, thumbnail, detail, name)
        for place, known in enumerate(self.newest_rejected):
            if known[0] == found[0]:
                self.newest_rejected[place] = found
                return
        self.newest_rejected.append(found)
