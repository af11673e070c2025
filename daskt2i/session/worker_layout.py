"""The number of workers and threads of a stage on this machine.

Covers: workers that encode, ranks that train, workers that read a data set for insights.
Does not cover: dividing cores and memory (`plan`), the workers of an existing cluster, which decides itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from daskt2i.config.settings import Workflow
from daskt2i.deploy.kinds.request import MOST_WORKERS
from daskt2i.encode.prepare import EncodePlan, memory_settings
from daskt2i.errors import ConfigError, PlanError
from daskt2i.formatting import size
from daskt2i.machine.machine import this_machine
from daskt2i.plan import MIB, PAUSE_FRACTION, PROCESS_BYTES, WorkerLayout, divide_machine
from daskt2i.session.schedulers import Scheduler
from daskt2i.train.upkeep.rank_memory import encoder_bytes, rank_bytes

if TYPE_CHECKING:
    from daskt2i.deploy.cluster_file import ClusterFile

INSIGHTS_BYTES = 250 * MIB
"""Memory of a worker that does not count tokens: Pillow, numpy, pyarrow and a chunk. Counting tokens imports torch,
which needs more."""


_SMALLER_RANK = "Choose a smaller train.model.preset or launch.cache"
_NO_TOKENS = "Leave the tokens out (tokens=False, --no-tokens)"


def encode_layout(scheduler: Scheduler, prepared: EncodePlan) -> WorkerLayout:
    """Workers x threads for an encode on this machine. For an existing cluster, only the requested numbers.

    Raises:
        PlanError: the workers do not fit into memory.
        ConfigError, SchedulerError: the cluster file cannot start.
    """
    run, machine = prepared.workflow.run, this_machine()
    workers = scheduler.workers or (None if run.workers == "auto" else run.workers)
    threads = None if run.threads == "auto" else run.threads
    if scheduler.kind == "serial":
        workers = 1
    if scheduler.kind == "address":
        return WorkerLayout(workers or 0, threads or 0, 0, "the cluster's own", only=run.only)
    if (file := scheduler.file()) is not None and file.elsewhere:
        need = prepared.requirements.worker_memory
        return _elsewhere(file, workers, threads, need, f"Make {memory_settings(prepared)} smaller")
    # Several processes on one GPU share its memory and are not faster. To use several GPUs, use a cluster file with one
    # worker per GPU.
    one_gpu = prepared.on_gpu and workers is None
    found = divide_machine(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=prepared.requirements.worker_memory,
        chunks=len(prepared.grid),
        workers=1 if one_gpu else workers,
        threads=threads,
        smaller=f"Make {memory_settings(prepared)} smaller",
    )
    found = replace(found, reason="one GPU" if one_gpu else found.reason, only=run.only)
    return _checked(file, found)


def train_layout(scheduler: Scheduler, workflow: Workflow) -> WorkerLayout:
    """Workers x threads on this machine for ranks, one rank for each worker, when nothing was encoded before.

    Raises:
        PlanError: the ranks do not fit into memory.
        ConfigError, SchedulerError: the cluster file cannot start.
    """
    launch, train, machine = workflow.launch, workflow.train, this_machine()
    threads = launch.threads if isinstance(launch.threads, int) else None
    workers = scheduler.workers or (launch.ranks if isinstance(launch.ranks, int) else None)
    need = rank_bytes(train, launch, encoder_bytes(workflow.dataset), ranks=workers or 0)
    if scheduler.kind == "serial":
        workers = 1
    if scheduler.kind == "address":
        return WorkerLayout(workers or 0, threads or 0, 0, "the cluster's own", only=launch.only)
    if (file := scheduler.file()) is not None and file.elsewhere:
        return _elsewhere(file, workers, threads, need, _SMALLER_RANK)
    if machine.gpus and workers is None:
        workers = machine.gpus
    found = divide_machine(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=need,
        chunks=train.batch,  # a rank needs at least one sample of a step
        workers=workers,
        threads=threads,
        smaller=_SMALLER_RANK,
    )
    return _checked(file, replace(found, only=launch.only))


def insights_layout(scheduler: Scheduler, *, tokens: bool) -> WorkerLayout:
    """Workers on this machine for insights. Each has one torch thread, because insights does not compute with torch.

    Args:
        tokens: whether tokens are counted; then every worker imports torch.

    Raises:
        PlanError: the workers do not fit into memory.
        ConfigError, SchedulerError: the cluster file cannot start.
    """
    if scheduler.kind == "address":
        return WorkerLayout(0, 1, 0, "the cluster's own")
    need = PROCESS_BYTES if tokens else INSIGHTS_BYTES
    if (file := scheduler.file()) is not None and file.elsewhere:
        return replace(_elsewhere(file, scheduler.workers, None, need, _NO_TOKENS), threads=1)
    machine = this_machine()
    found = divide_machine(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=need,
        chunks=machine.cores,
        workers=1 if scheduler.kind == "serial" else scheduler.workers,
        threads=1,
        smaller=_NO_TOKENS,
    )
    return _checked(file, found)


def _checked(file: ClusterFile | None, layout: WorkerLayout) -> WorkerLayout:
    """The layout, if the cluster of the file can start on this machine, as far as that shows without starting it.

    Raises:
        ConfigError: the class of the file cannot be imported.
        SchedulerError: it refuses its arguments.
    """
    if file is not None:
        file.check(layout.workers, layout.threads, layout.memory_limit)
    return layout


def _elsewhere(file: ClusterFile, workers: int | None, threads: int | None, need: int, smaller: str) -> WorkerLayout:
    """Workers as the cluster file states them: the cores and memory of this machine do not count.

    Raises:
        ConfigError: the class of the file cannot be imported, or it refuses its arguments.
        PlanError: a worker of the file has too little memory, or there would be too many workers.
    """
    assert file.memory is not None
    if need > PAUSE_FRACTION * file.memory:
        raise PlanError(
            f"A worker needs {size(need)} below the pause threshold ({PAUSE_FRACTION:.0%}), but {file.name}.yaml asks "
            f"for {size(file.memory)}. Nothing was started. {smaller}, or write more memory into a copy of the file."
        )
    number, cores = workers or file.workers or 1, threads or file.threads or 1
    if number > MOST_WORKERS:
        raise PlanError(
            f"{number:,} workers were asked for, but a cluster has {MOST_WORKERS:,} at most: its scheduler is one "
            "process, and Linux does not let a process hold connections to more. Nothing was started; ask for fewer "
            "(scheduler, run.workers or launch.ranks)."
        )
    words, script = file.asks(number, cores, file.memory)
    return WorkerLayout(number, cores, file.memory, words, here=False, script=script)


def ranks_for(batch: int, wanted: int | str, workers: int) -> int:
    """The number of ranks: the requested one, or the largest number of workers that divides the batch.

    Raises:
        ConfigError: the requested number does not divide the batch.
    """
    if not isinstance(wanted, int):
        return max(n for n in range(1, max(1, min(workers, batch)) + 1) if batch % n == 0)
    if batch % wanted:
        raise ConfigError(
            f"launch.ranks is {wanted}, which does not divide the batch of {batch}, but all ranks need equal parts. "
            "Nothing was started. Change launch.ranks or the batch."
        )
    return wanted
