"""What a Python process can say of itself and its machine, without daskt2i.

Covers: host, cores, instructions, memory and its limits, load, GPUs, versions of packages, limits of files, temporary
space, the network interface, Dask's settings of memory.
Does not cover: what it sees of a workflow (`sight`); asking (`asking`).

The text of this module is sent to processes that may lack daskt2i, or have another version of it or of Python. So it
imports only Python itself, and psutil, which Dask needs too. It reads files of /proc and asks the system. It waits at
most `_DISK_SECONDS` for a disk, because it runs on the event loop of a worker.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_DISK_SECONDS = 2.0
_INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
    *("asimd", "sve", "sve2", "bf16", "i8mm"),
)
"""Flags of x86-64 and of Arm, as Linux names them."""

_TRY_BYTES = 65_536
"""What is written to see whether a folder takes files."""


def look(address: str, packages: Sequence[str]) -> dict[str, Any]:
    """Everything about this process. A part that fails is left out.

    Args:
        address: address of the Dask worker in this process; "" if it is none.
        packages: names of packages whose versions are wanted.
    """
    found: dict[str, Any] = {"time": time.time()}
    worker = _worker(address)
    parts: Mapping[str, Callable[[], Any]] = {
        "host": socket.gethostname,
        "pid": os.getpid,
        "system": lambda: f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "python": platform.python_version,
        "processor": _processor,
        "instructions": _instructions,
        "cores": _cores,
        "memory": _memory,
        "load": lambda: round(os.getloadavg()[0], 2),
        "gpus": _gpus,
        "packages": lambda: {name: version for name in packages if (version := _version(name))},
        "torch_cuda": _torch_cuda,
        "open_files": _open_files,
        "temp": lambda: _folder(tempfile.gettempdir()),
        "shm": lambda: _folder("/dev/shm"),
        "network": lambda: _network(address),
        "environment": _environment,
        "dask": _dask,
        "worker": lambda: _about(worker),
    }
    for name, part in parts.items():
        with contextlib.suppress(Exception):  # a restricted container may hide anything
            found[name] = part()
    return private(found)


def importable(module: str) -> str:
    """Import a module. The error in words, or "" if it works."""
    try:
        importlib.import_module(module)
    except BaseException as error:
        return str(private(f"{type(error).__name__}: {error}"[:300]))
    return ""


def _worker(address: str) -> Any:
    """The Dask worker with this address in this process; None if there is none."""
    module = sys.modules.get("distributed.worker")
    if module is None or not address:
        return None
    return next((one for one in list(module.Worker._instances) if getattr(one, "address", "") == address), None)


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()


def _processor() -> str:
    for line in _cpuinfo():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def _instructions() -> list[str]:
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            there = set(line.partition(":")[2].split())
            return [name for name in _INSTRUCTIONS if name in there]
    return []


def _cores() -> dict[str, Any]:
    """Cores of the machine, those that this process may use, and how many its control group lets it use."""
    numbers = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    limits = [float(len(numbers))]
    for text in _group_files("cpu.max"):
        quota, _, period = text.partition(" ")
        with contextlib.suppress(ValueError):  # "max"
            limits.append(int(quota) / int(period))
    return {"machine": os.cpu_count() or 1, "usable": round(max(1.0, min(limits)), 2), "numbers": numbers}


def _memory() -> dict[str, Any]:
    import psutil

    there = psutil.virtual_memory()
    limits = [there.total]
    for name in ("memory.max", "memory.limit_in_bytes"):
        for text in _group_files(name):
            with contextlib.suppress(ValueError):
                limits.append(int(text))
    own = min(limits)
    return {
        "machine": there.total,
        "free": there.available,
        "group": own if own < there.total else None,
        "process": psutil.Process().memory_info().rss,
    }


def _group_files(name: str) -> list[str]:
    """The content of such a file of the control group of this process, and of the groups around it."""
    root = Path("/sys/fs/cgroup")
    places = [root, root / "memory"]
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
            _, controllers, path = line.split(":", 2)
            base = root / "memory" if "memory" in controllers.split(",") else root
            group = Path(path.lstrip("/"))
            places += [base / one for one in (group, *group.parents)]
    found = []
    for place in dict.fromkeys(places):
        with contextlib.suppress(OSError):
            found.append((place / name).read_text(encoding="ascii").strip())
    return found


def _gpus() -> dict[str, Any]:
    """Names of NVIDIA's GPUs, the version of the driver, and which of them this process sees."""
    names = []
    for place in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", place.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        names.append(model[1].strip() if model else "GPU")
    if not names:
        return {}
    version = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    driver = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", version)
    return {"names": names, "driver": driver[1] if driver else "", "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}


def _version(package: str) -> str:
    """The version of a package that is installed; "" if it is not. Of a checkout on the path it may be "there"."""
    module = sys.modules.get(package)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "there"
    if package == "daskt2i" or version == "there":  # an installation whose files are gone leaves its version behind
        try:
            there = module is not None or importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            there = False
        return str(getattr(module, "__version__", version)) if there else ""
    return version


def _torch_cuda() -> str | None:
    """The CUDA of the build of torch, from its file: "" for a build for CPUs, None without torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else ""


def _open_files() -> dict[str, int]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"soft": soft, "hard": hard}


def _folder(path: str) -> dict[str, Any]:
    """Free space of a folder, and whether a file can be written there: "" or the error."""
    answer: dict[str, Any] = {"path": path}

    def ask() -> None:
        try:
            usage = shutil.disk_usage(path)
            answer.update(total=usage.total, free=usage.free)
            with tempfile.TemporaryFile(dir=path) as file:
                file.write(b"\0" * _TRY_BYTES)
                file.flush()
            answer["error"] = ""
        except OSError as error:
            answer["error"] = error.strerror or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_DISK_SECONDS)
    if thread.is_alive():
        return {"path": path, "error": "it does not answer"}
    return answer


def _network(address: str) -> dict[str, Any]:
    """The address of the worker, the interface that has it, and the speed that this interface states, in Mbit/s."""
    import psutil

    scheme, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    found: dict[str, Any] = {"scheme": scheme, "ip": host}
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == host for entry in entries):
            stats = psutil.net_if_stats().get(name)
            found.update(interface=name, mbit=stats.speed if stats else 0)
    return found


def _environment() -> dict[str, str]:
    """Variables that change what a worker does. None of them is a secret."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "MALLOC_ARENA_MAX")
    return {name: os.environ[name] for name in names if name in os.environ}


def _dask() -> dict[str, Any]:
    """The shares of the memory limit at which a worker spills, pauses and is ended, and where it spills to."""
    import dask

    names = ("target", "spill", "pause", "terminate")
    found = {name: dask.config.get(f"distributed.worker.memory.{name}", None) for name in names}
    return {**found, "max_spill": str(dask.config.get("distributed.worker.memory.max-spill", None))}


def _about(worker: Any) -> dict[str, Any]:
    """What the worker knows of itself; empty if this process is none."""
    if worker is None:
        return {}
    local = str(worker.local_directory)
    return {
        "status": worker.status.name,
        "threads": worker.state.nthreads,
        "busy": len(worker.state.executing),
        "memory_limit": worker.memory_manager.memory_limit,
        "nanny": bool(worker.nanny),
        "local": _folder(local),
    }


def private(value: Any) -> Any:
    """Without the name of the user: `~` in place of the home folder, `***` in other paths."""
    import getpass

    home, user = os.path.expanduser("~").rstrip("/"), ""  # noqa: PTH111  # no error if there is none
    with contextlib.suppress(KeyError, OSError, ImportError):
        user = getpass.getuser()

    def plain(one: Any) -> Any:
        if isinstance(one, Mapping):
            return {key: plain(inner) for key, inner in one.items()}
        if isinstance(one, list | tuple):
            return [plain(inner) for inner in one]
        if not isinstance(one, str):
            return one
        if len(home) > 1:
            one = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", one)
        if user and user != "root":
            one = re.sub(rf"(?<=/){re.escape(user)}(?=/|$|[\s,;:.)'\"])", "***", one)
        return one

    return plain(value)
