"""What is told of a run: events of stages become messages, JSON objects of bounded size.

    {"v": 1, "run": "3f…", "stage": "encode", "kind": "chunks", "at": 1790000000.0, "done": 40, "accepted": 2551, …}

| kind | what it says |
|---|---|
| `begin` | a stage began: run folder, units in all |
| `found`, `workers`, `model`, `estimate` | what an encode finds, on which workers it runs, how, and what was forecast |
| `chunks` | totals of the encode so far, workers that ended a chunk, newest rejected rows |
| `ranks`, `started`, `step`, `heldout`, `checkpoint`, `pulse`, `picture` | a training |
| `count` | progress of another kind of work, such as pictures drawn |
| `note`, `activity`, `waiting`, `moving` | a sentence for a person |
| `alive` | the process that tells is there, but nothing happened; only a scheduler hears it |
| `end` | the stage ended: well, or with an error |
| `state` | a whole `RunState`, in place of all messages before it |

Every `chunks` message has the totals of the whole store, so a reader who missed messages is right after the next one.
Messages come about once a second, whatever the number of chunks.

Covers: events as messages; their size; hidden secrets.
Does not cover: what is known from all messages together (`run_state`), where they go (`listener`).
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

from daskt2i.dashboard.state.series import Histogram, Strip
from daskt2i.display.rate import RecentRate
from daskt2i.errors import sentence
from daskt2i.events import (
    Activity,
    ChunkDone,
    ChunkFailed,
    ChunkSent,
    ChunksFound,
    Event,
    LaunchEvent,
    ModelReady,
    Moving,
    Note,
    Progress,
    StageEnded,
    StageStarted,
    Waiting,
    WorkersReady,
)
from daskt2i.formatting import duration, many, waiting_words
from daskt2i.redact import without_secret
from daskt2i.types import Receipt

VERSION = 1
"""Version of the messages. It changes when a field gets another meaning; new fields and kinds do not change it."""

TOPICS = {
    "encode": "daskt2i-encode",
    "train": "daskt2i-train",
    "train-vae": "daskt2i-train",
    "sample": "daskt2i-sample",
    "evaluate": "daskt2i-sample",
    "insights": "daskt2i-insights",
}
"""Stage -> topic of Dask's event log."""

PAUSE, PULSE_PAUSE = 1.0, 5.0
"""Seconds between two messages about chunks, or about one count; and about what ranks need."""

MOST_TEXT, MOST_WORKERS, MOST_REJECTED, MOST_PICTURE, MOST_THUMBNAIL = 300, 100, 5, 65_536, 8_192
"""Limits of a message: characters of a sentence, workers, rejected rows, characters of a picture and a thumbnail."""

_RANGE_SECONDS = 120.0
"""The range of the time left comes from the rates of so many seconds."""

PARTS = ("load", "wait", "read", "decode", "encode_image", "encode_text", "gate", "write")

Message = dict[str, Any]


