"""What open pages cost an encode: the same rows with the pages closed and open, in turn, in one run.

    python benchmarks/watched_encode.py [--rows 4096] [--pairs 4] [--pages 4] [--workflow demo]

A cluster of this machine that daskt2i starts: its scheduler has a process of its own, two workers have theirs. Viewers
connect to the pages as browsers do, by web sockets, but draw nothing, because a user's browser draws on the user's own
machine. The ratio is the rate with open pages divided by the rate with closed pages, pair by pair. Viewers use this
machine's processor, which a user's browser does not. So two figures stand beside the ratio: what the scheduler's
processor spent for a page in a second of the encode (`cpu_s_per_page_and_s`), and what the viewers spent in all. The
figures depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from distributed import Client

import daskt2i
from daskt2i.dashboard import page, panes

sys.path.insert(0, str(Path(__file__).resolve().parent))
from dashboard import VIEWERS  # the path above leads to it


def encoded(client: Client, folder: Path, scenes: Path, asked: argparse.Namespace, urls: list[str]) -> dict[str, float]:
    """Encode once. The viewers are there before the first row and stay to the end."""
    viewers = None
    if urls:
        command = [sys.executable, "-c", VIEWERS, *urls]
        viewers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert viewers.stdout is not None
        assert viewers.stdout.readline() == "open\n"
    viewing = 0.0 if viewers is None else sum(psutil.Process(viewers.pid).cpu_times()[:2])
    used = client.run_on_scheduler(time.process_time)
    data = {"images": str(scenes / "images"), "captions": str(scenes / "captions.json")}
    with daskt2i.Run(asked.workflow, folder, client=client, **data, progress=False) as run:
        result = run.encode()
    used = client.run_on_scheduler(time.process_time) - used
    if viewers is not None:
        viewing = sum(psutil.Process(viewers.pid).cpu_times()[:2]) - viewing
        viewers.communicate()
    figures = {"seconds": result.seconds, "scheduler_cpu_s": used, "viewers_cpu_s": viewing}
    return {"images_per_second": result.images_per_second, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--workflow", default="demo")
    asked = parser.parse_args()
    ratios, costs = [], []
    settings = {"scenes.rows": asked.rows}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with daskt2i.Run(
            asked.workflow, folder / "first", scheduler="local:2", settings=settings, progress=False
        ) as run:
            run.encode()  # draws the scenes, loads the models, and shows the pages
            client = run.client
            assert client is not None
            base = f"http://127.0.0.1:{client.scheduler_info()['services']['dashboard']}"
            paths = [page.PATH, *(pane.path for pane in panes.PANES)]
            urls = [base + paths[number % len(paths)] for number in range(asked.pages)]
            for pair in range(asked.pairs):
                rates, spent = {}, {}
                for phase in ("closed", "open") if pair % 2 else ("open", "closed"):
                    opened = urls if phase == "open" else []
                    figures = encoded(client, folder / f"{pair}-{phase}", folder / "first" / "scenes", asked, opened)
                    rounded = {name: round(value, 3) for name, value in figures.items()}
                    sys.stdout.write(json.dumps({"pages": phase, **rounded}) + "\n")
                    sys.stdout.flush()
                    rates[phase] = figures["images_per_second"]
                    spent[phase] = figures["scheduler_cpu_s"] / figures["seconds"]
                ratios.append(rates["open"] / rates["closed"])
                costs.append((spent["open"] - spent["closed"]) / asked.pages)
    found = {"ratios": ratios, "median": statistics.median(ratios), "cpu_s_per_page_and_s": statistics.median(costs)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
