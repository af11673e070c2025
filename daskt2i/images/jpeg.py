"""Decodes JPEG, and tells whether the file holds the whole picture.

Covers: the markers of the first picture of a file, its EXIF and XMP, and a decoder that notices missing data.

Does not cover: colour, size and orientation of the result (`read`). Some damage is not noticed, because libjpeg cannot
report it here: flipped bits that leave the data as long as before; missing bits in the very last block of a scan, so
a cut in its last few bytes, if the file is longer than `_SMALL`; missing data in JPEGs with arithmetic coding and in
lossless ones, which hardly exist.

libjpeg fills what is missing with grey, and reports it only as a warning, which Pillow drops. But it stops and asks for
more bytes if its data ends without a marker. So it gets each scan, or each part between two restart markers, without
the marker that follows, and with seven bytes of ones instead: it reads so far ahead. If the part is whole, libjpeg uses
none of them, and skips them as bytes before a marker. If anything is missing, it stops in the middle of a block and
leaves bytes. Ones are not a code in any JPEG (ITU T.81, Annex C), so a missing block does not fit into them.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, JpegImagePlugin

from daskt2i.errors import Reason, RowRejected

_SOI, _EOI, _SOS, _DRI, _APP0, _APP1, _APP14, _APP15, _COM = 0xD8, 0xD9, 0xDA, 0xDD, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_BASELINE, _EXTENDED, _PROGRESSIVE = 0xC0, 0xC1, 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}
"""Markers without a length: RST0 to RST7, SOI, TEM."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""A marker, but not a stuffed byte of data. It begins with a fixed byte, because then the search is fast: 0.04 ms for a
photograph that takes 5 ms to decode."""

_ONES = b"\xff\x00" * 7
_OTHERS = b"\x6d\xb6\xdb\x6d\xb6\xdb\x6d"
"""The bits 011 again and again. In the usual tables this is another code than that for the end of a block."""

_SMALL = 2**12
"""Up to this length of a file, in bytes, missing bits of the last block are noticed too, by decoding twice: 0.1 ms."""

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


class Jpeg(JpegImagePlugin.JpegImageFile):
    """The first picture of a JPEG or MPO file. `info` has `exif` and `xmp` if the file has them.

    Other metadata is skipped unread, so damage there does not matter.

    Args:
        data: the whole file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header = _read_header(data)
        super().__init__(io.BytesIO(self._header.kept))
        if self._header.exif is not None:
            self.info["exif"] = self._header.exif
        if self._header.xmp is not None:
            self.info["xmp"] = self._header.xmp

    def getexif(self) -> Image.Exif:
        """Nothing. Pillow would parse all EXIF for a resolution in dpi, and warn about every odd value."""
        return Image.Exif()

    def load(self) -> Any:
        """Decode all pixels.

        Raises:
            RowRejected: `unreadable-image`: data is missing or broken.
        """
        if not self.tile:
            return super().load()
        self.load_prepare()
        self._decode_into(self.im, _ONES)
        if len(self._data) - len(self._header.kept) <= _SMALL:
            again = Image.new(self.mode, self.size)
            self._decode_into(again.im, _OTHERS)
            if again.tobytes() != self._new(self.im).tobytes():
                raise RowRejected(Reason.UNREADABLE_IMAGE, "a part of the last block of the image is missing")
        self.tile = []
        self.readonly = 0
        return super().load()

    def _decode_into(self, pixels: Any, filler: bytes) -> None:
        codec, extents, _, args = self.tile[0]
        decoder = Image._getdecoder(self.mode, codec, args, self.decoderconfig)
        try:
            decoder.setimage(pixels, extents)
            _decode(decoder, self._data, self._header, filler)
        finally:
            decoder.cleanup()


@dataclass(slots=True)
class _Header:
    """What stands before the data of the first scan.

    Attributes:
        kept: the bytes for the decoder: up to the data of the first scan, without metadata.
        data: where the data of the first scan begins, or None if there is no scan.
        frame: the SOF marker.
        width, height: pixels.
        sampling: (horizontal, vertical) sampling factors of each component.
        interval: MCUs between two restart markers, 0 for none.
    """

    kept: bytes = b""
    data: int | None = None
    frame: int = 0
    width: int = 0
    height: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    interval: int = 0
    scan: bytes = b""
    exif: bytes | None = None
    xmp: bytes | None = None


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int, int]]:
    """The segments from `position` on: marker, where it begins, where its payload begins and ends.

    Ends behind a SOS or EOI, or where the file ends. Bytes between segments are skipped, as decoders do.
    """
    while found := _MARKER.search(data, position):
        marker, start = found.group()[-1], found.end() - 2
        if marker in _ALONE or marker == _EOI:
            end = found.end()
            yield marker, start, end, end
            if marker == _EOI:
                return
        else:
            length = int.from_bytes(data[found.end() : found.end() + 2])
            end = found.end() + length
            if length < 2 or end > len(data):
                return
            yield marker, start, found.end() + 2, end
            if marker == _SOS:
                return
        position = end


def _read_header(data: bytes) -> _Header:
    """Read up to the first scan. A file without a scan is kept whole, and the decoder says what is wrong."""
    header, kept = _Header(), [b"\xff\xd8"]
    for marker, start, begin, end in _segments(data, 2):
        payload = data[begin:end]
        if marker in (_SOI, _EOI):
            break
        if marker in _FRAMES and len(payload) >= 6:
            header.frame = marker
            header.height, header.width = struct.unpack_from(">HH", payload, 1)
            for at in range(6, len(payload) - 2, 3):
                header.sampling[payload[at]] = (payload[at + 1] >> 4, payload[at + 1] & 15)
        elif marker == _DRI and len(payload) >= 2:
            header.interval = int.from_bytes(payload[:2])
        elif marker == _APP1 and payload.startswith(_EXIF):
            header.exif = payload if header.exif is None else header.exif + payload[6:]  # long EXIF is split
        elif marker == _APP1 and payload.startswith(_XMP):
            header.xmp = payload.removeprefix(_XMP)
        if not _is_metadata(marker, payload):
            kept.append(data[start:end])
        if marker == _SOS:
            header.kept, header.data, header.scan = b"".join(kept), end, payload
            return header
    header.kept = data
    return header


