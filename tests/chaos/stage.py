"""What chaos happens to: a run folder, a Dask cluster behind a proxy, and the command `encode`."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from chaos.disk import Disk
from chaos.proxy import Proxy
from chaos.slow import SECONDS

REPOSITORY = Path(__file__).resolve().parents[2]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Debian's libfaketime: it gives a process another clock."""

ENDINGS = (0, 1, 130, -signal.SIGINT, -signal.SIGKILL)
"""How a command may end: done, a sentence, stopped, stopped while it still imported, killed by us."""


def write_workflow(folder: Path, rows: int) -> Path:
    """A workflow of fake components: some rows are missing, unreadable or without caption."""
    odd = random.Random(rows)
    picked = odd.sample(range(rows), rows // 50)
    source = {"class": "daskt2i.sources.fake.FakeSource", "rows": rows, "missing": picked[::3]}
    source |= {"unreadable": picked[1::3], "uncaptioned": picked[2::3]}
    settings = {
        "name": "chaos",
        "dataset": {
            "source": source,
            "image": {"resolution": 32},
            "encoders": {
                "image": {"class": "chaos.slow.SlowImageEncoder"},
                "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
            },
            "precision": "fp32",
            "rows_per_chunk": 16,
        },
        "run": {"device": "cpu"},
    }
    path = folder / "chaos.yaml"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def environment(seconds: float = 0.0, clock: float = 0.0) -> dict[str, str]:
    """Variables of every process.

    Args:
        seconds: time that one image takes.
        clock: seconds that the clock of the process is ahead.
    """
    given = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", SECONDS: str(seconds)}
    given["PYTHONPATH"] = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "tests")))
    if clock and FAKETIME.exists():
        # The monotonic clock begins elsewhere too, as on another machine. Left true, Python's `time.sleep` fails.
        given |= {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{clock:+.0f}s"}
    return given


def start(*words: str, log: Path, seconds: float = 0.0, clock: float = 0.0) -> subprocess.Popen[bytes]:
    """A process of its own session that writes into a file."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(seconds, clock),
            start_new_session=True,
        )


def kill_family(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its descendants."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for one in family:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


@dataclass
class Stage:
    """The processes of a round, and what they said.

    Attributes:
        folder: place of logs and workflows.
        disk: holds the run folder `out`.
        workflow: path of the workflow.
        workers: how many there should be.
        seconds: time that one image takes.
        own_cluster: the driver starts the cluster itself (`local:N`); else it is a cluster that others started.
        problems: what no user may ever see.
    """

    folder: Path
    disk: Disk
    workflow: Path
    workers: int
    seconds: float
    own_cluster: bool
    problems: list[str] = field(default_factory=list)
    drivers: int = 0
    driver: subprocess.Popen[bytes] | None = None
    scheduler: subprocess.Popen[bytes] | None = None
    nannies: list[subprocess.Popen[bytes]] = field(default_factory=list)
    proxy: Proxy | None = None
    clock: float = 0.0

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.disk.place / "run"

    @property
    def driver_log(self) -> Path:
        """What the newest driver said."""
        return self.folder / f"driver-{self.drivers}.log"

    def keep_cluster(self) -> None:
        """Start what is missing of the cluster: the scheduler, the proxy, workers."""
        if self.own_cluster:
            return
        if self.scheduler is None or self.scheduler.poll() is not None:
            port = _free_port()
            at = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
            self.scheduler = start("distributed.cli.dask_scheduler", *at, log=self.folder / "scheduler.log")
            if self.proxy is not None:
                self.proxy.close()
            self.proxy = Proxy(port)
            for nanny in self.nannies:
                kill_family(nanny)
            self.nannies = []
        assert self.proxy is not None
        self.nannies = [nanny for nanny in self.nannies if nanny.poll() is None]
        while len(self.nannies) < self.workers:
            scheduler = f"tcp://127.0.0.1:{self.proxy.port}"
            how = ("--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "1GiB", "--no-dashboard")
            scratch = ("--local-directory", str(self.folder / "scratch"), "--death-timeout", "30")
            words = ("distributed.cli.dask_worker", scheduler, *how, *scratch)
            self.nannies.append(start(*words, log=self.folder / "workers.log", seconds=self.seconds, clock=self.clock))

    def start_driver(self) -> None:
        """Start the command, unless it runs."""
        if self.driver is not None and self.driver.poll() is None:
            return
        self.drivers += 1
        self.driver = self.command()

    def command(self) -> subprocess.Popen[bytes]:
        """`encode`, as a user types it."""
        if self.own_cluster:
            scheduler = f"local:{self.workers}"
        else:
            assert self.proxy is not None
            scheduler = f"tcp://127.0.0.1:{self.proxy.port}"
        words = ("daskt2i.workflow", "encode", "-w", str(self.workflow), "-o", str(self.out), "-s", scheduler, "--json")
        return start(*words, log=self.driver_log, seconds=self.seconds, clock=self.clock)

    def look_at_driver(self) -> int | None:
        """The exit code of the driver once, if it has ended since the last look; what it said is checked."""
        if self.driver is None or self.driver.poll() is None:
            return None
        code, self.driver = self.driver.returncode, None
        self.check(code, self.driver_log)
        return code

    def check(self, code: int, log: Path) -> None:
        """Note an exit code that is not documented, and a traceback."""
        said = log.read_text(encoding="utf-8", errors="replace")
        if code not in ENDINGS:
            self.problems.append(f"{log.name}: exit code {code}: {said[-300:]}")
        if "Traceback" in said and code != -signal.SIGKILL:
            self.problems.append(f"{log.name}: a traceback: {said[said.index('Traceback') :][:600]}")

    def worker_processes(self) -> list[psutil.Process]:
        """Processes that encode, of the cluster or of the driver."""
        roots = [self.driver] if self.own_cluster else self.nannies
        found = []
        for root in roots:
            if root is None or root.poll() is not None:
                continue
            try:
                for child in psutil.Process(root.pid).children(recursive=True):
                    if "spawn_main" in " ".join(child.cmdline()) and not child.children():
                        found.append(child)
            except psutil.Error:
                continue
        return found

    def holds_folder(self) -> bool:
        """Whether the driver runs and has taken the lock. One that still imports has not."""
        if self.driver is None or self.driver.poll() is not None:
            return False
        try:
            with (self.out / "encode.lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def receipts(self) -> int:
        """Number of finished chunks."""
        return sum(1 for _ in (self.out / "receipts").glob("chunk-*.json"))

    def wait_for_receipts(self, more: int, seconds: float) -> None:
        """Wait until that many more chunks are finished, or the time is over, or the driver has ended."""
        goal, deadline = self.receipts() + more, time.monotonic() + seconds
        while self.receipts() < goal and time.monotonic() < deadline:
            if self.driver is None or self.driver.poll() is not None:
                return
            time.sleep(0.1)

    def close(self) -> None:
        """Kill everything."""
        for process in (self.driver, *self.nannies, self.scheduler):
            if process is not None:
                kill_family(process)
        if self.proxy is not None:
            self.proxy.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
