"""What can be done to an encode that runs. Each function does one thing, and returns a line that says what."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from chaos.stage import FAKETIME, Stage, kill_family

Mischief = Callable[[Stage, random.Random], str]


def kill_worker(stage: Stage, dice: random.Random) -> str:
    """Kill one process that encodes."""
    return _signal_one(stage, dice, signal.SIGKILL, "killed")


def kill_all_workers(stage: Stage, dice: random.Random) -> str:
    """Kill all of them at once, as a machine does that goes down."""
    found = stage.worker_processes()
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return f"killed all {len(found)} workers" if found else ""


def freeze_worker(stage: Stage, dice: random.Random) -> str:
    """Stop a worker for some seconds, and let it go on: a zombie that wakes."""
    found = stage.worker_processes()
    if not found:
        return ""
    process, seconds = dice.choice(found), dice.uniform(1, 12)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.suspend()
        time.sleep(seconds)
        process.resume()
    return f"stopped worker {process.pid} for {seconds:.0f} s"


def kill_driver(stage: Stage, dice: random.Random) -> str:
    """Kill the command alone: its children must end by themselves."""
    if stage.driver is None or stage.driver.poll() is not None:
        return ""
    stage.driver.kill()
    stage.driver.wait()
    return f"killed the driver {stage.driver.pid}"


def interrupt_driver(stage: Stage, dice: random.Random) -> str:
    """Ctrl-C, sometimes twice and quickly."""
    if stage.driver is None or stage.driver.poll() is not None:
        return ""
    times = dice.choice((1, 1, 2, 4))
    for _ in range(times):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(stage.driver.pid, signal.SIGINT)
        time.sleep(dice.uniform(0.0, 0.3))
    return f"pressed Ctrl-C {times} times"


def freeze_driver(stage: Stage, dice: random.Random) -> str:
    """Stop the driver, as a laptop does whose lid is closed; meanwhile, somebody starts the same command."""
    if stage.driver is None or not stage.holds_folder():
        return ""
    seconds = dice.uniform(2, 10)
    stage.driver.send_signal(signal.SIGSTOP)
    time.sleep(seconds)
    second = _second_driver(stage)
    stage.driver.send_signal(signal.SIGCONT)
    return f"stopped the driver for {seconds:.0f} s, and started a second one, which ended with {second}"


def second_driver(stage: Stage, dice: random.Random) -> str:
    """Start the same command while the first one runs. It must be refused."""
    if not stage.holds_folder():
        return ""
    return f"started a second driver, which ended with {_second_driver(stage)}"


def fill_disk(stage: Stage, dice: random.Random) -> str:
    """Fill the disk for some seconds."""
    if not stage.disk.can_fill:
        return ""
    seconds = dice.uniform(2, 8)
    stage.disk.fill()
    time.sleep(seconds)
    stage.disk.free()
    return f"filled the disk for {seconds:.0f} s"


def drop_connections(stage: Stage, dice: random.Random) -> str:
    """Reset a share of the connections to the scheduler."""
    if stage.proxy is None:
        return ""
    share = dice.choice((0.2, 0.5, 1.0))
    return f"reset {stage.proxy.drop(dice, share)} connections"


def delay_connections(stage: Stage, dice: random.Random) -> str:
    """Delay every message to and from the scheduler."""
    if stage.proxy is None:
        return ""
    stage.proxy.delay, seconds = dice.uniform(0.05, 0.6), dice.uniform(3, 8)
    time.sleep(seconds)
    shown = f"delayed messages by {stage.proxy.delay:.1f} s for {seconds:.0f} s"
    stage.proxy.heal()
    return shown


def cut_cable(stage: Stage, dice: random.Random) -> str:
    """Nothing gets through to the scheduler, and no connection ends."""
    if stage.proxy is None:
        return ""
    seconds = dice.uniform(2, 15)
    stage.proxy.blocked = stage.proxy.refusing = True
    time.sleep(seconds)
    stage.proxy.heal()
    return f"cut the cable of the scheduler for {seconds:.0f} s"


def kill_scheduler(stage: Stage, dice: random.Random) -> str:
    """Kill the scheduler. The cluster is started again, at another address."""
    if stage.scheduler is None:
        return ""
    kill_family(stage.scheduler)
    return "killed the scheduler"


def skew_clock(stage: Stage, dice: random.Random) -> str:
    """Processes that start from now on have another time."""
    if not FAKETIME.exists():
        return ""
    stage.clock = dice.choice((0.0, 180.0, -180.0, 3600.0, -86400.0, 10 * 86400.0))
    return f"clocks of new processes are {stage.clock:+.0f} s ahead"


def damage_shard(stage: Stage, dice: random.Random) -> str:
    """Flip a byte of a finished shard while no driver runs. The next driver must find it."""
    if stage.driver is not None and stage.driver.poll() is None:
        return ""
    shards = sorted((stage.out / "latents.zarr").glob("*/c.*"))
    if not shards:
        return ""
    shard = dice.choice(shards)
    data = bytearray(shard.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    _replace(shard, bytes(data))
    return f"flipped a bit of {shard.parent.name}/{shard.name}"


def lose_receipt(stage: Stage, dice: random.Random) -> str:
    """Remove a receipt while no driver runs."""
    if stage.driver is not None and stage.driver.poll() is None:
        return ""
    receipts = sorted((stage.out / "receipts").glob("chunk-*.json"))
    if not receipts:
        return ""
    receipt = dice.choice(receipts)
    receipt.unlink()
    return f"removed {receipt.name}"


EVERYWHERE: tuple[tuple[Mischief, int], ...] = (
    (kill_worker, 6),
    (kill_all_workers, 1),
    (freeze_worker, 3),
    (kill_driver, 3),
    (interrupt_driver, 2),
    (freeze_driver, 2),
    (second_driver, 1),
    (fill_disk, 3),
    (skew_clock, 2),
    (damage_shard, 3),
    (lose_receipt, 2),
)
"""What can be done to any run, and how often."""

TO_A_CLUSTER: tuple[tuple[Mischief, int], ...] = (
    (drop_connections, 4),
    (delay_connections, 3),
    (cut_cable, 2),
    (kill_scheduler, 1),
)
"""What can be done to a cluster that others started, and how often."""


def _signal_one(stage: Stage, dice: random.Random, number: int, done: str) -> str:
    found = stage.worker_processes()
    if not found:
        return ""
    process = dice.choice(found)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)
    return f"{done} worker {process.pid}"


def _second_driver(stage: Stage) -> str:
    log = stage.folder / f"second-{time.monotonic_ns()}.log"
    kept, stage.drivers = stage.drivers, -1
    try:
        path = stage.driver_log
        path.unlink(missing_ok=True)
        second = stage.command()
        try:
            code = second.wait(timeout=90)
        except Exception:
            kill_family(second)
            stage.problems.append("a second driver neither ended nor was refused")
            return "nothing"
        shutil.move(path, log)
    finally:
        stage.drivers = kept
    stage.check(code, log)
    said = log.read_text(encoding="utf-8", errors="replace")
    if code == 0 and stage.driver is not None and stage.driver.poll() is None and "is in use by" not in said:
        stage.problems.append(f"a second driver ended well while the first one ran: {said[-300:]}")
    return f"exit code {code}"


def _replace(path: Path, data: bytes) -> None:
    """Change bytes in place: damage does not come by a rename."""
    with path.open("r+b") as file:
        file.write(data)
