"""Symbolic links inside a run folder that lead out of it.

Covers: finding them below all names that daskt2i uses, on this machine.
Does not cover: what follows from one (`encode.saved_workflow`).

Reading through such a link would take a stranger's word for which files of this user are data, and publishing or
sweeping through it would change files elsewhere. So every level is looked at, also below the arrays of a store. That
asks only for names and their kinds: 0.1 s for the 22,000 files of a store of COCO.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from daskt2i.store.run_folder import FILES, FOLDERS, RunFolder

_NAMES = (*FILES, *FOLDERS, "scenes")


def outward_links(folder: RunFolder) -> list[str]:
    """Names of the links that lead out of the run folder, sorted. Empty for a folder that is not on this machine."""
    if not folder.is_local:
        return []
    place = folder.local_path()
    root = os.path.realpath(place)
    found = [Path(path).relative_to(place).as_posix() for name in _NAMES for path in _links(place / name)]
    return sorted(name for name in found if _leads_out(place / name, root))


def _links(path: Path) -> Iterator[str]:
    """All links at or below a path. It follows none of them."""
    if path.is_symlink():
        yield str(path)
        return
    folders = [str(path)] if path.is_dir() else []
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # an encode may remove it
            for entry in entries:
                if entry.is_symlink():
                    yield entry.path
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)


def _leads_out(path: Path, root: str) -> bool:
    return os.path.commonpath([root, os.path.realpath(path)]) != root