def _is_metadata(marker: int, payload: bytes) -> bool:
    """Whether decoders need no byte of a segment. Only JFIF and Adobe segments say something about colour."""
    if marker == _APP0:
        return not (payload.startswith(b"JFIF\0") and len(payload) >= 14)
    if marker == _APP14:
        return not (payload.startswith(b"Adobe") and len(payload) >= 12)
    return _APP0 <= marker <= _APP15 or marker == _COM


def _decode(decoder: Any, data: bytes, header: _Header, filler: bytes) -> None:
    """Give the picture to Pillow's decoder, part by part, with `filler` behind each part.

    Raises:
        RowRejected: `unreadable-image`: data is missing or broken.
    """
    if header.data is None:
        raise RowRejected(Reason.UNREADABLE_IMAGE, "the file has no scan")
    if header.frame not in (_BASELINE, _EXTENDED, _PROGRESSIVE):
        if not _feed(decoder, header.kept + data[header.data :]):
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its last row")
        return
    missing = _Missing(header)
    one_pass = header.frame != _PROGRESSIVE and header.scan[:1] == bytes([len(header.sampling)])
    waiting, begin, scan, interval = header.kept, header.data, header.scan, header.interval
    while True:
        parts = 0
        for end in _parts(data, begin, restarts=interval > 0):
            parts += 1
            if _feed(decoder, waiting + data[begin:end] + filler, whole=True):
                return
            if one_pass and not interval:
                break
            _feed(decoder, filler[:2], whole=True)  # skipped behind a part, not enough for a block that waits for bits
            waiting, begin = b"", end
        if one_pass:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its last row")
        if interval and parts < -(-_mcus(header, scan) // interval):
            raise RowRejected(Reason.UNREADABLE_IMAGE, "a scan of the image ends before its last row")
        missing.less(scan)
        marker, end = 0, begin
        for marker, _, start, end in _segments(data, begin):
            if marker == _SOS:
                scan = data[start:end]
            elif marker == _DRI:
                interval = int.from_bytes(data[start : start + 2])
        waiting, begin = data[begin:end], end
        if marker == _EOI:
            if missing:
                raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its last scan")
            if _feed(decoder, waiting):
                return
        if marker != _SOS:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its end marker")


def _parts(data: bytes, begin: int, restarts: bool) -> Iterator[int]:
    """The end of each part of a scan: at each restart marker, and at the marker behind the scan.

    Raises:
        RowRejected: `unreadable-image`: restart markers are missing or doubled; or the file ends before any marker.
    """
    number = 0
    while found := _MARKER.search(data, begin):
        end, marker = found.start(), found.group()[-1]
        while end > begin and data[end - 1] == 0xFF:  # a marker may have any number of FF before it
            end -= 1
        yield end
        if not restarts or not 0xD0 <= marker <= 0xD7:
            return
        if marker != 0xD0 + number % 8:
            raise RowRejected(Reason.UNREADABLE_IMAGE, "a part of the image is missing before a restart marker")
        number, begin = number + 1, found.end()
    raise RowRejected(Reason.UNREADABLE_IMAGE, "the image ends before its end marker")


def _feed(decoder: Any, part: bytes, whole: bool = False) -> bool:
    """Decode a part. True if the picture is finished.

    Raises:
        RowRejected: `unreadable-image`: the part is broken; or it is too short, and must be `whole`.
    """
    used, error = decoder.decode(part)
    if error < 0:
        raise RowRejected(Reason.UNREADABLE_IMAGE, "broken data stream")
    if used < 0:
        return True
    if whole and used < len(part):
        raise RowRejected(Reason.UNREADABLE_IMAGE, "a part of the image is missing")
    return False


def _mcus(header: _Header, scan: bytes) -> int:
    """How many MCUs a scan has (ITU T.81, A.2). A scan of one component has no blocks beyond its edge."""
    across = max((h for h, _ in header.sampling.values()), default=1) or 1
    down = max((v for _, v in header.sampling.values()), default=1) or 1
    width, height = header.width, header.height
    if scan[:1] == b"\x01":
        h, v = header.sampling.get(scan[1], (1, 1))
        width, height, across, down = -(-width * h // across), -(-height * v // down), 1, 1
    return -(-width // (8 * across)) * -(-height // (8 * down))


class _Missing:
    """The bits of coefficients that no scan has brought yet."""

    def __init__(self, header: _Header) -> None:
        self._low = {component: [1] * 64 for component in header.sampling}  # the lowest bit that is there
        self._progressive = header.frame == _PROGRESSIVE

    def less(self, scan: bytes) -> None:
        """Take off what a scan brings. `scan` is the payload of its SOS segment."""
        count = scan[0] if scan else 0
        if len(scan) < 2 * count + 4:
            return
        first, last, low = scan[1 + 2 * count], scan[2 + 2 * count], scan[3 + 2 * count] & 15
        if not self._progressive:
            first, last, low = 0, 63, 0
        for component in scan[1 : 1 + 2 * count : 2]:
            if component in self._low:
                self._low[component][first : last + 1] = [low] * max(0, min(last, 63) + 1 - first)

    def __bool__(self) -> bool:
        return any(any(low) for low in self._low.values())
