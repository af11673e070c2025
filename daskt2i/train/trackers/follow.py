"""Follow `metrics.jsonl` while the ranks write it, and give each step once to the trackers of `launch.trackers`.

Covers: a thread for each tracker, which step comes next after a restart, a tracker that fails or hangs.
Does not cover: the packages of the trackers (`weights_and_biases`, `mlflow_store`).

Events say only that there is something new, because they tell at most two steps a second; the file has every step. The
newest step is held back until a later one follows or the training ends: its held-out loss comes in a line of its own.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from daskt2i.errors import ConfigError
from daskt2i.events import Event, LaunchEvent, Listener, Note
from daskt2i.redact import without_secrets
from daskt2i.store.run_folder import RunFolder

END_SECONDS = 10.0
"""Longest wait for a tracker at the end of a training."""

_WAITING = 100
"""Events that wait for a tracker. More are dropped: the figures are in the file, and sheets wait in a list of their
own."""


class Tracker(Protocol):
    """A run in a tracker. Its thread alone calls it."""

    id: str

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Add all figures of a step. Steps come in order, each once."""

    def sheet(self, step: int, at: int, png: bytes) -> None:
        """Add the sheet of a step. `at` is the last step that was logged."""

    def close(self) -> None:
        """Write what waits, and end the run."""


Opener = Callable[[str, RunFolder, str, Mapping[str, Any], str | None], Tracker]


def open_tracker(name: str, folder: RunFolder, prefix: str, config: Mapping[str, Any], known: str | None) -> Tracker:
    """Begin a run of a tracker, or continue it.

    Args:
        name: `wandb` or `mlflow`.
        prefix: folder inside the run folder, `train` or `train-vae`.
        config: settings of the training, without secrets.
        known: id of the run to continue; None for a new one.
    """
    if name == "wandb":
        from daskt2i.train.trackers.weights_and_biases import WandbRun

        return WandbRun(folder, prefix, config, known or uuid.uuid4().hex[:12])
    from daskt2i.train.trackers.mlflow_store import MlflowRun

    return MlflowRun(folder, prefix, config, known)


def require_packages(names: Sequence[str]) -> None:
    """Refuse trackers whose package is missing.

    Raises:
        ConfigError: one is.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"launch.trackers names {name}, and its package is not installed. Nothing was started; run pip install "
                f"'daskt2i[{name}]', or take it out of launch.trackers."
            )


class Trackers:
    """A listener that feeds the trackers, and hands every event on.

    Args:
        names: `launch.trackers`.
        settings: sections of the workflow by name; secrets in them are hidden.
        seconds: longest wait at the end, for each tracker.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: RunFolder,
        prefix: str,
        settings: Mapping[str, Any],
        listener: Listener,
        opener: Opener = open_tracker,
        seconds: float = END_SECONDS,
    ) -> None:
        self._listener, self._seconds = listener, seconds
        config = without_secrets(settings)
        self._followers = [_Follower(name, folder, prefix, config, opener) for name in dict.fromkeys(names)]

    def hear(self, event: Event) -> None:
        """An event of the launch. Never raises because of a tracker."""
        if isinstance(event, LaunchEvent) and event.kind in ("started", "step", "heldout", "checkpoint", "sheet"):
            for one in self._followers:
                one.put(event)
        self._tell()
        self._listener(event)

    def close(self) -> None:
        """Give the last figures to the trackers, and wait for them, at most for the seconds of this object."""
        for one in self._followers:
            one.end(self._seconds)
        for one in self._followers:
            one.wait(self._seconds)
        self._tell()

    def _tell(self) -> None:
        """Tell problems on the thread of the stage, as listeners expect."""
        for one in self._followers:
            if text := one.taken_problem():
                self._listener(Note(text))


