"""How many workers there is work for: the target of a cluster that adapts.

Covers: counting the tasks that the scheduler has.
Does not cover: which workers are retired, and how often Dask looks (`distributed.deploy.adaptive`).

Dask asks for workers by the seconds of work that it was given. A stage gives each worker two items at most, so Dask
knows of seconds where hours are left: chunks of two seconds never brought a second job. But as long as there is more to
do, a stage keeps more items in flight than there are workers.
"""

from __future__ import annotations

from distributed.deploy.adaptive import Adaptive


class ByTasks(Adaptive):
    """All workers that may be asked for, as long as there are more tasks than workers; else one worker for each task.

    The scheduler of its cluster is in this process.
    """

    async def target(self) -> int | float:
        """The number of workers that there should be. `maximum` may be infinite."""
        scheduler = self.cluster.scheduler
        tasks = len(scheduler.queued) + len(scheduler.unrunnable)
        tasks += sum(len(worker.processing) for worker in scheduler.workers.values())
        return self.maximum if tasks > len(scheduler.workers) else tasks
