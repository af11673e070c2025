"""Decodes TIFF: the first picture, with the meaning of its samples.

Covers: only the tags that a picture needs are given to Pillow, so damage in others does not matter. Missing strips and
tiles. Samples of deep grey: which value is white, signs, and whether white is zero.

Does not cover: the conversion to 8 bits (`colour`). Pillow turns a TIFF upright itself. Some damage is not noticed,
because libtiff does not report it: missing data inside a strip with JPEG or fax compression.
"""

from __future__ import annotations

import contextlib
import io
import struct
from dataclasses import dataclass
from typing import Any

from PIL import TiffImagePlugin

from daskt2i.errors import Reason, RowRejected

_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT, _XMP = 258, 262, 284, 339, 700
_USED = frozenset(
    {256, 257, _BITS, 259, _PHOTOMETRIC, 266, 273, 274, 277, 278, 279, _PLANAR, 292, 293, 317, 320, 322, 323, 324, 325}
    | {332, 334, 338, _SAMPLE_FORMAT, 347, *range(512, 522), 529, 530, 531, 532, _XMP, 50674}
)
"""Size, samples, compression, strips, tiles, colours, orientation (274), XMP (700: it may hold the orientation)."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


@dataclass(frozen=True, slots=True)
class Samples:
    """What the samples of grey mean.

    Attributes:
        bits: bits of a sample.
        signed: they are signed integers.
        white_is_zero: small values are bright, and Pillow has not inverted them.
    """

    bits: int = 0
    signed: bool = False
    white_is_zero: bool = False


class Tiff(TiffImagePlugin.TiffImageFile):
    """The first picture of a TIFF file.

    Args:
        data: the whole file.

    Attributes:
        samples: what the samples of grey mean.
    """

    def __init__(self, data: bytes) -> None:
        self.samples = Samples()
        with contextlib.suppress(struct.error):  # the directory is cut; Pillow says what is wrong
            data = self._without_the_rest(data)
        super().__init__(io.BytesIO(data))

    def load(self) -> Any:
        """Decode all pixels, and turn the picture upright.

        Raises:
            RowRejected: `unreadable-image`: data is missing or broken.
        """
        if self.tile:
            self._refuse_missing_parts()
        return super().load()

    def _without_the_rest(self, data: bytes) -> bytes:
        """The file with only the tags that a picture needs, and without a second picture. Keeps `samples`."""
        order = "<" if data[:2] == b"II" else ">"
        big = data[2:4] in (b"+\0", b"\0+")
        number, head, entry_size, inside = ("Q", "HHQ", 20, 12) if big else ("I", "HHI", 12, 8)
        (start,) = struct.unpack_from(order + number, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        first = start + (8 if big else 2)
        if count * entry_size > len(data) - first:
            raise struct.error("the directory is cut")
        entries: dict[int, bytes] = {}
        values: dict[int, int] = {}
        for at in range(first, first + count * entry_size, entry_size):
            tag, kind, length = struct.unpack_from(order + head, data, at)
            entry, size = data[at : at + entry_size], length * _SIZES.get(kind, 0)
            (place,) = struct.unpack_from(order + number, entry, inside)
            apart = size > entry_size - inside  # the value is elsewhere in the file
            if tag not in _USED or (tag == _XMP and apart and place + size > len(data)):
                continue
            entries[tag] = entry
            if kind == 3 and length:
                (values[tag],) = struct.unpack_from(order + "H", data, place if apart else at + inside)
        bits, form = values.get(_BITS, 1), values.get(_SAMPLE_FORMAT, 1)
        inverted = values.get(_PHOTOMETRIC) == 0 and (bits > 8 or form != 1)
        self.samples = Samples(bits, form == 2, inverted)
        if inverted:  # Pillow reads few of these, and inverts none
            entry = entries[_PHOTOMETRIC]
            entries[_PHOTOMETRIC] = entry[:inside] + struct.pack(order + "H", 1) + entry[inside + 2 :]
        directory = struct.pack(order + ("Q" if big else "H"), len(entries)) + b"".join(entries.values())
        directory += bytes(8 if big else 4)  # no second picture
        return data[:start] + directory + data[start + len(directory) :]

    def _refuse_missing_parts(self) -> None:
        """Refuse a file that lists too few strips or tiles for its size. Pillow would leave the rest black.

        Raises:
            RowRejected: `unreadable-image`: some are missing.
        """
        there, whole = 0, self.width * self.height
        for tile in self.tile:
            left, top, right, bottom = tile[1] or (0, 0, 0, 0)
            there += (right - left) * (bottom - top)
            if tile[0] != "libtiff" and tile[2] < 8:  # inside the header: a strip that was never written
                raise RowRejected(Reason.UNREADABLE_IMAGE, "a strip of the file is missing")
        planes = len(self.getbands()) if self.tag_v2.get(_PLANAR, 1) == 2 and self.tile[0][0] != "libtiff" else 1
        if there < whole * planes:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the file holds fewer rows than its header says")
