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

Covers: events as messages; hidden secrets.
Does not cover: their size (`bounds`), totals of an encode (`encode_tally`), what is known from all messages together
(`run_state`), where they go (`listener`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from daskt2i.dashboard.bounds import (
    MOST_PICTURE,
    MOST_THUMBNAIL,
    MOST_WORKERS,
    PAUSE,
    PULSE_PAUSE,
    Message,
    plain,
    short,
)
from daskt2i.dashboard.encode_tally import EncodeTally
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
from daskt2i.formatting import waiting_words
from daskt2i.redact import without_secret

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
        self._encode: EncodeTally | None = None
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
            self._encode = EncodeTally(total)
        label = self.out.rstrip("/").rpartition("/")[2]
        return [self._message("begin", out=short(self.out), label=short(label), total=total, batch=batch)]

    def end(self, error: BaseException | None = None) -> list[Message]:
        """The stage ends: with what was not told yet, and its error."""
        said = "" if error is None else short(sentence(error))
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
            return [self._message("note", text=short(event.text))]
        if isinstance(event, Activity):
            return [self._message("activity", text=short(without_secret(event.text)))]
        if isinstance(event, Waiting):
            text = waiting_words(event.what, event.where, event.seconds, event.limit, event.chunk)
            return [self._message("waiting", text=short(without_secret(text)))]
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
        return [self._message("picture", step=step, caption=short(caption), data=data)]

    def thumbnail(self, row: int, caption: str, data: str, file: str = "") -> None:
        """Caption, small picture and file name of a rejected row, for the next message about chunks."""
        if self._encode is not None:
            picture = data if len(data) <= MOST_THUMBNAIL else ""
            self._encode.illustrate(row, short(caption), picture, short(without_secret(file)))

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
        return [self._message("count", what=short(one.what), done=one.done, total=one.total) for one in counts.values()]

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
            return [self._message("workers", **about, dashboard=short(without_secret(info.dashboard)))]
        if isinstance(event, ModelReady):
            runtime = event.runtime
            tally.engine = runtime.engine
            model: Message = {"device": runtime.device, "precision": runtime.precision, "engine": runtime.engine}
            return [self._message("model", **model, batch=event.batch, min_psnr=event.min_psnr)]
        if isinstance(event, ChunkSent):
            tally.sent(event.chunk)
        elif isinstance(event, ChunkDone):
            tally.done(event, now, self._now())
        elif isinstance(event, ChunkFailed):
            text = f"chunk {event.chunk} failed: {short(sentence(event.error))}"
            tally.failed(event, now, self._now(), text)
            return [self._message("note", text=short(text)), *self.flush()]
        if tally.changed and self._is_due("chunks", now):
            return [self._message("chunks", **tally.take(now))]
        return []

    def _launch(self, event: LaunchEvent) -> list[Message]:
        kind, rank = event.kind, event.rank
        if kind in ("note", "failed", "fewer"):
            return [self._message("note", text=short(str(event.get("text", ""))))]
        if kind in ("waiting", "moving"):
            return [self._message(kind, text=short(str(event.get("text", ""))))]
        if kind == "skipped":
            text = f"row {event.get('row')} cannot be used ({event.get('reason')}): {event.get('detail')}"
            return [self._message("note", text=short(without_secret(text)))]
        if kind == "attempt":
            places = [short(str(one)) for one in event.get("places", ())][:MOST_WORKERS]
            return [self._message("ranks", attempt=event.attempt, ranks=event.get("ranks", 0), places=places)]
        if kind == "started" or (kind in ("step", "heldout", "checkpoint") and event.get("step") is not None):
            figures = {name: plain(value) for name, value in event.fields.items() if name != "text"}
            if kind in ("started", "step"):
                figures["recent"] = self._recent(kind, event["step"])
            return [self._message(kind, **{k: v for k, v in figures.items() if v is not None})]
        if kind == "pulse" and rank is not None and (rank in self._pulses or len(self._pulses) < MOST_WORKERS):
            names = ("step", "doing", "memory", "cpu", "silent", "host", "pid", "shares")
            figures = {name: plain(event.get(name)) for name in names}
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
