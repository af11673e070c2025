"""One launch at a time on each worker of a cluster.

A rank occupies its worker until the launch ends. Two launches at the same time would each hold some workers, and wait
for the other workers forever. And before its first rank starts, a launch unloads the encoders of the workers.

Covers: waiting for another launch of this or of another process on the same workers; giving up; a holder that died.
Does not cover: finding the workers that run ranks (`dask_ranks`).

A launch that may use all workers holds a semaphore until its end. A launch that may use only some of them
(`launch.only`) holds it for a moment, and claims its workers on the scheduler. So launches with different workers run
beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from distributed import Client, Semaphore

from daskt2i.errors import SchedulerError
from daskt2i.launch.attempt import no_scheduler

NAME = "daskt2i-launch"
"""The name of the semaphore on the scheduler, and of the claims in its metadata. Every version of daskt2i must use the
same name."""

_LOOK_SECONDS = 0.5


@contextmanager
def sole_use(
    client: Client, busy: Callable[[], bool], seconds: float, only: Callable[[], Collection[str]] | None = None
) -> Iterator[None]:
    """Make a block in which no other launch of daskt2i uses the same workers of a scheduler.

    The scheduler keeps the turn. If its holder dies, the scheduler ends the turn after Dask's
    `distributed.scheduler.locks.lease-timeout` (30 s) and its next check (`lease-validation-interval`, 10 s). A claim
    ends when the client that made it is gone.

    Args:
        client: a connected client of the scheduler.
        busy: returns whether workers run ranks of a launch. If a driver died, its ranks end within seconds.
        seconds: how long to wait until another launch ends.
        only: returns the addresses of the workers that the launch may use; None for all workers.

    Raises:
        SchedulerError: another launch still uses the workers, or the scheduler is gone.
    """
    name, deadline = uuid4().hex, monotonic() + seconds
    with _turn(client, seconds) as (taken, release):
        while not taken or busy() or not _claimed(client, name, only):
            if not taken or monotonic() > deadline:
                raise SchedulerError(
                    f"Another training runs on the workers of {client.scheduler.address}. Nothing was started; train "
                    "again when it has ended, or use other workers (scheduler, or launch.only for both trainings)."
                )
            sleep(_LOOK_SECONDS)
        if only is not None:
            release()
        try:
            yield
        finally:
            if client.status == "running":
                with suppress(OSError, RuntimeError, TimeoutError):  # the claim ends with this client
                    client.run_on_scheduler(_unclaim, name)


@contextmanager
def _turn(client: Client, seconds: float) -> Iterator[tuple[bool, Callable[[], None]]]:
    """Hold the semaphore of the scheduler until the end, or until the function that it gives is called.

    It gives False if somebody else held it all the time.
    """
    lease = Semaphore(1, NAME, scheduler_rpc=client.scheduler, loop=client.loop)
    held = False

    def release() -> None:
        nonlocal held
        if held and client.status == "running":
            lease.release()
        held = False

    try:
        try:
            held = bool(lease.acquire(timeout=seconds))
        except (OSError, RuntimeError, TimeoutError) as error:
            raise no_scheduler() from error
        try:
            yield held, release
        finally:
            release()
    finally:
        # Otherwise Dask would refresh the lease until the client closes.
        if (refresh := getattr(lease, "refresh_callback", None)) is not None and client.status == "running":
            client.loop.add_callback(refresh.stop)


def _claimed(client: Client, name: str, only: Callable[[], Collection[str]] | None) -> bool:
    """Whether no launch beside this one has any of the workers. Then they are claimed, if they are only some."""
    workers = None if only is None else sorted(only())
    try:
        return bool(client.run_on_scheduler(_claim, name, client.id, workers))
    except (OSError, RuntimeError, TimeoutError) as error:
        raise no_scheduler() from error


def _claim(name: str, client: str, workers: list[str] | None, dask_scheduler: Any) -> bool:
    """On the scheduler, whose loop runs one such function at a time. `workers`: None for all."""
    there = dask_scheduler.get_metadata([NAME], {})
    claims = {key: one for key, one in there.items() if one["client"] in dask_scheduler.clients}
    taken = {worker for one in claims.values() for worker in one["workers"]}
    free = not taken & set(dask_scheduler.workers if workers is None else workers)
    if free and workers is not None:
        claims[name] = {"client": client, "workers": workers}
    dask_scheduler.set_metadata([NAME], claims)
    return free


def _unclaim(name: str, dask_scheduler: Any) -> None:
    """On the scheduler."""
    claims = dask_scheduler.get_metadata([NAME], {})
    dask_scheduler.set_metadata([NAME], {key: one for key, one in claims.items() if key != name})
