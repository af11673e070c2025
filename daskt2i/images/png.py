"""Decodes PNG: the pixels, the transparent colour, EXIF and XMP.

Covers: only what a picture needs is given to Pillow, so a damaged or huge text or colour profile does not matter.
Missing rows, data with a wrong checksum, transparent colours of every depth, EXIF in all places that Pillow knows.

Does not cover: the frames of an animation after the first picture. The end of a file may be missing, if all rows are
there. A wrong CRC does not matter if the checksum of the pixels is right (RFC 1950, Adler-32).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from daskt2i.errors import Reason, RowRejected

_START = b"\x89PNG\r\n\x1a\n"
_USED = frozenset((b"IHDR", b"PLTE", b"tRNS"))
_ORIENTED = frozenset((b"eXIf", b"tEXt", b"zTXt", b"iTXt"))
_END = b"\0\0\0\0IEND\xaeB`\x82"
_LONGEST_TEXT = 2**24
"""Bytes of EXIF or XMP as text, after decompression. A longer one counts as damaged."""

_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: the first column and row, and the steps, of each pass of an interlaced image."""


class Png(PngImagePlugin.PngImageFile):
    """The first picture of a PNG or APNG file. `info` has `exif`, `xmp` and `transparency` if the file has them.

    Args:
        data: the whole file.
    """

    def __init__(self, data: bytes) -> None:
        self._exif_chunk: bytes | None = None
        self._exif_text: bytes | None = None
        self._xmp: bytes | None = None
        self._key = b""
        self._pixels: list[tuple[int, int]] = []  # where the data of each IDAT begins and ends
        self._data = data
        self._kept = self._read(data)
        self._header = data[16:29] if len(data) >= 33 else b"\0" * 13
        super().__init__(io.BytesIO(self._kept))
        exif = self._exif_text if self._exif_chunk is None else self._exif_chunk
        self.info |= {name: value for name, value in (("exif", exif), ("xmp", self._xmp)) if value is not None}
        self._set_key()

    def getexif(self) -> Image.Exif:
        """Nothing: `info` has the bytes."""
        return Image.Exif()

    def load(self) -> Any:
        """Decode all pixels.

        Raises:
            RowRejected: `unreadable-image`: data is missing or broken.
        """
        if not self.tile:
            return super().load()
        result = super().load()
        if self._has_blank_end() or not self._is_sound():
            length, sound = self._inflated()
            if length < self._expected() or not (sound or self._is_sound()):
                raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its last row, or its data is damaged")
        if self.mode == "RGB" and self._header[8] == 16 and len(self._key) >= 6:
            self._set_alpha()
        return result

    def _read(self, data: bytes) -> bytes:
        """The file without the chunks that no picture needs; keeps EXIF and XMP."""
        kept, position, last = [_START], len(_START), _END
        while position + 8 <= len(data):
            (length,) = struct.unpack_from(">I", data, position)
            name, begin, end = data[position + 4 : position + 8], position + 8, position + 12 + length
            if not name.isalpha() or name == b"IEND":
                break
            body = memoryview(data)[begin : begin + length]
            if name == b"IDAT":
                if not self._pixels or self._pixels[-1][1] + 4 == position:  # others would not belong to it
                    self._pixels.append((begin, begin + len(body)))
                    kept.append(data[position:end])
                    if len(body) < length:
                        last = b""
                    elif end > len(data):
                        last = bytes(end - len(data)) + _END  # only the CRC is cut
            elif name in _USED and not (self._pixels and name != b"tRNS"):
                kept.append(data[position:end])
                self._key = bytes(body) if name == b"tRNS" else self._key
            elif name in _ORIENTED and data[end - 4 : end] == zlib.crc32(data[begin - 4 : end - 4]).to_bytes(4):
                if name == b"eXIf":
                    self._exif_chunk = bytes(body)
                else:
                    self._read_text(name, bytes(body))
            position = end
        return b"".join((*kept, last))

    def _read_text(self, name: bytes, body: bytes) -> None:
        """Keep EXIF as ImageMagick writes it (hexadecimal, after three lines), and XMP."""
        keyword, _, text = body.partition(b"\0")
        if keyword not in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
            return
        compressed = name == b"zTXt"
        if name == b"zTXt":
            text = text[1:]
        elif name == b"iTXt":
            compressed = text[:1] == b"\x01"
            text = text[2:].split(b"\0", 2)[-1]
        try:
            if compressed:
                unpacked = zlib.decompressobj()
                text = unpacked.decompress(text, _LONGEST_TEXT)
                if unpacked.unconsumed_tail:
                    return
            if keyword == b"XML:com.adobe.xmp":
                self._xmp = text
            else:
                self._exif_text = bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
        except (zlib.error, ValueError):
            return

    def _set_key(self) -> None:
        """Scale the transparent colour like the samples. Only its low bits count (PNG, 11.3.2.1), as for libpng."""
        if "transparency" not in self.info or self.mode == "P":
            return
        depth = self._header[8]
        values = [value & (1 << depth) - 1 for value in struct.unpack(f">{len(self._key) // 2}H", self._key[:6])]
        if depth < 8:
            values = [value * 255 // ((1 << depth) - 1) for value in values]
        self.info["transparency"] = tuple(values[:3]) if self.mode == "RGB" else values[0]

    def _set_alpha(self) -> None:
        """Make pixels transparent that have the transparent colour in all 16 bits. Pillow keeps the upper 8."""
        low = PngImagePlugin.PngImageFile(io.BytesIO(self._kept))
        low.tile = [(*tile[:3], "RGB;16L") for tile in low.tile]  # type: ignore[misc]  # the other byte of a sample
        key = np.frombuffer(self._key[:6], np.uint8)
        clear = (np.asarray(self) == key[0::2]).all(-1) & (np.asarray(low) == key[1::2]).all(-1)
        self.info.pop("transparency", None)
        self.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))

    def _has_blank_end(self) -> bool:
        """Whether one of the last two rows has only zeros. Rows that were never decoded look like this."""
        rows = np.asarray(self.crop((0, max(0, self.height - 2), self.width, self.height)))
        return not rows.reshape(rows.shape[0], -1).any(1).all()

    def _is_sound(self) -> bool:
        """Whether each IDAT chunk has the right CRC, or none because the file ends."""
        for begin, end in self._pixels:
            crc = self._data[end : end + 4]
            if len(crc) == 4 and int.from_bytes(crc) != zlib.crc32(memoryview(self._data)[begin - 4 : end]):
                return False
        return True

    def _inflated(self) -> tuple[int, bool]:
        """The length of the decompressed pixels, and whether their checksum is right."""
        unpacked, length = zlib.decompressobj(), 0
        try:
            for begin, end in self._pixels:
                rest: bytes = self._data[begin:end]
                while rest and not unpacked.eof:
                    length += len(unpacked.decompress(rest, 2**20))
                    rest = unpacked.unconsumed_tail
        except zlib.error:
            return length, False
        return length, unpacked.eof

    def _expected(self) -> int:
        """The length of the decompressed pixels of a whole image."""
        width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", self._header)
        bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
        total = 0
        for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-(width - left) // across), -(-(height - top) // down)
            if columns > 0 and rows > 0:
                total += rows * (1 + -(-columns * bits // 8))
        return total
