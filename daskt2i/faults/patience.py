"""Try a call again while its error may pass, with growing pauses, as the policy of its kind says.

Covers: how long and how often, the pauses, telling what is awaited; the error in the end.
Does not cover: which error is of which kind (`kinds`), giving up a call that never returns (`time_limit`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from daskt2i import retries
from daskt2i.errors import AccessRefused, Daskt2iError, ReadStalled, Reason, RowRejected, SourceMissing, TransportFailed
from daskt2i.faults.kinds import POLICIES, Kind, is_passing, kind_of, passing_cause
from daskt2i.faults.time_limit import within
from daskt2i.formatting import duration
from daskt2i.protocols import Source
from daskt2i.redact import without_secret
from daskt2i.types import Row

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

Tell = Callable[[str, float], None]
"""Gets a clause while a call is tried again, and the seconds after which it is given up; `""` when the wait is over."""


def patiently(
    call: Callable[[], T],
    what: str,
    seconds: float,
    tell: Tell = lambda text, limit: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of a call that may fail for a while.

    Args:
        call: reads or writes something. It may be called many times.
        what: names it for a person: `"images/1.jpg"`.
        seconds: how long to try while a network fails (`run.transport_patience`); a disk gets `DEVICE_SECONDS` of it.
        tell: called in this thread before each pause, and with `""` after the last one. The last try begins when the
            time is over.
        sleep: waits so many seconds.

    Raises:
        AccessRefused, TransportFailed: it still fails.
        Exception: an error that does not pass, unchanged and at once.
    """
    try:
        return call()
    except Exception as error:
        if not is_passing(error):
            raise
        first = error
    return _again(call, what, seconds, tell, sleep, first)


def fetched(source: Source, row: Row) -> bytes:
    """The bytes of a row. Errors that may pass are raised as they are; a file that is not there rejects the row.

    Rows are read after the source was opened once, by the driver. So if the whole source is missing for a read, its
    place went away, or this machine does not have it now. That may pass.

    Raises:
        RowRejected: the row cannot be used.
        Exception: of the network, of the disk, or a refusal.
    """
    try:
        return source.read(row)
    except Exception as error:
        if (cause := passing_cause(error)) is not None:
            raise cause from cause.__cause__
        if isinstance(error, SourceMissing):
            raise OSError(errno.ESTALE, "the images are not there now, or not on this machine") from error
        if not isinstance(error, RowRejected) and kind_of(error) is Kind.MISSING:
            raise RowRejected(Reason.MISSING_FILE, row.file_name) from error
        raise


def fetched_patiently(
    source: Source,
    row: Row,
    seconds: float = retries.TRANSPORT_SECONDS,
    tell: Tell = lambda text, limit: None,
    timeout: float = retries.READ_SECONDS,
) -> bytes:
    """The bytes of a row; what may pass is tried again. Other arguments as in `patiently`.

    Args:
        timeout: seconds that one read may take.

    Raises:
        RowRejected: the row cannot be used.
        AccessRefused, TransportFailed: it cannot be read now.
        ReadStalled: a read did not return in time.
    """

    def read() -> bytes:
        found = within(timeout, lambda: fetched(source, row))
        if found is None:
            raise stalled(row.file_name, timeout)
        if isinstance(found, BaseException):
            raise found
        return found

    return patiently(read, row.file_name, seconds, tell)


def _again(
    call: Callable[[], T], what: str, seconds: float, tell: Tell, sleep: Callable[[float], None], first: Exception
) -> T:
    # tenacity imports asyncio, and most workers never need it.
    from tenacity import RetryError, Retrying, retry_if_exception, wait_random_exponential

    pauses = wait_random_exponential(multiplier=retries.FIRST_WAIT_SECONDS, max=retries.LONGEST_WAIT_SECONDS)
    pending: list[Exception] = [first]

    def attempt() -> T:
        if pending:
            raise pending.pop()
        return call()

    def left(state: RetryCallState) -> float:
        lasted = max(state.seconds_since_start or 0.0, state.idle_for)
        return limit(kind_of(_error(state)), seconds) - lasted

    def pause(state: RetryCallState) -> float:
        if kind_of(_error(state)) is Kind.ACCESS:
            return retries.ACCESS_SECONDS * state.attempt_number
        return min(retries.FIRST_WAIT_SECONDS + pauses(state), max(0.0, left(state)))

    def stop(state: RetryCallState) -> bool:
        if tries := POLICIES[kind_of(_error(state))].tries:
            return state.attempt_number >= tries
        return left(state) <= 0

    def before(state: RetryCallState) -> None:
        kind = kind_of(_error(state))
        tell(f"{what}: {said(_error(state))}; tried again", 0.0 if POLICIES[kind].tries else limit(kind, seconds))

    try:
        return Retrying(retry=retry_if_exception(is_passing), wait=pause, stop=stop, sleep=sleep, before_sleep=before)(
            attempt
        )
    except RetryError as end:
        last = end.last_attempt.exception()
        assert isinstance(last, Exception)
        raise given_up(last, what, float(end.last_attempt.attempt_number), seconds) from last
    finally:
        tell("", 0.0)


def limit(kind: Kind, seconds: float) -> float:
    """Seconds for tries of this kind, when the user allows `seconds`."""
    return min(seconds, retries.DEVICE_SECONDS) if kind is Kind.DEVICE else seconds


def given_up(error: Exception, what: str, tries: float, seconds: float) -> Daskt2iError:
    """The error of a call that failed at every try."""
    if kind_of(error) is Kind.ACCESS:
        return AccessRefused(
            f"Access to {what} was refused {tries:.0f} times ({said(error)}). Nothing was stored for it, and no "
            "row was rejected. Renew the credentials, or give the right to read it, and run it again."
        )
    kind = kind_of(error)
    longer = "" if kind is Kind.DEVICE else "; run.transport_patience sets how long it is tried"
    tried = f"for {duration(limit(kind, seconds))}" if seconds else "once"
    return TransportFailed(
        f"{what} could not be read. It was tried {tried} ({said(error)}). Nothing "
        "was stored for it, and no row was rejected. Run it again when the network, the server or the disk is "
        f"back{longer}."
    )


def stalled(what: str, seconds: float) -> ReadStalled:
    """The error of a read that did not return within so many seconds."""
    return ReadStalled(
        f"The read of {what} did not return within {duration(seconds)}, so it was given up. Nothing was stored for it, "
        "and no row was rejected. Run it again when the server or the mount is back; run.read_timeout sets how long a "
        "read may take."
    )


def said(error: BaseException) -> str:
    """What an error says, in one line without secrets: `"ConnectionRefusedError: [Errno 111] Connection refused"`.

    A plain `OSError` says enough by its text: `"Input/output error: '/data/1.jpg'"`.
    """
    text = without_secret(" ".join(str(error).split()))[:300] or "no message"
    if type(error) is OSError and text.startswith("[Errno "):
        return text.partition("] ")[2]
    return f"{type(error).__name__}: {text}"


def _error(state: Any) -> Exception:
    assert state.outcome is not None
    found = state.outcome.exception()
    assert isinstance(found, Exception)
    return found
