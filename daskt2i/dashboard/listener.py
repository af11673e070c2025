"""The driver's side: events of a run go to `events.jsonl` and to the scheduler, and on to whoever shows progress.

    watched = Watched(folder, lambda: session.client, listener)
    encode(plan, executor, watched)

Covers: when messages are written and sent; pictures; a failure is one note, and the run goes on.
Does not cover: the messages (`messages`), the file (`event_file`), the pages (`plugin`).

Nothing is written before the stage does its work: a stage that is refused, or that waits for another process, must not
change what is told of that process. A scheduler that does not answer must not stop a stage, so a thread talks to it.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from daskt2i.dashboard.bounds import Message
from daskt2i.dashboard.event_file import EventFile
from daskt2i.dashboard.messages import TOPICS, Messages
from daskt2i.dashboard.pictures import Thumbnails, picture_of
from daskt2i.errors import sentence
from daskt2i.estimate.forecast import forecast_figures
from daskt2i.events import ChunkDone, Event, LaunchEvent, Listener, Note, PlanReady, StageEnded, WorkersReady
from daskt2i.os_errors import meaning_of
from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    from distributed import Client

TELL_SECONDS = 1.0
"""Seconds between two looks of the thread."""

ALIVE_SECONDS = 10.0
"""After so long without a message the scheduler is told that this process lives."""

_LAST_SECONDS = 3.0
"""How long the end of a stage waits until the scheduler has heard of it."""

_GOES_ON = "The run goes on; `report` shows what its folder holds."

_MOST_HELD = 200
_BEFORE_WORK = ("begin", "note", "activity", "estimate", "waiting", "moving", "end")
"""Kinds of messages that do not show that the stage does its work."""


class Watched:
    """A listener for all stages of one run folder. It passes every event on, after it has told of it.

    Args:
        folder: the run folder.
        client: gives the Dask client of the run; None before the workers start, or without Dask.
        then: gets every event, and a note about what cannot be shown. Its errors end the stage, as without us.
    """

    def __init__(self, folder: RunFolder, client: Callable[[], Client | None], then: Listener) -> None:
        self._folder, self._client, self._then = folder, client, then
        self._messages = Messages(run_id(folder), str(folder))
        self._file: EventFile | None = EventFile(folder)
        self._thumbnails = Thumbnails(None)
        self._held: deque[Message] | None = deque(maxlen=_MOST_HELD)
        self._out: deque[Message] = deque(maxlen=_MOST_HELD)
        self._notes: deque[str] = deque(maxlen=5)
        self._noted: set[str] = set()
        self._lock = threading.RLock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._pages_asked: Any = None
        self._alive_due = 0.0

    def __call__(self, event: Event) -> None:
        with suppress(Exception):  # what is told of a run must never end it
            self._hear(event)
        self._then(event)
        while self._notes:
            self._then(Note(self._notes.popleft()))

    @contextmanager
    def stage(self, name: str, total: int = 0) -> Iterator[None]:
        """A stage that sends no event for its begin and its end."""
        self._guarded(lambda: self._tell(self._messages.begin(name, total)))
        try:
            yield
        except BaseException as error:
            self._over(error)
            raise
        self._over(None)

    def show_file(self, name: str, caption: str) -> None:
        """Tell of a picture in the run folder, such as the sheet that a stage has drawn."""
        self._guarded(lambda: self._show(0, name, caption))

    def _show(self, step: int, name: str, caption: str) -> None:
        self._tell(self._messages.picture(step, caption, picture_of(self._folder.read(name))))

    def _guarded(self, call: Callable[[], None]) -> None:
        with suppress(Exception), self._lock:
            call()

    def _over(self, error: BaseException | None) -> None:
        self._guarded(lambda: self._tell(self._messages.end(error)))
        self._finish()
        while self._notes:
            self._then(Note(self._notes.popleft()))

    def _hear(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, PlanReady):
                plan = getattr(event.plan, "encode", event.plan)  # that of the command `run` holds it
                self._thumbnails = Thumbnails(getattr(plan, "source", None))
            if isinstance(event, ChunkDone):
                self._thumbnails.want(event.receipt.rejected)
            self._tell(self._messages.hear(event))
            if isinstance(event, WorkersReady):
                self._tell(self._messages.estimate(forecast_figures(self._folder, event.executor_info.workers)))
            elif isinstance(event, LaunchEvent) and event.kind == "sheet" and event.get("file"):
                self._show(int(event["step"]), str(event["file"]), "")
        if isinstance(event, StageEnded):
            self._finish()

    def _tell(self, messages: list[Message]) -> None:
        """Write messages and hand them to the thread, once the stage does its work."""
        for message in messages:
            if message["kind"] == "begin":
                self._held = deque(maxlen=_MOST_HELD)
            if self._held is None:
                self._out.append(message)
                self._write([message])
                continue
            self._held.append(message)
            if _is_work(message) and (self._file is None or self._file.is_ready()):
                held, self._held = list(self._held), None
                self._out.extend(held)
                self._write(held)
                self._start()

    def _write(self, messages: list[Message]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(messages)
        except Exception as error:
            self._note("file", f"events.jsonl of the run folder cannot be written ({_why(error)}). {_GOES_ON}")
            self._file = None

    def _put(self, last: bool) -> None:
        """Write to an object store. The thread does it, and the end of a stage."""
        if self._file is None:
            return
        try:
            self._file.put(last)
        except Exception as error:
            self._note("file", f"events.jsonl of the run folder cannot be written ({_why(error)}). {_GOES_ON}")
            self._file = None

    def _note(self, about: str, text: str) -> None:
        """A note, once for each thing that does not work."""
        if about not in self._noted:
            self._noted.add(about)
            self._notes.append(text)

    def _start(self) -> None:
        if self._thread is None:
            self._end = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(self._end,), name="daskt2i-tell", daemon=True)
            self._thread.start()

    def _finish(self) -> None:
        """The stage is over: what was told of it goes out, if that is possible at once."""
        with self._lock:
            self._held = deque(maxlen=_MOST_HELD)
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._end.set()
        thread.join(_LAST_SECONDS)
        self._put(last=True)

    def _run(self, end: threading.Event) -> None:
        """The thread: messages that are due, pictures, and what goes over the network."""
        ended = False
        while not ended:
            ended = end.wait(TELL_SECONDS)
            with suppress(Exception):
                for about in self._thumbnails.take():
                    with self._lock:
                        self._messages.thumbnail(*about)
                if not ended:
                    with self._lock:
                        self._tell(self._messages.flush())
                    self._put(last=False)
                self._send(ended)

    def _send(self, last: bool) -> None:
        """Send to the scheduler what waits. Before the workers start it goes on waiting."""
        client = self._client()
        if client is None or client.status != "running" or client.asynchronous:
            if client is not None or last:
                self._out.clear()
            return
        try:
            if self._pages_asked is not client:
                self._pages_asked = client
                from daskt2i.dashboard.plugin import show_pages

                if missing := show_pages(client):
                    self._note("pages", missing)
                self._begin_with_the_past()
            if not self._out and not last and time.monotonic() >= self._alive_due:
                self._out.append(self._messages.alive())
            while self._out:
                message = self._out[0]
                self._alive_due = time.monotonic() + ALIVE_SECONDS
                told = {**message, "client": client.id}  # the scheduler knows when this client has gone
                client.log_event(TOPICS.get(message["stage"], TOPICS["encode"]), told)
                self._out.popleft()
        except Exception as error:
            self._out.clear()
            if client.status == "running":
                self._note("pages", f"Dask's dashboard shows nothing more of this run ({_why(error)}). {_GOES_ON}")

    def _begin_with_the_past(self) -> None:
        """Send what the file holds in place of the messages that wait: a new scheduler knows nothing of this folder."""
        with self._lock:
            if self._file is None or not self._out:
                return
            past = {**self._file.told(), "run": self._messages.run}
            self._out.clear()
            self._out.append(past)


def run_id(folder: RunFolder) -> str:
    """What identifies a run folder among those of a cluster: the same path of two machines is two folders."""
    host = socket.gethostname() if folder.is_local else ""
    return hashlib.sha256(f"{host}:{folder}".encode("utf-8", "replace")).hexdigest()[:16]


def _is_work(message: Message) -> bool:
    """Whether a message shows that its stage does something. An encode that finds everything done does nothing."""
    if message["kind"] == "found":
        return bool(message["states"]["written"] < message["chunks"])
    return message["kind"] not in _BEFORE_WORK


def _why(error: BaseException) -> str:
    meaning = meaning_of(error)
    return meaning.says if meaning is not None else " ".join(sentence(error).split()).rstrip(".")[:200]
