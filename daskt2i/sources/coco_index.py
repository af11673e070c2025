"""Parses a COCO caption file into rows.

Covers: reading the file once (hash and parse), errors in the file, rows that the file alone shows to be bad.
Does not cover: the rows in memory (`listed.index`), strict JSON (`documents`), packed files (`packed`), the images
themselves (`files.opening`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

from daskt2i import addresses, documents
from daskt2i.documents import BadDocument, storable
from daskt2i.errors import Reason, SourceError, SourceMissing
from daskt2i.sources.files.opening import unusable
from daskt2i.sources.files.packed import BadPacking, unpack
from daskt2i.sources.listed.index import KINDS, Index

_EXPECTED = (
    "The caption file (captions) must be a JSON object with `images` (id, file_name) and `annotations` "
    "(image_id, caption)."
)
_ABSENT = object()

_Entry = tuple[Any, Any, Any, Any, Any]
"""id, image_id, file_name, caption, license of one JSON object; `_ABSENT` if it has no such key. JSON has no tuples."""

_Licence = tuple[Any, Any, Any]
"""id, name, `_ABSENT` of an object that has a name and none of the keys of an image or a caption."""


def parse(address: str, options: dict[str, Any]) -> Index:
    """Read a caption file at a path or an fsspec address.

    Captions are kept unchanged. Captions that are empty, white-space, missing or not text count as blank. Text with
    half a surrogate pair counts as blank too, because UTF-8 cannot hold it. If an id is listed twice, its captions
    belong to the first entry. Ids are 64-bit integers; digits in quotes count as integers.

    Raises:
        SourceMissing: there is no such file.
        SourceError: the file cannot be read, or it is not a caption file.
    """
    digest, member, document = _load(address, options)
    if not isinstance(document, dict) or not all(isinstance(document.get(k), list) for k in ("images", "annotations")):
        raise SourceError(f"{address} is not a COCO caption file. {_EXPECTED}")
    images, annotations = document.pop("images"), document.pop("annotations")
    if not images:
        raise SourceError(f"{address} lists no images. {_EXPECTED}")

    index = Index(digest, member)
    licences = _licences(document.get("licenses"))
    first: dict[int, int] = {}
    for position, entry in enumerate(images):
        identity, _, name, _, licence = _fields(address, "images", position, entry)
        image_id = _integer(address, "images", position, "id", identity)
        if first.setdefault(image_id, position) != position:
            index.rejected[position] = (Reason.DUPLICATE_ID, f"row {first[image_id]} already has id {image_id}")
        elif (wrong := unusable(name)) is not None:
            index.rejected[position] = wrong
        index.ids.append(image_id)
        index.names.append(storable(name))
        index.licences.append(licences.get(number := _licence_number(licence), number))
        images[position] = None
    del images

    odd = _attach(address, annotations, first, index)
    for position, captions in enumerate(index.captions):
        if not captions and position not in index.rejected:
            detail = f"its caption is {odd[position]}, not text" if position in odd else ""
            index.rejected[position] = (Reason.NO_CAPTION, detail)
    return index


def _load(address: str, options: dict[str, Any]) -> tuple[str, str, Any]:
    """SHA-256 of the file, its name in a zip archive, and its top object with all objects below it as tuples.

    It reads the file once.
    """
    try:
        raw = addresses.read_bytes(address, options)
        digest = hashlib.sha256(raw).hexdigest()
        raw, member = unpack(raw, address.partition("::")[0])
        text = documents.text_of(raw)
        del raw  # a hundred megabytes for large sets
        return digest, member, documents.read_json(text, _thin)
    except FileNotFoundError as error:
        raise SourceMissing(f"There is no caption file at {address}. {_EXPECTED}") from error
    except OSError as error:
        said = " ".join(str(error).split()).rstrip(". ") or type(error).__name__
        raise SourceError(f"The caption file {address} cannot be read: {said}.") from error
    except BadPacking as error:
        one = f" Of these, give one: zip://NAME::{address}." if error.names else ""
        raise SourceError(f"{address} cannot be unpacked: {error}. {_EXPECTED}{one}") from error
    except BadDocument as error:
        raise SourceError(f"{address} is no caption file: {error}. {_EXPECTED}") from error
    except MemoryError as error:
        raise SourceError(f"The caption file {address} does not fit into the memory of this machine.") from error


def _thin(item: dict[str, Any]) -> _Entry | _Licence:
    """Keep some values of an object below the top, and drop the others (addresses, dates, boxes) at once."""
    get = item.get
    found = (
        get("id", _ABSENT), get("image_id", _ABSENT), get("file_name", _ABSENT), get("caption", _ABSENT),
        get("license", _ABSENT),
    )  # fmt: skip
    if "name" in item and found[1:] == _NOTHING:
        return found[0], item["name"], _ABSENT
    return found


_NOTHING = (_ABSENT,) * 4


def _licences(listed: Any) -> dict[str, str]:
    """Number -> name. Licences that cannot be used are ignored."""
    found = {}
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, tuple) and len(entry) == 3 and isinstance(entry[1], str):
            found[_licence_number(entry[0])] = storable(entry[1])
    found.pop("", None)  # a licence without a number is nobody's
    return found


def _licence_number(value: Any) -> str:
    """The number of a licence as text; "" for a value that names none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else storable(value)


def _attach(address: str, annotations: list[Any], first: dict[int, int], index: Index) -> dict[int, str]:
    """Give every caption to its row.

    Returns:
        row -> what its first caption is that is not text: "a list".
    """
    gathered: list[list[str] | None] = [None] * len(index)
    odd: dict[int, str] = {}
    kinds: Counter[str] = Counter()
    named = texts = False
    for position, entry in enumerate(annotations):
        _, number, _, caption, _ = _fields(address, "annotations", position, entry)
        annotations[position] = None
        named = named or caption is not _ABSENT
        row = first.get(_integer(address, "annotations", position, "image_id", number))
        if row is None:
            index.orphan_captions += 1
        elif not isinstance(caption, str):
            index.blank_captions += 1
            if caption is not None and caption is not _ABSENT:
                kinds[odd.setdefault(row, KINDS.get(type(caption), "no text"))] += 1
        elif not caption.strip() or storable(caption) != caption:
            index.blank_captions += 1
            texts = True
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
    if kinds and not texts and not index.caption_count:
        kind, count = kinds.most_common(1)[0]
        raise SourceError(
            f"No caption in {address} is text: in {count:,} of {len(annotations):,} annotations `caption` is {kind}. "
            "Nothing was read; write one annotation for each caption, with its text."
        )
    if annotations and index.orphan_captions == len(annotations):
        raise SourceError(
            f"No caption in {address} belongs to an image: no `image_id` of its {len(annotations):,} annotations is "
            f"the `id` of one of its {len(index):,} images. Nothing was read; take both lists from one data set."
        )
    index.captions = [tuple(kept) if kept else () for kept in gathered]
    index.slots = max(map(len, index.captions))
    return odd


def _fields(address: str, where: str, position: int, entry: Any) -> _Entry:
    if isinstance(entry, tuple):
        return entry if len(entry) == 5 else (entry[0], _ABSENT, _ABSENT, _ABSENT, _ABSENT)
    raise SourceError(f"In {address}, entry {position} of `{where}` is not an object. {_EXPECTED}")


def _integer(address: str, where: str, position: int, key: str, value: Any) -> int:
    found = documents.integer(value)
    if found is not None:
        return found
    shown = "missing" if value is _ABSENT else documents.shown(value)
    raise SourceError(
        f"In {address}, `{key}` of entry {position} of `{where}` is {shown}, but it must be a 64-bit integer."
    )
