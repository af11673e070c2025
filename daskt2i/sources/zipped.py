"""Files of a zip archive, read in place from any fsspec file system.

Covers: reading the directory once per process; reading each file with one ranged read and without shared state, so that
threads do not wait for each other and forked processes do not disturb each other; stored and deflated entries, zip64.
Does not cover: which names are allowed (`coco_index.unusable`), encrypted entries and other compressions (rejected).
"""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from typing import Any

from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing

MAX_FILE_BYTES = 2**28
"""A larger image file is not fetched (256 MiB): no photograph is that large, and an archive can claim any size."""

_LOCAL = struct.Struct("<4s22xHH")
"""Local file header (APPNOTE 4.3.7): signature, …, length of the name, length of the extra field. 30 bytes."""

_SLACK = 128
"""Extra bytes to fetch: the extra field of a local header may be longer than the one in the directory."""


class Zip:
    """The directory of an archive: entry name -> position of its bytes.

    Args:
        files: an fsspec file system.
        path: path of the archive in it.

    Raises:
        SourceMissing: there is no such file.
        SourceError: the file is not a zip archive.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._path = files, path
        try:
            with files.open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
                self._entries = {
                    entry.filename: (
                        entry.header_offset,
                        30 + len(entry.orig_filename.encode("utf-8")) + len(entry.extra) + _SLACK,
                        entry.compress_size,
                        entry.file_size,
                        entry.CRC,
                        entry.compress_type,
                        bool(entry.flag_bits & 1),
                    )
                    for entry in archive.infolist()
                    if not entry.is_dir()
                }
        except FileNotFoundError as error:
            raise SourceMissing(
                f"There are no images at {path}. Give a folder, a .zip file or an fsspec address (images)."
            ) from error
        except PermissionError as error:
            raise SourceError(f"There is no permission to read the images at {path} (images).") from error
        except (zipfile.BadZipFile, EOFError, struct.error, UnicodeDecodeError, NotImplementedError) as error:
            raise SourceError(
                f"{path} is neither a folder of images nor a zip archive: {error}. Give one of these (images)."
            ) from error
        self._ends: dict[str, list[str]] = {}
        for name in self._entries:
            self._ends.setdefault(name.rpartition("/")[2], []).append(name)

    def read(self, name: str) -> bytes:
        """The bytes of the entry `name`, or, if there is none, of the only entry that ends in `/name`.

        Raises:
            RowRejected: `missing-file`, `unreadable-image`, `image-too-large`.
            OSError: the disk or the network failed, or gave too few bytes.
        """
        offset, head, packed, size, crc, method, encrypted = self._entries[self._find(name)]
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
        return data

    def _find(self, name: str) -> str:
        if name in self._entries:
            return name
        found = [
            entry
            for entry in self._ends.get(name.rpartition("/")[2], ())
            if entry.endswith(f"/{name}") and not entry.startswith("__MACOSX/")
        ]
        if len(found) != 1:
            raise RowRejected(
                Reason.MISSING_FILE, name if not found else f"{name} is in the archive {len(found)} times"
            )
        return found[0]

    def _range(self, start: int, stop: int) -> bytes:
        return bytes(self._files.cat_file(self._path, start=start, end=stop))
