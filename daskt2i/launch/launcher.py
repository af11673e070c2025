"""Run a module as N ranks on N workers. If a rank dies, all ranks start again from the last checkpoint.

    launched = launch("daskt2i.train.denoiser_rank", job, DaskRankSpawner(client), ranks=4, threads=8, listener=show)

Covers: the number of attempts, the error after the last one, the time that a launch may take, SIGUSR1.
Does not cover: one attempt (`attempt`), where ranks run (`dask_ranks`, `rank_spawners`), what a module computes, where
it keeps its checkpoints (the module finds them itself).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from daskt2i.errors import ConfigError, Interrupted, RankLost
from daskt2i.events import LaunchEvent
from daskt2i.launch.attempt import EndedEarly, LaunchState, Limits, TimeIsOver
from daskt2i.launch.rank_spawners import LocalRankSpawner as LocalRankSpawner
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.retries import LAUNCH_ATTEMPTS, STALL_SECONDS, attempts_without_progress

START_SECONDS = 120.0
"""Time for rank 0 to make a rendezvous, then for the others to start. Imports from a network disk take a minute."""

_TOLD_LINES = 15


@dataclass(frozen=True, slots=True)
class LaunchResult:
    """A launch that finished.

    Attributes:
        attempts: how often the ranks were started.
        ranks: number of ranks in the last attempt.
        seconds: from the first start to the end.
        last: the last event of each kind.
    """

    attempts: int
    ranks: int
    seconds: float
    last: Mapping[str, LaunchEvent]


def launch(
    module: str,
    job: Mapping[str, Any],
    spawner: RankSpawner,
    ranks: int,
    threads: int,
    listener: Callable[[LaunchEvent], None],
    attempts: int = LAUNCH_ATTEMPTS,
    *,
    gpus: bool = True,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
    stall_seconds: float = STALL_SECONDS,
    walltime_seconds: float = 0.0,
    rank_bytes: int = 0,
) -> LaunchResult:
    """Run a module as the ranks of one torch.distributed run, until it finishes.

    If a rank or its worker dies, the launcher stops all ranks and starts them again with a new rendezvous. It uses the
    workers that are available then, and fewer ranks if workers are missing. The module loads its own last checkpoint.

    A module that uses `vitals.heartbeat` tells at which step it is, and saves a checkpoint when it is asked: before
    Ctrl-C or the end of `walltime_seconds` stops the ranks, before a rank that got SIGTERM ends, and when this process
    gets SIGUSR1.

    Args:
        module: dotted name of the module, run as `__main__`. It must be importable on the workers.
        job: JSON values, the same for all ranks; `rank.job()` returns them there. If it has a `batch`, the number of
            ranks must divide it.
        threads: torch threads of each rank.
        listener: gets each `LaunchEvent`, in this thread.
        attempts: how many attempts in a row may end early without a new checkpoint. A new checkpoint is an event of
            kind `checkpoint` with a larger `step` than any before.
        gpus: False keeps the ranks on the CPU.
        env: more environment variables for the ranks.
        start_seconds: how long ranks may take to start.
        stall_seconds: how long a rank may give no sign of life, or stay at one step; 0 for any time.
        walltime_seconds: after so long the ranks save a checkpoint and are stopped; 0 for never.
        rank_bytes: memory that a rank needs. Workers that have less are taken last, with a note.

    Raises:
        ConfigError: a count is below 1; nothing was started.
        PlanError: there are more ranks than workers; nothing was started.
        RankLost: all attempts failed.
        SchedulerError: the scheduler or all workers are gone.
        Interrupted: the `walltime_seconds` are over.
        Daskt2iError: the module raised this error.
        KeyboardInterrupt: Ctrl-C was pressed; all ranks are stopped.
    """
    if min(ranks, threads, attempts) < 1:
        raise ConfigError(
            f"ranks ({ranks}), threads ({threads}) and attempts ({attempts}) must be 1 or more. Nothing was started."
        )
    begun, idle, wanted = monotonic(), 0, threading.Event()
    until = begun + walltime_seconds if walltime_seconds else float("inf")
    limits = Limits(start_seconds, stall_seconds, until, wanted, rank_bytes)
    run = LaunchState(module, dict(job), spawner, ranks, threads, listener, gpus, dict(env or {}), limits)
    with spawner.opened(run.inbox.put) as notes, _signal_sets(wanted):
        for text in notes:
            run.tell("note", text=text)
        while True:
            before = run.step
            try:
                world = run.attempt()
            except EndedEarly as end:
                idle = attempts_without_progress(idle, before, run.step)
                if idle >= attempts:
                    raise RankLost(_used_up(end, run, attempts)) from None
                run.tell("failed", text=f"{end.why} All ranks start again from the last checkpoint.")
            except TimeIsOver:
                raise Interrupted(
                    f"The training stopped, because its {walltime_seconds / 60:.3g} minutes are over "
                    f"(launch.walltime_minutes), and no rank is left running. {_stands(run)}. Train again to continue."
                ) from None
            else:
                return LaunchResult(run.number, world, monotonic() - begun, run.last)


def _stands(run: LaunchState) -> str:
    return (
        f"The checkpoint of step {run.step} is kept"
        if run.step >= 0
        else "No checkpoint was saved; earlier ones are kept"
    )


@contextmanager
def _signal_sets(wanted: threading.Event) -> Iterator[None]:
    """SIGUSR1, which would end this process, sets an event instead. A handler that the user has set stays."""
    usable = hasattr(signal, "SIGUSR1") and threading.current_thread() is threading.main_thread()
    if not usable or signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGUSR1, lambda number, frame: wanted.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def _used_up(end: EndedEarly, run: LaunchState, attempts: int) -> str:
    times = (
        f"{attempts} attempts in a row ended early without a new checkpoint"
        if attempts > 1
        else "One attempt was allowed"
    )
    log = "".join(f"\n    {line}" for line in end.log[-_TOLD_LINES:])
    tail = f" The last lines of its log:{log}" if log else ""
    return f"{end.why} {times}. {_stands(run)}. Run it again to continue from the last checkpoint.{tail}"
