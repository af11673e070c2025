"""How many workers and threads a stage gets on this machine.

Covers: workers that encode, ranks that train, workers that look at a data set.
Does not cover: dividing cores and memory (`plan`), workers of a cluster that is attached to: it has its own.
"""

from __future__ import annotations

from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.encode.prepare import EncodePlan, memory_settings
from daskt2i.errors import ConfigError
from daskt2i.machine.machine import this_machine
from daskt2i.model.denoiser import PARAMETERS
from daskt2i.plan import MIB, PROCESS_BYTES, WorkerLayout, divide_machine
from daskt2i.session.schedulers import Scheduler

RANK_BYTES = 1 << 30
"""A rank without its model: Python, torch, diffusers, decoded shards."""

STATE_BYTES = 20
"""Of a parameter in training: weight, gradient, two moments of Adam, moving average, fp32 each."""

INSIGHTS_BYTES = 250 * MIB
"""A worker that counts no tokens: Pillow, numpy, pyarrow and a chunk. The tokenizers of transformers import torch."""


def encode_layout(scheduler: Scheduler, prepared: EncodePlan) -> WorkerLayout:
    """Workers x threads for a run on this machine; for an attached cluster the figures of the plan alone.

    Raises:
        PlanError: the workers do not fit into memory.
    """
    run, machine = prepared.workflow.run, this_machine()
    workers = scheduler.workers or (None if run.workers == "auto" else run.workers)
    threads = None if run.threads == "auto" else run.threads
    if scheduler.kind == "serial":
        workers = 1
    if scheduler.kind == "address":
        return WorkerLayout(workers or 0, threads or 0, 0, "the cluster's own")
    # More processes on one GPU share its memory and win nothing; a cluster file with one worker per GPU uses more.
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
    return replace(found, reason="one GPU") if one_gpu else found


def train_layout(scheduler: Scheduler, workflow: Workflow) -> WorkerLayout:
    """Workers x threads on this machine for ranks, where no chunk is encoded before: one rank a worker.

    Raises:
        PlanError: the ranks do not fit into memory.
    """
    launch, train, machine = workflow.launch, workflow.train, this_machine()
    threads = launch.threads if isinstance(launch.threads, int) else None
    workers = scheduler.workers or (launch.ranks if isinstance(launch.ranks, int) else None)
    if scheduler.kind == "serial":
        workers = 1
    if scheduler.kind == "address":
        return WorkerLayout(workers or 0, threads or 0, 0, "the cluster's own")
    if machine.gpus and workers is None:
        workers = machine.gpus
    parameters = PARAMETERS.get(train.model.preset or "", 0)
    return divide_machine(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=RANK_BYTES + STATE_BYTES * parameters,
        chunks=train.batch,  # a rank has one sample of a step at least
        workers=workers,
        threads=threads,
        smaller="Choose a smaller train.model.preset",
    )


def insights_layout(scheduler: Scheduler, *, tokens: bool) -> WorkerLayout:
    """Workers for this machine; one torch thread each, as nothing here computes with torch.

    Args:
        tokens: whether tokens are counted, for which every worker imports torch.

    Raises:
        PlanError: they do not fit into memory.
    """
    if scheduler.kind == "address":
        return WorkerLayout(0, 1, 0, "the cluster's own")
    machine = this_machine()
    return divide_machine(
        cores=machine.cores,
        memory=machine.memory,
        worker_memory=PROCESS_BYTES if tokens else INSIGHTS_BYTES,
        chunks=machine.cores,
        workers=1 if scheduler.kind == "serial" else scheduler.workers,
        threads=1,
        smaller="Leave the tokens out (tokens=False, --no-tokens)",
    )


def ranks_for(batch: int, wanted: int | str, workers: int) -> int:
    """How many ranks: as asked for, or as many of the workers as divide the batch.

    Raises:
        ConfigError: ranks were asked for that do not divide the batch.
    """
    if not isinstance(wanted, int):
        return max(n for n in range(1, max(1, min(workers, batch)) + 1) if batch % n == 0)
    if batch % wanted:
        raise ConfigError(
            f"launch.ranks is {wanted}, which does not divide the batch of {batch}, and ranks share it equally. "
            "Nothing was started; change one of them."
        )
    return wanted
