"""Requests to a training that runs: pictures now, or an early end. Any program may write them.

    train/requests/pictures      draw the prompts and seeds of `sample:` at the next step
    train/requests/stop          save a checkpoint at the next step, write the model, and end

Covers: writing a request, looking for requests on rank 0, removing those that are done.
Does not cover: how all ranks hear of them (`figures.step_figures`), what is done (`train.loop`).

An object counts by its name alone; what it holds does not matter.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic

from daskt2i.errors import StoreError
from daskt2i.store.run_folder import RunFolder

PICTURES, STOP = "pictures", "stop"

_KINDS = (PICTURES, STOP)

LOCAL_SECONDS, REMOTE_SECONDS = 1.0, 10.0
"""Time between two looks into a run folder on a disk, and into one behind an address, where a look costs a request."""


def place_of(what: str, prefix: str = "train") -> str:
    """The object of a request inside the run folder."""
    return f"{prefix}/requests/{what}"


def request(folder: RunFolder, what: str, prefix: str = "train") -> str:
    """Write a request, and return its address. The training acts at one of its next steps.

    Args:
        what: `PICTURES` or `STOP`.

    Raises:
        StoreFull, StoreError: it cannot be written.
    """
    folder.write(place_of(what, prefix), b"")
    return folder.address(place_of(what, prefix))


def forget_stop(folder: RunFolder, prefix: str) -> None:
    """Before a training starts: an end that was asked for earlier is not meant for it."""
    with contextlib.suppress(OSError, StoreError):
        folder.delete(place_of(STOP, prefix))


class Requests:
    """The requests to one training, as its rank 0 sees them.

    Args:
        looks: whether this rank looks; others hear of requests from rank 0.
        clock: seconds.
    """

    def __init__(self, folder: RunFolder, prefix: str, looks: bool, clock: Callable[[], float] = monotonic) -> None:
        self._folder, self._prefix, self._looks, self._clock = folder, prefix, looks, clock
        self._seconds = LOCAL_SECONDS if folder.is_local else REMOTE_SECONDS
        self._next = clock()

    def look(self) -> int:
        """The requests of now as the sum of powers of two; 0 between two looks, and on ranks that do not look."""
        if not self._looks or self._clock() < self._next:
            return 0
        self._next = self._clock() + self._seconds
        found = 0
        with contextlib.suppress(OSError, StoreError):  # a folder that cannot be read now is read again later
            for number, what in enumerate(_KINDS):
                found += 2**number * self._folder.exists(place_of(what, self._prefix))
        return found

    def done(self, what: str) -> None:
        """Remove a request that was carried out."""
        if self._looks:
            with contextlib.suppress(OSError, StoreError):
                self._folder.delete(place_of(what, self._prefix))


def names(code: int) -> frozenset[str]:
    """The requests in a result of `Requests.look`."""
    return frozenset(what for number, what in enumerate(_KINDS) if code >> number & 1)
