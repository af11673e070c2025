"""The cores, memory and GPUs that this process may use, and the memory that it has used. It imports no torch."""

from __future__ import annotations

import contextlib
import os
import sys
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


def _memory(cgroup: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory of the machine, or the lowest limit of this process's control group and the groups around it.

    A container sees its own group as the root. A job of SLURM or a service is deeper in the tree of its host.
    """
    limits = [psutil.virtual_memory().total]
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]  # version 2, version 1
    with contextlib.suppress(OSError, ValueError):
        for line in cgroup.read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "memory" in controllers.split(","):
                place, name = (root, "memory.max") if controllers == "" else (root / "memory", "memory.limit_in_bytes")
                groups = Path(path.lstrip("/"))
                files += [place / group / name for group in (groups, *groups.parents)]
    for file in files:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            limits.append(int(file.read_text(encoding="ascii")))
    return min(limits)


def _gpus() -> int:
    there = Path("/proc/driver/nvidia/gpus")
    count = len(list(there.iterdir())) if there.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    chosen = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return min(count, len(chosen))


def peak_bytes() -> int:
    """Largest resident size of this process so far, bytes.

    On Linux it is read from /proc: there `getrusage` includes the parent's memory at the time of the fork.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kibibytes elsewhere
