"""Parses a COCO caption file into rows. 83,000 images with 414,000 captions take about 70 MB of memory.

Covers: reading the file once (hash and parse), errors in the file, rows that the file alone shows to be bad.
Does not cover: the images themselves (`coco`).
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import re
from array import array
from dataclasses import dataclass, field
from typing import Any

import fsspec

from daskt2i.errors import Reason, SourceError, SourceMissing
from daskt2i.types import Row

_EXPECTED = (
    "The caption file (captions) must be a JSON object with `images` (id, file_name) and `annotations` "
    "(image_id, caption)."
)
_DIGITS = re.compile(r"-?[0-9]{1,19}")
_ABSENT = object()

_Entry = tuple[Any, Any, Any, Any, Any]
"""id, image_id, file_name, caption, license of one JSON object; `_ABSENT` if it has no such key."""


@dataclass(slots=True)
class Index:
    """The rows of a caption file.

    Attributes:
        sha256: SHA-256 of the file as stored, 64 hex digits.
        ids: image ids, int64.
        names: file names.
        captions: for each row, the captions that are not blank.
        rejected: row -> why it cannot be used.
        licences: for each row, the name of its licence; its number if the file does not name it; "" without a licence.
        orphan_captions, blank_captions: as in `SourceInfo`.
    """

    sha256: str
    ids: array[int] = field(default_factory=lambda: array("q"))
    names: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    rejected: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    licences: list[str] = field(default_factory=list)
    orphan_captions: int = 0
    blank_captions: int = 0
    slots: int = 0
    caption_count: int = 0
    caption_characters: int = 0

    def __len__(self) -> int:
        return len(self.names)

    def row(self, index: int) -> Row:
        """Row `index`, with the reason if it is rejected."""
        reason, detail = self.rejected.get(index, (None, ""))
        return Row(
            index, self.ids[index], self.names[index], self.captions[index], reason, detail, self.licences[index]
        )


def parse(address: str, options: dict[str, Any]) -> Index:
    """Read a caption file at a path or an fsspec address.

    Captions are kept unchanged. Captions that are empty, white-space, missing or not text count as blank. Text with
    half a surrogate pair counts as blank too, because UTF-8 cannot hold it. If an id is listed twice, its captions
    belong to the first entry. Ids are 64-bit integers; digits in quotes count as integers.

    Raises:
        SourceMissing: there is no such file.
        SourceError: the file cannot be read, or it is not a caption file.
    """
    digest, document = _load(address, options)
    if not isinstance(document, dict) or not all(isinstance(document.get(k), list) for k in ("images", "annotations")):
        raise SourceError(f"{address} is not a COCO caption file. {_EXPECTED}")
    images, annotations = document.pop("images"), document.pop("annotations")
    if not images:
        raise SourceError(f"{address} lists no images. {_EXPECTED}")

    index = Index(digest)
    licences = _licences(document.get("licenses"))
    first: dict[int, int] = {}
    for position, entry in enumerate(images):
        number, _, name, _, licence = _fields(address, "images", position, entry)
        image_id = _integer(address, "images", position, "id", number)
        if first.setdefault(image_id, position) != position:
            index.rejected[position] = (Reason.DUPLICATE_ID, f"row {first[image_id]} already has id {image_id}")
        elif (wrong := unusable(name)) is not None:
            index.rejected[position] = wrong
        index.ids.append(image_id)
        index.names.append(_storable(name))
        index.licences.append("" if licence is _ABSENT or licence is None else licences.get(str(licence), str(licence)))
        images[position] = None
    del images

    _attach(address, annotations, first, index)
    for position, captions in enumerate(index.captions):
        if not captions and position not in index.rejected:
            index.rejected[position] = (Reason.NO_CAPTION, "")
    return index


def unusable(name: object) -> tuple[Reason, str] | None:
    """Why an image with this name must not be opened; None if it may be opened."""
    if not isinstance(name, str) or not name:
        return Reason.MISSING_FILE, "the entry has no file_name"
    if _storable(name) != name:
        return Reason.MISSING_FILE, "the file name is not valid text"
    if name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        return Reason.UNSAFE_PATH, f"not a relative path with forward slashes: {name[:200]}"
    if ".." in name.split("/"):
        return Reason.UNSAFE_PATH, f"leads out of the image folder: {name[:200]}"
    if "\0" in name or "::" in name or "://" in name:
        return Reason.UNSAFE_PATH, f"an address or a NUL character, not a file name: {name[:200]!r}"
    if name.endswith("/") or posixpath.normpath(name) == ".":
        return Reason.MISSING_FILE, f"names a folder: {name[:200]}"
    return None


def _load(address: str, options: dict[str, Any]) -> tuple[str, Any]:
    """SHA-256 of the file, and its top object with all objects below it as `_Entry`. It reads the file once."""
    try:
        with fsspec.open(address, "rb", **options) as stream:
            raw = bytes(stream.read())
    except FileNotFoundError as error:
        raise SourceMissing(f"There is no caption file at {address}. {_EXPECTED}") from error
    except (OSError, ValueError, ImportError) as error:
        raise SourceError(f"The caption file {address} cannot be read: {error}.") from error
    digest = hashlib.sha256(raw).hexdigest()
    try:
        packing = fsspec.utils.infer_compression(address.partition("::")[0])
        if packing is not None:
            with fsspec.compression.compr[packing](io.BytesIO(raw), mode="rb") as stream:
                raw = stream.read()
    except MemoryError:
        raise
    except Exception as error:  # each compression has its own errors
        raise SourceError(f"{address} cannot be unpacked: {error}. {_EXPECTED}") from error
    try:
        text = raw.decode(json.detect_encoding(raw))
        del raw  # a hundred megabytes for large sets
        return digest, json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_thin)
    except UnicodeDecodeError as error:
        raise SourceError(f"{address} is not UTF-8 text. {_EXPECTED}") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{address} is not complete and valid JSON: {error}. {_EXPECTED}") from error


def _thin(pairs: list[tuple[str, Any]]) -> Any:
    """Keep five values of an object, and drop the others (addresses, dates, boxes) while the file is parsed."""
    item = dict(pairs)
    if "images" in item or "annotations" in item or ("url" in item and "name" in item):  # the top object, or a licence
        return item
    return _values(item)


def _values(item: dict[str, Any]) -> _Entry:
    get = item.get
    return (
        get("id", _ABSENT), get("image_id", _ABSENT), get("file_name", _ABSENT), get("caption", _ABSENT),
        get("license", _ABSENT),
    )  # fmt: skip


def _licences(listed: Any) -> dict[str, str]:
    """Number -> name. Licences that cannot be used are ignored."""
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            found[str(entry.get("id"))] = _storable(entry["name"])
    return found


def _attach(address: str, annotations: list[Any], first: dict[int, int], index: Index) -> None:
    """Give every caption to its row."""
    gathered: list[list[str] | None] = [None] * len(index)
    named = False
    for position, entry in enumerate(annotations):
        _, number, _, caption, _ = _fields(address, "annotations", position, entry)
        annotations[position] = None
        named = named or caption is not _ABSENT
        row = first.get(_integer(address, "annotations", position, "image_id", number))
        if row is None:
            index.orphan_captions += 1
        elif not isinstance(caption, str) or not caption.strip() or _storable(caption) != caption:
            index.blank_captions += 1
        else:
            kept = gathered[row]
            if kept is None:
                gathered[row] = [caption]
            else:
                kept.append(caption)
            index.caption_count += 1
            index.caption_characters += len(caption)
    if annotations and not named:
        raise SourceError(f"No annotation in {address} has a caption; it may be an instances file. {_EXPECTED}")
    index.captions = [tuple(kept) if kept else () for kept in gathered]
    index.slots = max(map(len, index.captions))


def _fields(address: str, where: str, position: int, entry: Any) -> _Entry:
    if isinstance(entry, tuple) and len(entry) == 5:
        return entry
    if isinstance(entry, dict) and "url" in entry:  # `_thin` took it for a licence
        return _values(entry)
    raise SourceError(f"In {address}, entry {position} of `{where}` is not an object. {_EXPECTED}")


def _integer(address: str, where: str, position: int, key: str, value: Any) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    shown = "missing" if value is _ABSENT else repr(value)[:60]
    raise SourceError(
        f"In {address}, `{key}` of entry {position} of `{where}` is {shown}, but it must be a 64-bit integer."
    )


def _storable(text: object) -> str:
    """Text that UTF-8 can hold; "" for a value that is not text."""
    if not isinstance(text, str):
        return ""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
