"""Which rank stands still, in the eyes of the driver: it gives no sign of life, or its step does not end.

Covers: what is told to the user and when, the rank that others wait for, a rank that does not start, the limit after
which an attempt ends.
Does not cover: signs of life (`heartbeat`, `pulse`), what the end of an attempt means (`attempt`, `launcher`).

Ranks work in step: if one stands still, the others wait for it inside their own step. So a rank without a sign of life
is named first, then the rank that is behind the others or does something else than they do. If all are alike, all are
named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from daskt2i import retries
from daskt2i.launch.vitals import pulse
from daskt2i.launch.vitals.heartbeat import BEAT_SECONDS, COMPUTES, STEPS

SILENT_SECONDS = 10.0
"""A rank that gave no sign of life for so long saves no checkpoint."""

_GAP_SECONDS = 5.0
"""If the driver itself did not look for so long, it was stopped or busy, and the ranks are not to blame."""

_MISSED = 4
"""If so many pulses in a row are missing, nothing comes from the supervisor of a rank either."""

_STATES = {
    "stopped": "its process is stopped (SIGSTOP)",
    "tracing-stop": "its process is stopped by a debugger",
    "disk-sleep": "its process waits for a disk, a network file system or a device",
    "zombie": "its process has ended and is not collected yet",
}
"""What the system says of a process that gives no sign of life."""


@dataclass(frozen=True, slots=True)
class Still:
    """A rank that stands still.

    Attributes:
        seconds: for how long.
        limit: seconds after which the attempt ends; infinite for never.
        what: a clause: "Rank 1 of 2 (…) gives no sign of life, …"
        stopped: whether its process is stopped by a signal, so that another signal wakes it.
        starting: whether it has not started yet. Then the attempt itself ends after `limit`.
    """

    rank: int
    seconds: float
    limit: float
    what: str
    stopped: bool = False
    starting: bool = False

    @property
    def over(self) -> bool:
        """Whether the attempt must end."""
        return self.seconds >= self.limit and not self.starting

    def __str__(self) -> str:
        since = (datetime.now() - timedelta(seconds=self.seconds)).strftime("%H:%M:%S")
        then = f" After {self.limit / 60:.3g} minutes all ranks start again from the newest checkpoint."
        return f"{self.what}, since {since} ({self.seconds:.0f} s).{then if self.limit < float('inf') else ''}"


@dataclass(slots=True)
class _Rank:
    heard: float
    pulse: Mapping[str, Any] = field(default_factory=dict)
    pulsed: float = 0.0


class Standstill:
    """Watches the ranks of one attempt.

    Args:
        names: who each rank is, for a person.
        limit: seconds without a sign of life, or in one step, after which the attempt ends; 0 for never. What is no
            step, such as drawing, may take three times as long.
        start: seconds that a rank may take to start.
    """

    def __init__(self, names: Sequence[str], limit: float, start: float = float("inf")) -> None:
        self._names, self._limit, self._start = names, limit or float("inf"), start
        self._ranks: dict[int, _Rank] = {}
        self._starting: dict[int, _Rank] = {}
        self._longest: dict[str, float] = {}
        self._looked: float | None = None
        self._due = self._told = 0.0

    @property
    def step_seconds(self) -> float:
        """About the longest time that a step has taken so far."""
        return self._longest.get(COMPUTES, 0.0)

    def begun(self, rank: int, now: float) -> None:
        """A rank was asked to start."""
        self._starting[rank] = _Rank(now)

    def starts(self, rank: int, pulse: Mapping[str, Any]) -> None:
        """The supervisor of a rank that has not started yet tells of its process."""
        if rank in self._starting:
            self._starting[rank].pulse = pulse

    def hear(self, rank: int, event: Mapping[str, Any], now: float) -> None:
        """A rank that has started told something."""
        self._starting.pop(rank, None)
        one = self._ranks.setdefault(rank, _Rank(now))
        one.heard = now
        if event["kind"] != "pulse":
            return
        before, one.pulse, one.pulsed = one.pulse, event, now
        if "doing" in before and (before["step"], before["doing"]) != (event.get("step"), event.get("doing")):
            doing = before["doing"]
            self._longest[doing] = max(self._longest.get(doing, 0.0), before["seconds"])

    def ended(self, rank: int) -> None:
        """A rank has ended."""
        self._ranks.pop(rank, None)
        self._starting.pop(rank, None)

    def frozen(self, now: float, seconds: float | None = None) -> Still | None:
        """The rank that gave no sign of life for the longest time, if that is at least `seconds` (`SILENT_SECONDS`)."""
        seconds = SILENT_SECONDS if seconds is None else seconds
        found = [self._silence(rank, one, now) for rank, one in self._ranks.items()]
        longest = max(found, key=lambda still: still.seconds, default=None)
        return longest if longest is not None and longest.seconds >= seconds else None

    def look(self, now: float) -> Still | None:
        """Who stands still now, for at least a minute; None if everything moves."""
        gap = 0.0 if self._looked is None else now - self._looked
        self._looked = now
        if gap > _GAP_SECONDS:
            for one in (*self._ranks.values(), *self._starting.values()):
                one.heard += gap
                one.pulsed += gap
        return self.frozen(now, retries.TELL_RANK_SECONDS) or self._hanging(now) or self._late(now)

    def news(self, still: Still | None) -> str | None:
        """The sentence for the user, if there is something new: seldom while it lasts, and once when it ends."""
        if still is None:
            lasted, self._told, self._due = self._told, 0.0, 0.0
            return f"All ranks go on, after about {lasted:.0f} s." if lasted else None
        self._told = still.seconds
        if still.seconds < self._due:
            return None
        self._due = 2 * still.seconds
        return str(still)

    def _silence(self, rank: int, one: _Rank, now: float) -> Still:
        quiet = now - one.heard
        silent = one.pulse.get("silent", 0.0) + now - one.pulsed if one.pulse else 0.0
        if quiet > _MISSED * pulse.PULSE_SECONDS or not one.pulse:
            what = f"{self._names[rank]} gives no sign of life: its worker or host is frozen, or out of reach"
            return Still(rank, max(quiet, silent), self._limit, what)
        state = _STATES.get(str(one.pulse.get("state")), "its process is there, but Python in it does not run")
        step = f", at step {one.pulse['step']:,}" if "step" in one.pulse else ""
        # A pulse comes every few seconds, and the rank is heard through it. Until the next one its silence is unknown.
        return Still(
            rank,
            silent if one.pulse.get("silent", 0.0) > 2 * BEAT_SECONDS else 0.0,
            self._limit,
            f"{self._who(rank)} gives no sign of life{step}: {state}",
            one.pulse.get("state") == "stopped",
        )

    def _hanging(self, now: float) -> Still | None:
        """A rank whose step does not end."""
        there = {rank: one.pulse for rank, one in self._ranks.items() if "doing" in one.pulse}
        if not there:
            return None
        last = min(told["step"] for told in there.values())
        behind = {rank: told for rank, told in there.items() if told["step"] == last}
        others = {rank: told for rank, told in behind.items() if told["doing"] != COMPUTES}
        culprits = others or behind
        rank, told = min(culprits.items(), key=lambda item: (-item[1]["seconds"], item[0]))
        doing, seconds = told["doing"], told["seconds"] + now - self._ranks[rank].pulsed
        usual = self._longest.get(doing, 0.0)
        if seconds < max(retries.TELL_RANK_SECONDS, 3 * usual):
            return None
        limit = max(self._limit, 10 * usual) if doing in STEPS else max(3 * self._limit, 3 * usual)
        every = len(culprits) == len(self._ranks) > 1
        who = f"All {len(self._names)} ranks stand" if every else f"{self._who(rank)} stands"
        also = ": they may wait for each other" if every else ""
        return Still(rank, seconds, limit, f"{who} at step {told['step']:,} ({doing}){also}")

    def _late(self, now: float) -> Still | None:
        """The first rank that does not start."""
        for rank, one in sorted(self._starting.items()):
            if now - one.heard < retries.TELL_RANK_SECONDS:
                continue
            state = one.pulse.get("state")
            if one.pulse:
                who = self._who(rank)
                why = _STATES.get(str(state), "its process is there, and it is not ready yet")
            else:
                who, why = self._names[rank], "its worker is busy with other work, or out of reach"
            what = f"{who} has not started yet: {why}"
            return Still(rank, now - one.heard, self._start, what, state == "stopped", starting=True)
        return None

    def _who(self, rank: int) -> str:
        told = (self._ranks.get(rank) or self._starting[rank]).pulse
        return f"{self._names[rank]}, process {told['pid']} on {told['host']}"
