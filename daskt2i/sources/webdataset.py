"""A source with tar files, as WebDataset has them: the files of an image have one name and different endings.

    00000.tar:  000000.jpg  000000.txt  000000.json  000001.jpg  000001.txt

Covers: rows and captions of a tar, tars that were cut or damaged, reading an image in place.
Does not cover: which tars there are (`index.places`), the index (`index`), decoding images (`images`).

A tar has no list of its members. So the index holds where each image lies, and a worker reads it with one ranged read.
A compressed tar can only be read from its beginning, so it is refused.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daskt2i.documents import WAS_IT_CUT
from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.protocols import IndexFolder
from daskt2i.redact import without_secret
from daskt2i.sources.files.presence import exchanged
from daskt2i.sources.files.spans import SpannedRow, Spans
from daskt2i.sources.index.captions import Beside, of_json, of_text
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.indexed import Indexed
from daskt2i.sources.index.places import Container, Place
from daskt2i.types import Row, SourceInfo

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "avif")
"""Endings of images."""

CAPTIONS = ("txt", "caption", "json")
"""Endings of captions. If an image has several such files, the first of these with a caption counts."""

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}

_KEY = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)
"""Key and ending, as WebDataset splits a name: at the first dot of its last part."""

_BLOCK = 4 * 1024 * 1024
"""Bytes of one read of a tar at an address while its index is made. Larger images are skipped, smaller ones pass by."""

_MOST_CAPTION = 16 * 1024 * 1024
"""A larger caption file is not read, bytes."""

_RECORD = 10_240
"""tar fills its last record with zeros up to this size, bytes."""


class WebDatasetSource:
    """One row per image of each tar, in the order of the tars' names and of the images in a tar.

    Args:
        images: a tar, a folder of tars (also in its sub-folders), a pattern (`*.tar`), a list in braces
            (`{00000..00009}.tar`), or an fsspec address of these. The tars are not compressed.
        storage_options: arguments of fsspec. They are used if `images` is an address.
        caption_key: the key of the captions in JSON members; None: the first of `caption`, `captions`, `text`,
            `sentences`, `TEXT`.

    An image has the captions of the members with its key: the lines of a `.txt` or `.caption`, or the values in a
    `.json`. They need not be neighbours. `Row.file_name` is the name of the tar and the name of the member.

    Raises:
        SourceError: `images` is empty, or no path can be so.

    The object is small, because pickling drops the index. A copy that only reads images needs none.
    """

    def __init__(
        self, images: str, storage_options: Mapping[str, Any] | None = None, caption_key: str | None = None
    ) -> None:
        self._arguments = images, dict(storage_options or {}), caption_key
        self._begin()

    def _begin(self) -> None:
        images, options, self._caption_key = self._arguments
        self._place = Place(images, options, (".tar", *_COMPRESSED), "tar")
        self._spans = Spans(self._place)
        self._rows = Indexed(self._place, self._scan, "webdataset", [self._caption_key])

    def __getstate__(self) -> tuple[Any, ...]:
        return (self._place.address, *self._arguments[1:])

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._arguments = state
        self._begin()

    def __repr__(self) -> str:
        return without_secret(f"WebDatasetSource(images={self._place.address!r})")

    def keep_index(self, folder: IndexFolder, write: bool) -> None:
        """Keep the index in a run folder. See `protocols.IndexedSource`."""
        self._rows.keep(folder, write)

    def info(self) -> SourceInfo:
        """Counts and identity. `content` is a SHA-256 over names, captions, ids and sizes of the images.

        Raises:
            SourceMissing: there are no tars.
            SourceError: a tar is compressed, or is none; it changed while it was read.
        """
        return self._rows.info()

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceMissing, SourceError: as in `info`; a tar changed after its index was made.
        """
        return self._rows.rows(start, stop)

    def read(self, row: Row) -> bytes:
        """The encoded image file of a row. Several threads may call it. It keeps no file open.

        Raises:
            RowRejected: `missing-file`, `unreadable-image` if the tar ends there, `image-too-large`.
            OSError: the disk or the network failed; `ESTALE` if the tar is gone, or another one is in its place.
        """
        if row.reason is not None:
            raise RowRejected(row.reason, row.detail)
        if not isinstance(row, SpannedRow):
            raise RowRejected(Reason.MISSING_FILE, f"{row.file_name} has no place in a tar")
        block = self._spans.read(row, tarfile.BLOCKSIZE)
        if not _is_of(block[: tarfile.BLOCKSIZE], row.size):
            raise exchanged(self._place.path_of(row.container))
        return self._spans.without(block, tarfile.BLOCKSIZE)

    def stamps(self, rows: Sequence[Row]) -> list[str] | None:
        """Size and times of the tar of each row, with the place in it; None if nothing can be told."""
        return self._spans.stamps(rows)

    def _scan(self, container: Container, tally: Tally) -> Iterator[Found]:
        """The rows of a tar, when all of it was read: a caption may come after other images."""
        if container.name.lower().endswith(_COMPRESSED):
            raise _compressed(container.path)
        members = _Members(container, tally, self._caption_key)
        files, _ = self._place.files()
        buffering = {} if self._place.is_local else {"block_size": _BLOCK}
        with files.open(container.path, "rb", **buffering) as stream:
            members.read(stream)
        return members.rows()


