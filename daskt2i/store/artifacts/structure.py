"""Whether the files of a model folder are whole, for folders of older versions: these kept no sizes and no hashes.

Covers: the parts that an index names, JSON that parses, safetensors that are as long as their header says; the SHA-256
of each tensor.
Does not cover: folders with sizes and hashes (`finished`), loading a model (`model`).

The format of safetensors: size of the header as a little-endian u64, the header as JSON, the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

_LONGEST_HEADER = 100_000_000
"""Limit of the format itself, bytes."""


def problem(place: Path, index: str, weights: Sequence[str] = ()) -> str:
    """What is wrong with the files of a folder, one clause; "" if nothing is found.

    Args:
        place: the folder on this machine.
        index: JSON file that names the parts, each `[library, class]`. It may be missing.
        weights: safetensors files that must be there.
    """
    for name in (*weights, *_parts(place / index)):
        if not (place / name).exists():
            return f"{name} is missing"
    for path in sorted(path for path in place.rglob("*") if path.is_file()):
        name = path.relative_to(place).as_posix()
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                _check_length(path)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            return f"{name} cannot be read ({error})"
    return ""


def tensor_hashes(path: Path) -> set[str]:
    """SHA-256 of the bytes of each tensor in a safetensors file, with its dtype.

    Raises:
        ValueError, KeyError, TypeError: it is no whole safetensors file.
    """
    with path.open("rb") as file:
        return {_digest(file, start + begin, end - begin, dtype) for start, dtype, begin, end in _tensors(file)}


def _parts(index: Path) -> Iterator[str]:
    """The folders that an index names."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # it is missing, or `problem` finds that it cannot be read
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, list) and value and value[0] is not None:
            yield name


def _check_length(path: Path) -> None:
    with path.open("rb") as file:
        ends = [start + end for start, _, _, end in _tensors(file)]
    wanted, size = max(ends, default=path.stat().st_size), path.stat().st_size
    if size != wanted:
        raise ValueError(f"it has {size} bytes instead of {wanted}")


def _tensors(file: IO[bytes]) -> list[tuple[int, str, int, int]]:
    """Start of the data in the file, dtype, and first and last byte in the data, of each tensor."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= _LONGEST_HEADER:
        raise ValueError("it has no header")
    text = file.read(length)
    if len(text) < length:
        raise ValueError("its header is cut")
    header: dict[str, Any] = json.loads(text)
    given = [value for name, value in header.items() if name != "__metadata__"]
    found = []
    for one in given:
        begin, end = one["data_offsets"]
        found.append((8 + length, str(one["dtype"]), int(begin), int(end)))
    return found


def _digest(file: IO[bytes], start: int, length: int, dtype: str) -> str:
    file.seek(start)
    data = file.read(length)
    if len(data) != length:
        raise ValueError("it is cut")
    return f"{dtype} {hashlib.sha256(data).hexdigest()}"
