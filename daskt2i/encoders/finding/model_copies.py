"""Copies of models on this machine: files that another machine has at a path that does not exist here.

    find("/data/models/vae", None)        # the folder of a copy, or None
    add("/data/models/vae", None, files, get)

Covers: the user's cache folder, its limit, which files a copy may have; a copy is there completely or not at all;
removing a copy that a disk has changed.
Does not cover: where the bytes come from (`hosts.model_files`), the Hugging Face cache (`weights`).

    ~/.cache/daskt2i/models/CONTENT/config.json …       CONTENT: a hash of all file names and their hashes
    ~/.cache/daskt2i/models/names/KEY.json              KEY: a hash of the model's name; which CONTENT it has

A copy holds weights as safetensors, and JSON and text files. Nothing in it is unpickled, and no code is loaded from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from daskt2i.errors import ModelError

MOST_BYTES = 32 * 2**30
"""When a copy is added, copies that were not used for the longest time go, until all together have at most so much."""

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
"""All files that can change the token ids of a caption, in the layouts that transformers reads."""

_NAME = re.compile(
    r"(?:[\w-][\w.-]*/){0,3}(?:(?:preprocessor_|scheduler_)?config\.json|model_index\.json|[\w-][\w.-]*\.safetensors|[\w-][\w.-]*\.safetensors\.index[\w.-]*\.json|"
    + "|".join(re.escape(name) for name in TOKENIZER_FILES)
    + r")"
)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: relative to the model's folder, with `/`: `"vae/config.json"`.
        size: bytes.
        sha256: 64 hex digits.
    """

    name: str
    size: int
    sha256: str


def cache_folder() -> Path:
    """The folder of all copies. It may not exist yet. A home that cannot be written has the folder for temporary files
    in its place."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser() if "HOME" in os.environ else "")
    place = Path(home or os.devnull)
    while not place.exists() and place != place.parent:
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK):
        return Path(home) / "daskt2i" / "models"
    owner = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"daskt2i-models-{owner}"


def find(model: str, revision: str | None) -> Path | None:
    """The folder of the copy of a model; None if there is none."""
    try:
        about = json.loads(_label(model, revision).read_text(encoding="utf-8"))
        place = cache_folder() / str(about["content"])
        if not re.fullmatch(r"[0-9a-f]{64}", place.name) or not place.is_dir():
            return None
        with contextlib.suppress(OSError):  # it was used now
            os.utime(place)
        return place
    except (OSError, ValueError, KeyError, TypeError):
        return None


def content_of(files: Sequence[ModelFile]) -> str:
    """One hash of all names and hashes."""
    listed = sorted((file.name, file.sha256) for file in files)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def is_allowed(name: str) -> bool:
    """Whether a copy may have a file of this name: no pickle, no code, no way out of its folder."""
    return _NAME.fullmatch(name) is not None


def add(model: str, revision: str | None, files: Sequence[ModelFile], get: Callable[[ModelFile, Path], None]) -> Path:
    """Make a copy, unless there is one with this content. The folder appears when all its files are there and right.

    Args:
        get: writes the bytes of a file to a path.

    Raises:
        ModelError: a name is not one of a model's files, or the bytes that came are others.
        OSError: the disk is full, or cannot be written.
    """
    if wrong := [file.name for file in files if not is_allowed(file.name)]:
        raise ModelError(f"{wrong[0]!r} is no file of a model. Nothing was copied; start the encode again.")
    content = content_of(files)
    place = cache_folder() / content
    if not place.is_dir():
        cache_folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_room(sum(file.size for file in files))
        partial = cache_folder() / f".{content[:16]}-{uuid4().hex}"
        try:
            for file in files:
                target = partial / file.name
                target.parent.mkdir(parents=True, exist_ok=True)
                get(file, target)
                _require_same(file, target)
            with contextlib.suppress(OSError):  # another process was faster
                partial.rename(place)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    label = _label(model, revision)
    label.parent.mkdir(parents=True, exist_ok=True)
    partial = label.with_name(f".{uuid4().hex}")
    partial.write_text(json.dumps({"model": model, "content": content}), encoding="utf-8")
    partial.replace(label)
    return place


def remove_damaged(files: Sequence[ModelFile], digest: Callable[[Path], str]) -> None:
    """Remove the copy with this content if a file of it is missing, or has other bytes than it came with.

    Args:
        digest: SHA-256 of a file, 64 hex digits.

    Raises:
        OSError: the copy cannot be read or removed.
    """
    place = cache_folder() / content_of(files)

    def is_right(file: ModelFile) -> bool:
        path = place / file.name
        return path.is_file() and path.stat().st_size == file.size and digest(path) == file.sha256

    if place.is_dir() and not all(map(is_right, files)):
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            _remove(place)


def _remove(place: Path) -> None:
    gone = place.with_name(f".gone-{uuid4().hex}")
    place.rename(gone)  # in one step, so that nobody finds half a copy
    shutil.rmtree(gone, ignore_errors=True)


def _require_same(file: ModelFile, path: Path) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != file.sha256:
        raise ModelError(
            f"The copy of {file.name} came with other bytes than those of the driver, so it was not kept. Nothing was "
            "encoded with it; remove models/ from the run folder, and start the encode again."
        )


def _label(model: str, revision: str | None) -> Path:
    key = hashlib.sha256(json.dumps([model, revision]).encode()).hexdigest()[:32]
    return cache_folder() / "names" / f"{key}.json"


def _make_room(wanted: int) -> None:
    """Remove the copies that were not used for the longest time, until a new one fits into the limit."""
    copies = []
    for path in cache_folder().iterdir():
        with contextlib.suppress(OSError):
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                size = sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
                copies.append((path.stat().st_mtime, size, path))
    held = sum(size for _, size, _ in copies)
    for _, size, path in sorted(copies):
        if held + wanted <= MOST_BYTES:
            return
        with contextlib.suppress(OSError):
            _remove(path)
            held -= size
