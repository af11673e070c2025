"""A measurement that is made once for a kind of machine.

Covers: figures that are kept, else a measurement in a child process; what a user should know about it.
Does not cover: the file (`cache`), the process (`child`), what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskt2i.probes import cache, child


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of this machine.

    Attributes:
        seconds: by name; empty if there are none.
        failure: why the measurement did not come to its end, as a clause; "" if it did.
        notes: a sentence if the figures could not be kept.
    """

    seconds: Mapping[str, float]
    failure: str = ""
    notes: tuple[str, ...] = ()


def clock_for(threads: int) -> Callable[[], float]:
    """The clock of a measurement: for one thread its CPU time, which other work on the machine hardly changes."""
    return time.thread_time if threads == 1 else time.perf_counter


def seconds_of(
    question: str,
    about: Sequence[Any],
    packages: Sequence[str],
    names: Collection[str],
    function: str,
    arguments: Mapping[str, Any],
    measure: bool = True,
) -> Measured:
    """The figures of a question on this kind of machine.

    Args:
        question: one word, the beginning of the file's name.
        about: what the figures depend on beside processor and versions; JSON values.
        packages: packages whose versions count.
        names: the figures that must be there.
        function, arguments: as in `child.run`.
        measure: False to look only for figures that are kept.
    """
    machine = cache.machine_key(packages)
    if machine is None:
        return Measured({}, f"{' or '.join(packages)} is not installed")
    key = [question, machine, list(about)]
    kept = cache.read(key)
    if kept is not None and set(names) <= set(kept):
        return Measured(kept)
    if not measure:
        return Measured({})
    ended = child.run(function, arguments)
    if ended.failure or not set(names) <= set(ended.seconds):
        return Measured(ended.seconds, ended.failure or "it gave no figures")
    why = cache.keep(key, ended.seconds)
    note = f"What was measured on this machine cannot be kept ({why}), so the next run measures again."
    return Measured(ended.seconds, notes=(note,) if why else ())
