"""SLURM through dask-jobqueue: what it says of the jobs of a run, and new jobs for those whose time was over.

Covers: the queue, reasons that waiting does not change, leaving before the walltime, submitting again, cancelling.
Does not cover: what all batch systems have in common (`jobqueue`), a script for sbatch without dask-jobqueue.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import dask

from daskt2i.deploy.kinds.jobqueue import Jobqueue, call
from daskt2i.deploy.kinds.request import Request

_HOPELESS = {
    *("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit"),
    *("InvalidAccount", "InvalidQOS"),
}
"""Reasons why a job is pending that waiting does not change: nodes or limits are too small for it."""

_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")
_ACTIVE = ("RUNNING", "SUSPENDED", "RESIZING", "SIGNALING", "STAGE_OUT")
_RENEWED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "COMPLETED")
"""Ends for which a job is submitted again. A worker that leaves before its walltime has completed its job. A job that
was cancelled or that failed is not: somebody wanted it, or it would fail again."""

_RENEWALS = 1000
"""So many jobs in the place of others, at most: eight jobs of two hours each, for ten days."""


class Slurm(Jobqueue):
    """It asks by the name of the jobs, which no other run has."""

    section = "slurm"

    def __init__(self) -> None:
        super().__init__()
        self._states: dict[str, str] = {}
        self._due: set[str] = set()
        self._renewed: set[str] = set()
        self._joined: set[str] = set()
        self._fixed = False

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """A worker leaves before the walltime of its job, so that it loses no work."""
        found = super().arguments(factory, given, request, stack)
        walltime = seconds(found.get("walltime") or dask.config.get("jobqueue.slurm.walltime", None))
        if walltime is not None and not any("--lifetime" in str(one) for one in found["worker_extra_args"]):
            before = max(20, min(300, walltime // 10))
            if walltime > 2 * before:
                leave = ["--lifetime", f"{walltime - before}s", "--lifetime-stagger", f"{before // 4}s"]
                found["worker_extra_args"] = [*found["worker_extra_args"], *leave]
        return found

    def queue(self, cluster: Any, request: Request) -> dict[str, Any] | None:
        """See `Kind.queue`. Jobs that SLURM has forgotten keep their last state."""
        answer = call(["squeue", "--noheader", "--states=all", f"--name={request.name}", "--format=%i|%T|%r|%M"])
        if answer is None:
            return None
        reasons: list[str] = []
        there: set[str] = set()
        self._joined |= _jobs_of_workers(cluster)
        for line in filter(None, answer.splitlines()):
            job, state, reason, used = (line.split("|") + [""] * 4)[:4]
            there.add(job)
            self._states[job] = state
            if state in _WAITING and reason not in (*reasons, "None", ""):
                reasons.append(reason)
            # A short job whose worker never came does not work at all.
            if state in _RENEWED and (job in self._joined or not re.fullmatch(r"0:\d\d", used)):
                self._due.add(job)
        for job in self._states.keys() - there:
            if self._states[job] in (*_WAITING, *_ACTIVE, "COMPLETING"):
                self._states[job] = "GONE"
        states = [state for job, state in self._states.items() if job not in self._renewed]
        running = sum(state in _ACTIVE for state in states)
        pending = sum(state in _WAITING for state in states)
        ended = {state.lower() for state in states if state not in (*_WAITING, *_ACTIVE, "COMPLETING")}
        hopeless = pending > 0 and not running and bool(reasons) and set(reasons) <= _HOPELESS
        found = {"running": running, "pending": pending, "reasons": reasons, "ended": sorted(ended)}
        return found | {"hopeless": hopeless, "log": self.last_line() if "failed" in ended else ""}

    def renew(self, cluster: Any, request: Request) -> bool:
        """Submit jobs in the place of those that reached their limit, were preempted, or lost their node.

        As long as the cluster adapts, they are only forgotten: Dask then sees that workers are missing.
        """
        lost = self._due - self._renewed
        if not lost or len(self._renewed) + len(lost) > _RENEWALS:
            return False
        self._renewed |= lost
        with suppress(Exception):  # a refused job is in the errors
            cluster.sync(_exchange, cluster, lost, request.workers, request.adapt is None or self._fixed)
        return True

    def fix(self, cluster: Any, request: Request) -> None:
        """Stop `adapt`. From now on `renew` submits."""
        self._fixed = True
        super().fix(cluster, request)

    def cancel_command(self, request: Request) -> list[str]:
        return ["scancel", "--quiet", f"--name={request.name}"]


def seconds(walltime: Any) -> int | None:
    """A walltime of SLURM in seconds: `"30"` (minutes), `"30:00"`, `"2:00:00"`, `"1-12"`, `"1-12:30:00"`."""
    days, dash, rest = str(walltime).rpartition("-")
    parts = rest.split(":")
    if not all(part.isdecimal() for part in [*parts, days or "0"]) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    if dash:
        numbers += [0] * (3 - len(numbers))  # hours come first
    elif len(numbers) < 3:
        numbers = [0, *numbers, *[0] * (2 - len(numbers))]  # minutes come first
    hours, minutes, last = numbers
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + last


def _jobs_of_workers(cluster: Any) -> set[str]:
    """The jobs whose workers are connected now."""
    with suppress(AttributeError, RuntimeError):  # no scheduler here, or a worker joins at this moment
        names = {str(worker.name) for worker in cluster.scheduler.workers.values()}
        names |= {name.rpartition("-")[0] for name in names}  # a job with several workers numbers them
        return {str(job.job_id) for name, job in list(cluster.workers.items()) if str(name) in names}
    return set()


async def _exchange(cluster: Any, lost: set[str], workers: int, submits: bool) -> None:
    """Forget jobs that have ended, and submit as many new ones, with new names.

    Dask looks again for a worker some time after it was lost, by its name, and would cancel the new job.
    """
    for name, job in list(cluster.workers.items()):
        if str(job.job_id) in lost:
            del cluster.workers[name]
            cluster.worker_spec.pop(name, None)
    cluster._i += workers + len(lost)
    for _ in lost if submits else ():
        cluster.worker_spec.update(cluster.new_worker_spec())
    await cluster._correct_state()
