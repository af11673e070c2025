"""What our pages cost a scheduler: how late its event loop is, and how busy, with pages closed and open.

    python benchmarks/dashboard.py [--pages 4] [--seconds 8] [--chunks 10000] [--workers 1000] [--connected 0]

A scheduler in its own process hears of an encode that never ran: 10,000 chunks by 1,000 workers, a message every half
second, which is the most that a run sends. Viewers connect to the pages as browsers do, by web sockets, but draw
nothing. On the scheduler a task that wants to sleep 10 ms measures how much longer it slept. Phases alternate: nothing
told, told with pages closed, told with pages open, nothing told with as many windows of Dask's own status page. The
last line has the time of the scheduler's processor that one open page costs in a second. The figures depend on what
else the machine does.

`--connected 1000` connects so many workers really: some processes hold them, on an event loop each. They run no tasks,
but beat, and the scheduler and Dask's pages know them. This takes about a minute and 2 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from builders.told import Told, encode  # the path above leads to it

from daskt2i.dashboard import page, panes
from daskt2i.dashboard.messages import TOPICS
from daskt2i.dashboard.plugin import show_pages

VIEWERS = """
import sys, threading
from bokeh.client import pull_session
sessions = [pull_session(url=url) for url in sys.argv[1:]]
print("open", flush=True)
threads = [threading.Thread(target=session._loop_until_closed, daemon=True) for session in sessions]
[thread.start() for thread in threads]
sys.stdin.read()
"""
"""In a process of their own. They answer and read as browsers do."""


WORKERS = """
import asyncio, sys
import dask
from distributed import Worker
address, count = sys.argv[1], int(sys.argv[2])
quiet = {"distributed.admin.tick.interval": "10s", "distributed.worker.profile.enabled": False}
async def main():
    with dask.config.set(quiet):
        workers = [Worker(address, nthreads=1, memory_limit=0, dashboard=False) for _ in range(count)]
        for first in range(0, count, 25):
            await asyncio.gather(*workers[first:first + 25])
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
"""Many workers in one process."""

PROCESSES = 4


async def late(seconds: float, dask_scheduler: Any = None) -> dict[str, float]:
    """Runs on the scheduler: how late its loop is (ms), and the share of one core that its process uses."""
    delays, begun, used = [], time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        before = time.perf_counter()
        await asyncio.sleep(0.01)
        delays.append(1000 * (time.perf_counter() - before - 0.01))
    delays.sort()
    return {
        "p50_ms": round(delays[len(delays) // 2], 2),
        "p99_ms": round(delays[int(0.99 * len(delays))], 2),
        "max_ms": round(delays[-1], 2),
        "busy": round((time.process_time() - used) / (time.perf_counter() - begun), 4),
    }


def measure(asked: argparse.Namespace, client: Client, base: str) -> list[dict[str, Any]]:
    """The phases, three times."""
    messages = list(encode(Told(), chunks=asked.chunks, done=asked.chunks, workers=asked.workers, rows=8))
    half = len(messages) // 2
    for message in messages[:half]:
        client.log_event(TOPICS[message["stage"]], message)
    rest = messages[half:]
    paths = [page.PATH, *(pane.path for pane in panes.PANES)]
    urls = [base + paths[number % len(paths)] for number in range(asked.pages)]
    found: list[dict[str, Any]] = []
    shown = {"pages open": urls, "Dask's status open": [f"{base}/status"] * asked.pages}
    for _ in range(3):
        for phase in ("silent", "pages closed", "pages open", "Dask's status open"):
            viewers = None
            if phase in shown:
                viewers = subprocess.Popen(
                    [sys.executable, "-c", VIEWERS, *shown[phase]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                assert viewers.stdout is not None
                assert viewers.stdout.readline() == "open\n"
            end = threading.Event()
            if phase.startswith("pages"):
                threading.Thread(target=tell, args=(client, rest, end), daemon=True).start()
            figures = client.run_on_scheduler(late, asked.seconds)
            end.set()
            if viewers is not None:
                viewers.communicate()
            found.append({"phase": phase, "pages": asked.pages if viewers else 0, **figures})
            sys.stdout.write(json.dumps(found[-1]) + "\n")
            sys.stdout.flush()
    busy = {
        phase: statistics.median(one["busy"] for one in found if one["phase"] == phase)
        for phase in ("pages closed", "pages open")
    }
    cost = (busy["pages open"] - busy["pages closed"]) / max(1, asked.pages)
    sys.stdout.write(json.dumps({"connected": asked.connected, "cpu_s_per_page_and_s": round(cost, 5)}) + "\n")
    return found


def tell(client: Client, messages: list[dict[str, Any]], end: threading.Event) -> None:
    """Two messages a second, as a run sends them."""
    while not end.wait(0.5):
        message = messages.pop(0)
        client.log_event(TOPICS[message["stage"]], message)


@contextmanager
def connected(address: str, count: int) -> Iterator[None]:
    """So many workers at a scheduler."""
    pipe = subprocess.PIPE
    shares = [count // PROCESSES + (place < count % PROCESSES) for place in range(PROCESSES)] if count else []
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", WORKERS, address, str(share)], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        )
        for share in shares
        if share
    ]
    try:
        for one in holders:
            assert one.stdout is not None
            assert one.stdout.readline() == b"ready\n"
        yield
    finally:
        for one in holders:
            one.kill()
            one.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=1_000)
    parser.add_argument("--connected", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "scheduler.json"
        command = [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--scheduler-file",
            str(place),
            "--port",
            "0",
        ]
        command += ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        scheduler = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not place.exists():
                time.sleep(0.1)
            with Client(scheduler_file=str(place), set_as_default=False) as client:
                if why := show_pages(client):
                    raise SystemExit(why)
                port = client.scheduler_info()["services"]["dashboard"]
                with connected(client.scheduler.address, asked.connected):
                    measure(asked, client, f"http://127.0.0.1:{port}")
        finally:
            scheduler.terminate()
            scheduler.wait()


if __name__ == "__main__":
    main()
