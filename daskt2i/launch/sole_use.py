"""One launch at a time on the workers of a cluster.

A rank occupies its worker until the launch ends. Two launches at the same time would each hold some workers, and wait
for the other workers forever.

Covers: waiting for another launch of this process, or of another client of the same scheduler; giving up.
Does not cover: finding the workers that run ranks (`dask_ranks`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from daskt2i.errors import SchedulerError

_LOOK_SECONDS = 0.5

_turn = threading.Lock()
_launching: set[str] = set()
"""Addresses of the schedulers on which this process runs a launch."""


@contextmanager
def sole_use(address: str, busy: Callable[[], bool], seconds: float) -> Iterator[None]:
    """Make a block in which no other launch of daskt2i uses the workers of a scheduler.

    Args:
        address: address of the scheduler.
        busy: returns whether workers run ranks of a launch. If a driver died, its ranks end within seconds.
        seconds: how long to wait until another launch ends.

    Raises:
        SchedulerError: another launch still uses the workers.
    """
    deadline = monotonic() + seconds
    while not _take(address) or _busy(address, busy):
        if monotonic() > deadline:
            raise SchedulerError(
                f"Another training runs on the workers of {address}. Nothing was started; train again when it has "
                "ended, or use other workers (scheduler)."
            )
        sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        _give_back(address)


def _take(address: str) -> bool:
    with _turn:
        if address in _launching:
            return False
        _launching.add(address)
        return True


def _busy(address: str, busy: Callable[[], bool]) -> bool:
    """Ask the workers while we hold the scheduler. Release it if they are busy or do not answer."""
    try:
        found = busy()
    except BaseException:
        _give_back(address)
        raise
    if found:
        _give_back(address)
    return found


def _give_back(address: str) -> None:
    with _turn:
        _launching.discard(address)