class _Follower:
    """The thread of one tracker."""

    def __init__(self, name: str, folder: RunFolder, prefix: str, config: Mapping[str, Any], opener: Opener) -> None:
        self._name, self._folder, self._prefix, self._config, self._open = name, folder, prefix, config, opener
        self._kept = f"{prefix}/trackers/{name}.json"
        self._queue: queue.Queue[LaunchEvent | None] = queue.Queue(_WAITING)
        self._sheets: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._problem = ""
        self._offset, self._sent, self._drawn = 0, -1, -1
        self._figures: dict[int, dict[str, float]] = {}
        self._thread = threading.Thread(target=self._work, name=f"daskt2i-{name}", daemon=True)
        self._thread.start()

    def put(self, event: LaunchEvent) -> None:
        name, step = event.get("file"), event.get("step")
        if event.kind == "sheet" and isinstance(name, str) and isinstance(step, int):
            self._sheets.put((step, name))
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(event)

    def end(self, seconds: float) -> None:
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=seconds)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._problem = self._sentence(f"did not answer for {seconds:g} seconds at the end")

    def taken_problem(self) -> str:
        text, self._problem = self._problem, ""
        return text

    def _sentence(self, what: str) -> str:
        return (
            f"The tracker {self._name} {what}, so figures may be missing there. The training is not affected, and "
            f"{self._prefix}/metrics.jsonl has all of them."
        )

    def _work(self) -> None:
        try:
            about = self._read_kept()
            tracker = self._open(self._name, self._folder, self._prefix, self._config, about.get("id"))
            if tracker.id == about.get("id"):  # a run that could not be continued has no steps yet
                self._sent, self._drawn = int(about.get("step", -1)), int(about.get("sheet", -1))
            self._keep(tracker)
            try:
                while (event := self._queue.get()) is not None:
                    self._take(tracker, event)
                self._offset = 0
                self._send(tracker, last=True)
                self._show(tracker)
            finally:
                tracker.close()
        except Exception as error:  # whatever a tracker raises: a training does not end by it
            self._problem = self._sentence(f"failed ({type(error).__name__}: {error})")

    def _take(self, tracker: Tracker, event: LaunchEvent) -> None:
        if event.kind == "started":  # the ranks have written the file anew
            self._offset, self._figures = 0, {}
        # Behind an address the ranks write the file with a checkpoint only.
        if self._folder.is_local or event.kind == "checkpoint":
            self._send(tracker)
        self._show(tracker)

    def _show(self, tracker: Tracker) -> None:
        """Send the sheets that wait."""
        while not self._sheets.empty():
            step, name = self._sheets.get()
            if step > self._drawn:
                tracker.sheet(step, max(self._sent, 0), self._folder.read(name))
                self._drawn = step
                self._keep(tracker)

    def _send(self, tracker: Tracker, last: bool = False) -> None:
        """Send the steps that are complete."""
        for line in self._new_lines():
            figures = {name: value for name, value in line.items() if isinstance(value, int | float)}
            step = figures.pop("step", None)
            if isinstance(step, int) and step > self._sent:
                self._figures.setdefault(step, {}).update(figures)
        newest = max(self._figures, default=0)
        ready = sorted(step for step in self._figures if last or step < newest)
        for step in ready:
            tracker.log(step, self._figures.pop(step))
            self._sent = step
        if ready:
            self._keep(tracker)

    def _new_lines(self) -> list[dict[str, Any]]:
        """Whole lines after the offset."""
        name = f"{self._prefix}/metrics.jsonl"
        try:
            if self._folder.is_local:
                with self._folder.local_path(name).open("rb") as file:
                    file.seek(self._offset)
                    data = file.read()
            else:
                data = self._folder.read(name)[self._offset :]
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = []
        for line in whole.splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    lines.append(found)
        return lines

    def _read_kept(self) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            found = json.loads(self._folder.read(self._kept))
            return found if isinstance(found, dict) else {}
        return {}

    def _keep(self, tracker: Tracker) -> None:
        about = {"id": tracker.id, "step": self._sent, "sheet": self._drawn}
        self._folder.write(self._kept, json.dumps(about).encode())
