"""One attempt of a launch: all ranks start together, and either all finish or all are stopped.

Covers: the number of ranks, the rendezvous, receiving events, a last checkpoint before all ranks are stopped, stopping
all ranks when one ends early or stands still, finding the end that caused the others.
Does not cover: starting a rank (`rank_spawners`), who stands still (`vitals.standstill`), the number of attempts
(`launcher`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any
from uuid import uuid4

from daskt2i.errors import SchedulerError
from daskt2i.events import LaunchEvent
from daskt2i.launch.placement import RankPlacement, arrange
from daskt2i.launch.rank_spawners import Ended, Message, RankSpawner
from daskt2i.launch.supervisor import RankSpec
from daskt2i.launch.vitals.pulse import PULSE_SECONDS
from daskt2i.launch.vitals.standstill import Standstill
from daskt2i.launch.vitals.usage import Usage, too_small
from daskt2i.retries import SAVE_SECONDS

STOP_SECONDS = 10.0
_GRACE_SECONDS = 1.0
"""When one rank ends early, its peers fail too. The rank that reports a final error may be one of these peers."""

_ASKED = -1
"""In place of the step of a checkpoint that was asked for and is not saved yet."""

_WEIGHT = {"final": 0, "no scheduler": 1, "lost": 2, "left": 3, "died": 5}


class EndedEarly(Exception):
    """An attempt failed, and another attempt may succeed.

    Attributes:
        why: the reason, one sentence.
        log: the last log lines of the rank that failed first.
    """

    def __init__(self, why: str, log: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.why, self.log = why, log


class TimeIsOver(Exception):
    """The time that was given to the launch is over. All ranks are stopped, and a checkpoint was asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an attempt ends, or saves.

    Attributes:
        start_seconds: how long ranks may take to start.
        stall_seconds: how long a rank may stand still; 0 for any time.
        until: the time (`monotonic`) at which the launch ends.
        wanted: is set when the user wants a checkpoint now.
        rank_bytes: memory that a rank needs; 0 if it is not known.
    """

    start_seconds: float
    stall_seconds: float
    until: float
    wanted: threading.Event
    rank_bytes: int = 0


class Attempt:
    """All ranks, started once.

    Args:
        placements: one for each rank, rank 0 first.
        spec: the values that are the same for all ranks.
        hear: called with each event, in the thread that calls `go`.
    """

    def __init__(
        self,
        spawner: RankSpawner,
        inbox: queue.SimpleQueue[Message],
        placements: Sequence[RankPlacement],
        spec: RankSpec,
        hear: Callable[[dict[str, Any]], None],
        limits: Limits,
    ) -> None:
        self.spawner, self.inbox, self.placements, self.spec, self.hear = spawner, inbox, placements, spec, hear
        self.limits = limits
        names = [self._who(n) for n in range(len(placements))]
        self.standstill = Standstill(names, limits.stall_seconds, limits.start_seconds)
        self.usage = Usage(placements)
        self.listens = False
        self.saved: int | None = None
        self.leaving = ""
        self.halting = False
        self.tag = uuid4().hex
        self.begun: set[int] = set()
        self.alive: set[int] = set()
        self.ended: dict[int, Ended] = {}  # in the order in which they ended
        self.meeting: Mapping[str, Any] | None = None
        self.late = ""

    def go(self) -> None:
        """Start all ranks and wait until they end. When this function returns, no rank of the attempt is running.

        Raises:
            EndedEarly: a rank ended early or stood still; another attempt may succeed.
            TimeIsOver: the launch has no time left.
            Daskt2iError: a rank raised this error.
            SchedulerError: the scheduler is gone.
        """
        early = False
        try:
            self._together(self.limits.start_seconds)
        except (KeyboardInterrupt, TimeIsOver):
            self._save_first()
            raise
        except EndedEarly:
            early = True
            self._take(_GRACE_SECONDS)
        finally:
            self._halt()
        if early:
            raise self._blame()

    def _together(self, limit: float) -> None:
        self._begin(self.placements[0], 0)
        self._wait(lambda: self.meeting is not None, limit, f"Rank 0 made no rendezvous within {limit:.0f} s.")
        assert self.meeting is not None
        for placement in self.placements[1:]:
            self._begin(placement, self.meeting["port"])
        world = len(self.placements)
        self._wait(lambda: len(self.alive) == world, limit, f"Not all ranks started within {limit:.0f} s.")
        self._wait(lambda: len(self.ended) == world)

    def _begin(self, placement: RankPlacement, port: int) -> None:
        self.begun.add(placement.rank)
        self.standstill.begun(placement.rank, monotonic())
        spec = replace(
            self.spec,
            rank=placement.rank,
            world=placement.world,
            local_rank=placement.local_rank,
            local_world=placement.local_world,
            address=placement.node.host,
            host=self.placements[0].node.host,
            port=port,
            cuda=placement.cuda,
            env={"DASKT2I_BACKEND": placement.backend, **self.spec.env},
        )
        self.spawner.start(placement.node, spec, self.tag)

    def _wait(self, condition: Callable[[], bool], seconds: float = float("inf"), late: str = "") -> None:
        deadline = monotonic() + seconds
        while not condition():
            self._hear_one(0.2)
            if any(end.how != "finished" for end in self.ended.values()):
                raise EndedEarly("")
            self._watch()
            if monotonic() > deadline:
                missing = sorted(self.begun - self.alive)
                where = ", ".join(self.placements[rank].node.address for rank in missing)
                self.late = f"{late} These workers may be busy with other work, or out of reach: {where}."
                raise EndedEarly(self.late)

    def _watch(self) -> None:
        """Between two events: who stands still, who leaves, what the user wants."""
        now = monotonic()
        if now > self.limits.until:
            raise TimeIsOver
        if self.limits.wanted.is_set():
            self.limits.wanted.clear()
            self.hear({"kind": "note", "text": self._save("when the running step ends")})
        if self.leaving:
            self._save_first()
            if self.saved is not None and self.saved != _ASKED:
                self.leaving += f" The checkpoint of step {self.saved:,} was saved before."
            raise EndedEarly(self.leaving)
        still = self.standstill.look(now)
        if text := self.standstill.news(still):
            about = {"kind": "waiting", "rank": still.rank, "seconds": still.seconds} if still else {"kind": "moving"}
            self.hear({"rank": None, **about, "text": text})
        if still is not None and still.over:
            self.late = f"{still.what}, for {still.seconds / 60:.3g} minutes."
            raise EndedEarly(self.late)

    def _save_first(self) -> None:
        """Before all ranks are stopped, rank 0 saves a checkpoint, if it can."""
        text = self._save("now, and then all ranks stop", wake=True)
        if self.listens:
            self.hear({"kind": "note", "text": text})
        now = monotonic()
        wakes, limit = now + 3 * PULSE_SECONDS, now + SAVE_SECONDS + 2 * self.standstill.step_seconds
        while self.saved == _ASKED and not self.ended and (now := monotonic()) < limit:
            if now > wakes and self.standstill.frozen(now) is not None:
                return
            self._hear_one(0.1)

    def _save(self, when: str, wake: bool = False) -> str:
        """Ask rank 0 for a checkpoint. Returns a sentence that says whether it can.

        Args:
            wake: whether ranks that are stopped by a signal go on for it. Their supervisors wake them.
        """
        if not self.listens:
            return "No checkpoint can be saved, because the steps have not begun."
        still = self.standstill.frozen(monotonic())
        if still is not None and not (wake and still.stopped):
            return f"No checkpoint can be saved: {still.what}."
        self.saved = _ASKED
        self.spawner.ask(self.tag, "save")
        woken = (
            "" if still is None else f" Rank {still.rank} was stopped (SIGSTOP) when last heard of; it goes on for it."
        )
        return f"A checkpoint is saved {when}.{woken}"

    def _take(self, seconds: float) -> None:
        """Receive messages until all started ranks have ended, for `seconds` at most."""
        deadline = monotonic() + seconds
        while self.begun - self.ended.keys() and monotonic() < deadline:
            self._hear_one(0.1)

    def _halt(self) -> None:
        self.halting = True
        if self.begun - self.ended.keys():
            self.spawner.ask(self.tag, "end")
            self._take(STOP_SECONDS)
        for rank in sorted(self.begun - self.ended.keys()):
            address = self.placements[rank].node.address
            self.hear({"kind": "note", "text": f"Rank {rank} did not confirm its end: {address} does not answer."})

    def _hear_one(self, seconds: float) -> None:
        try:
            message = self.inbox.get(timeout=seconds)
        except queue.Empty:
            return
        if message.launch != self.tag:
            return  # a late message from an earlier attempt
        if isinstance(message.what, Ended):
            self.ended.setdefault(message.rank, message.what)
            self.standstill.ended(message.rank)
            return
        event = {**message.what, "rank": message.rank}
        kind, first = event["kind"], message.rank == 0
        if kind == "rendezvous" and first:
            self.meeting = event
        elif kind == "alive":
            self.alive.add(message.rank)
        elif kind == "listens":
            self.listens = self.listens or first
        elif kind == "saved" and first:
            self.saved = event["step"]
        elif kind == "leaving" and not self.leaving and not self.halting:  # the end of all ranks is a SIGTERM too
            self.leaving = f"{self._who(message.rank)} must end, because {event['why']}."
        if kind == "pulse" and (text := self.usage.hear(message.rank, event)) is not None:
            self.hear({"kind": "note", "text": text})
        if message.rank in self.alive:
            self.standstill.hear(message.rank, event, monotonic())
        elif kind == "pulse":
            self.standstill.starts(message.rank, event)
        self.hear(event)

    def _who(self, rank: int) -> str:
        return f"Rank {rank} of {len(self.placements)} ({self.placements[rank].node.address})"

    def _blame(self) -> Exception:
        """The error of the rank that caused the others to end."""
        ends = [(rank, end) for rank, end in self.ended.items() if end.how in _WEIGHT]
        if not ends:
            return EndedEarly(self.late or self.leaving or "Somebody cancelled the Dask task of a rank.")

        def weight(item: tuple[int, Ended]) -> int:
            _, end = item
            # If one rank was killed and another reports a closed connection, the killed rank is the cause.
            return _WEIGHT[end.how] - (end.how == "died" and end.detail.startswith("SIG"))

        rank, end = min(ends, key=weight)
        who = self._who(rank)
        if end.error is not None:
            return end.error
        if end.how == "no scheduler":
            return no_scheduler()
        if end.how == "lost":
            return EndedEarly(f"{who} is lost, because its worker is gone.", end.log)
        if end.how == "left":
            return EndedEarly(self.leaving or f"{who} was stopped, because its worker is retiring.", end.log)
        return EndedEarly(f"{who} ended with {end.detail}.", end.log)


def no_scheduler() -> SchedulerError:
    """The error for a scheduler that is lost while ranks run."""
    return SchedulerError(
        "The scheduler is gone, and its workers end with it. The last checkpoint is kept. Start the cluster and run it "
        "again: training continues from there."
    )


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


class LaunchState:
    """All attempts of one launch."""

    def __init__(
        self,
        module: str,
        job: dict[str, Any],
        spawner: RankSpawner,
        ranks: int,
        threads: int,
        listener: Callable[[LaunchEvent], None],
        gpus: bool,
        env: dict[str, str],
        limits: Limits,
    ) -> None:
        self.module, self.job, self.spawner, self.ranks, self.threads = module, job, spawner, ranks, threads
        self.gpus, self.env, self.limits = gpus, env, limits
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.number = 0
        self.step = -1
        self.last: dict[str, LaunchEvent] = {}
        self._listener: Callable[[LaunchEvent], None] | None = listener

    def tell(self, kind: str, **fields: Any) -> None:
        """Send an event of the launcher itself."""
        self.hear({"kind": kind, **fields})

    def hear(self, told: Mapping[str, Any]) -> None:
        """Pass an event to the listener. After it raises it gets no more: the ranks' last events would raise again."""
        fields = {name: value for name, value in told.items() if name not in ("kind", "attempt", "rank")}
        event = LaunchEvent(told["kind"], self.number, told.get("rank"), fields)
        self.last[event.kind] = event
        step = event.get("step")
        if event.kind == "checkpoint" and isinstance(step, int):
            self.step = max(self.step, step)
        listener, self._listener = self._listener, None
        if listener is not None:
            listener(event)
            self._listener = listener

    def attempt(self) -> int:
        """Start all ranks once and wait until they end. Returns the number of ranks."""
        self.number += 1
        nodes = self.spawner.nodes(self.ranks)
        world = self._world(len(nodes))
        placements = arrange(nodes, world, self.gpus, self.limits.rank_bytes)
        if (text := too_small(placements, self.limits.rank_bytes)) is not None:
            self.tell("note", text=text)
        self.tell(
            "attempt",
            ranks=world,
            backend=placements[0].backend,
            places=[f"{p.node.address}" + (f" GPU {p.cuda}" if p.cuda else "") for p in placements],
        )
        spec = RankSpec(self.module, self.job, threads=self.threads, env=self.env)
        Attempt(self.spawner, self.inbox, placements, spec, self.hear, self.limits).go()
        return world

    def _world(self, there: int) -> int:
        if there >= self.ranks or self.number == 1:
            return self.ranks  # if these are too many at the first attempt, `arrange` raises
        batch = self.job.get("batch")
        fewer = [n for n in range(1, there + 1) if not isinstance(batch, int) or batch % n == 0]
        if not fewer:
            raise SchedulerError(
                "No worker came back in time, so training stopped. The last checkpoint is kept. "
                "Start workers and run it again: training continues from there."
            )
        text = f"{there} of {self.ranks} workers are available, so this attempt continues with {_ranks(fewer[-1])}."
        self.tell("fewer", ranks=fewer[-1], text=text)
        return fewer[-1]
