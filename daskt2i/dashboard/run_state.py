"""What is known of a run from its messages: the figures that a page shows.

    state = RunState()
    state.hear(message, when)
    state.rows_done, state.loss.last, state.eta

Covers: folding messages; a size that does not grow with chunks, rows, workers and steps; a state as JSON.
Does not cover: the messages (`messages`), where they come from (`listener`), drawing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from daskt2i.dashboard.state.encode import EncodeFigures, worker_figures
from daskt2i.dashboard.state.series import Series, number, whole
from daskt2i.dashboard.state.train import CONTINUES, TrainFigures, rank_figures

LATEST = 1e11
"""Seconds since 1970 that a message can have: the year 5138. Later ones are damage."""

VERSION = 1
MOST_NOTES, MOST_COUNTS = 50, 20

STAGES = ("encode", "train", "train-vae", "sample", "evaluate", "insights")

LOCKED = STAGES[:3]
"""Stages that hold the lock of the run folder while they run."""


class RunState(EncodeFigures, TrainFigures):
    """One run folder and its stages, as far as messages told of them. Times are seconds since 1970.

    The attributes of an encode and of a training are those of `EncodeFigures` and `TrainFigures`.

    Attributes:
        run: identifies the run. label: last part of the name of the run folder. out: the run folder.
        stage: the stage that runs, or that ran last; "" before the first one. stages: stage -> `running`, `done`,
            `stopped`, `failed`, or `lost`: the process that drives it went away before it told an end.
        begun, ended: of this stage; None if it has not begun, or not ended. updated: time of the newest message.
        lost: when the process that drives the stage was found to be away; None if it is there.
        heard: time of the newest message by the clock of who hears. alive: whether the process that drives the stage
            tells that it is there, also when nothing happens. Its clock is `offset` seconds behind that of who hears.
        error: what ended the stage, a sentence; "" if nothing did.
        activity: what the stage is doing now. waiting: what it waits for, a sentence; "" if everything moves.
        notes: the newest 50 notes (time, text), the newest last. counts: kind of work -> (done, total).
        unknown: number of messages that a later version of daskt2i wrote, or that are damaged.
        version: one more for each message. Who draws the state looks whether it changed.

        estimate: what was forecast for the whole encode; empty without an estimate: `seconds`, `bytes`, `workers`,
            `currency`, `prices` (name -> cost), `per_hour` (name -> price). See `estimate_so_far`.
    """

    def __init__(self, run: str = "") -> None:
        self.run, self.label, self.out, self.stage = run, "", "", ""
        self.version = 0
        self.stages: dict[str, str] = {}
        self.begun: float | None = None
        self.ended: float | None = None
        self.updated = self.heard = self.offset = 0.0
        self.lost: float | None = None
        self.alive = False
        self.error = self.activity = self.waiting = ""
        self.notes: deque[tuple[float, str]] = deque(maxlen=MOST_NOTES)
        self.counts: dict[str, tuple[int, int]] = {}
        self.unknown = 0
        self.estimate: dict[str, Any] = {}
        self._begin_encode()
        self._begin_training("")

    def hear(self, message: Any, when: float | None = None) -> None:
        """Fold one message. What is no message, or is of a later version, is only counted.

        Args:
            when: when it came; the message itself says it better.
        """
        try:
            kind = message["kind"]
            self.version += kind != "alive"
            if message["v"] != VERSION:
                self.unknown += 1
                return
            fold = getattr(self, f"_hear_{kind}", None)
            at = message.get("at", when)
            at = float(at) if isinstance(at, int | float) and 0 <= at < LATEST else self.updated
            if self.lost is not None and kind != "state":  # it was only slow
                self.lost, self.stages = None, {**self.stages, self.stage: "running"}
            if fold is not None:
                self.run = self.run or str(message.get("run", ""))
                fold(message, at)
                # A clock may have been set back since an earlier stage.
                self.updated = at if kind == "begin" else max(self.updated, at)
            if when is not None and (fold is not None or kind == "alive"):
                self.heard, self.offset, self.alive = when, when - at, "client" in message
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError):
            self.unknown += 1

    # What every stage has

    def _hear_begin(self, m: Mapping[str, Any], at: float) -> None:
        stage = str(m["stage"])
        self.out, self.label = str(m.get("out", "")), str(m.get("label", ""))
        self.stage, self.begun, self.ended, self.error = stage, at, None, ""
        # Only one of them can work on a folder: another one that told no end was killed.
        dead = [one for one in LOCKED if stage in LOCKED and self.stages.get(one) == "running"]
        self.stages = {**self.stages, **dict.fromkeys(dead, "lost"), stage: "running"}
        self.lost = None
        self.activity = self.waiting = ""
        self.counts = {}
        if stage == "encode":
            self._begin_encode()
            self.rows, self.encode_begun = whole(m.get("total", 0)), at
        elif stage in ("train", "train-vae"):
            kept = {name: getattr(self, name) for name in CONTINUES} if self.training == stage else {}
            self._begin_training(stage)
            vars(self).update(kept)  # of a training that continues, or of which nothing is left to do
            self.steps, self.train_batch, self.train_begun = whole(m.get("total", 0)), whole(m.get("batch", 1)), at

    def _hear_end(self, m: Mapping[str, Any], at: float) -> None:
        self.ended, self.error, self.activity, self.waiting = at, str(m.get("error", "")), "", ""
        stage = str(m["stage"])
        self.stages = {**self.stages, stage: str(m.get("how", "done"))}
        if stage == "encode":
            self.eta, self.encode_ended = None, at
        elif stage == self.training:
            self.train_ended = at

    def lose(self, when: float) -> bool:
        """The process that drives the stage is gone since `when`. Returns whether a stage ran."""
        if self.finished or not self.stage:
            return False
        self.version += 1
        self.lost, self.stages = when, {**self.stages, self.stage: "lost"}
        self.eta, self.waiting, self.activity = None, "", ""
        return True

    def silent(self, now: float) -> float:
        """Seconds without a message while a stage runs, if its process would have told that it is alive; else 0."""
        return 0.0 if self.finished or not self.alive else max(0.0, now - self.heard)

    def now(self, clock: float) -> float:
        """The time `clock` of who hears, by the clock of who tells."""
        return clock - self.offset

    def _hear_note(self, m: Mapping[str, Any], at: float) -> None:
        self.notes.append((at, str(m["text"])))

    def _hear_activity(self, m: Mapping[str, Any], at: float) -> None:
        self.activity = str(m["text"])

    def _hear_waiting(self, m: Mapping[str, Any], at: float) -> None:
        self.waiting = str(m["text"])

    def _hear_moving(self, m: Mapping[str, Any], at: float) -> None:
        self.waiting = ""

    def _hear_count(self, m: Mapping[str, Any], at: float) -> None:
        self.counts[str(m["what"])] = (whole(m["done"]), whole(m["total"]))
        while len(self.counts) > MOST_COUNTS:
            del self.counts[next(iter(self.counts))]

    def _hear_estimate(self, m: Mapping[str, Any], at: float) -> None:
        figures = {k: v for k, v in m.items() if k not in ("v", "run", "stage", "kind", "at")}
        self.estimate = _estimate(figures)

    # What follows from the figures

    @property
    def finished(self) -> bool:
        """Whether no stage runs, as far as is known."""
        return self.stages.get(self.stage) != "running"

    def estimate_so_far(self, now: float | None = None) -> dict[str, float | None]:
        """What this encode took and will take, beside the forecast.

        Args:
            now: the time; None for the time of the newest message.

        Returns:
            `seconds`: so far. `seconds_in_all`, `bytes_in_all`: at the end as it looks now, or None. `bytes`: so far.
            `share`: share of the rows that this encode had to do, and has done, 0 to 1.
        """
        end = self.encode_ended or (self.updated if now is None else now)
        seconds = None if self.encode_begun is None else max(0.0, end - self.encode_begun)
        todo, done = self.rows - self.rows_before, self.rows_done - self.rows_before
        in_all = None
        if seconds is not None:
            in_all = seconds if self.encode_ended else None if self.eta is None else seconds + self.eta[0]
        return {
            "seconds": seconds,
            "seconds_in_all": in_all,
            "bytes": float(self.bytes),
            "bytes_in_all": self.bytes / self.rows_done * self.rows if self.rows_done else None,
            "share": done / todo if todo > 0 else 1.0,
        }

    # As JSON

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values. `from_json` reads it."""
        found: dict[str, Any] = {"v": VERSION}
        for name, value in vars(self).items():
            if name in _OWN:
                continue
            if isinstance(value, Series):
                value = {"most": value.most, "points": value.to_json()}
            elif isinstance(value, deque):
                value = [list(one) for one in value]
            elif name == "counts":
                value = {key: list(pair) for key, pair in self.counts.items()}
            elif name == "rank_figures":
                value = {str(rank): figures for rank, figures in self.rank_figures.items()}
            found[name] = value
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> RunState:
        """The state that `to_json` made. What is missing or damaged stays empty."""
        state = cls()
        for name, empty in vars(RunState()).items():
            if name not in found:
                continue
            value: Any = found[name]
            if name in _OWN:
                continue
            try:
                if isinstance(empty, Series):
                    value = Series(filter(_is_point, value["points"]), int(value["most"]))
                elif isinstance(empty, deque):
                    value = deque((tuple(one) for one in value), empty.maxlen)
                elif name == "counts":
                    value = {str(key): (int(one[0]), int(one[1])) for key, one in value.items()}
                elif name == "rank_figures":
                    value = {int(rank): rank_figures(figures) for rank, figures in value.items()}
                elif name == "workers":
                    value = {str(worker): worker_figures(figures) for worker, figures in value.items()}
                elif name == "estimate":
                    value = _estimate(value)
                elif name in _NUMBERS:
                    value = _numbers(value)
                elif name == "psnr_edges":
                    value = tuple(map(number, value))
                elif name == "psnr_counts":
                    value = list(map(whole, value))
                elif name == "eta":
                    value = None if value is None else (number(value[0]), number(value[1]), number(value[2]))
                elif isinstance(empty, list):
                    value = list(value)  # a message that Dask carried has tuples
                elif not _fits(value, empty):
                    continue
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                continue
            setattr(state, name, value)
        return state

    def _hear_state(self, m: Mapping[str, Any], at: float) -> None:
        run, version = self.run, self.version
        vars(self).update(vars(RunState.from_json(m["state"])))
        self.run, self.version = run or self.run, version


_OWN = ("heard", "offset", "alive", "lost")
"""What only the process that heard it knows."""

_NUMBERS = ("rejected", "chunk_states", "parts", "heldout_figures", "shares")


def _is_point(found: Any) -> bool:
    """Whether it is a point of a curve: two finite numbers, or a number and names with numbers."""
    x, y = found
    return _fits(x, 0) and (all(_fits(one, 0) for one in y.values()) if isinstance(y, Mapping) else _fits(y, 0))


def _estimate(value: Mapping[Any, Any]) -> dict[str, Any]:
    """What was forecast: texts, finite numbers, and names with numbers."""
    return {
        str(k): _numbers(v) if isinstance(v, Mapping) else v
        for k, v in value.items()
        if isinstance(v, str | Mapping) or _fits(v, 0)
    }


def _numbers(value: Mapping[Any, Any]) -> dict[str, Any]:
    """Names with finite numbers. Others are left out."""
    return {str(k): v for k, v in value.items() if _fits(v, 0)}


def _fits(value: Any, empty: Any) -> bool:
    """Whether a value can stand where an empty state has `empty`. Numbers must be finite."""
    if empty is None or isinstance(empty, int | float):
        return value is empty is None or (
            isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63
        )
    return isinstance(value, type(empty))
