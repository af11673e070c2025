"""Errors of the operating system in plain words: one table for the run folder, sources, settings and the command line.

    meaning = meaning_of(error)     # None: not an error of this table
    meaning.says                    # "permission denied"
    meaning.advice                  # "ask for the permission"

Covers: what an error number means, and what helps; errors of an import that fails; errors of full object stores.
Does not cover: which error of daskt2i it becomes (`store.run_folder`, `cli.endings`), which errors are tried again
(`retries`).
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Meaning:
    """What an error of the operating system means.

    Attributes:
        says: what is wrong, as a clause.
        advice: what helps, as a clause that begins with a verb.
        lasting: whether the same call fails again, until somebody changes something. Others may pass by themselves.
    """

    says: str
    advice: str
    lasting: bool = True


FULL = Meaning("no space is left", "free some space")
DENIED = Meaning("permission denied", "ask for the permission")
PART_IS_A_FILE = Meaning("a part of this path is a file", "correct the path")
MISSING = Meaning("it does not exist, or it was removed meanwhile", "check the path", lasting=False)

_NETWORK = Meaning("the network failed", "check the connection", lasting=False)
_ROWS: tuple[tuple[str, Meaning], ...] = (
    ("ENOSPC EDQUOT", FULL),
    ("EACCES EPERM", DENIED),
    ("EROFS", Meaning("permission denied, because the file system is read-only", "mount it for writing")),
    ("ENOTDIR", PART_IS_A_FILE),
    ("EISDIR", Meaning("a folder has the name of this file", "move this folder")),
    ("EEXIST", Meaning("something else has this name", "move it")),
    ("ENOTEMPTY", Meaning("this folder is not empty", "move what is in it", lasting=False)),
    ("ENAMETOOLONG", Meaning("a name in this path is too long", "use a shorter path")),
    ("ELOOP", Meaning("the links of this path lead in a circle", "correct the links")),
    ("EFBIG", Meaning("the file system takes no file of this size", "use another file system")),
    ("EMFILE ENFILE", Meaning("too many files are open", "raise the limit of open files (ulimit -n)", lasting=False)),
    ("ENOMEM", Meaning("the memory is used up", "close other programs", lasting=False)),
    ("EBUSY ETXTBSY", Meaning("another program uses it", "wait for that program", lasting=False)),
    ("ENOENT", MISSING),
    ("EINVAL EILSEQ", Meaning("the file system does not accept this", "use another name or place", lasting=False)),
    ("EIO ESTALE ENXIO ENODEV EREMOTEIO", Meaning("the disk failed, or its mount is gone", "check it", lasting=False)),
    (
        "ETIMEDOUT ECONNRESET ECONNREFUSED ECONNABORTED EHOSTUNREACH EHOSTDOWN ENETUNREACH ENETDOWN ENETRESET ENOTCONN",
        _NETWORK,
    ),
)

MEANINGS: dict[int, Meaning] = {
    getattr(errno, name): meaning for names, meaning in _ROWS for name in names.split() if hasattr(errno, name)
}
"""Error number -> what it means. A number that this system does not have is left out."""

_FULL_CODES = ("StorageFull", "QuotaExceeded", "InsufficientStorage")
"""Answers of object stores that are full. They arrive as `OSError(EIO)` with the code in the text."""

_OF_RUST = re.compile(r"\(os error ([0-9]{1,5})\)")

_CLASSES: tuple[tuple[type[OSError], Meaning], ...] = (
    (PermissionError, DENIED),
    (NotADirectoryError, PART_IS_A_FILE),
    (FileNotFoundError, MISSING),
    (ConnectionError, _NETWORK),
    (TimeoutError, _NETWORK),
)
"""For errors without a number: libraries raise these classes with a text alone."""


def meaning_of(error: BaseException) -> Meaning | None:
    """What an error means, or None if it is not an error of the operating system, or one without a meaning here."""
    if not isinstance(error, OSError):
        # Libraries in Rust (safetensors, tokenizers) give the number in the text alone: "… (os error 28)".
        found = _OF_RUST.search(str(error))
        return FULL if found and MEANINGS.get(int(found[1])) is FULL else None
    if any(code in str(error) for code in _FULL_CODES):
        return FULL
    if error.errno is not None:
        return MEANINGS.get(error.errno)
    return next((meaning for of, meaning in _CLASSES if isinstance(error, of)), None)


def place_of(error: OSError) -> str:
    """The path that the error names, or ""."""
    named = error.filename if error.filename2 is None else error.filename2
    return named if isinstance(named, str) else ""


def _reads_configuration(error: BaseException) -> bool:
    """Whether an error came while a module of Dask read its configuration: it does so when it is imported."""
    return any(
        frame.f_code.co_name == "<module>" and Path(frame.f_code.co_filename).parts[-2:] in _CONFIGURATIONS
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ) and not isinstance(error, ImportError)


_CONFIGURATIONS = (("dask", "config.py"), ("distributed", "config.py"))


def import_problem(error: BaseException) -> str | None:
    """A sentence about an import that failed because of this machine, or None.

    Dask reads its configuration when it is imported, so a damaged file of it fails every import of Dask.
    """
    text = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, ValueError) and text.startswith("A dask config file at"):
        return f"{text}. Nothing was started; correct this file, or remove it."
    if _reads_configuration(error):
        place = os.environ.get("DASK_CONFIG") or os.path.join("~", ".config", "dask")  # noqa: PTH118  # for a person
        return (
            f"Dask cannot use its configuration ({type(error).__name__}: {text[:200]}). Nothing was started; correct "
            f"the YAML files in {place}, and environment variables whose names begin with DASK_."
        )
    if isinstance(error, ImportError):
        name = f"The package {error.name} cannot be imported" if error.name else "A package cannot be imported"
        return f"{name} ({text}). Nothing was started; install it again in this environment."
    return None
