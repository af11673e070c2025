"""A run folder as the driver of a run sees it: each change that others can see needs the folder of the run.

Covers: writing and deleting objects through the fence.
Does not cover: chunks (`publication`), reading, which needs no fence (`run_folder`).

An object is written into the folder of the run, and moved to its name. An object that is deleted is moved into the
folder first. So none of it works after a later run has removed this folder.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from daskt2i.store.partial_files import flush_folder
from daskt2i.store.publishing.attempts import ATTEMPTS, require_run
from daskt2i.store.publishing.moves import move, remote, remote_path, write_new
from daskt2i.store.run_folder import Buffer, RunFolder


class FencedFolder(RunFolder):
    """The run folder of a run that goes on.

    Args:
        folder: the run folder.
        run: token of the run.

    Every change raises `TakenOver` if another run took over.
    """

    def __init__(self, folder: RunFolder, run: str) -> None:
        super().__init__(folder.root, folder.storage_options)
        self.plain, self.run = folder, run

    def write(self, name: str, data: Buffer) -> None:
        """As `RunFolder.write`, through the fence."""
        staged = self._staged()
        try:
            write_new(self.plain, staged, data, name)
        except FileNotFoundError:
            require_run(self.plain, self.run)
            raise
        self.bring(staged, name)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """As `RunFolder.writing`, through the fence."""
        staged = self._staged()
        if not self.is_local:
            with tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
                copy = Path(place) / "object"
                with self.explaining(f"write {name}"), copy.open("wb") as file:
                    yield file
                with remote(self.plain, f"write {name}") as fs:
                    fs.put_file(str(copy), remote_path(fs, self.plain, staged))
            self.bring(staged, name)
            return
        path = self.plain.local_path(staged)
        with self.explaining(f"write {name}"):
            require_run(self.plain, self.run)
            try:
                with path.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                self.bring(staged, name)
            except BaseException:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                raise

    def delete(self, name: str) -> None:
        """As `RunFolder.delete`, through the fence."""
        if not self.is_local:
            there = self.plain.exists(name)
            require_run(self.plain, self.run)  # last, because a later run may remove this one at any time
            if there:
                self.plain.delete(name)
            return
        require_run(self.plain, self.run)
        staged = self._staged()
        try:
            move(self.plain, name, staged)
        except (FileNotFoundError, NotADirectoryError):
            require_run(self.plain, self.run)  # else there is no such object
            return
        self.plain.delete(staged)

    def bring(self, staged: str, name: str) -> None:
        """Move an object out of the folder of the run to its name. It is on disk when this returns.

        Raises:
            TakenOver: another run took over.
            FileNotFoundError: there is no such object, although the run goes on.
        """
        if not self.is_local:
            require_run(self.plain, self.run)
        try:
            move(self.plain, staged, name)
        except FileNotFoundError:
            require_run(self.plain, self.run)
            if not self.is_local or not self.plain.exists(staged):
                raise
            self._make_folders(name)
            move(self.plain, staged, name)
        if self.is_local:
            flush_folder(self.plain.local_path(name).parent)

    def _staged(self) -> str:
        return f"{ATTEMPTS}/{self.run}/{uuid.uuid4().hex}"

    def _make_folders(self, name: str) -> None:
        path = self.plain.local_path(name).parent
        with self.explaining(f"write {name}"):
            path.mkdir(parents=True, exist_ok=True)
        while path != self.plain.local_path():
            path = path.parent
            flush_folder(path)
