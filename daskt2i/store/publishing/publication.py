"""A run that publishes: the driver moves what workers wrote to where it is read. No other process makes data visible.

Covers: beginning and ending a run; removing former runs, and finishing what they had begun to publish; publishing a
chunk.
Does not cover: who may be the driver (`store.publishing.lock`), writing a chunk (`attempts`), other objects (`fenced`).

The folder of the run is a fence, because each visible change is a move out of it, or into it. A driver that was thought
dead, and wakes after another run has removed its folder, can change nothing. On object stores a move is a copy, whose
source is gone then, and the token of the run is looked at before each move and each deletion.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from daskt2i.errors import StoreError, TakenOver
from daskt2i.store.publishing.attempts import (
    ATTEMPTS,
    RECEIPT,
    REPLACED,
    TOKEN,
    goes_on,
    is_ours,
    require_run,
    taken_over,
)
from daskt2i.store.publishing.exchange import Exchange
from daskt2i.store.publishing.fenced import FencedFolder
from daskt2i.store.publishing.moves import copy, remote, remote_path, remove_all, remove_tree
from daskt2i.store.receipts import receipt_name
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Receipt, Staged

_FORMER = "former-"


class Publication:
    """A run that may publish into a run folder. `begin` makes one.

    Attributes:
        run: its token, which the workers get.
        folder: the run folder, through the fence.
    """

    def __init__(self, folder: RunFolder, run: str, alive: Callable[[], None]) -> None:
        self.plain, self.run, self._alive = folder, run, alive
        self.folder = FencedFolder(folder, run)
        self._store, self._exchange = ZarrStore(folder), Exchange(self.folder)
        self._unfinished: dict[int, str] = {}

    @property
    def place(self) -> str:
        """The name of the folder of the run."""
        return f"{ATTEMPTS}/{self.run}"

    def publish(self, staged: Staged) -> None:
        """Make a chunk visible: its shards, then its receipt. A receipt that the chunk had goes first.

        Raises:
            TakenOver: another run took over.
            StoreError: what the worker wrote is not in the run folder.
        """
        self._alive()
        receipt, place = staged.receipt, f"{self.place}/{staged.attempt}"
        if receipt.chunk in self._unfinished:
            self._settle(receipt.chunk)
        self._unfinished[receipt.chunk] = place
        try:
            self._exchange.withdraw(receipt.chunk, place)
            self._bring_shards(receipt, place)
            self.folder.bring(f"{place}/{RECEIPT}", receipt_name(receipt.chunk))
        except TakenOver:
            raise
        except Exception as error:
            lost = isinstance(error, FileNotFoundError)
            if lost:
                require_run(self.plain, self.run)
            with contextlib.suppress(Exception):  # it is tried again: by the next attempt, or at the end of the run
                self._settle(receipt.chunk)
            if not lost:
                raise
            raise StoreError(
                f"What {receipt.worker} wrote for chunk {receipt.chunk} is not in {self.plain} as this process sees "
                "it. The chunk is not stored. Give all workers the same shared folder (out)."
            ) from error
        del self._unfinished[receipt.chunk]
        self._forget(receipt.chunk, staged.attempt)

    def discard(self, attempt: str) -> None:
        """Remove what an attempt wrote, as far as that works. What is needed to finish an exchange stays."""
        place = f"{self.place}/{attempt}"
        if place not in list(self._unfinished.values()):
            with contextlib.suppress(Exception):  # libraries of object stores have errors that are no OSError
                remove_tree(self.plain, place)

    def _settle(self, chunk: int) -> None:
        """After an error: finish the exchange of a chunk, or take it back. Then its place is not needed any more."""
        place = self._unfinished[chunk]
        if self._exchange.finish(place) or not self.plain.exists(f"{place}/{REPLACED}"):
            remove_tree(self.plain, place)
            self._unfinished.pop(chunk, None)

    def require(self) -> None:
        """Do nothing if the run goes on.

        Raises:
            TakenOver: another run took over.
        """
        self._alive()
        require_run(self.plain, self.run)

    def end(self) -> None:
        """Remove the folder of the run, and of others. If another run took over, this changes nothing.

        If an exchange of receipts cannot be finished, the folder stays, and the next run finishes it.
        """
        for chunk in list(self._unfinished):
            self._settle(chunk)
        if self.plain.is_local:
            if self._absorb() is None or self._unfinished:
                return
            remove_tree(self.plain, self.place)
            with contextlib.suppress(OSError):  # not empty: somebody else's files
                self.plain.local_path(ATTEMPTS).rmdir()
            return
        names = self.plain.list(ATTEMPTS)
        others = {name.split("/")[1] for name in names if name.endswith(f"/{TOKEN}")} - {self.run}
        if goes_on(self.plain, self.run) and not self._unfinished:
            mine = (name for name in names if is_ours(name.split("/")[1]))
            self._remove([name for name in mine if name.split("/")[1] not in others])

    def _bring_shards(self, receipt: Receipt, place: str) -> None:
        if not self.plain.is_local:
            require_run(self.plain, self.run)
        self._store.publish(place, receipt.shards)

    def _forget(self, chunk: int, attempt: str) -> None:
        """Remove the place of a published attempt, and those of other attempts at its chunk."""
        if not self.plain.is_local:
            with contextlib.suppress(Exception):  # the end of the run removes it too
                remove_tree(self.plain, f"{self.place}/{attempt}")
            return
        with contextlib.suppress(OSError):
            for path in self.plain.local_path(self.place).glob(f"{chunk:07d}-*"):
                remove_tree(self.plain, f"{self.place}/{path.name}")

    # Former runs

    def take_over(self) -> None:
        """Remove former runs. What they had begun to publish in place of a receipt is finished first.

        Raises:
            TakenOver: a later run has done the same with this one.
        """
        if not self.plain.is_local:
            self._take_over_objects()
            return
        self._alive()  # this folder is there, so from now on a later run removes it before it does anything
        found = self._absorb()
        if found is None:
            require_run(self.plain, self.run)
        for name in sorted(found or []):
            if PurePosixPath(name).name == REPLACED:
                self._exchange.finish(str(PurePosixPath(name).parent))
        for path in self.plain.local_path(self.place).glob(f"{_FORMER}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _take_over_objects(self) -> None:
        """The same on an object store. No former run can publish when its token and its objects are gone.

        It removes only what it has listed before it looked whether it still has the lock: nothing of a later run.
        """
        found = self.plain.list(ATTEMPTS)
        self._alive()
        require_run(self.plain, self.run)
        former = {name.split("/")[1] for name in found if self._is_former(name)}
        self._remove(name for name in found if self._is_former(name) and name.endswith(f"/{TOKEN}"))
        found = [name for name in self.plain.list(ATTEMPTS) if name.split("/")[1] in former]
        places = {str(PurePosixPath(name).parent) for name in found if PurePosixPath(name).name == REPLACED}
        for name in found:  # first copied: a run that is thought dead must have nothing left that it could publish
            if (place := str(PurePosixPath(name).parent)) in places:
                with contextlib.suppress(FileNotFoundError):  # that run has moved it just now
                    copy(self.plain, name, f"{self._adopted(place)}/{PurePosixPath(name).name}")
        require_run(self.plain, self.run)
        self._remove(found)
        for place in sorted(places):
            self._exchange.finish(self._adopted(place))
            remove_tree(self.plain, self._adopted(place))

    def _adopted(self, place: str) -> str:
        """The place in this run for that of a former one."""
        return f"{self.place}/{_FORMER}{hashlib.sha256(place.encode()).hexdigest()[:32]}"

    def _absorb(self) -> list[str] | None:
        """Move the folders of former runs into this one's: from then on they are gone for their processes.

        Returns:
            the names of all objects of former runs; None if this run is over itself.
        """
        attempts, mine = self.plain.local_path(ATTEMPTS), self.plain.local_path(self.place)
        with self.plain.explaining(f"write {self.place}"):
            found: list[Path] = []
            with contextlib.suppress(FileNotFoundError):  # this run is over, and the later one has ended too
                found = sorted(attempts.iterdir())
            for path in found:
                if path.name != self.run and is_ours(path.name):
                    try:
                        path.rename(mine / f"{_FORMER}{path.name}-{uuid.uuid4().hex[:8]}")
                    except FileNotFoundError:
                        continue  # this run is over, or the other one has ended
        return self.plain.list(self.place) if goes_on(self.plain, self.run) else None

    def _is_former(self, name: str) -> bool:
        run = name.split("/")[1]
        return run != self.run and is_ours(run)

    def _remove(self, names: Iterable[str]) -> None:
        with remote(self.plain, "remove objects of former runs") as fs:
            remove_all(fs, [remote_path(fs, self.plain, name) for name in names])


def begin(folder: RunFolder, alive: Callable[[], None] = lambda: None) -> Publication:
    """Begin a run, and remove former ones. Call it while you hold the lock.

    Args:
        alive: raises an error if the lock was lost; called before each chunk is published.

    Raises:
        StoreError, StoreFull: it cannot be written here.
        TakenOver: another run began at the same time.
    """
    publication = Publication(folder, uuid.uuid4().hex, alive)
    if folder.is_local:
        path = folder.local_path(publication.place)
        with folder.explaining(f"write {publication.place}"):
            for _ in range(10):
                with contextlib.suppress(FileNotFoundError):  # a run that ends may remove the empty folder just now
                    path.mkdir(parents=True)
                    break
            else:
                raise taken_over(folder)
    else:
        folder.write(f"{publication.place}/{TOKEN}", b"{}")
    publication.take_over()
    return publication


@contextlib.contextmanager
def publishing(folder: RunFolder, alive: Callable[[], None] = lambda: None) -> Iterator[Publication]:
    """A run that lasts as long as the block. Arguments and errors as in `begin`."""
    publication = begin(folder, alive)
    try:
        yield publication
    finally:
        # The next run removes what is left. Libraries of object stores have errors that are no OSError.
        with contextlib.suppress(Exception):
            publication.end()
