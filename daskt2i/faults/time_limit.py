"""A time limit for a call that may never return, such as a read on a mount whose server is gone.

Covers: one call in a thread of its own.
Does not cover: a call that fails and is tried again (`patience`), many reads at once (`encode.read_ahead`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T | BaseException | None:
    """The result of a call, its error, or None if it took too long.

    Then its thread is left behind. It is a daemon, so that the process can end.
    """
    answer: list[T | BaseException] = []

    def run() -> None:
        try:
            answer.append(call())
        except BaseException as error:
            answer.append(error)

    thread = threading.Thread(target=run, name="daskt2i-time-limit", daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0] if answer else None
