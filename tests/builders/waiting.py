"""Waiting for something that another thread or process does, with an end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(condition: Callable[[], T], seconds: float = 120.0, what: str = "it", every: float = 0.02) -> T:
    """The first true answer.

    Raises:
        AssertionError: none came in time. The test fails then, and its process goes on with the next one.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come in {seconds:g} s"
        time.sleep(every)
    return answer
