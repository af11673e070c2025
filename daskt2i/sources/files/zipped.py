"""Files of a zip archive, read in place from any fsspec file system.

Covers: reading the directory once per process; reading each file with one ranged read and without shared state, so that
threads do not wait for each other and forked processes do not disturb each other; stored and deflated entries, zip64;
names as other systems write them; an archive that is removed or exchanged while it is read.
Does not cover: which names are allowed, accents in one or two characters (`opening`), encrypted entries and other
compressions (rejected).
"""

from __future__ import annotations

import errno
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from daskt2i.documents import WAS_IT_CUT
from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.sources.files.presence import exchanged, gone, told
from daskt2i.types import FileBytes

MAX_FILE_BYTES = 2**28
"""A larger image file is not fetched (256 MiB): no photograph is that large, and an archive can claim any size."""

_LOCAL = struct.Struct("<4s22xHH")
"""Local file header (APPNOTE 4.3.7): signature, …, length of the name, length of the extra field. 30 bytes."""

_SLACK = 128
"""Extra bytes to fetch: the extra field of a local header may be longer than the one in the directory."""


_UNICODE_PATH = 0x7075
"""Extra field with the name in UTF-8 (APPNOTE 4.6.9): version 1, CRC-32 of the name in the header, the name."""

_IN_UTF_8 = 0x800
"""Flag of an entry whose name is UTF-8. macOS writes UTF-8 without it."""

_CODE_PAGES = ("cp1252", "cp1250", "cp1251", "cp932", "cp936", "cp949", "cp950", "cp850", "cp852", "cp866")
"""Code pages of Windows in Europe and East Asia. Its Explorer names entries in one of them, and does not say which."""

_DAMAGED = (zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, ValueError, LookupError)
"""Errors of `zipfile` for an archive that is damaged, or is none."""

_Entry = tuple[int, int, int, int, int, int, bool]
"""Offset, length of the local header or more, packed size, size, CRC-32, method, whether it is encrypted."""


