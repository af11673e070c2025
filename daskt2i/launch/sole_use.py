"""One launch at a time on the workers of a cluster.

A rank fills its worker until the launch ends. Two launches at once would each hold some workers, and wait for the
others for ever.

Covers: waiting for another launch of this process, or of another client of the same scheduler; giving up.
Does not cover: which workers have ranks (`dask_ranks` asks them).
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
"""Schedulers on which this process has a launch."""


@contextmanager
def sole_use(address: str, busy: Callable[[], bool], seconds: float) -> Iterator[None]:
    """A block in which no other launch of ours uses the workers of a scheduler.

    Args:
        address: of the scheduler.
        busy: whether workers run ranks of a launch. The ranks of a driver that has died end within seconds.
        seconds: how long to wait for another launch to end.

    Raises:
        SchedulerError: another launch still runs there.
    """
    deadline = monotonic() + seconds
    while not _take(address) or _busy(address, busy):
        if monotonic() > deadline:
            raise SchedulerError(
                f"Another training runs on the workers of {address}. Nothing was started; wait until it has ended, or "
                "use other workers (scheduler)."
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
    """Asked while the scheduler is taken; it is given back if its workers are busy, or cannot be asked."""
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
