"""One launch at a time on the workers of a cluster.

A rank occupies its worker until the launch ends. Two launches at the same time would each hold some workers, and wait
for the other workers forever. And before its first rank starts, a launch unloads the encoders of the workers.

Covers: waiting for another launch of this or of another process on the same scheduler; giving up; a holder that died.
Does not cover: finding the workers that run ranks (`dask_ranks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from distributed import Client, Semaphore

from daskt2i.errors import SchedulerError
from daskt2i.launch.attempt import no_scheduler

NAME = "daskt2i-launch"
"""The name of the semaphore on the scheduler. Every version of daskt2i must use the same name."""

_LOOK_SECONDS = 0.5


@contextmanager
def sole_use(client: Client, busy: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Make a block in which no other launch of daskt2i uses the workers of a scheduler.

    The scheduler keeps the turn. If its holder dies, the scheduler ends the turn after Dask's
    `distributed.scheduler.locks.lease-timeout` (30 s) and its next check (`lease-validation-interval`, 10 s).

    Args:
        client: a connected client of the scheduler.
        busy: returns whether workers run ranks of a launch. If a driver died, its ranks end within seconds.
        seconds: how long to wait until another launch ends.

    Raises:
        SchedulerError: another launch still uses the workers, or the scheduler is gone.
    """
    deadline = monotonic() + seconds
    with _turn(client, seconds) as taken:
        while not taken or busy():
            if not taken or monotonic() > deadline:
                raise SchedulerError(
                    f"Another training runs on the workers of {client.scheduler.address}. Nothing was started; train "
                    "again when it has ended, or use other workers (scheduler)."
                )
            sleep(_LOOK_SECONDS)
        yield


@contextmanager
def _turn(client: Client, seconds: float) -> Iterator[bool]:
    """Hold the semaphore of the scheduler. False if somebody else held it all the time."""
    lease = Semaphore(1, NAME, scheduler_rpc=client.scheduler, loop=client.loop)
    try:
        try:
            taken = bool(lease.acquire(timeout=seconds))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise no_scheduler() from error
        try:
            yield taken
        finally:
            if taken and client.status == "running":
                lease.release()
    finally:
        # Otherwise Dask would refresh the lease until the client closes.
        if (refresh := getattr(lease, "refresh_callback", None)) is not None and client.status == "running":
            client.loop.add_callback(refresh.stop)