class Zip:
    """The directory of an archive: entry name -> position of its bytes.

    An entry is found under its name, and under the same bytes read in another way: as UTF-8 without the flag for it
    (macOS), as the extra field for Unicode names gives it (Info-ZIP, WinZip), and with `/` in place of a backslash
    (some tools of Windows). If there is still none, it is found in a code page of Windows in which all names of the
    archive can be read. Entries that may all mean one name are refused, unless they are equal.

    Args:
        files: an fsspec file system.
        path: path of the archive in it.

    Raises:
        SourceMissing: there is no such file.
        SourceError: the file is not a zip archive, or it is a part of a split one.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path
        try:
            self._version = self._told()
            with files.open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
                entries = [entry for entry in archive.infolist() if not entry.filename.endswith(("/", "\\"))]
        except FileNotFoundError as error:
            raise SourceMissing(
                f"There are no images at {path}. Give a folder, a .zip file or an fsspec address (images)."
            ) from error
        except PermissionError as error:
            raise SourceError(f"There is no permission to read the images at {path} (images).") from error
        except (OSError, *_DAMAGED) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:  # a place before the begin of the file
                raise
            cut = f" {WAS_IT_CUT}" if _begins_as_a_zip(files, path) else ""
            raise SourceError(
                f"{path} is neither a folder of images nor a zip archive: {error}{cut}. Give one of these (images)."
            ) from error
        if any(entry.volume not in (0, 0xFFFF) for entry in entries):
            raise SourceError(f"{path} is one part of a split zip archive. Join the parts into one archive (images).")
        self._entries: dict[str, _Entry] = {}
        self._best: list[str] = []  # the likeliest name of each entry
        self._doubled: dict[str, list[_Entry]] = {}  # name -> all its entries, if it has several
        self._others: dict[str, list[_Entry]] = {}  # name in another reading -> entries
        self._ends: dict[int, dict[str, list[str]]] = {}  # number of parts -> last parts -> names; made when needed
        self._coded: dict[bytes, list[tuple[bytes, _Entry]]] = {}  # end -> names as stored, if no coding is stated
        self._pages: tuple[str, ...] | None = None
        for entry in entries:
            self._add(entry)

    def _add(self, entry: zipfile.ZipInfo) -> None:
        found = (
            entry.header_offset,
            30 + len(entry.orig_filename.encode("utf-8")) + len(entry.extra) + _SLACK,
            entry.compress_size,
            entry.file_size,
            entry.CRC,
            entry.compress_type,
            bool(entry.flag_bits & 1),
        )
        names = _names(entry)
        self._best.append(names[-1])
        for number, name in enumerate(names):
            if number:
                self._others.setdefault(name, []).append(found)
            elif name in self._entries:
                self._doubled.setdefault(name, [self._entries[name]]).append(found)
            else:
                self._entries[name] = found
        if not entry.orig_filename.isascii() and not entry.flag_bits & _IN_UTF_8:
            stored = entry.orig_filename.encode("cp437")  # zipfile has read the bytes so
            self._coded.setdefault(_last_part(stored), []).append((stored, found))

    def read(self, name: str) -> FileBytes:
        """The bytes of the entry `name`, or, if there is none, of the only entry that ends in `/name`; with its stamp.

        Raises:
            RowRejected: `missing-file`, `image-too-large`; `unreadable-image` also if several entries have the name and
                differ in content.
            OSError: the disk or the network failed, or gave too few bytes; `ESTALE` if the archive is gone, or another
                one is in its place.
        """
        try:
            return self._read(name)
        except RowRejected as error:
            if error.reason is Reason.UNREADABLE_IMAGE:
                self._require_same()
            raise

    def _read(self, name: str) -> FileBytes:
        offset, head, packed, size, crc, method, encrypted = self._entry(name)
        if max(size, packed) > MAX_FILE_BYTES:
            raise RowRejected(Reason.IMAGE_TOO_LARGE, f"an entry of {max(size, packed)} bytes > {MAX_FILE_BYTES}")
        if encrypted or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RowRejected(Reason.UNREADABLE_IMAGE, "encrypted" if encrypted else f"zip compression {method}")
        block = self._range(offset, offset + head + packed)
        if len(block) < _LOCAL.size or block[:4] != b"PK\x03\x04":
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the archive is damaged here: no file header")
        _, name_length, extra_length = _LOCAL.unpack_from(block)
        start = _LOCAL.size + name_length + extra_length
        data = block[start : start + packed]
        if len(data) < packed:  # a local extra field longer than the slack
            data += self._range(offset + start + len(data), offset + start + packed)
        if len(data) < packed:  # the directory lies behind it, so the archive goes on: the read was cut
            raise OSError(errno.EIO, f"{len(data)} of {packed} bytes came", self._path)
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)  # one byte more than promised shows a lie
            except zlib.error as error:
                raise RowRejected(Reason.UNREADABLE_IMAGE, f"the archive is damaged here: {error}") from error
        if len(data) != size or zlib.crc32(data) != crc:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the archive is damaged here: wrong length or checksum")
        return FileBytes(data, f"{crc} {size}")

    def names(self) -> Iterator[str]:
        """The name of each entry, each once, in the order of the archive: as UTF-8 or Unicode if it may be read so."""
        yield from dict.fromkeys(self._best)

    def stamp(self, name: str) -> str:
        """Checksum and size of an entry, from the directory; "" if there is none."""
        try:
            _, _, _, size, crc, _, _ = self._entry(name)
        except RowRejected:
            return ""
        return f"{crc} {size}"

    def _entry(self, name: str) -> _Entry:
        names = [name]
        if not (found := self._at(name)):
            names = [entry for entry in self._ending_in(name) if "/__MACOSX/" not in f"/{entry}"]
            found = list(dict.fromkeys(entry for whole in names for entry in self._at(whole)))
        found = found or self._in_a_code_page(name)
        if not found:
            raise RowRejected(Reason.MISSING_FILE, name)
        if len(names) > 1 and len(found) > 1:
            raise RowRejected(Reason.MISSING_FILE, f"{name} is in the archive {len(found)} times")
        if len({entry[3:5] for entry in found}) > 1:
            raise RowRejected(
                Reason.UNREADABLE_IMAGE, f"{name} is in the archive {len(found)} times, with different content"
            )
        return found[-1]

    def _ending_in(self, name: str) -> list[str]:
        """The names that end in `/name`. As many parts count as it has: each folder may hold an `image.jpg`."""
        parts = name.count("/") + 1
        if (ends := self._ends.get(parts)) is None:
            ends = {}
            for entry in {**self._entries, **self._others}:
                split = entry.split("/")
                if len(split) > parts:
                    ends.setdefault("/".join(split[-parts:]), []).append(entry)
            self._ends[parts] = ends
        return ends.get(name, [])

    def _at(self, name: str) -> list[_Entry]:
        """The entries of this very name, and those that may mean it."""
        own = [self._entries[name]] if name in self._entries else []
        return list(dict.fromkeys([*self._others.get(name, ()), *(self._doubled.get(name) or own)]))

    def _in_a_code_page(self, name: str) -> list[_Entry]:
        """The entries whose name, or the end of it, is this name in a code page that all of them can have."""
        if not self._coded or name.isascii():
            return []
        if self._pages is None:
            names = [stored for same in self._coded.values() for stored, _ in same]
            self._pages = tuple(page for page in _CODE_PAGES if all(_text(stored, page) for stored in names))
        found: list[_Entry] = []
        for page in self._pages:
            with suppress(UnicodeEncodeError):
                for stored, entry in self._coded.get(_last_part(name.encode(page)), ()):
                    if f"/{_text(stored, page)}".endswith(f"/{name}"):
                        found.append(entry)
        return list(dict.fromkeys(found))

    def _range(self, start: int, stop: int) -> bytes:
        try:
            return bytes(self._files.cat_file(self._path, start=start, end=stop))
        except FileNotFoundError as error:
            raise gone(self._path) from error

    def _require_same(self) -> None:
        try:
            same = self._told() == self._version
        except FileNotFoundError as error:
            raise gone(self._path) from error
        if not same:
            raise exchanged(self._path)

    def _told(self) -> str:
        """What the file system says about the content of the archive and its last change; "" if it says nothing."""
        self._files.invalidate_cache(self._path)
        try:
            return told(self._files.info(self._path))
        except LookupError:
            return ""


def _last_part(stored: bytes) -> bytes:
    return stored.replace(b"\\", b"/").rpartition(b"/")[2]


def _text(stored: bytes, page: str) -> str:
    """A name in a code page, with `/` in place of a backslash; "" if it is none."""
    try:
        return stored.decode(page).replace("\\", "/")
    except UnicodeDecodeError:
        return ""


def _begins_as_a_zip(files: Any, path: str) -> bool:
    """The list of its files is at the end of an archive, so one that was cut has lost it."""
    try:
        with files.open(path, "rb") as stream:
            return bytes(stream.read(4)) == b"PK\x03\x04"
    except Exception:  # file systems of fsspec have errors of their own
        return False


def _names(entry: zipfile.ZipInfo) -> list[str]:
    """The name of an entry, then the names that its bytes may also mean."""
    stored = entry.orig_filename
    found = {entry.filename: None}
    if not stored.isascii() and not entry.flag_bits & _IN_UTF_8:
        with suppress(UnicodeError):
            found[stored.encode("cp437").decode("utf-8")] = None
    if (other := _unicode_path(entry)) is not None:
        found[other] = None
    for name in list(found):
        if "\\" in name:
            found[name.replace("\\", "/")] = None
    for name in list(found):
        if "//" in name or "/./" in name:
            found[posixpath.normpath(name)] = None
    return list(found)


def _unicode_path(entry: zipfile.ZipInfo) -> str | None:
    """The name in the extra field for it, unless the field belongs to another name: an old tool renamed the entry."""
    extra = entry.extra
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and len(field) > 5 and field[0] == 1:
            coding = "utf-8" if entry.flag_bits & _IN_UTF_8 else "cp437"
            if struct.unpack_from("<L", field, 1)[0] == zlib.crc32(entry.orig_filename.encode(coding)):
                with suppress(UnicodeDecodeError):
                    return field[5:].decode("utf-8")
    return None
