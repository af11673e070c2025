"""`events.jsonl` of a run folder: the messages of its stages, one JSON object a line.

Covers: appending on this machine, whole objects at other addresses, a size that stays bounded, reading what is there.
Does not cover: the messages (`messages`), what they mean together (`run_state`).

On this machine a message is appended when it comes, so a killed run leaves all messages before it. An object store
cannot append: there the whole state is written once a minute, and at the end of a stage. A file that has become large
is replaced by one line with the state that its lines give.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from daskt2i.dashboard.bounds import Message
from daskt2i.dashboard.messages import VERSION
from daskt2i.dashboard.run_state import RunState
from daskt2i.formatting import size
from daskt2i.store.run_folder import EVENTS, MARKER, RunFolder

MOST_BYTES = 8 * 2**20
"""Size from which on the file is replaced by its state, bytes. It is about two hours of a large encode."""

MOST_READ, MOST_LINE = 4 * MOST_BYTES, MOST_BYTES
"""Bytes of a file, and of a line of it, that are read. We write no such files, but somebody may. Of a larger one its
end is read: every message has totals."""

PUT_SECONDS = 60.0
"""Seconds between two writes to an object store."""


class EventFile:
    """Writes the messages of one run folder.

    Args:
        folder: the run folder. Nothing is written before it has the marker of a run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._ours = self._whole_line = False
        self._state: RunState | None = None
        self._ours_so_far = RunState()
        self._wrote = False
        self._due = 0.0

    def is_ready(self) -> bool:
        """Whether messages can be written: somebody has claimed the folder."""
        self._ours = self._ours or self.folder.exists(MARKER)
        return self._ours

    def write(self, messages: Iterable[Message]) -> None:
        """Write messages. At other addresses than on this machine, keep them for `put`.

        Raises:
            OSError, Daskt2iError: they cannot be written. Lines before them stay.
        """
        if not self.folder.is_local:
            state = self._kept()
            for message in messages:
                state.hear(message)
            return
        messages = list(messages)
        data = "".join(json.dumps(one, ensure_ascii=False, allow_nan=False) + "\n" for one in messages)
        for message in messages:
            self._ours_so_far.hear(message)
        path = self.folder.local_path(EVENTS)
        # Who put a link here would have us write elsewhere.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            if not length and self._wrote:  # somebody removed or emptied the file: it begins again with what we told
                data = _line_of(self._ours_so_far).decode()
            if not self._whole_line and length:  # a killed run, or a full disk, may have left half a line
                file.seek(length - 1)
                data = data if file.read(1) == b"\n" else "\n" + data
            self._whole_line = False
            sent = data.encode("utf-8", "replace")
            if file.write(sent) != len(sent):
                raise OSError("the disk took a part of the line only")
            self._whole_line = self._wrote = True
        if length > MOST_BYTES:
            self.replace()

    def replace(self) -> None:
        """Replace the lines by one with the state that they give.

        Raises:
            OSError, Daskt2iError: it cannot be written. The lines stay.
        """
        self.folder.write(EVENTS, _line_of(read_events(self.folder)[0]))

    def put(self, last: bool = False) -> None:
        """Write the state to an object store, if it is time for that.

        Args:
            last: write it in any case: the stage is over.

        Raises:
            OSError, Daskt2iError: it cannot be written.
        """
        if self.folder.is_local or self._state is None or (not last and monotonic() < self._due):
            return
        self._due = monotonic() + PUT_SECONDS
        self.folder.write(EVENTS, _line_of(self._state))

    def told(self) -> Message:
        """Everything that was told of the folder, as one `state`: for a reader who knows nothing of it.

        Raises:
            OSError, Daskt2iError: it cannot be read.
        """
        return _message_of(read_events(self.folder)[0] if self.folder.is_local else self._kept())

    def _kept(self) -> RunState:
        if self._state is None:
            self._state = read_events(self.folder)[0]
            self._due = monotonic() + PUT_SECONDS
        return self._state


def read_events(folder: RunFolder) -> tuple[RunState, str]:
    """The state that `events.jsonl` gives, and what is wrong with the file, a clause; "" if nothing is.

    Raises:
        Daskt2iError: the folder cannot be read.
    """
    state = RunState()
    try:
        if folder.is_local and not _is_ordinary(folder.local_path(EVENTS)):
            return state, "it is a pipe or a device"  # reading it would wait for ever, or never end
        wrong, lines, left_out = 0, 0, 0
        with _opened(folder) as file:
            left_out = max(0, file.seek(0, os.SEEK_END) - MOST_READ)
            file.seek(left_out)
            if left_out:
                file.readline(MOST_LINE)  # the rest of a line
            for line in _lines(file):
                lines += 1
                try:
                    state.hear(json.loads(line))
                except (ValueError, RecursionError):
                    wrong += 1
    except (FileNotFoundError, NotADirectoryError):
        return state, "it has none"
    if left_out:
        return state, f"it has {size(left_out + MOST_READ)}, of which the last {size(MOST_READ)} were read"
    if wrong or state.unknown:
        return state, f"{wrong + state.unknown:,} of its {lines:,} lines cannot be read"
    return state, "" if state.stages else "it is empty"


def _is_ordinary(path: Path) -> bool:
    return path.is_file() or path.is_dir() or not path.exists()


def _opened(folder: RunFolder) -> BinaryIO:
    """The file. At other addresses than on this machine it is one line, a state."""
    if folder.is_local:
        with folder.explaining(f"read {EVENTS}"):
            return folder.local_path(EVENTS).open("rb")
    return io.BytesIO(folder.read(EVENTS))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are not blank. Of one that is too long the first part comes, which is no JSON."""
    while line := file.readline(MOST_LINE):
        if line.strip():
            yield line
        while len(line) == MOST_LINE and not line.endswith(b"\n"):
            line = file.readline(MOST_LINE)


def _line_of(state: RunState) -> bytes:
    return (json.dumps(_message_of(state), ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _message_of(state: RunState) -> Message:
    return {
        "v": VERSION,
        "run": state.run,
        "stage": state.stage,
        "kind": "state",
        "at": state.updated,
        "state": state.to_json(),
    }
