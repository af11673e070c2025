"""Problems of connections and clocks, from measurements.

Covers: connections that fail or are slow, a slow run folder, clocks that differ.
Does not cover: measuring (`speeds`).

The limits are far from what a busy machine shows, because a measurement of milliseconds says little.
"""

from __future__ import annotations

from collections.abc import Iterator

from daskt2i.doctor.facts import Found, Problem, Speed, who
from daskt2i.formatting import duration, size
from daskt2i.plan import MIB

_SLOW_MESSAGE = 1.0
"""Seconds of a message from the driver to a worker and back. Each chunk needs two."""

_SLOW_RANKS = 1 * MIB
"""Bytes a second between workers: gradients of a small model take minutes a step."""

_SLOW_FOLDER, _SLOW_OBJECT = 1 * MIB, 3.0
_CLOCK = 5.0
"""Seconds. Clocks of a healthy cluster differ by milliseconds."""


def problems(found: Found) -> Iterator[Problem]:
    """All problems of connections and clocks."""
    for speed in found.speeds:
        if speed.kind == "driver-worker":
            yield from _driver(found, speed)
        elif speed.kind == "worker-worker":
            yield from _ranks(found, speed)
        else:
            yield from _folder(found, speed)
    yield from _clocks(found)


def _driver(found: Found, speed: Speed) -> Iterator[Problem]:
    if speed.seconds is not None and speed.seconds > _SLOW_MESSAGE:
        yield Problem(
            "slows",
            "network",
            f"A message to the worker on {_host(found, speed.end)} and back takes {duration(speed.seconds)}.",
            "Run the driver near the scheduler, or wait until the scheduler is less busy.",
            (speed.end,),
        )


def _ranks(found: Found, speed: Speed) -> Iterator[Problem]:
    start, end = _host(found, speed.start), _host(found, speed.end)
    if speed.error:
        yield Problem(
            "stops" if start != end else "slows",
            "network",
            f"The worker on {start} cannot connect to a port of the worker on {end} ({speed.error}). Encode works; a "
            "training with ranks on both does not.",
            "Let the firewall pass the ports of net.ipv4.ip_local_port_range between the hosts, or set launch.ranks to "
            "the workers of one host.",
            (speed.start, speed.end),
        )
    elif speed.there is not None and speed.there < _SLOW_RANKS:
        yield Problem(
            "slows",
            "network",
            f"{size(speed.there)} a second pass from the worker on {start} to the one on {end}: ranks on both would "
            "wait for each other most of the time.",
            "Start workers on a faster network (--interface), or train on one host (launch.ranks).",
            (speed.start, speed.end),
        )


def _folder(found: Found, speed: Speed) -> Iterator[Problem]:
    where = f"From {_host(found, speed.start)}, " if found.address else ""
    slow = speed.there is not None and speed.there < _SLOW_FOLDER
    if slow or (speed.seconds or 0.0) > _SLOW_OBJECT:
        text = (
            f"{where}writing into the run folder takes {duration(speed.seconds or 0)} for a small object, and goes at "
            f"{size(speed.there or 0)} a second."
        )
        yield Problem(
            "slows",
            "run-folder",
            text[0].upper() + text[1:],
            "Choose a run folder on a faster disk or nearer store (out), or make chunks larger "
            "(dataset.rows_per_chunk).",
            (speed.start,) * bool(speed.start),
        )


def _clocks(found: Found) -> Iterator[Problem]:
    off = [one for one in found.workers if one.clock is not None and one.clock.surely_off_by() > _CLOCK]
    if off:
        most = max(off, key=lambda one: abs(one.clock.ahead) if one.clock else 0.0)
        assert most.clock is not None
        way = "ahead of" if most.clock.ahead > 0 else "behind"
        yield Problem(
            "note",
            "clock",
            f"{who(off, len(found.workers))}: the clock is up to {duration(abs(most.clock.ahead))} {way} that of the "
            f"driver (measured to {duration(most.clock.error)}). daskt2i decides nothing by clocks of two machines; "
            "times in logs and certificates do not fit together.",
            "Set the clock there (chrony, ntp).",
            tuple(one.address for one in off),
        )


def _host(found: Found, address: str) -> str:
    return next((one.host for one in found.workers if one.address == address), address)
