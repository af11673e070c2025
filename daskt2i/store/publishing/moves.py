"""Operations on objects of a run folder that publishing and locking need: move, create exclusively, remove a tree.

Covers: one rename on this machine and on shared file systems; copy and delete on object stores.
Does not cover: whole-object reads and writes (`run_folder`), when to move (`publication`).

On a file system a move is atomic, and so is the exclusive creation. An object store copies an object on its side, which
is atomic for the reader, and fails if the source is gone. Then it deletes the source. Exclusive creation is atomic on
S3, Google Cloud Storage and Azure (fsspec's `mode="create"`). Other stores look first and write then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from daskt2i.store.partial_files import flush_folder
from daskt2i.store.run_folder import Buffer, RunFolder

_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
"""Answers of an object store to an exclusive creation of an object that exists, or that another process creates now."""


def move(folder: RunFolder, old: str, new: str) -> None:
    """Move an object. It replaces an object that has the new name. Call `flush` to have it on disk.

    Raises:
        FileNotFoundError: there is no such object, or on a file system no folder for the new name.
    """
    if not folder.is_local:
        copy(folder, old, new)
        with remote(folder, f"publish {new}") as fs:
            remove_all(fs, [remote_path(fs, folder, old)])  # a later run may have removed it; the copy was before that
        return
    source, target = folder.local_path(old), folder.local_path(new)
    with folder.explaining(f"publish {new}"):
        before = source.stat()
        try:
            source.replace(target)
        except FileNotFoundError:
            # NFS sends a rename again if the answer was lost. The first one may have done it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(before, target.stat()):
                    return
            raise


def copy(folder: RunFolder, old: str, new: str) -> None:
    """Copy an object of an object store, on its side.

    Raises:
        FileNotFoundError: there is no such object.
    """
    with remote(folder, f"publish {new}") as fs:
        fs.cp_file(remote_path(fs, folder, old), remote_path(fs, folder, new))


def create_exclusively(folder: RunFolder, name: str, data: Buffer) -> bool:
    """Write an object if there is none with this name. Returns whether it was written by this call.

    On object stores no two callers may give the same data: a library may send a request twice.
    """
    if folder.is_local:
        return _link(folder, folder.local_path(name), data)
    with remote(folder, f"write {name}") as fs:
        path = remote_path(fs, folder, name)
        try:
            fs.pipe_file(path, bytes(data), mode="create")
        except Exception as error:
            if not isinstance(error, FileExistsError) and not _answer(error) & _TAKEN:
                raise
            # Libraries send a request again if its answer was lost. The first one may have written it.
            with contextlib.suppress(FileNotFoundError):
                return bool(fs.cat_file(path) == bytes(data))
            return False
        return True


def _link(folder: RunFolder, target: Path, data: Buffer) -> bool:
    with folder.explaining(f"write {target.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
        try:
            _write_new(partial, data)
            os.link(partial, target)  # unlike O_EXCL, nobody sees a file that is still empty
        except FileExistsError:
            # NFS sends a link again if the answer was lost. The first one may have made it.
            return os.path.samestat(partial.stat(), target.stat())
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            try:  # a file system without hard links
                _write_new(target, data)
            except FileExistsError:
                return False
        finally:
            partial.unlink(missing_ok=True)
        flush_folder(target.parent)
    return True


def write_new(folder: RunFolder, name: str, data: Buffer, final: str = "") -> None:
    """Write an object of a staging folder. It is on disk when this returns; whether its name is, does not matter.

    On a file system it never makes the folder.

    Args:
        final: the name that it gets later, for messages; "" for the same.

    Raises:
        FileNotFoundError: the folder is not there.
    """
    with folder.explaining(f"stage {final or name}"):
        if folder.is_local:
            _write_new(folder.local_path(name), data)
            return
        fs = folder.filesystem()
        fs.pipe_file(remote_path(fs, folder, name), bytes(data))


def _write_new(path: Path, data: Buffer) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def remove_tree(folder: RunFolder, name: str) -> None:
    """Remove a folder with all objects in it. It may be missing. On a file system all its names are gone at once."""
    if folder.is_local:
        path = folder.local_path(name)
        gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.gone")
        with contextlib.suppress(FileNotFoundError), folder.explaining(f"remove {name}"):
            path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)  # what is left is in no one's way, and the next run tries again
        return
    with remote(folder, f"remove {name}") as fs:
        remove_all(fs, fs.find(remote_path(fs, folder, name)))


def remove_all(fs: Any, paths: Iterable[str]) -> None:
    """Remove objects of an object store, which may be missing."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)


@contextlib.contextmanager
def remote(folder: RunFolder, doing: str) -> Iterator[Any]:
    """The file system of an object store, with errors in words."""
    fs = folder.filesystem()
    fs.invalidate_cache()  # other processes write here too
    with folder.explaining(doing):
        yield fs


def remote_path(fs: Any, folder: RunFolder, name: str) -> str:
    """The path of an object as its file system wants it."""
    return str(fs._strip_protocol(folder.address(name)))


def _answer(error: BaseException | None) -> set[str]:
    """Codes that an object store answered with, from an error and its causes."""
    found = set[str]()
    while error is not None:
        response = getattr(error, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
        found |= {str(code), str(getattr(error, "code", "")), str(getattr(error, "status", ""))}
        found |= {word for word in _TAKEN if not word.isdigit() and word in str(error)}
        error = error.__cause__
    return found