@dataclass(slots=True)
class _Picture:
    name: str
    key: str
    offset: int
    size: int
    reason: Reason | None = None
    detail: str = ""


@dataclass(slots=True)
class _Members:
    """The members of one tar that count."""

    container: Container
    tally: Tally
    caption_key: str | None
    pictures: list[_Picture] = field(default_factory=list)
    beside: dict[str, dict[str, Beside]] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, stream: Any) -> None:
        """Read the headers, and the captions.

        Raises:
            SourceError: it is not a tar.
        """
        path = self.container.path
        head = bytes(stream.read(6))
        if any(head.startswith(magic) for magic in _MAGIC):
            raise _compressed(path)
        stream.seek(0)
        try:
            archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115  # the stream is closed by its owner
        except tarfile.ReadError as error:
            cut = f" {WAS_IT_CUT}" if self.container.size < tarfile.BLOCKSIZE else ""
            raise SourceError(
                f"{path} is not a tar: {error}{cut}. Nothing was encoded; remove it, or write it again (images)."
            ) from error
        member = None
        try:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
                self._member(archive, member)
        except tarfile.ReadError:
            self._note_cut(archive.offset)
            return
        self._look_at_the_end(stream, archive.offset)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        split = _KEY.fullmatch(member.name)
        ending = split[2].lower() if split else ""
        if split is None or ending not in (*PICTURES, *CAPTIONS) or member.isdir():
            return
        whole = member.offset_data + member.size <= self.container.size
        if ending in PICTURES:
            self._picture(member, split[1], whole)
        elif member.isreg() and whole and member.size <= _MOST_CAPTION:
            handle = archive.extractfile(member)
            raw = handle.read() if handle is not None else b""
            found = of_json(raw, self.caption_key) if ending == "json" else of_text(raw)
            self._keep(split[1], ending, found)
        else:
            self._keep(split[1], ending, Beside(blank=1, problem="its caption file is cut off, a link, or too large"))

    def _keep(self, key: str, ending: str, found: Beside) -> None:
        there = self.beside.setdefault(key, {})
        if ending in there:  # captions of a doubled name belong to no image
            self.tally.orphan_captions += len(found.captions)
            self.tally.blank_captions += found.blank
        else:
            there[ending] = found

    def _picture(self, member: tarfile.TarInfo, key: str, whole: bool) -> None:
        picture = _Picture(_valid(member.name.removeprefix("./")), key, member.offset_data, member.size)
        if member.islnk():  # the same file was added under another name
            place = self.places.get(member.linkname)
            picture.offset, picture.size = place or (-1, 0)
            if place is None:
                picture.reason, picture.detail = Reason.MISSING_FILE, f"a link to {_valid(member.linkname)[:200]}"
        elif not member.isreg() or member.issparse():
            what = "a file with gaps" if member.issparse() else "a link or a device, not a file"
            picture.reason, picture.detail = Reason.UNREADABLE_IMAGE, f"{what} in the tar"
        elif not whole:
            picture.reason, picture.detail = Reason.UNREADABLE_IMAGE, "the tar ends in the middle of it"
        else:
            self.places[member.name] = picture.offset, picture.size
        if picture.reason is not None:
            picture.offset, picture.size = -1, 0
        self.pictures.append(picture)

    def _look_at_the_end(self, stream: Any, end: int) -> None:
        """Say so if a tar ends without its mark, or goes on after it."""
        size = self.container.size
        if end > size:
            self._note_cut(size)
            return
        stream.seek(end)
        block = bytes(stream.read(tarfile.BLOCKSIZE))
        if not block:
            self.tally.notes.append(
                f"{self.container.name} has no end mark {WAS_IT_CUT}. Its {len(self.pictures):,} images are used; "
                "write it again if images are missing."
            )
        elif block.strip(b"\0"):
            self._note_cut(end)
        elif (rest := size - end) > 2 * _RECORD:
            stream.seek(end)
            if any(piece.strip(b"\0") for piece in iter(lambda: stream.read(_BLOCK), b"")):
                self.tally.notes.append(
                    f"{self.container.name} goes on for {rest:,} bytes after its end mark, which were not read. Join "
                    "tars with `tar --concatenate`, not with `cat`."
                )

    def _note_cut(self, where: int) -> None:
        self.tally.notes.append(
            f"{self.container.name} is cut or damaged at byte {where:,} of {self.container.size:,}. The "
            f"{len(self.pictures):,} images before it count as rows; write the tar again to have the others."
        )

    def rows(self) -> Iterator[Found]:
        """The rows in the order of the images. Captions of a key belong to its first image."""
        first = set[str]()
        for picture in self.pictures:
            name = f"{self.container.name}/{picture.name}"
            beside = {} if picture.key in first else self.beside.pop(picture.key, {})
            doubled = picture.key in first and picture.reason is None
            first.add(picture.key)
            found = _chosen(beside)
            self.tally.blank_captions += found.blank
            reason, detail = picture.reason, picture.detail
            if doubled:
                reason, detail = Reason.DUPLICATE_ID, f"the tar has an earlier image with the key {picture.key[:200]}"
            elif reason is None and not found.captions:
                reason, detail = Reason.NO_CAPTION, found.problem
            yield Found(
                name, found.captions, found.image_id, reason, detail, found.licence, picture.offset, picture.size
            )
        for left in self.beside.values():
            found = _chosen(left)
            self.tally.orphan_captions += len(found.captions)
            self.tally.blank_captions += found.blank


def _chosen(beside: Mapping[str, Beside]) -> Beside:
    """Captions of the first ending that has some; number and licence of the JSON; blanks of that ending alone."""
    told = beside.get("json", Beside())
    found = [beside[ending] for ending in CAPTIONS if ending in beside]
    best = next((one for one in found if one.captions), found[0] if found else Beside())
    return Beside(best.captions, best.blank, best.problem, told.image_id, told.licence)


def _compressed(path: str) -> SourceError:
    return SourceError(
        f"{path} is a compressed tar, which can be read only from its beginning, so no image in it can be read alone. "
        "Nothing was encoded; unpack the compression and keep the tar (gunzip, unzstd; images hardly become larger)."
    )


def _is_of(header: bytes, size: int) -> bool:
    """Whether 512 bytes are the header of a member of this size."""
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == size
    except tarfile.HeaderError:
        return False


def _valid(name: str) -> str:
    """A name that UTF-8 can hold. Bytes that are not UTF-8 become escapes."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
