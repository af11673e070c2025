"""Small pictures of messages: bounded, made from what can be read, and few."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from daskt2i.dashboard import pictures
from daskt2i.dashboard.bounds import MOST_PICTURE, MOST_THUMBNAIL
from daskt2i.dashboard.pictures import Thumbnails, picture_of
from daskt2i.errors import Reason
from daskt2i.sources.fake import FakeSource
from daskt2i.types import Rejection, Row


def png(width: int, height: int) -> bytes:
    """A picture that no codec makes small."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_large_sheet_becomes_a_small_picture_of_the_same_shape() -> None:
    text = picture_of(png(1_400, 700))
    assert 1_000 < len(text) <= MOST_PICTURE or text == ""
    smooth = io.BytesIO()
    Image.linear_gradient("L").resize((1_400, 700)).save(smooth, "PNG")
    text = picture_of(smooth.getvalue())
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as image:
        assert (image.format, image.size) == ("JPEG", (640, 320))


@pytest.mark.parametrize("data", [b"", b"no picture", png(30, 30)[:200], b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_what_is_no_picture_gives_none(data: bytes) -> None:
    assert picture_of(data) == ""


def test_a_picture_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_MOST_PIXELS", 100)
    assert picture_of(png(20, 20)) == ""


def wait() -> None:
    for thread in threading.enumerate():
        if thread.name == "daskt2i-thumbnail":
            thread.join()


def test_a_rejected_row_shows_its_picture_and_caption_and_others_wait() -> None:
    thumbnails = Thumbnails(FakeSource(rows=8))
    thumbnails.want([Rejection(2, 2, Reason.NOT_FINITE)])
    thumbnails.want([Rejection(3, 3, Reason.NOT_FINITE)])  # too soon
    wait()
    ((row, caption, data, name),) = thumbnails.take()
    assert name == FakeSource(rows=8).rows(2, 3)[0].file_name
    assert (row, caption) == (2, FakeSource(rows=8).rows(2, 3)[0].captions[0])
    assert data.startswith("data:image/jpeg;base64,")
    assert len(data) <= MOST_THUMBNAIL
    assert list(thumbnails.take()) == []


@pytest.mark.parametrize("reason", [Reason.KILLS_WORKER, Reason.IMAGE_TOO_LARGE, Reason.UNSAFE_PATH])
def test_a_picture_that_may_do_harm_is_not_read(reason: Reason) -> None:
    class Deadly(FakeSource):
        def read(self, row: Row) -> bytes:
            raise AssertionError("it was read")

    thumbnails = Thumbnails(Deadly())
    thumbnails.want([Rejection(1, 1, reason)])
    wait()
    ((_, caption, data, name),) = thumbnails.take()
    assert name
    assert caption
    assert data == ""


def test_a_source_that_cannot_be_read_here_gives_no_picture_and_no_error() -> None:
    class Away(FakeSource):
        def rows(self, start: int, stop: int) -> list[Row]:
            raise OSError("not on this machine")

    thumbnails = Thumbnails(Away())
    thumbnails.want([Rejection(1, 1, Reason.NOT_FINITE)])
    wait()
    assert list(thumbnails.take()) == [(1, "", "", "")]
