"""An object in the run folder that the driver writes and workers look for.

Covers: writing it, with a time limit; removing it and everything that workers wrote beside it; removing the run folder
if it did not exist before.
Does not cover: looking for it (`sight`), what follows.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from daskt2i.doctor.sight import object_name
from daskt2i.faults.time_limit import within
from daskt2i.store.ownership import refuse_foreign
from daskt2i.store.run_folder import RunFolder

FOLDER_SECONDS = 20.0
"""Time for the run folder to answer this process."""

_OBJECT_SECONDS = 0.05
"""More time for each object of a worker."""

_DELETING = 16
"""Objects that are removed at the same time: one after the other, those of 1,000 workers in a bucket took too long."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """The object.

    Attributes:
        prefix: 16 hex digits in the names of all objects of this look.
        name, content: of the object.
        error: why there is no object, `TimeoutError` if the folder did not answer; None if there is one.
    """

    folder: RunFolder
    prefix: str
    name: str
    content: bytes
    error: BaseException | None = None

    def seen(self, names: Collection[str]) -> Mapping[str, bool]:
        """Whether this process sees objects that workers wrote. Those that it could not ask for in time are missing.

        One listing shows nearly all of them. A folder of a network may list a new one late, so the rest are read.
        """
        found: dict[str, bool] = {}

        def look() -> None:
            listed = set(self.folder.entries() or ())
            found.update((name, True) for name in names if name in listed)
            for name, content in self.folder.read_many([name for name in names if name not in listed]):
                found[name] = content == self.content

        within(FOLDER_SECONDS + _OBJECT_SECONDS * len(names), look)
        return dict(found)


@contextmanager
def meeting_in(folder: RunFolder) -> Iterator[Meeting]:
    """Write the object. The end of the block removes it, and all objects with its prefix."""
    prefix = secrets.token_hex(8)
    name, content = object_name(prefix), secrets.token_hex(16).encode()
    missing = _missing_folders(folder)

    def write() -> bool:
        refuse_foreign(folder)
        folder.write(name, content)
        return True

    outcome = within(FOLDER_SECONDS, write)
    error = TimeoutError() if outcome is None else outcome if isinstance(outcome, BaseException) else None
    try:
        yield Meeting(folder, prefix, name, content, error)
    finally:
        begins = name[: name.index(prefix) + len(prefix)]
        ours = within(FOLDER_SECONDS, lambda: [one for one in folder.entries() or () if one.startswith(begins)])
        if isinstance(ours, list):
            within(FOLDER_SECONDS + _OBJECT_SECONDS * len(ours), lambda: _clean(folder, ours, missing))


def _missing_folders(folder: RunFolder) -> list[Path]:
    """The folders of its path that do not exist, the innermost first."""
    missing: list[Path] = []
    if folder.is_local:
        path = folder.local_path()
        with suppress(OSError):
            while not path.exists() and path != path.parent:
                missing.append(path)
                path = path.parent
    return missing


def _clean(folder: RunFolder, ours: Sequence[str], missing: Sequence[Path]) -> None:
    with suppress(Exception), ThreadPoolExecutor(_DELETING) as pool:  # libraries of object stores have many errors
        list(pool.map(folder.delete, ours))
    for path in missing:
        with suppress(OSError):  # something else is in it now, or it was never made
            path.rmdir()
