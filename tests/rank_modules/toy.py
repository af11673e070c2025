"""A rank without torch, that does what its job says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from daskt2i.errors import ConfigError, Reason, RowRejected, StoreFull
from daskt2i.launch import rank


class OwnError(StoreFull):
    """A class that the launcher cannot know."""


def tell(job: dict[str, Any]) -> None:
    rank.tell("hello", argv=sys.argv[1:], me=repr(rank.rank()), job=len(job["text"]), big=2**80, nan=float("nan"))
    print("for the log")
    print("\x1enot an event")
    sys.stderr.write("half a line")


def many(job: dict[str, Any]) -> None:
    def work(number: int) -> None:
        for n in range(job["each"]):
            rank.tell("n", thread=number, n=n, padding="x" * 9000)
            print("noise " * 50)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def crash(job: dict[str, Any]) -> None:
    print("\n".join(f"line {n}" for n in range(1000)))
    raise RuntimeError("the wheel came off")


def refuse(job: dict[str, Any]) -> None:
    raise ConfigError("This setting is wrong. Nothing was done; set another.")


def refuse_own_way(job: dict[str, Any]) -> None:
    raise OwnError("The disk is full.")


def refuse_a_row(job: dict[str, Any]) -> None:
    error = RowRejected(Reason.NO_CAPTION, "it is blank")
    error.add_note("in the toy")
    raise error from ValueError("blank")


def leave(job: dict[str, Any]) -> None:
    sys.exit(job["code"])


def kill(job: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep(job: dict[str, Any]) -> None:
    """With a child of its own, as a DataLoader has."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    rank.tell("asleep", pids=[os.getpid(), child.pid])
    if job.get("leave"):
        return
    if job.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        rank.tell("deaf")
    time.sleep(600)


def read(job: dict[str, Any]) -> None:
    rank.tell("read", text=sys.stdin.read())


if __name__ == "__main__":
    globals()[rank.job()["do"]](rank.job())
