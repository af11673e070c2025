"""docs/reference/errors-and-retries.md and the code say the same, line by line.

The page is read, so that neither can change without the other.
"""

from __future__ import annotations

import builtins
import errno
import re
import socket
import ssl
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from builders import TESTS

from daskt2i import errors, retries
from daskt2i.errors import Reason
from daskt2i.faults.kinds import (
    CLASSES,
    CODES,
    ERRNO,
    MEMORY_SIGNS,
    POLICIES,
    STATUS,
    Kind,
    is_old_refusal,
    is_passing,
    kind_of,
)

PAGE = (TESTS.parent / "docs" / "reference" / "errors-and-retries.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


POLICY_LINES = table("What happens after an error of each kind")


def _words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ERRORS = [(word, kind.strip("`")) for cell, kind in table("Which error is of which kind") for word in _words(cell)]


def made(text: str) -> BaseException:
    """The error that a cell of the table names."""
    what, _, value = text.partition(" ")
    if what == "HTTP":
        return type("ResponseError", (Exception,), {"status": int(value)})("an answer")
    if what == "code":
        error = type("ClientError", (Exception,), {})("an answer")
        error.response = {"Error": {"Code": value}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        return error
    if what == "class":
        return type(value, (Exception,), {})("of a library")
    if what == "OSError" and value:
        return OSError(getattr(errno, value), "of the system")
    if what in ("socket.gaierror", "ssl.SSLError"):
        return {"socket.gaierror": socket.gaierror, "ssl.SSLError": ssl.SSLError}[what](-3, "of the system")
    kind: Any = getattr(errors, what, None) or getattr(builtins, what)
    return kind(value or "It went wrong.")


@pytest.mark.parametrize(("text", "kind"), ERRORS)
def test_an_error_is_of_the_kind_that_the_page_says(text: str, kind: str) -> None:
    if text.startswith("OSError E") and not hasattr(errno, text.split()[1]):
        pytest.skip("this system has no such number")
    assert kind_of(made(text)) == kind


def test_the_page_names_every_error_that_the_code_knows() -> None:
    known: Iterator[str] = chain(
        (f"OSError {errno.errorcode[number]}" for numbers in ERRNO.values() for number in numbers),
        (f"HTTP {status}" for found in STATUS.values() for status in found),
        (f"code {code}" for codes in CODES.values() for code in codes),
        (f"class {name}" for names in CLASSES.values() for name in names),
        (f"RuntimeError {sign}" for sign in MEMORY_SIGNS),
    )
    assert set(known) - {text for text, _ in ERRORS} == set()


@pytest.mark.parametrize("cells", POLICY_LINES, ids=lambda cells: cells[0])
def test_what_happens_after_an_error_is_what_the_page_says(cells: list[str]) -> None:
    policy = POLICIES[Kind(cells[0].strip("`"))]
    worker = f"{policy.worker} failed chunk{'s' * (policy.worker != 1)}" if policy.worker else "never"
    tries = f"{policy.tries} {'try' if policy.tries == 1 else 'tries'}" if policy.tries else "until the time limit"
    ends = "if no good worker is left" if policy.ends == "everywhere" else policy.ends
    seconds = f"{policy.seconds:.0f} s" if policy.seconds else ""
    assert cells[1:] == [tries, seconds, worker, ends]


def test_the_page_has_a_line_for_every_kind() -> None:
    meanings = table("The kinds of errors")
    for lines in (POLICY_LINES, meanings):
        assert [cells[0].strip("`") for cells in lines] == list(POLICIES) == list(Kind)


def test_the_page_says_when_a_user_reads_what_a_run_waits_for() -> None:
    cells = table("Messages while a run waits")
    told = [retries.TELL_WAIT_SECONDS] * 2 + [retries.TELL_STILL_SECONDS, retries.TELL_SILENT_SECONDS]
    assert [line[1] for line in cells] == [f"{seconds:.0f} s" for seconds in [*told, retries.TELL_WAIT_SECONDS]]
    assert cells[-1][2] == f"{retries.NO_WORKERS_SECONDS:.0f} s"


def test_the_page_names_reasons_that_there_are() -> None:
    assert {line[2].strip("`") for line in table("Errors of one row")} <= set(Reason)


def test_the_answer_of_the_server_counts_more_than_what_a_library_makes_of_it() -> None:
    """s3fs makes EINVAL of InvalidToken, and EBUSY of SlowDown."""
    for code, number, kind in (("InvalidToken", errno.EINVAL, "access"), ("SlowDown", errno.EIO, "transport")):
        error = OSError(number, "An error occurred")
        error.__cause__ = made(f"code {code}")
        assert kind_of(error) == kind
    hidden = ValueError("bad")
    hidden.__context__, hidden.__suppress_context__ = made("HTTP 503"), True
    assert kind_of(hidden) == "other"


def test_a_circle_of_causes_has_a_kind() -> None:
    error, other = ValueError("v"), KeyError("k")
    error.__cause__, other.__cause__ = other, error
    assert kind_of(error) == "other"


def test_only_access_and_transport_pass() -> None:
    assert [
        kind for text, kind in ERRORS if is_passing(made(text)) and kind not in ("access", "transport", "device")
    ] == []


def test_rows_of_older_versions_that_were_refused_are_known() -> None:
    assert is_old_refusal(Reason.UNREADABLE_IMAGE, "no permission to read the file")
    assert not is_old_refusal(Reason.UNREADABLE_IMAGE, "cut off")
    assert not is_old_refusal(Reason.MISSING_FILE, "no permission to read the file")
