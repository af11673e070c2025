"""Signs of life of a rank, and requests to it, from inside its process.

    heartbeat.listen()                       # this module saves a checkpoint when it is asked
    while step < steps:
        heartbeat.at(step + 1, heartbeat.COMPUTES)
        ...
        if heartbeat.asked():                # by SIGTERM, SIGUSR1 or the driver
            save()
            heartbeat.saved(step)

Covers: what this rank is doing and since when, where its time goes, a thread that tells it, the request to save a
checkpoint, signals.
Does not cover: what the supervisor adds and sends on (`pulse`), who stands still (`standstill`), saving itself.

A thread that only beats would go on while a step hangs. So a beat also says at which step the rank is, what it does
there, and for how long. A process that is stopped (SIGSTOP) has no beat at all.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

BEAT_SECONDS = 2.0

STARTS, READS, COMPUTES = "starts", "reads samples", "computes"
SAVES, VALIDATES, DRAWS, FINISHES = "saves", "validates", "draws", "finishes"
"""What a rank does."""

STEPS = frozenset({READS, COMPUTES})
"""What it does in each step; the rest comes seldom, and may take long."""

_SIGNALS = ("SIGTERM", "SIGUSR1")


@dataclass(slots=True)
class _Rank:
    """What this process told and was asked."""

    tell: Callable[..., None] | None = None
    doing: tuple[int, str, float] | None = None
    listens: bool = False
    asked: bool = False
    resting: int | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    ears: list[socket.socket] = field(default_factory=list)
    beats: threading.Thread | None = None


_END = 0
"""What wakes the thread of the beats for the last time. No signal has this number."""

_me = _Rank()


def at(step: int, doing: str) -> None:
    """This rank begins something. It costs nothing, so call it at each step.

    Args:
        step: the step that it works on; after the last step, that one.
        doing: one of `READS`, `COMPUTES`, … or a verb of your own, as in "rank 1 VERB at step 12".
    """
    _me.doing = (step, doing, monotonic())


def spent(shares: Mapping[str, float]) -> None:
    """Tell with the next beat where the time of this rank goes: part -> share of the time, 0 to 1."""
    _me.shares = dict(shares)


def listen() -> None:
    """From now on this rank looks at `asked` after each step. Without a launcher this function does nothing.

    SIGTERM no longer ends the process at once: it asks for a checkpoint, and the launcher ends the rank after that.
    SIGUSR1 asks for a checkpoint alone.
    """
    tell = _me.tell
    if tell is None or _me.listens:
        return
    _me.listens = True
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _nothing)
    tell("listens")


def asked() -> bool:
    """Whether somebody wants a checkpoint now."""
    return _me.asked


def saved(step: int) -> None:
    """A checkpoint of this step was saved. Who asked for it gets an answer."""
    if _me.asked and _me.tell is not None:
        _me.asked = False
        _me.tell("saved", step=step)


def rest(step: int) -> None:
    """The last step is saved: later requests are answered at once."""
    _me.resting = step
    saved(step)


def begin(tell: Callable[..., None]) -> None:
    """Start the beats of this process. The process around the module calls it (`rank`).

    Args:
        tell: `rank.tell`.
    """
    _me.tell = tell
    here, there = socket.socketpair()
    _me.ears = [here, there]
    there.setblocking(False)
    if threading.current_thread() is threading.main_thread():
        # A handler of Python runs only between two lines of Python, so not while this process waits for another rank.
        signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    _me.beats = threading.Thread(target=_beat, args=(tell, here), name="daskt2i-heartbeat", daemon=True)
    _me.beats.start()


def end() -> None:
    """Stop the beats. Call it before Python ends: a thread that still runs then may abort the process (SIGABRT)."""
    if _me.beats is None:
        return
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)
    _me.ears[1].send(bytes([_END]))
    _me.beats.join(BEAT_SECONDS)


def request(what: str) -> bool:
    """A line from the supervisor: `save`; or `end`, and then SIGTERM follows. Returns whether to end at once."""
    if what == "save":
        _ask()
    return what == "end" and _me.listens


def _ask() -> None:
    _me.asked = True
    if _me.resting is not None:
        saved(_me.resting)


def _beat(tell: Callable[..., None], ear: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([ear], [], [], BEAT_SECONDS)
        heard = ear.recv(64) if ready else b""
        if _END in heard:
            return
        for number in heard if _me.listens else b"":
            _signalled(tell, number)
        tell("beat", **_doing())


def _signalled(tell: Callable[..., None], number: int) -> None:
    with contextlib.suppress(ValueError):
        name = signal.Signals(number).name
        if name == "SIGTERM":
            tell("leaving", why="it got SIGTERM")
        if name in _SIGNALS:
            _ask()


def _doing() -> dict[str, Any]:
    if _me.doing is None:
        return {}
    step, doing, since = _me.doing
    told = {"step": step, "doing": doing, "seconds": round(monotonic() - since, 1)}
    return {**told, "shares": dict(_me.shares)} if _me.shares else told


def _nothing(number: int, frame: object) -> None:
    """Python needs a handler; `_beat` does the work."""
