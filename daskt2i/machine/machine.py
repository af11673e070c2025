"""The cores, memory and GPUs that this process may use. It imports no torch."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Machine:
    """The resources that the workers on this machine share.

    Attributes:
        cores: number of cores that this process may use.
        memory: memory of the machine, or of the control group of this process, bytes.
        gpus: number of visible NVIDIA GPUs.
    """

    cores: int
    memory: int
    gpus: int


def this_machine() -> Machine:
    """The resources that this process may use. Affinity, cgroup limits and CUDA_VISIBLE_DEVICES limit them."""
    from dask.system import CPU_COUNT

    return Machine(int(CPU_COUNT), _memory(), _gpus())


def _memory() -> int:
    limits = [psutil.virtual_memory().total]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # cgroups v2, v1
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


def _gpus() -> int:
    there = Path("/proc/driver/nvidia/gpus")
    count = len(list(there.iterdir())) if there.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    chosen = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return min(count, len(chosen))