class Messages:
    """Makes the messages of one run folder. Stages follow each other.

    Args:
        run: identifies the run among others on a cluster.
        out: the run folder, for a person.
        clock: seconds since 1970.
        watch: seconds of a monotonic clock.
    """

    def __init__(
        self, run: str, out: str, clock: Callable[[], float] = time.time, watch: Callable[[], float] = time.monotonic
    ) -> None:
        self.run, self.out, self.stage = run, without_secret(out), ""
        self._clock, self._watch = clock, watch
        self._ahead = clock() - watch()
        self._encode: _EncodeTally | None = None
        self._due: dict[str, float] = {}
        self._counts: dict[str, Progress] = {}
        self._pulses: dict[int, Message] = {}
        self._steps, self._batch = RecentRate(), 1
        self._step: int | None = None

    def begin(self, stage: str, total: int = 0, batch: int = 1) -> list[Message]:
        """A stage begins. Encode and training tell it by their events."""
        self.stage, self._due, self._counts, self._pulses = stage, {}, {}, {}
        self._ahead = self._clock() - self._watch()
        self._batch = batch
        if stage == "encode":
            self._encode = _EncodeTally(total)
        label = self.out.rstrip("/").rpartition("/")[2]
        return [self._message("begin", out=_short(self.out), label=_short(label), total=total, batch=batch)]

    def end(self, error: BaseException | None = None) -> list[Message]:
        """The stage ends: with what was not told yet, and its error."""
        said = "" if error is None else _short(sentence(error))
        stopped = isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Interrupted"
        how = "done" if error is None else "stopped" if stopped else "failed"
        return [*self.flush(), *self._told_pulses(), self._message("end", how=how, error=said)]

    def hear(self, event: Event) -> list[Message]:
        """The messages that an event makes due now."""
        now = self._watch()
        if isinstance(event, StageStarted):
            return self.begin(event.stage, event.total, event.batch)
        if isinstance(event, StageEnded):
            return self.end(event.error)
        if isinstance(event, Note):
            return [self._message("note", text=_short(event.text))]
        if isinstance(event, Activity):
            return [self._message("activity", text=_short(without_secret(event.text)))]
        if isinstance(event, Waiting):
            text = waiting_words(event.what, event.where, event.seconds, event.limit, event.chunk)
            return [self._message("waiting", text=_short(without_secret(text)))]
        if isinstance(event, Moving):
            return [self._message("moving")]
        if isinstance(event, Progress):
            self._counts[event.what] = event
            if not self._is_due(f"count {event.what}", now) and event.done < event.total:
                return []
            return self._told_counts()
        if isinstance(event, LaunchEvent):
            return self._launch(event)
        return self._of_encode(event, now)

    def flush(self) -> list[Message]:
        """What was not told yet, because messages come only so often."""
        found = self._told_counts()
        if self._pulses and self._is_due("pulse", self._watch(), PULSE_PAUSE):
            found += self._told_pulses()
        if self._encode is not None and self.stage == "encode" and self._encode.changed:
            found.append(self._message("chunks", **self._encode.take(self._watch())))
        return found

    def alive(self) -> Message:
        """Nothing happened, but this process is there."""
        return self._message("alive")

    def estimate(self, figures: Mapping[str, Any]) -> list[Message]:
        """What an earlier estimate forecast: see `RunState.estimate`."""
        return [self._message("estimate", **figures)] if figures else []

    def picture(self, step: int, caption: str, data: str) -> list[Message]:
        """A picture of the training as a data URI. One that is too large is left out."""
        if not data or len(data) > MOST_PICTURE:
            return []
        return [self._message("picture", step=step, caption=_short(caption), data=data)]

    def thumbnail(self, row: int, caption: str, data: str, file: str = "") -> None:
        """Caption, small picture and file name of a rejected row, for the next message about chunks."""
        if self._encode is not None:
            picture = data if len(data) <= MOST_THUMBNAIL else ""
            self._encode.illustrate(row, _short(caption), picture, _short(without_secret(file)))

    def _message(self, kind: str, **fields: Any) -> Message:
        head = {"v": VERSION, "run": self.run, "stage": self.stage, "kind": kind, "at": round(self._now(), 3)}
        return {**head, **fields}

    def _now(self) -> float:
        """Seconds since 1970. Within a stage they never go back, also if the clock is set back."""
        told = self._watch() + self._ahead
        if self._clock() > told + 1.0:  # it was set forward, or the machine slept
            self._ahead = self._clock() - self._watch()
        return self._watch() + self._ahead

    def _is_due(self, what: str, now: float, pause: float = PAUSE) -> bool:
        if now < self._due.get(what, -math.inf):
            return False
        self._due[what] = now + pause
        return True

    def _told_pulses(self) -> list[Message]:
        pulses, self._pulses = self._pulses, {}
        return [self._message("pulse", ranks={str(rank): one for rank, one in pulses.items()})] if pulses else []

    def _told_counts(self) -> list[Message]:
        counts, self._counts = self._counts, {}
        return [
            self._message("count", what=_short(one.what), done=one.done, total=one.total) for one in counts.values()
        ]

    def _of_encode(self, event: Event, now: float) -> list[Message]:
        tally = self._encode
        if tally is None or self.stage != "encode":
            return []
        if isinstance(event, ChunksFound):
            return [self._message("found", **tally.found(event))]
        if isinstance(event, WorkersReady):
            info = event.executor_info
            tally.begin(info.workers, now)
            about = {"workers": info.workers, "threads": info.threads, "memory_limit": info.memory_limit}
            return [self._message("workers", **about, dashboard=_short(without_secret(info.dashboard)))]
        if isinstance(event, ModelReady):
            runtime = event.runtime
            tally.engine = runtime.engine
            model: Message = {"device": runtime.device, "precision": runtime.precision, "engine": runtime.engine}
            return [self._message("model", **model, batch=event.batch, min_psnr=event.min_psnr)]
        if isinstance(event, ChunkSent):
            tally.strip.put(event.chunk, Strip.RUNNING)
            tally.changed = True
        elif isinstance(event, ChunkDone):
            tally.done(event.receipt, now, self._now())
        elif isinstance(event, ChunkFailed):
            text = f"chunk {event.chunk} failed: {_short(sentence(event.error))}"
            tally.failed(event, now, self._now(), text)
            return [self._message("note", text=_short(text)), *self.flush()]
        if tally.changed and self._is_due("chunks", now):
            return [self._message("chunks", **tally.take(now))]
        return []

    def _launch(self, event: LaunchEvent) -> list[Message]:
        kind, rank = event.kind, event.rank
        if kind in ("note", "failed", "fewer"):
            return [self._message("note", text=_short(str(event.get("text", ""))))]
        if kind in ("waiting", "moving"):
            return [self._message(kind, text=_short(str(event.get("text", ""))))]
        if kind == "skipped":
            text = f"row {event.get('row')} cannot be used ({event.get('reason')}): {event.get('detail')}"
            return [self._message("note", text=_short(without_secret(text)))]
        if kind == "attempt":
            places = [_short(str(one)) for one in event.get("places", ())][:MOST_WORKERS]
            return [self._message("ranks", attempt=event.attempt, ranks=event.get("ranks", 0), places=places)]
        if kind == "started" or (kind in ("step", "heldout", "checkpoint") and event.get("step") is not None):
            figures = {name: _plain(value) for name, value in event.fields.items() if name != "text"}
            if kind in ("started", "step"):
                figures["recent"] = self._recent(kind, event["step"])
            return [self._message(kind, **{k: v for k, v in figures.items() if v is not None})]
        if kind == "pulse" and rank is not None and (rank in self._pulses or len(self._pulses) < MOST_WORKERS):
            names = ("step", "doing", "memory", "cpu", "silent", "host", "pid", "shares")
            figures = {name: _plain(event.get(name)) for name in names}
            self._pulses[rank] = {k: v for k, v in figures.items() if v is not None}
            return self._told_pulses() if self._is_due("pulse", self._watch(), PULSE_PAUSE) else []
        return []

    def _recent(self, kind: str, step: Any) -> float | None:
        """Samples per second of all ranks in the last minute; None while it is not known."""
        now = self._watch()
        if kind == "started" or not isinstance(step, int):
            self._steps, self._step = RecentRate(), None
        if isinstance(step, int) and kind == "step":  # the first one only starts the clock: it also compiles
            self._steps.add(now, 0 if self._step is None else (step - self._step) * self._batch)
            self._step = step
        rate = self._steps.per_second(now)
        return None if rate is None else round(rate, 4)


class _EncodeTally:
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

    def done(self, receipt: Receipt, now: float, at: float) -> None:
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
            about = {"row": one.row, "image": one.image_id, "reason": str(one.reason), "detail": _short(one.detail)}
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
            self.workers[worker] = {**self.workers.get(worker, {}), **about, "last": _short(text)}
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


def _plain(value: Any) -> Any:
    """A JSON value of bounded size, or None: numbers, short texts, and flat objects of numbers."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None  # as in metrics.jsonl
    if isinstance(value, str):
        return _short(without_secret(value))
    if isinstance(value, Mapping):
        inner = {str(k): v for k, v in list(value.items())[:20] if isinstance(v, int | float)}
        return {k: v for k, v in inner.items() if math.isfinite(v)}
    return None


def _short(text: str) -> str:
    """One line of at most `MOST_TEXT` characters that can be written as UTF-8."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= MOST_TEXT else line[: MOST_TEXT - 2] + " …"
