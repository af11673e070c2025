"""Run a module as N ranks on N workers. If a rank dies, all ranks start again from the last checkpoint.

    launched = launch("daskt2i.train.denoiser_rank", job, DaskRankSpawner(client), ranks=4, threads=8, listener=show)

Covers: the number of attempts, the error after the last one.
Does not cover: one attempt (`attempt`), where ranks run (`dask_ranks`, `rank_spawners`), what a module computes, where
it keeps its checkpoints (the module finds them itself).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from daskt2i.errors import ConfigError, RankLost
from daskt2i.events import LaunchEvent
from daskt2i.launch.attempt import EndedEarly, LaunchState
from daskt2i.launch.rank_spawners import LocalRankSpawner as LocalRankSpawner
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.retries import LAUNCH_ATTEMPTS, attempts_without_progress

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
) -> LaunchResult:
    """Run a module as the ranks of one torch.distributed run, until it finishes.

    If a rank or its worker dies, the launcher stops all ranks and starts them again with a new rendezvous. It uses the
    workers that are available then, and fewer ranks if workers are missing. The module loads its own last checkpoint.

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

    Raises:
        ConfigError: a count is below 1; nothing was started.
        PlanError: there are more ranks than workers; nothing was started.
        RankLost: all attempts failed.
        SchedulerError: the scheduler or all workers are gone.
        Daskt2iError: the module raised this error.
        KeyboardInterrupt: Ctrl-C was pressed; all ranks are stopped.
    """
    if min(ranks, threads, attempts) < 1:
        raise ConfigError(
            f"ranks ({ranks}), threads ({threads}) and attempts ({attempts}) must be 1 or more. Nothing was started."
        )
    run = LaunchState(module, dict(job), spawner, ranks, threads, listener, gpus, dict(env or {}), start_seconds)
    begun, idle = monotonic(), 0
    with spawner.opened(run.inbox.put) as notes:
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
            else:
                return LaunchResult(run.number, world, monotonic() - begun, run.last)


def _used_up(end: EndedEarly, run: LaunchState, attempts: int) -> str:
    times = (
        f"{attempts} attempts in a row ended early without a new checkpoint"
        if attempts > 1
        else "One attempt was allowed"
    )
    stands = f"The checkpoint of step {run.step} is kept" if run.step >= 0 else "All checkpoints are kept"
    log = "".join(f"\n    {line}" for line in end.log[-_TOLD_LINES:])
    tail = f" The last lines of its log:{log}" if log else ""
    return f"{end.why} {times}. {stands}. Run it again to continue from the last checkpoint.{tail}"
