"""Symbolic links inside a run folder that lead out of it.

Covers: finding them among the names that daskt2i uses, on this machine.
Does not cover: what follows from one (`encode.saved_workflow`); links below the arrays of a store, whose bytes are
hashed and read as numbers.
"""

from __future__ import annotations

import os
from pathlib import Path

from daskt2i.store.run_folder import (
    MANIFEST,
    PIPELINE,
    RECEIPTS,
    REPORTS,
    SAMPLES,
    STORE,
    TRAIN,
    WORKFLOW,
    RunFolder,
)

_TOP = (WORKFLOW, STORE, RECEIPTS, MANIFEST, TRAIN, PIPELINE, SAMPLES, REPORTS, "scenes", "vae", "train-vae", "errors")
_DEEP = (PIPELINE, "vae")
_MOST = 1_000


def outward_links(folder: RunFolder) -> list[str]:
    """Names of the links that lead out of the run folder, in order. Empty for a folder that is not on this machine."""
    if not folder.is_local:
        return []
    root = os.path.realpath(folder.local_path())
    return [path.relative_to(folder.local_path()).as_posix() for path in _looked_at(folder) if _leads_out(path, root)]


def _looked_at(folder: RunFolder) -> list[Path]:
    found = [folder.local_path(name) for name in _TOP]
    for name in (*_TOP, f"{TRAIN}/checkpoints"):
        place = folder.local_path(name)
        if place.is_dir() and name != RECEIPTS:
            found += sorted(place.iterdir())[:_MOST]
    for name in _DEEP:
        place = folder.local_path(name)
        if place.is_dir():
            found += sorted(place.rglob("*"))[:_MOST]
    return list(dict.fromkeys(found))


def _leads_out(path: Path, root: str) -> bool:
    return path.is_symlink() and os.path.commonpath([root, os.path.realpath(path)]) != root
