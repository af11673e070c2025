"""The place of an attempt: a worker writes a chunk there, where nobody reads it, until the driver moves it.

    attempts/<run>/<chunk>-<attempt>/latent_mean.c.3.0.0.0, ..., receipt.json

Covers: names; making the place of an attempt, unless its run is over; removing it.
Does not cover: moving its objects to where they are read (`publication`).

The folder of the run is its token. Only the driver makes it. A later run removes it before it does anything else, and
from then on a worker of the former run can write nothing. On object stores there are no folders; there the token is an
object. A late worker can leave objects below `attempts/` then, which nobody reads, and which the next run removes.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from dataclasses import dataclass

from daskt2i.errors import TakenOver
from daskt2i.store.publishing.moves import remove_tree, write_new
from daskt2i.store.run_folder import Buffer, RunFolder

ATTEMPTS = "attempts"
"""The folder in the run folder. Only a run that is going on has one."""

TOKEN = "run"
"""The object in the folder of a run that says on object stores that the run goes on."""

RECEIPT = "receipt.json"
REPLACED = "replaced.json"
"""The receipt of an attempt; and the receipt that was visible before it, while the attempt is published."""

_OURS = re.compile(r"\.?[0-9a-f]{32}(\.gone)?")


@dataclass(frozen=True, slots=True)
class Attempt:
    """The place of one attempt to encode a chunk.

    Attributes:
        folder: the run folder.
        run: token of the run.
        name: name of the attempt in the run: the chunk, and a token.
    """

    folder: RunFolder
    run: str
    name: str

    @property
    def place(self) -> str:
        """The name of its folder in the run folder."""
        return f"{ATTEMPTS}/{self.run}/{self.name}"

    def write(self, name: str, data: Buffer) -> None:
        """Write an object into the place. It is on disk when this returns.

        Raises:
            TakenOver: the run is over, or another attempt was published.
            StoreFull, StoreError: it cannot be written.
        """
        try:
            write_new(self.folder, f"{self.place}/{name}", data)
        except FileNotFoundError:
            raise taken_over(self.folder) from None

    def discard(self) -> None:
        """Remove the place, as far as that works: the end of the run removes it too."""
        with contextlib.suppress(Exception):  # libraries of object stores have errors that are no OSError
            remove_tree(self.folder, self.place)


def begin_attempt(folder: RunFolder, run: str, chunk: int) -> Attempt:
    """Make the place of a new attempt.

    Args:
        run: token of the run; "" for a place that no run publishes.

    Raises:
        TakenOver: the run is over.
        StoreError: there is no permission to write here.
    """
    attempt = Attempt(folder, run or uuid.uuid4().hex, f"{chunk:07d}-{uuid.uuid4().hex[:16]}")
    if run:
        require_run(folder, run)
    if folder.is_local:
        path = folder.local_path(attempt.place)
        with folder.explaining(f"write {attempt.place}"):
            if not run:
                path.parent.mkdir(parents=True)
            try:
                path.mkdir()
            except FileNotFoundError:
                raise taken_over(folder) from None
    return attempt


def require_run(folder: RunFolder, run: str) -> None:
    """Do nothing if the run goes on.

    Raises:
        TakenOver: it is over.
    """
    if not goes_on(folder, run):
        raise taken_over(folder)


def goes_on(folder: RunFolder, run: str) -> bool:
    """Whether the run with this token is the one that may publish now."""
    if not folder.is_local:
        return folder.exists(f"{ATTEMPTS}/{run}/{TOKEN}")
    path = folder.local_path(f"{ATTEMPTS}/{run}")
    if path.is_dir():
        return True
    for parent in (folder.local_path(), path.parent):
        with contextlib.suppress(OSError):
            next(parent.iterdir(), None)  # NFS may remember that a name was missing, until its folder is opened
    return path.is_dir()


def is_ours(name: str) -> bool:
    """Whether a run made a folder of this name in `attempts/`."""
    return _OURS.fullmatch(name) is not None


def staged_name(key: str) -> str:
    """The name of an object of the store in the place of an attempt, which has no folders in it."""
    return key.replace("/", ".")


def taken_over(folder: RunFolder) -> TakenOver:
    """The error of a process whose run is over."""
    return TakenOver(
        f"Another run took over {folder}, so this one ended and changed nothing more. The chunks that it had finished "
        "are kept. Wait until the other run ends, then encode again if chunks are still open."
    )
