"""A worker's report that its chunk does not move: an object in the run folder, while it lasts.

    waiting/HOST-PID.json   {"chunk": 4, "worker": "node7:812", "what": "a.jpg: …; tried again", "seconds": 12.5, …}

Covers: when to report, writing and removing the object.
Does not cover: what the driver makes of it (`standstill`), how long is too long (`retries`).

Most chunks never write one. A process that is frozen cannot write one either; the driver has its own clock for that.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time

from daskt2i import retries
from daskt2i.store.run_folder import RunFolder

WAITING = "waiting"
"""The folder of the reports, in the run folder. The driver removes it when the encode ends."""

_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 10.0
"""How often a report is renewed, so that its age is right and the driver knows that its worker is alive."""


class Watch:
    """Watches one chunk of this process, from `__enter__` to `__exit__`, in a thread of its own.

    Args:
        folder: the run folder.
        chunk: number of the chunk.
        worker: `host:pid`.
    """

    def __init__(self, folder: RunFolder, chunk: int, worker: str) -> None:
        self._folder, self._chunk, self._worker = folder, chunk, worker
        self._name = f"{WAITING}/{re.sub(r'[^A-Za-z0-9.-]', '-', worker)}.json"
        self._stage, self._moved = "load", time.monotonic()
        self._what, self._since, self._limit = "", 0.0, 0.0
        self._end = threading.Event()

    def __enter__(self) -> Watch:
        threading.Thread(target=self._run, name="daskt2i-watch", daemon=True).start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()

    def moved(self, stage: str = "") -> None:
        """The chunk moved: a row was read, a batch encoded, or a stage began."""
        self._moved = time.monotonic()
        self._stage = stage or self._stage
        self._what = ""

    def waits(self, what: str, since: float, limit: float = 0.0) -> None:
        """The chunk waits.

        Args:
            what: a clause for a person; "" if it waits for nothing special.
            since: when that began, on the clock `time.monotonic`.
            limit: seconds after which it is given up.
        """
        self._since, self._limit, self._what = since, limit, what

    def _run(self) -> None:
        told: float | None = None
        while not self._end.wait(_LOOK_SECONDS):
            now = time.monotonic()
            what, seconds = self._state(now)
            if what and (told is None or now - told >= _AGAIN_SECONDS):
                told = now
                self._write(what, seconds)
            elif not what and told is not None:
                told = None
                self._remove()
        if told is not None:
            self._remove()

    def _state(self, now: float) -> tuple[str, float]:
        """What is awaited, and for how many seconds; `""` if that is not worth a word."""
        what, since = self._what, self._since
        if what:
            return (what, now - since) if now - since >= retries.TELL_WAIT_SECONDS else ("", 0.0)
        still = now - self._moved
        return (f"nothing moves in stage {self._stage}", still) if still >= retries.TELL_STILL_SECONDS else ("", 0.0)

    def _write(self, what: str, seconds: float) -> None:
        about = {"chunk": self._chunk, "worker": self._worker, "what": what, "seconds": round(seconds, 1)}
        about |= {"limit": self._limit} if self._limit and self._what else {}
        with contextlib.suppress(Exception):  # the folder may be behind the same dead network
            self._folder.write(self._name, json.dumps(about).encode())

    def _remove(self) -> None:
        with contextlib.suppress(Exception):
            self._folder.delete(self._name)
