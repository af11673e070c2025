"""What a supervisor knows of its rank: the last beat, the state of the process, its memory and processor time.

Covers: looking at a process of this machine with its children; the event `pulse`.
Does not cover: beats inside the rank (`heartbeat`), what the driver concludes (`standstill`).

A rank that is stopped says nothing. So its supervisor looks at the process, and tells the driver every few seconds.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psutil

PULSE_SECONDS = 5.0


class Pulse:
    """The signs of life of one rank, as its supervisor sees them.

    Args:
        pid: its process.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._host = socket.gethostname()
        self._beat: Mapping[str, Any] = {}
        self._beaten = self._told = self._looked = monotonic()
        self._cpu = 0.0

    def heard(self, beat: Mapping[str, Any]) -> None:
        """Keep a beat of the rank."""
        self._beat, self._beaten = beat, monotonic()

    def take(self) -> dict[str, Any] | None:
        """The event `pulse`, if it is time for one: `silent` seconds since the last beat, `state` of the process,
        `memory` in bytes and `cpu` in cores, both with children, and what the last beat said."""
        now = monotonic()
        if now - self._told < PULSE_SECONDS:
            return None
        self._told = now
        said = {name: self._beat[name] for name in ("step", "doing", "seconds", "shares") if name in self._beat}
        silent = round(now - self._beaten, 1)
        return {"kind": "pulse", "host": self._host, "silent": silent, **said, **self._look(now)}

    def _look(self, now: float) -> dict[str, Any]:
        state, memory, cpu = "gone", 0, 0.0
        with contextlib.suppress(psutil.Error):
            state = self._process.status()
            for process in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):  # a child that has just ended
                    memory += process.memory_info().rss
                    cpu += sum(process.cpu_times()[:2])
        cores = max(0.0, cpu - self._cpu) / max(now - self._looked, 1e-3)
        self._cpu, self._looked = cpu, now
        return {"pid": self._process.pid, "state": state, "memory": memory, "cpu": round(cores, 2)}
