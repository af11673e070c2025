"""Unpacks a caption file: gzip, bzip2, xz, or a zip archive with one JSON file.

Covers: what a file is packed with, files that were cut or have something after their end, which file of a zip is read.
Does not cover: zip archives of images (`zipped`), parsing (`coco_index`).

Python's own readers of bzip2 and xz ignore what follows the first packed stream, and fsspec's zip takes the first file.
"""

from __future__ import annotations

import bz2
import io
import lzma
import posixpath
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import fsspec

from daskt2i.documents import WAS_IT_CUT

MAX_BYTES = 2**33
"""A caption file is not unpacked beyond 8 GiB: a few kilobytes can claim any size."""

_BLOCK = 2**20

_MAGIC = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
    "zip": b"PK\x03\x04",
    "zstd": b"\x28\xb5\x2f\xfd",
}
"""First bytes of packed files. No JSON text begins so."""

_CUT = f"its end is missing {WAS_IT_CUT}"

_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "lzma": lzma.LZMADecompressor,
}


class BadPacking(ValueError):
    """A packed file cannot be used. The message is a clause.

    Attributes:
        names: the JSON files of an archive that holds several.
    """

    names: tuple[str, ...] = ()


def unpack(raw: bytes, name: str) -> tuple[bytes, str]:
    """The caption file in packed bytes; the bytes themselves if they are not packed.

    Args:
        name: name of the file. Its ending says how the file is packed, unless the first bytes say it.

    Returns:
        the bytes, and the name of the file that was read inside a zip archive; "" without an archive.

    Raises:
        BadPacking: the file is damaged, or an archive does not have exactly one JSON file.
    """
    kind = next((kind for kind, magic in _MAGIC.items() if raw.startswith(magic)), None)
    kind = kind or fsspec.utils.infer_compression(name)
    try:
        if kind is None:
            return raw, ""
        if kind == "zip":
            return _from_zip(raw)
        if kind in _STREAMS:
            return _joined(raw, _STREAMS[kind]), ""
        if kind not in fsspec.compression.compr:
            raise BadPacking(f"it is packed with {kind}, for which a package is missing")
        with fsspec.compression.compr[kind](io.BytesIO(raw), mode="rb") as stream:
            return _limited(stream), ""
    except (BadPacking, MemoryError):
        raise
    except EOFError as error:
        raise BadPacking(_CUT) from error
    except Exception as error:  # each packing has its own errors
        raise BadPacking(str(error) or type(error).__name__) from error


def unpack_beginning(raw: bytes, name: str) -> bytes:
    """What the first bytes of a file are unpacked; the bytes themselves if they are not packed, or in an archive.

    Raises:
        Exception: the file is damaged; each packing has its own errors.
    """
    kind = next((kind for kind, magic in _MAGIC.items() if raw.startswith(magic)), None)
    kind = kind or fsspec.utils.infer_compression(name)
    return bytes(_STREAMS[kind]().decompress(raw, _BLOCK)) if kind in _STREAMS else raw


def _joined(raw: bytes, stream: Callable[[], Any]) -> bytes:
    """All streams of a file, one after the other, as `cat a.gz b.gz` makes them. Zeros may follow them.

    A stream gets one block at a time: it copies what it leaves, and `bgzip` makes thousands of streams.
    """
    found, at = bytearray(), 0
    while True:
        one = stream()
        while not one.eof:
            piece = getattr(one, "unconsumed_tail", b"")  # zlib returns what it did not read yet, the others keep it
            if not piece and getattr(one, "needs_input", True):
                piece = raw[at : at + _BLOCK]
                at += len(piece)
                if not piece:
                    if not (more := _last(one)):
                        raise BadPacking(_CUT)
                    found += more
                    continue
            found += one.decompress(piece, _BLOCK)
            if len(found) > MAX_BYTES:
                raise BadPacking(f"it unpacks to more than {MAX_BYTES:,} bytes")
        at -= len(one.unused_data)
        if raw.startswith(b"\0", at):
            at = len(raw) - len(raw[at:].lstrip(b"\0"))
        if at == len(raw):
            return bytes(found)
        if not any(raw.startswith(magic, at) for magic in _MAGIC.values()):
            raise BadPacking(f"{len(raw) - at:,} bytes that belong to nothing follow its end")


def _last(one: Any) -> bytes:
    """What zlib still holds when its input is used up."""
    return bytes(one.decompress(b"", _BLOCK)) if hasattr(one, "unconsumed_tail") else b""


def _limited(stream: Any) -> bytes:
    found = bytes(stream.read(MAX_BYTES + 1))
    if len(found) > MAX_BYTES:
        raise BadPacking(f"it unpacks to more than {MAX_BYTES:,} bytes")
    return found


def _from_zip(raw: bytes) -> tuple[bytes, str]:
    with _archive(raw) as archive:
        entries = [
            entry
            for entry in archive.infolist()
            if entry.filename.lower().endswith(".json") and not _of_macos(entry.filename)
        ]
        names = [entry.filename for entry in entries]
        if len(names) != 1:
            some = ", ".join(names[:8]) + ", …" * (len(names) > 8)
            held = f"{len(names)} JSON files: {some}" if names else "no JSON file"
            refused = BadPacking(f"the zip archive holds {held}")
            refused.names = tuple(names)
            raise refused
        if entries[0].flag_bits & 1:
            raise BadPacking(f"{names[0]} in the zip archive is encrypted")
        with archive.open(entries[0]) as stream:
            return _limited(stream), names[0]


def _archive(raw: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(raw))
    except zipfile.BadZipFile as error:  # the list of its files is at the end
        raise BadPacking(f"{_CUT}: {error}") from error


def _of_macos(name: str) -> bool:
    """Whether the Finder put this entry beside the file of the user."""
    return name.startswith("__MACOSX/") or posixpath.basename(name).startswith("._")
