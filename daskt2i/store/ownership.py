"""Whose a folder is: daskt2i reads, writes and sweeps only run folders that it made.

    refuse_foreign(folder)      # before anything else is read; raises if the folder is somebody else's
    claim(folder)               # before the first write; the first object is `daskt2i-run.json`

Covers: the marker of a run folder, folders of versions without a marker, folders that may become run folders, and the
refusal of all others.
Does not cover: who may write now (`lock`), the names of partial files (`partial_files`).

A folder is ours if it has the marker, or an object with a content that only daskt2i writes (`_EVIDENCE`). A name is no
evidence: anybody may have a `workflow.yaml`. A folder is free if it does not exist, or holds nothing except what
systems put into every folder (`_JUNK`) and what a run that was killed at its very start leaves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from uuid import uuid4

from daskt2i.errors import StoreError
from daskt2i.store.partial_files import target_name
from daskt2i.store.run_folder import (
    FILES,
    LOCK,
    MARKER,
    PIPELINE,
    RECEIPTS,
    REPORTS,
    SAMPLES,
    STORE,
    TRAIN,
    RunFolder,
)
from daskt2i.types import Receipt

FORMAT = 1
"""Version of a run folder's layout. A version of daskt2i refuses a run folder with a higher number."""

_JUNK = re.compile(
    r"\.DS_Store|\._.*|\.localized|\.Trash.*|\.fseventsd|\.Spotlight-V100|\.nfs[0-9a-f]+|\.directory|\.snapshot"
    r"|lost\+found|desktop\.ini|Thumbs\.db|\$RECYCLE\.BIN|System Volume Information|\.git(keep|ignore)|\.keep"
    r"|\.ipynb_checkpoints",
    re.IGNORECASE,
)
"""Names that systems, mounts and editors put into folders by themselves."""

_NAMED = 3
_LARGEST = 256 * 1024 * 1024
_MOST = 64


def refuse_foreign(folder: RunFolder) -> bool:
    """Refuse a folder that holds something, and is not a run folder of daskt2i. It writes nothing.

    Returns:
        whether the folder is a run folder. If not, it is free: it does not exist, or is empty.

    Raises:
        StoreError: the folder is somebody else's, a newer version made it, or it is not a folder.
    """
    if _has_marker(folder):
        return True
    names = folder.entries()
    if names is None:
        return False
    there = [name for name in names if not _is_nothing(name) and not _is_empty_lock(folder, name)]
    if not there:
        return False
    # Another thread or process may have claimed the folder since the first look.
    if any(_proves(folder, name, there) for name in there) or (MARKER in there and _has_marker(folder)):
        return True
    more = f" and {len(there) - _NAMED:,} more" if len(there) > _NAMED else ""
    raise StoreError(
        f"{folder} is not a run folder of daskt2i: it holds {', '.join(map(_shown, there[:_NAMED]))}{more}. Nothing in "
        "it was changed; choose another run folder (out), such as one that does not exist yet."
    )


def claim(folder: RunFolder) -> None:
    """Mark a folder as a run folder, before anything else is written into it. A marked folder stays as it is.

    A run folder of an older version gets its marker here.

    Raises:
        StoreError: as `refuse_foreign`; or the folder cannot be written.
        StoreFull: no space is left.
    """
    if refuse_foreign(folder) and _has_marker(folder):
        return
    marker = {"format": FORMAT, "run": uuid4().hex}
    folder.write(MARKER, (json.dumps(marker) + "\n").encode())


def _has_marker(folder: RunFolder) -> bool:
    """Whether there is an intact marker.

    Raises:
        StoreError: it is the marker of a newer version, or cannot be read.
    """
    found = _read(folder, MARKER)
    number = found.get("format")
    if not isinstance(number, int) or not isinstance(found.get("run"), str):
        return False  # none, or a damaged one: then the other objects tell
    if number > FORMAT:
        raise StoreError(
            f"{folder} was made by a newer version of daskt2i (format {number}; this version knows {FORMAT}). Nothing "
            "in it was changed; use that version, or choose another run folder (out)."
        )
    return True


def _is_nothing(name: str) -> bool:
    """Whether the name is junk, or a partial file of ours that a killed process left."""
    return _JUNK.fullmatch(name) is not None or target_name(name) in FILES


