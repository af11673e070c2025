"""The running totals of an encode, which each of its messages has.

Covers: rows, chunks by state, rejected rows, rates and the time left, workers, from events.
Does not cover: when a message is sent (`messages`), what a reader makes of it (`run_state`).
"""

from __future__ import annotations

from collections import Counter, deque

from daskt2i.dashboard.bounds import MOST_REJECTED, MOST_WORKERS, PAUSE, Message, short
from daskt2i.dashboard.state.series import Histogram, Strip
from daskt2i.display.rate import RecentRate
from daskt2i.events import ChunkDone, ChunkFailed, ChunksFound
from daskt2i.formatting import duration, many

_RANGE_SECONDS = 120.0
"""The range of the time left comes from the rates of so many seconds."""

PARTS = ("load", "wait", "read", "decode", "encode_image", "encode_text", "gate", "write")


class EncodeTally:
    """The running totals of an encode."""

    def __init__(self, rows: int) -> None:
        self.rows, self.strip, self.changed, self.engine = rows, Strip(b""), False, ""
        self.chunk_rows = 0
        self.totals = Counter[str]()
        self.rejected = Counter[str]()
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.psnr = Histogram()
        self.workers: dict[str, Message] = {}
        self.ended: dict[str, tuple[int, int]] = {}  # worker -> its chunks and rows
        self.newest: deque[Message] = deque(maxlen=MOST_REJECTED)
        self.rate = RecentRate()
        self.count, self.began = 1, False
        self.rates: deque[tuple[float, float]] = deque(maxlen=int(_RANGE_SECONDS / PAUSE))

    def found(self, event: ChunksFound) -> Message:
        self.rows, self.strip, self.chunk_rows = event.rows, Strip(event.done), event.rows_per_chunk
        self.rejected = Counter(event.rejected)
        done = self.strip.counts[Strip.WRITTEN]
        rows = event.accepted + sum(event.rejected.values())
        self.totals = Counter(
            rows_done=rows,
            accepted=event.accepted,
            captions=event.captions,
            truncated=event.truncated,
            bytes=event.stored_bytes,
        )
        before = {"rows_before": rows, "chunks_before": done, "bytes_before": event.stored_bytes}
        return {**before, "rows": event.rows, "chunks": event.chunks, **self._said()}

    def begin(self, workers: int, now: float) -> None:
        self.count = max(1, workers)

    def sent(self, chunk: int) -> None:
        self.strip.put(chunk, Strip.RUNNING)
        self.changed = True

    def done(self, event: ChunkDone, now: float, at: float) -> None:
        receipt = event.receipt
        rows, seconds = receipt.stop - receipt.start, receipt.seconds
        self.strip.put(receipt.chunk, Strip.WRITTEN)
        self.totals.update(
            rows_done=rows,
            accepted=receipt.accepted,
            captions=receipt.captions,
            truncated=receipt.truncated,
            bytes=sum(shard.size for shard in receipt.shards),
        )
        self.rejected.update(str(one.reason) for one in receipt.rejected)
        for one in receipt.rejected[:MOST_REJECTED]:
            about = {"row": one.row, "image": one.image_id, "reason": str(one.reason), "detail": short(one.detail)}
            self.newest.append({**about, "file": "", "caption": "", "thumbnail": ""})
        for part in PARTS:
            self.parts[part] += seconds.get(part, 0.0)
        self.psnr.add(receipt.psnr)
        work = seconds.get("total", 0.0) - seconds.get("load", 0.0)
        if not self.began:
            self.began = True
            chunks = -(-(self.rows - self.totals["rows_done"] + rows) // max(1, rows))
            self.rate = RecentRate(max(1, min(self.count, chunks)))
        self.rate.add(now, rows, work)
        self._note_rate(now)
        chunks, before_rows = self.ended.get(receipt.worker, (0, 0))
        self.ended[receipt.worker] = chunks + 1, before_rows + rows
        self.workers[receipt.worker] = {
            "at": round(at, 3),
            "rate": round(rows / work, 3) if work > 0 else 0.0,
            "memory": receipt.peak_bytes,
            "batch": receipt.batch,
            "engine": self.engine,
            **({"name": short(event.name)} if event.name else {}),
            **({"threads": event.threads} if event.threads else {}),
            "chunk": receipt.chunk,
            "chunks": chunks + 1,
            "rows": before_rows + rows,
            "last": f"chunk {receipt.chunk}: {many(rows, 'row')} in {duration(seconds.get('total', 0.0))}",
        }
        self.changed = True

    def failed(self, event: ChunkFailed, now: float, at: float, text: str) -> None:
        self.rate.add(now, 0)
        self._note_rate(now)
        self.strip.put(event.chunk, Strip.FAILED if event.final else Strip.AGAIN)
        worker = str(getattr(event.error, "worker", ""))
        if worker:
            chunks, rows = self.ended.setdefault(worker, (0, 0))
            about = {"at": round(at, 3), "chunk": event.chunk, "chunks": chunks, "rows": rows}
            self.workers[worker] = {**self.workers.get(worker, {}), **about, "last": short(text)}
        self.changed = True

    def illustrate(self, row: int, caption: str, data: str, file: str) -> None:
        for one in self.newest:
            if one["row"] == row:
                one.update(caption=caption, thumbnail=data, file=file)
                self.changed = True
                return

    def take(self, now: float) -> Message:
        """The fields of a message. Workers and rejected rows are told once."""
        workers = dict(list(self.workers.items())[-MOST_WORKERS:])
        self.workers, self.changed = {}, False
        newest = [dict(one) for one in self.newest]
        told = {**self._said(), **self._speed(now), "workers": workers, "workers_seen": len(self.ended)}
        parts = {name: round(value, 3) for name, value in self.parts.items()}
        return {**told, "parts": parts, "psnr": self._psnr(), "newest": newest}

    def _said(self) -> Message:
        return {
            **self.totals,
            "rejected": dict(self.rejected),
            "states": self.strip.by_name(),
            "strip": self.strip.letters(),
        }

    def _psnr(self) -> Message:
        """Counts up to the last one that is not 0."""
        counts = list(self.psnr.counts)
        while counts and not counts[-1]:
            counts.pop()
        return {"counts": counts, "lowest": self.psnr.lowest}

    def _note_rate(self, now: float) -> None:
        rate = self.rate.per_second(now)
        if rate and (not self.rates or now >= self.rates[-1][0] + PAUSE):
            self.rates.append((now, rate))

    def _speed(self, now: float) -> Message:
        rate, left = self.rate.per_second(now), self.rate.seconds_left(now, self.rows - self.totals["rows_done"])
        if rate is None:
            return {}
        if left is None:
            return {"rate": round(rate, 4)}
        recent = [one for when, one in self.rates if when >= now - _RANGE_SECONDS] or [rate]
        slow, fast = min(*recent, rate) if len(recent) > 1 else 0.8 * rate, max(*recent, rate)
        low, high = left * rate / max(fast, 1.05 * rate), left * rate / min(slow, 0.95 * rate)
        return {"rate": round(rate, 4), "eta": [round(left, 1), round(low, 1), round(high, 1)]}
