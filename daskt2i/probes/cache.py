"""Figures that were measured on this kind of machine, kept in the user's cache folder.

Covers: the key of a kind of machine; one small file for each question, read and written.
Does not cover: measuring (`child`).

Each question has a file of its own, which is replaced as a whole. So processes that write at the same time lose
nothing. A damaged file counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MOST_SECONDS = 1e5
"""A kept figure above this is no measurement."""

_MOST_BYTES = 65_536
"""A larger file is not ours."""


def machine_key(packages: Sequence[str]) -> list[str] | None:
    """The processor, its instructions and the versions of packages; None if a package is not installed.

    Virtual machines of one name may differ in their instructions.
    """
    try:
        versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    except importlib.metadata.PackageNotFoundError:
        return None
    return [*_processor(), *versions]


def folder() -> Path:
    """The folder of the figures.

    Raises:
        RuntimeError: this user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daskt2i" / "measured"


def read(key: Sequence[Any]) -> dict[str, float] | None:
    """The figures of a question, seconds by name; None if there are none, or if the file is damaged."""
    try:
        file = _file(key)
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:  # to read a pipe would wait for ever
            return None
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RuntimeError, RecursionError):
        return None
    good = isinstance(found, dict) and found.get("key") == json.loads(json.dumps(key))
    seconds = found.get("seconds") if good else None
    if not isinstance(seconds, dict) or not seconds or not all(map(_is_good, seconds.values())):
        return None
    return {name: float(value) for name, value in seconds.items()}


def keep(key: Sequence[Any], seconds: Mapping[str, float]) -> str:
    """Write the figures of a question. Returns "", or why it was not possible, as a clause."""
    try:
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        try:
            partial.write_text(json.dumps({"key": key, "seconds": dict(seconds)}, indent=1), encoding="utf-8")
            partial.replace(file)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    except OSError as error:
        return f"{error.strerror or error}: {error.filename or folder()}"
    except RuntimeError:
        return "this user has no home folder"
    return ""


def _file(key: Sequence[Any]) -> Path:
    return folder() / f"{key[0]}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"


def _is_good(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST_SECONDS


def _processor() -> list[str]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines if ":" in line}
        return [found.get("model name", ""), found.get("flags", found.get("Features", ""))]
    return [platform.processor(), platform.machine()]