def _is_empty_lock(folder: RunFolder, name: str) -> bool:
    """A run that was killed between making its lock and writing into it, or on a full disk."""
    return name == LOCK and folder.size(name) == 0


def _read(folder: RunFolder, name: str) -> dict[str, Any]:
    """A JSON object; empty if there is none, or something else. A pipe is not opened: that would wait for ever."""
    if folder.is_local:
        with folder.explaining(f"read {name}"):
            if not folder.local_path(name).is_file():
                return {}
    try:
        if (folder.size(name) or 0) > _LARGEST:
            return {}
        found = json.loads(folder.read(name))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return {}
    except StoreError as error:
        if isinstance(error.__cause__, NotADirectoryError | IsADirectoryError):
            return {}
        raise
    return found if isinstance(found, dict) else {}


def _proves(folder: RunFolder, name: str, beside: Sequence[str]) -> bool:
    """Whether an entry of the folder has a content that only daskt2i writes."""
    if name == "scenes":
        return _are_scenes(folder, beside)
    for pattern, is_ours in _EVIDENCE.get(name, ()):
        inside = [name] if pattern is None else _some(folder, name, pattern)
        if any(is_ours(_read(folder, one)) for one in inside):
            return True
    return name == RECEIPTS and any(_is_receipt(folder, one) for one in _some(folder, name, r"chunk-[0-9]{7,}\.json"))


def _some(folder: RunFolder, name: str, pattern: str) -> list[str]:
    """Some objects below `name` whose path in it has this form."""
    if "[" not in pattern:
        return [f"{name}/{pattern}"] if folder.exists(f"{name}/{pattern}") else []
    found = folder.list(name)
    return [one for one in found if re.fullmatch(pattern, one.removeprefix(f"{name}/"))][:_MOST]


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda found: set(keys) <= found.keys()


def _is_store(node: Mapping[str, Any]) -> bool:
    about = node.get("attributes")
    return isinstance(about, dict) and isinstance(about.get("layout"), dict) and isinstance(about.get("daskt2i"), dict)


def _is_row_array(node: Mapping[str, Any]) -> bool:
    """Metadata of one of our arrays. A creation that was interrupted leaves arrays without their group."""
    dims = node.get("dimension_names")
    return node.get("zarr_format") == 3 and isinstance(dims, list) and dims[:1] == ["row"]


def _is_receipt(folder: RunFolder, name: str) -> bool:
    try:
        return bool(Receipt.from_json(folder.read(name)).shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, StoreError):
        return False


def _are_scenes(folder: RunFolder, beside: Sequence[str]) -> bool:
    """Whether it is a drawn data set, or a part of one and nothing else is there."""
    info = _read(folder, "scenes/captions.json").get("info")
    if isinstance(info, dict) and isinstance(info.get("daskt2i"), dict):
        return True
    names = [PurePosixPath(one).name for one in folder.list("scenes")]
    drawn = re.compile(r"(scene|single)-\d+-\d{8,}\.jpg|captions\.json\.part")
    return list(beside) == ["scenes"] and bool(names) and all(map(drawn.fullmatch, names))


_CHECKPOINT = (r"checkpoints/step-[0-9]+\.json", _has("step", "position", "size", "sha256", "about"))

_EVIDENCE: dict[str, tuple[tuple[str | None, Callable[[Mapping[str, Any]], bool]], ...]] = {
    LOCK: ((None, _has("label", "pid", "host", "since")),),
    STORE: (("zarr.json", _is_store), ("valid/zarr.json", _is_row_array), ("latent_mean/zarr.json", _is_row_array)),
    TRAIN: (_CHECKPOINT,),
    "train-vae": (_CHECKPOINT,),
    PIPELINE: (("daskt2i.json", _has("fingerprint")),),
    SAMPLES: (("samples.json", _has("made_from", "files")),),
    REPORTS: (
        ("estimate.json", _has("content", "calibrations")),
        ("insights.json", _has("source", "rows", "people", "activities", "captions")),
        (r"bench-[\w.-]+\.json", _has("report", "machine", "versions", "cells")),
    ),
}
"""Entry of a run folder -> objects in it, with a test of their content. Versions without a marker wrote these too."""


def _shown(name: str) -> str:
    """A name for a message: short, and without control characters."""
    text = name if len(name) <= 40 else f"{name[:37]}..."
    return text if text.isprintable() else ascii(text)[1:-1]
