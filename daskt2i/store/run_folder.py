"""The run folder: it holds everything that a run makes, on this machine or at an fsspec address.

    workflow.yaml  latents.zarr/  receipts/  manifest.parquet  rows.json  parts/  train/  pipeline/  samples/  reports/

Covers: the names of the objects inside; reading and writing whole objects; atomic writes that are on disk when the call
returns; errors for a full disk, a missing bucket or a missing package.
Does not cover: the content of the objects (`zarr_store`, `receipts`, `manifest`), who may write (`lock`).

On this machine an object is first written to a hidden temporary file in the same folder, flushed, and renamed. Then the
folder is flushed, because a rename alone survives a killed process but not a power cut. Elsewhere it is one put, which
object stores do completely or not at all. Endpoints and credentials of object stores come from `storage_options`, or
from fsspec's own configuration and environment (`FSSPEC_S3_ENDPOINT_URL`, `AWS_ENDPOINT_URL`, ...).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from daskt2i.addresses import expanded, is_address, is_blank
from daskt2i.credentials import for_use
from daskt2i.errors import ConfigError, Daskt2iError, StoreError, StoreFull, StoreMissing
from daskt2i.os_errors import FULL, PART_IS_A_FILE, meaning_of
from daskt2i.redact import without_secret
from daskt2i.store.artifacts.full_disk import temporary_folder
from daskt2i.store.artifacts.words import plainly
from daskt2i.store.partial_files import flush_folder, is_partial, make_folders, partial_of, sweep

WORKFLOW = "workflow.yaml"
STORE = "latents.zarr"
RECEIPTS = "receipts"
MANIFEST = "manifest.parquet"
LOCK = "encode.lock"
CHECK = "encode.check"
STANDSTILL = "encode.json"
MARKER = "daskt2i-run.json"
EVENTS = "events.jsonl"
TRAIN = "train"
PIPELINE = "pipeline"
SAMPLES = "samples"
REPORTS = "reports"
MODELS = "models"
PARTS = "parts"
ROWS = "rows.json"
ROWS_BEFORE = "rows.before.json"
PART_ROWS = "rows.parquet"

Buffer = bytes | bytearray | memoryview

FILES = (WORKFLOW, MANIFEST, LOCK, CHECK, STANDSTILL, MARKER, EVENTS, ROWS, ROWS_BEFORE, PART_ROWS)
"""Objects that daskt2i writes directly into a run folder."""

FOLDERS = (
    *(STORE, RECEIPTS, TRAIN, PIPELINE, SAMPLES, REPORTS),
    *("errors", "train-vae", "vae", "attempts", "waiting", MODELS, "index", PARTS),
)
"""Folders of a run folder that daskt2i writes with `RunFolder`. The pictures of `scenes` are written otherwise."""

_BLOCK = 4 * 1024 * 1024

_NO_ADDRESS = ("ParamValidationError", "InvalidURL", "InvalidUrlClientError", "NonHttpUrlClientError")
_NO_WRITING = (405, 501)
"""Names of errors of libraries, and states of HTTP, that say that an address cannot be a run folder."""


class RunFolder:
    """A run folder. Making the object is cheap and touches no file, and it can be pickled.

    Args:
        address: a path or an fsspec address: `s3://bucket/x`, `memory://x`, `file:///x`. A path is made absolute,
            because workers may have another working directory.
        storage_options: passed to fsspec; JSON values if the object is sent to other processes.

    Names of objects are relative, with `/` between folders: `"receipts/chunk-0000012.json"`.
    """

    def __init__(self, address: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> None:
        text = os.fspath(address)
        for prefix in ("file://", "local://"):
            text = text.removeprefix(prefix)
        if is_blank(text) or ("://" in text and not text.partition("://")[2].strip("/ ")):
            raise ConfigError("The run folder has no name. Give a path or an address such as s3://bucket/run (out).")
        self.is_local = not is_address(text)
        try:
            self.root = str(expanded(text, "out").absolute()) if self.is_local else text.rstrip("/")
        except OSError as error:  # the working folder was removed
            raise ConfigError(
                f"The run folder {text} cannot be found from here: {error}. Nothing was changed; give an absolute path "
                "(out)."
            ) from error
        self.storage_options: dict[str, Any] = dict(storage_options or {})

    def __repr__(self) -> str:
        return f"RunFolder({str(self)!r})"  # the options may hold credentials

    def __str__(self) -> str:
        return without_secret(self.root)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RunFolder):
            return NotImplemented
        return (self.root, self.storage_options) == (other.root, other.storage_options)

    def __hash__(self) -> int:
        return hash(self.root)

    def address(self, name: str = "") -> str:
        """The path or the fsspec address of `name`.

        Raises:
            StoreError: the name leads out of the folder.
        """
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise StoreError(f"{name!r} is not a name inside {self.root}. Nothing was changed.")
        return "/".join((self.root.rstrip("/"), *parts)) if parts else self.root

    def local_path(self, name: str = "") -> Path:
        """The path of `name` on this machine.

        Raises:
            StoreError: the folder is not on this machine.
        """
        if not self.is_local:
            raise StoreError(f"{self.root} is not on this machine, so {name!r} has no path.")
        return Path(self.address(name))

    def read(self, name: str) -> bytes:
        """The whole object.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.is_local:
            with self.explaining(f"read {name}"):
                return self.local_path(name).read_bytes()
        with self._remote(f"read {name}") as (fs, path):
            return bytes(fs.cat_file(path(name)))

    def read_many(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | Exception]]:
        """Each object or the error of reading it, in the order of `names`. At most 256 are in memory at once."""
        if self.is_local:
            for name in names:
                try:
                    yield name, self.read(name)
                except (OSError, StoreError) as error:
                    yield name, error
            return
        names = iter(names)
        while batch := list(itertools.islice(names, 256)):
            with self._remote("read objects") as (fs, path):
                # cat would treat [, ? and * in an address as patterns; cat_ranges does not.
                answers = fs.cat_ranges([path(name) for name in batch], None, None, on_error="return")
            yield from zip(batch, answers, strict=True)

    def write(self, name: str, data: Buffer) -> None:
        """Write an object, completely or not at all. It is on disk when this returns. It replaces an older object.

        Raises:
            StoreFull: no space is left. The older object is unchanged.
            StoreError: there is no permission to write here.
        """
        if self.is_local:
            with self.writing(name) as file:
                file.write(data)
            return
        with self._remote(f"write {name}") as (fs, path):
            fs.pipe_file(path(name), bytes(data))

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A binary file. It becomes the object when the block ends without an error; else it is deleted.

        Raises:
            StoreFull, StoreError: as in `write`.
        """
        if not self.is_local:
            with temporary_folder(f"write {name}") as folder:
                copy = folder / "object"
                with copy.open("wb") as file:
                    yield file
                with self._remote(f"write {name}") as (fs, path):
                    fs.put_file(str(copy), path(name))
            return
        target = self.local_path(name)
        partial = partial_of(target)
        with self.explaining(f"write {name}"):
            try:
                make_folders(target.parent)
                with partial.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(target)
                flush_folder(target.parent)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise

    def exists(self, name: str) -> bool:
        """Whether there is such an object or folder."""
        if self.is_local:
            with self.explaining(f"look for {name}"):
                return self.local_path(name).exists()
        with self._remote(f"look for {name}") as (fs, path):
            return bool(fs.exists(path(name)))

    def size(self, name: str) -> int | None:
        """Size of an object in bytes; None if there is none."""
        if self.is_local:
            try:
                with self.explaining(f"look for {name}"):
                    return self.local_path(name).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        with self._remote(f"look for {name}") as (fs, path):
            try:
                return int(fs.size(path(name)))
            except FileNotFoundError:
                return None

    def sha256(self, name: str) -> str:
        """SHA-256 of an object, 64 hex digits, read in blocks of 4 MiB.

        Raises:
            FileNotFoundError: there is none.
        """
        digest = hashlib.sha256()
        with contextlib.ExitStack() as stack:
            if self.is_local:
                file: IO[bytes] = stack.enter_context(self.local_path(name).open("rb"))
            else:
                fs, path = stack.enter_context(self._remote(f"read {name}"))
                file = stack.enter_context(fs.open(path(name), "rb", block_size=_BLOCK))
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def list(self, prefix: str = "") -> list[str]:
        """Names of all objects below a folder, sorted, without partial files; empty if there is no such folder."""
        if self.is_local:
            base = self.local_path()
            with self.explaining(f"list {prefix}"):
                walk = os.walk(self.local_path(prefix), onerror=_unless_missing)
                found = [Path(folder, file) for folder, _, files in walk for file in files if not is_partial(file)]
            return sorted(path.relative_to(base).as_posix() for path in found)
        with self._remote(f"list {prefix}") as (fs, path):
            base_length = len(fs._strip_protocol(self.root).strip("/")) + 1
            names = [str(p).lstrip("/")[base_length:] for p in fs.find(path(prefix))]
            return sorted(name for name in names if not is_partial(name))

    def entries(self) -> tuple[str, ...] | None:
        """Names of the objects and folders directly in the run folder, sorted; None if there is no such folder.

        Raises:
            StoreError: something else is at this path, or it cannot be listed.
        """
        if self.is_local:
            path = self.local_path()
            with self.explaining("list what is"):
                try:
                    return tuple(sorted(one.name for one in path.iterdir()))
                except FileNotFoundError:
                    if not path.is_symlink():
                        return None
                except NotADirectoryError:
                    if not path.exists():
                        raise
            what = "a link that leads to nothing" if path.is_symlink() and not path.exists() else "not a folder"
            raise StoreError(f"{self.root} is {what}. It was not changed; choose another run folder (out).")
        with self._remote("list what is") as (fs, path_of):
            try:
                found = fs.ls(path_of(""), detail=False)
            except FileNotFoundError:
                return None
        base = fs._strip_protocol(self.root).strip("/")
        names = {str(name).strip("/").removeprefix(base).strip("/") for name in found}
        return tuple(sorted(names - {""}))

    def delete(self, name: str) -> None:
        """Remove an object. It may be missing."""
        if self.is_local:
            with self.explaining(f"delete {name}"):
                self.local_path(name).unlink(missing_ok=True)
            return
        with self._remote(f"delete {name}") as (fs, path), contextlib.suppress(FileNotFoundError):
            fs.rm_file(path(name))

    def sweep(self, older_than: float = 3600.0) -> int:
        """Remove partial files that killed processes left behind. Call it while you hold the lock.

        Only files are removed that have exactly the name of a partial file, where daskt2i writes. No link is followed.

        Args:
            older_than: seconds since the last change, by the clock of the file system. Newer files may belong to a
                process that still writes.

        Returns:
            the number of removed files.
        """
        if not self.is_local:
            return 0
        return sweep(self.local_path(), FILES, FOLDERS, older_than)

    def free_bytes(self) -> int | None:
        """Free bytes for this user, without quotas; None if the folder is not on this machine."""
        if not self.is_local:
            return None
        path = self.local_path()
        while not path.exists() and path != path.parent:
            path = path.parent
        return shutil.disk_usage(path).free

    def filesystem(self) -> Any:
        """The fsspec file system of an address that is not on this machine. fsspec keeps one for each set of options.

        Raises:
            ConfigError: fsspec does not know this kind of address, or its package is not installed.
        """
        from fsspec.core import url_to_fs

        options = for_use(self.storage_options, self.root)
        try:
            return url_to_fs(self.root, **options)[0]
        except ImportError as error:
            package = "Run pip install 'daskt2i[s3]'" if self.root.startswith(("s3:", "s3a:")) else str(error)
            raise ConfigError(f"{self.root} needs a package that is not installed. {package}.") from error
        except ValueError as error:
            raise ConfigError(f"fsspec does not know the address {self.root} (out): {error}.") from error

    @contextlib.contextmanager
    def _remote(self, doing: str) -> Iterator[tuple[Any, Any]]:
        """The file system, and a function from a name to its path."""
        fs = self.filesystem()
        # Other processes write here too, and an old listing in fsspec's cache would hide their objects.
        fs.invalidate_cache()
        with self.explaining(doing):
            yield fs, lambda name: fs._strip_protocol(self.address(name))

    @contextlib.contextmanager
    def explaining(self, doing: str) -> Iterator[None]:
        """Turn file system errors in the block into errors of daskt2i with an explanation. Other errors pass unchanged.

        Args:
            doing: what the block does, for the message: `"write manifest.parquet"`.

        Raises:
            StoreFull, StoreError, StoreMissing, ConfigError: no space, no permission, no bucket, no credentials.
        """
        try:
            yield
        except Daskt2iError:
            raise
        except Exception as error:
            why, what = meaning_of(error), plainly(doing)
            if why is FULL:
                raise StoreFull(
                    f"No space is left in {self.root} (could not {what}). Committed data stays and can be read; free "
                    "some space and run it again."
                ) from error
            if isinstance(error, FileNotFoundError) and not self.is_local and doing.startswith("write"):
                raise StoreMissing(
                    f"Could not {what} in {self.root}: its bucket or container does not exist. Create it, or choose "
                    "another run folder (out)."
                ) from error
            if why is not None and why.lasting and not (why is PART_IS_A_FILE and doing.startswith("look for")):
                raise StoreError(
                    f"Could not {what} in {self.root}: {why.says}. What is there is unchanged; choose another run "
                    f"folder (out), or {why.advice}."
                ) from error
            if type(error).__name__ in _NO_ADDRESS or getattr(error, "status", None) in _NO_WRITING:
                raise ConfigError(
                    f"Could not {what} in {self.root}: this address was not accepted ({error}). Nothing was changed; "
                    "give a path or an address that can be written (out)."
                ) from error
            if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
                raise ConfigError(
                    f"Could not {what} in {self.root}: {error}. Set the credentials of the object store."
                ) from error
            raise


def _unless_missing(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed, which would else seem empty. A missing folder is empty."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
