"""What the driver says when nothing moves: to the listener, and to `status`.

Covers: reading the workers' reports (`watch`), what an executor waits for, a run in which no chunk ends, or whose
last chunks take long; how often that is told; the object that `status` reads; workers that died.
Does not cover: how it looks (`display`), ending what stands still (`encode.read_ahead`, `executors`).

A thread looks every two seconds, because the driver itself waits for its executor. It hands on events one at a time
with those of the driver.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i import retries
from daskt2i.encode.chunks.watch import WAITING
from daskt2i.events import Activity, Event, Listener, Moving, Waiting, tell_deaths
from daskt2i.formatting import waiting_words
from daskt2i.store.run_folder import STANDSTILL, RunFolder

_LOOK_SECONDS = 2.0
_STALE_SECONDS = 60.0
"""A report that did not change for so long is of a worker that is gone."""

_LAST_SECONDS = 10.0
"""A line says what a run waits for at its end, if no chunk ends for so long."""

_MOST_NAMED = 8

_WRITE_SECONDS = 30.0
"""How often the object for `status` is renewed."""


class Standstill:
    """Watches a run from `__enter__` to `__exit__`.

    Args:
        folder: the run folder.
        executor: its attributes `waiting` and `worker_deaths`, if it has them, say what it waits for and who died.
        listener: gets the events.
    """

    def __init__(self, folder: RunFolder, executor: Any, listener: Listener) -> None:
        self._folder, self._executor, self._listener = folder, executor, listener
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="daskt2i-standstill", daemon=True)
        self._error: BaseException | None = None
        self._flying: dict[int, float] = {}
        self._moved = time.monotonic()
        self._reports: dict[str, tuple[bytes, float]] = {}
        self._due: dict[tuple[str, int | None], float] = {}
        self._written = 0.0
        self._drained, self._told_last = False, False

    def __enter__(self) -> Standstill:
        self._sweep()
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._end.set()
        self._thread.join(5.0)
        self._sweep()
        if raised[0] is None:
            tell_deaths(self._executor, self._listener, "encoded")

    def hear(self, event: Event) -> None:
        """Hand an event on. An error of the listener that another thread met is raised here."""
        with self._lock:
            error, self._error = self._error, None
            if error is not None:
                raise error
            tell_deaths(self._executor, self._listener, "encoded")
            self._listener(event)

    def drawn(self, chunk: int) -> None:
        """A chunk goes to the executor."""
        if not self._flying:
            self._moved = time.monotonic()
        self._flying[chunk] = time.monotonic()
        self._drained = False

    def drained(self) -> None:
        """No chunk waits to be given to the executor. What is in flight are the last ones."""
        self._drained = True

    def ended(self, chunk: int) -> None:
        """A chunk came back."""
        self._moved = time.monotonic()
        self._flying.pop(chunk, None)
        self._told_last = False

    def _run(self) -> None:
        while not self._end.wait(_LOOK_SECONDS):
            found = list(self._waits(time.monotonic()))
            news: list[Event] = [one for one in found if self._is_due(one)]
            if self._due and not found:
                news.append(Moving())
            if not found and (last := self._last_chunks(time.monotonic())):
                news.append(Activity(last))
            self._due = {key: due for key, due in self._due.items() if key in {_key(one) for one in found}}
            try:
                with self._lock:
                    tell_deaths(self._executor, self._listener, "encoded")
                for one in news:
                    with self._lock:
                        self._listener(one)
            except BaseException as error:
                self._error = error
            self._show(found, bool(found and news))

    def _is_due(self, one: Waiting) -> bool:
        if one.seconds < self._due.get(_key(one), 0.0):
            return False
        self._due[_key(one)] = max(2 * one.seconds, 10.0)
        return True

    def _waits(self, now: float) -> Iterator[Waiting]:
        waits = getattr(self._executor, "waiting", None)
        if isinstance(waits, Waiting) and waits.seconds >= retries.TELL_WAIT_SECONDS:
            yield waits
            return
        silent = now - self._moved
        if not self._flying or silent < 2 * _LOOK_SECONDS:
            return
        reports = list(self._read(now))
        yield from reports
        if not reports and silent >= retries.TELL_SILENT_SECONDS:
            chunks = ", ".join(map(str, sorted(self._flying)[:8]))
            yield Waiting(f"no chunk ends; in work are chunks {chunks}", "", silent)

    def _last_chunks(self, now: float) -> str:
        """A line about the last chunks of a run, once if they take long; "" else. Other workers have nothing to do."""
        if not self._drained or self._told_last or not self._flying or now - self._moved < _LAST_SECONDS:
            return ""
        self._told_last = True
        holders: Mapping[int, str] = getattr(self._executor, "holders", dict)()
        last = sorted(self._flying)[:_MOST_NAMED]
        named = ", ".join(f"chunk {chunk}" + (f" on {holders[chunk]}" if chunk in holders else "") for chunk in last)
        rest = len(self._flying) - len(last)
        more = f" and {rest:,} more" if rest else ""
        return f"only {'these chunks are' if len(self._flying) != 1 else 'this chunk is'} left: {named}{more}"

    def _read(self, now: float) -> Iterator[Waiting]:
        """The reports of workers that are alive, about chunks that are in flight."""
        with contextlib.suppress(Exception):  # the folder may be behind the same dead network
            names = self._folder.list(WAITING)
            self._reports = {name: seen for name, seen in self._reports.items() if name in names}
            for name, data in self._folder.read_many(names):
                if isinstance(data, Exception):
                    continue
                before, since = self._reports.get(name, (b"", now))
                self._reports[name] = (data, since if data == before else now)
                about = json.loads(data)
                if about["chunk"] in self._flying and now - self._reports[name][1] < _STALE_SECONDS:
                    limit = float(about.get("limit", 0.0))
                    yield Waiting(
                        str(about["what"]), str(about["worker"]), float(about["seconds"]), limit, about["chunk"]
                    )

    def _show(self, found: list[Waiting], new: bool) -> None:
        """Renew the object for `status`, or remove it."""
        now = time.monotonic()
        with contextlib.suppress(Exception):
            if not found and self._written:
                self._written = 0.0
                self._folder.delete(STANDSTILL)
            elif found and (new or not self._written or now - self._written >= _WRITE_SECONDS):
                self._written = now
                words = [waiting_words(one.what, one.where, one.seconds, one.limit, one.chunk) for one in found]
                self._folder.write(STANDSTILL, json.dumps({"waiting": words}).encode())

    def _sweep(self) -> None:
        with contextlib.suppress(Exception):
            for name in self._folder.list(WAITING):
                self._folder.delete(name)
            if self._folder.is_local:
                with contextlib.suppress(OSError):
                    self._folder.local_path(WAITING).rmdir()
            if self._folder.exists(STANDSTILL):
                self._folder.delete(STANDSTILL)


def _key(one: Waiting) -> tuple[str, int | None]:
    return one.where, one.chunk
