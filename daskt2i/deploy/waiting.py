"""Waiting for the workers of a cluster that a queue starts when it likes.

Covers: the limit, a line for the user while nothing starts, noticing that no worker will ever come.
Does not cover: asking the queue (`kinds`), workers that leave during the work (`executors`, `launch`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, Protocol

from daskt2i.deploy.workers import workers_of
from daskt2i.errors import SchedulerError
from daskt2i.formatting import duration, many

_FIRST_LINE, _NEXT_LINE = 10.0, 60.0
_OTHERS_SECONDS = 20.0
"""The other jobs of a queue often start with the first one, so a short wait gives a plan with all workers."""


class Queued(Protocol):
    """A cluster that tells what its queue says: `running`, `pending`, `reasons`, `ended`, `log`."""

    workers: int | None
    queue: dict[str, Any]


class Patience:
    """Waits for the workers of one cluster.

    Args:
        name: name of the cluster file.
        seconds: limit for the first worker.
        tell: gets lines for the user.
    """

    def __init__(self, name: str, client: Any, cluster: Queued, seconds: float, tell: Callable[[str], None]) -> None:
        self._name, self._client, self._cluster = name, client, cluster
        self._seconds, self._tell = seconds, tell

    def first(self, workers: int) -> None:
        """Wait for the first workers, and a moment for the others.

        Raises:
            SchedulerError: they do not come.
        """
        begun, said = monotonic(), float("-inf")
        while (there := self._present()) < workers:
            waited = monotonic() - begun
            if why := self.ended() or self._hopeless():
                raise SchedulerError(
                    f"{why} Nothing of the cluster is left, and no work was done; change {self._name}.yaml or a copy "
                    "of it, and run it again."
                )
            if waited > self._seconds:
                raise SchedulerError(
                    f"{self._said(there, workers)}, after {duration(waited)}. The cluster was closed, nothing of it is "
                    "left, and no work was done; run it again later, or write a larger wait_minutes into a copy of the "
                    "file."
                )
            if waited > _FIRST_LINE and monotonic() - said > _NEXT_LINE:
                said = monotonic()
                self._tell(f"{self._said(there, workers)}; waiting up to {duration(self._seconds)}")
            sleep(0.2)
        self._rest(self._cluster.workers or workers, _OTHERS_SECONDS)

    def all(self, workers: int) -> None:
        """Wait for all workers, as ranks do not join later. Go on with fewer after the limit."""
        self._rest(workers, self._seconds)
        if (there := self._present()) < workers:
            self._tell(f"{self._said(there, workers)}; going on with {many(there, 'worker')}")

    def ended(self) -> str:
        """Why no worker will come: all jobs have left the queue. "" if one may come."""
        queue = self._cluster.queue
        if not queue or queue["running"] or queue["pending"] or not queue["ended"]:
            return ""
        log = f"; the last line of their log: {queue['log']}" if queue.get("log") else ""
        return f"All jobs of the cluster of {self._name}.yaml have left the queue ({', '.join(queue['ended'])}{log})."

    def _hopeless(self) -> str:
        """Why no job will start, though all are pending; "" if one may."""
        if not self._cluster.queue.get("hopeless"):
            return ""
        return f"{self._said(0, 0)}, which does not change by waiting: no node or limit allows such a job."

    def _rest(self, workers: int, seconds: float) -> None:
        begun = monotonic()
        while self._present() < workers and monotonic() - begun < seconds and not self.ended():
            sleep(0.2)

    def _present(self) -> int:
        with suppress(OSError, TimeoutError):
            return len(workers_of(self._client))
        return 0

    def _said(self, there: int, workers: int) -> str:
        """`"2 jobs are pending (Resources)"`, or what is known without a queue."""
        queue = self._cluster.queue
        if not queue or not queue["pending"]:
            wanted = self._cluster.workers or workers
            return f"{there} of {many(wanted, 'worker')} joined the cluster of {self._name}.yaml"
        reasons = f" ({', '.join(queue['reasons'])})" if queue["reasons"] else ""
        running = f", {queue['running']} started" if queue["running"] else ""
        verb = "is" if queue["pending"] == 1 else "are"
        return f"{many(queue['pending'], 'job')} of {self._name}.yaml {verb} pending{reasons}{running}"
