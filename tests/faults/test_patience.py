"""What may pass is tried again for a set time, and what does not return is given up."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from daskt2i.errors import ReadStalled, SourceMissing, TransportFailed
from daskt2i.faults.patience import fetched_patiently, given_up, patiently
from daskt2i.faults.time_limit import within
from daskt2i.sources.fake import FakeSource
from daskt2i.types import Row


def failing(error: OSError) -> Callable[[], bytes]:
    def call() -> bytes:
        raise error

    return call


class Gone(FakeSource):
    """A source on a mount whose server is gone, until a test says so."""

    back = threading.Event()

    def read(self, row: Row) -> bytes:
        self.back.wait(60)
        return super().read(row)


def test_a_read_that_does_not_return_is_given_up() -> None:
    source = Gone()
    row = source.rows(0, 1)[0]
    with pytest.raises(ReadStalled, match=row.file_name):
        fetched_patiently(source, row, timeout=0.05)
    source.back.set()
    assert fetched_patiently(source, row, timeout=60.0) == FakeSource().read(row)


def test_a_call_with_a_time_limit_gives_its_result_or_its_error() -> None:
    assert within(60.0, lambda: 7) == 7
    error = KeyError("x")

    def call() -> None:
        raise error

    assert within(60.0, call) is error


@pytest.mark.parametrize(("number", "seconds", "named"), [(errno.ESTALE, "30", False), (errno.ECONNRESET, "1 h", True)])
def test_the_setting_for_the_time_is_named_where_it_can_make_the_time_longer(
    number: int, seconds: str, named: bool
) -> None:
    text = str(given_up(OSError(number, "gone", "/data"), "1.jpg", 9.0, 3600.0))
    assert f"It was tried for {seconds}" in text
    assert ("run.transport_patience" in text) is named


class Clock:
    """A sleep that costs no time, and remembers how long it was."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.told: list[tuple[str, float]] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def tell(self, text: str, limit: float) -> None:
        self.told.append((text, limit))


@pytest.mark.parametrize(("error", "limit"), [(OSError(errno.ESTALE, "gone"), 30.0), (ConnectionError("cut"), 300.0)])
def test_the_last_try_begins_when_the_stated_time_is_over(error: Exception, limit: float) -> None:
    clock = Clock()

    def fail() -> None:
        raise error

    with pytest.raises(TransportFailed, match=f"It was tried for {'30.0 s' if limit == 30 else '5 min'} "):
        patiently(fail, "1.jpg", 300.0, clock.tell, clock.sleep)
    assert sum(clock.pauses) == pytest.approx(limit, abs=1.0)  # the calls themselves take a moment
    assert {told for text, told in clock.told if text} == {limit}, "the waiting line says when it is given up"
    assert clock.told[-1] == ("", 0.0)


class Away(FakeSource):
    """Its folder is away when it is opened first, and comes back at the third try."""

    tries = 0

    def read(self, row: Row) -> bytes:
        Away.tries += 1
        if Away.tries < 3:
            raise SourceMissing("There are no images at /data. Give a folder (images).")
        return super().read(row)


def test_a_source_that_is_away_when_a_worker_opens_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Away, "tries", 0)
    source = Away()
    row = source.rows(0, 1)[0]
    assert fetched_patiently(source, row) == FakeSource().read(row)
    monkeypatch.setattr(Away, "tries", 0)
    with pytest.raises(TransportFailed, match="the images are not there now, or not on this machine"):
        fetched_patiently(source, row, 0.0)
