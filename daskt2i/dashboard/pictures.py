"""Small pictures for messages: sheets that a training draws, and thumbnails of rejected rows.

Covers: a picture as a data URI of bounded size; which rejected rows get one, and how many.
Does not cover: drawing (`sample`), reading images for an encode (`images`).
"""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from daskt2i.dashboard.bounds import MOST_PICTURE, MOST_THUMBNAIL
from daskt2i.errors import Reason
from daskt2i.types import Rejection

_SIDE, _THUMBNAIL = 640, 96
"""Longest side of a sheet and of a thumbnail, pixels."""

_HAS_PICTURE = {Reason.UNREADABLE_IMAGE, Reason.IMAGE_TOO_SMALL, Reason.NO_CAPTION, Reason.NOT_FINITE}
"""Others have no file, or one that may be too much for this process, too."""

_MOST_PIXELS = 50_000_000
_MOST_FILE = 16 * 2**20
_MOST, _PAUSE_SECONDS, _NAMED = 24, 2.0, 5
"""Thumbnails of one encode, seconds between two, and rows beside one whose captions and names are looked up."""


def picture_of(data: bytes, side: int = _SIDE, most: int = MOST_PICTURE) -> str:
    """A picture as a data URI; "" if it cannot be read, or not be made small enough.

    Args:
        data: an image file.
        side: longest side in pixels.
        most: characters of the result.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP")) as found:
            if found.width * found.height > _MOST_PIXELS:
                return ""
            found.draft("RGB", (side, side))
            found.thumbnail((side, side))
            image = found.convert("RGB")
        for quality in (85, 60, 35):
            out = io.BytesIO()
            image.save(out, "JPEG", quality=quality)
            text = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
            if len(text) <= most:
                return text
    except Exception:  # a damaged file has no picture
        return ""
    return ""


class Thumbnails:
    """Captions and small pictures of rejected rows, read by the driver: few, and with pauses.

    A thread reads each of them, because a source behind a dead network may answer never.

    Args:
        source: the source of the encode; None for none.
    """

    def __init__(self, source: Any) -> None:
        self._source = source
        self._left, self._due = _MOST if source is not None else 0, 0.0
        self._found: deque[tuple[int, str, str, str]] = deque(maxlen=_MOST * _NAMED)
        self._reader: threading.Thread | None = None

    def want(self, rejected: Sequence[Rejection]) -> None:
        """Rows that were rejected now. A few are looked up, and one picture is read, if it is time for that."""
        now = time.monotonic()
        if not rejected or self._left <= 0 or now < self._due or (self._reader and self._reader.is_alive()):
            return
        self._left, self._due = self._left - 1, now + _PAUSE_SECONDS
        self._reader = threading.Thread(
            target=self._read, args=(tuple(rejected[:_NAMED]),), name="daskt2i-thumbnail", daemon=True
        )
        self._reader.start()

    def take(self) -> Iterator[tuple[int, str, str, str]]:
        """What was read since the last call: row, first caption, picture as a data URI or "", and file name."""
        while self._found:
            yield self._found.popleft()

    def _read(self, rejected: Sequence[Rejection]) -> None:
        for place, one in enumerate(rejected):
            caption = data = name = ""
            with suppress(Exception):  # the driver may not see the images that workers see
                row = self._source.rows(one.row, one.row + 1)[0]
                caption, name = row.captions[0] if row.captions else "", row.file_name
                if one.reason in _HAS_PICTURE and not place:
                    read = self._source.read(row)
                    data = picture_of(read, _THUMBNAIL, MOST_THUMBNAIL) if len(read) <= _MOST_FILE else ""
            self._found.append((one.row, caption, data, name))
