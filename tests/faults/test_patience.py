"""What may pass is tried again for a set time, and what does not return is given up."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from daskt2i import retries
from daskt2i.errors import ReadStalled, TransportFailed
from daskt2i.faults.patience import fetched_patiently, given_up, patiently
from daskt2i.faults.time_limit import within
from daskt2i.sources.fake import FakeSource
from daskt2i.types import Row


def failing(error: OSError) -> Callable[[], bytes]:
    def call() -> bytes:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "seconds"),
    [(OSError(errno.EIO, "no disk"), retries.DEVICE_SECONDS), (ConnectionResetError(errno.ECONNRESET, "reset"), 200.0)],
    ids=["disk", "network"],
)
def test_a_disk_gets_less_time_than_a_network(error: OSError, seconds: float) -> None:
    waited: list[float] = []
    with pytest.raises(TransportFailed):
        patiently(failing(error), "a.jpg", 200.0, sleep=waited.append)
    assert seconds - retries.LONGEST_WAIT_SECONDS - 1 < sum(waited) <= seconds


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
    assert f"It was tried for up to {seconds}" in text
    assert ("run.transport_patience" in text) is named
