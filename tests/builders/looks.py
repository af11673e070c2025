"""What healthy workers say of themselves, for tests of the rules of `doctor`.

Covers: facts as `doctor.bare` and `doctor.sight` collect them, with changes.
Does not cover: collecting them, which `doctor/test_doctor.py` tests on real workers.
"""

from __future__ import annotations

from typing import Any

from daskt2i.doctor.facts import Clock, Found, Worker

GIB = 1 << 30


def look(host: str = "node1", pid: int = 1, **changes: Any) -> dict[str, Any]:
    """A healthy look of a worker with one of the four cores of its host. A value None takes a part away."""
    found: dict[str, Any] = {
        "time": 1.8e9,
        "host": host,
        "pid": pid,
        "system": "Linux 6.1 x86_64",
        "python": "3.11.7",
        "processor": "A Processor",
        "instructions": ["avx2", "avx512f"],
        "cores": {"machine": 4, "usable": 4.0, "numbers": [0, 1, 2, 3]},
        "memory": {"machine": 16 * GIB, "free": 12 * GIB, "group": None, "process": GIB // 8},
        "load": 0.1,
        "gpus": {},
        "packages": {"daskt2i": "0.1.0", "torch": "2.13.0+cpu", "dask": "2026.8.0", "distributed": "2026.8.0"},
        "torch_cuda": "",
        "open_files": {"soft": 20000, "hard": 20000},
        "temp": {"path": "/tmp", "total": 90 * GIB, "free": 80 * GIB, "error": ""},
        "shm": {"path": "/dev/shm", "total": 8 * GIB, "free": 8 * GIB, "error": ""},
        "dask": {"target": 0.6, "spill": 0.7, "pause": 0.8, "terminate": 0.95, "max_spill": "False"},
        "worker": {
            "status": "running",
            "threads": 1,
            "busy": 0,
            "memory_limit": 4 * GIB,
            "nanny": True,
            "local": {"path": "/tmp/dask", "total": 90 * GIB, "free": 80 * GIB, "error": ""},
        },
    }
    for name, value in changes.items():
        if value is None:
            del found[name]
        else:
            found[name] = (
                {**found[name], **value} if isinstance(value, dict) and isinstance(found[name], dict) else value
            )
    return found


def sight(**changes: Any) -> dict[str, Any]:
    """What a worker sees that sees everything."""
    well: dict[str, Any] = {
        "versions": {"error": "", "versions": {"daskt2i": "0.1.0"}},
        "source": {"error": ""},
        "image_model": {"error": "", "weights": "sha256:a"},
        "text_model": {"error": "", "weights": "sha256:b"},
        "folder": {"error": "", "sees": True, "made": "x", "seen_here": True},
    }
    return {**well, **changes}


def worker(number: int, host: str = "node1", **changes: Any) -> Worker:
    """A worker of the cluster. Changes are arguments of `Worker`."""
    given: dict[str, Any] = {
        "address": f"tls://10.0.0.{host.removeprefix('node')}:{40000 + number}",
        "threads": 1,
        "memory_limit": 4 * GIB,
        "look": look(host, 100 + number),
        "sight": sight(),
        "clock": Clock(0.001, 0.002),
    }
    return Worker(**{**given, **changes})


def cluster(*workers: Worker, **changes: Any) -> Found:
    """A cluster of these workers; four healthy ones of one host without any."""
    given: dict[str, Any] = {
        "here": look("laptop"),
        "scheduler": look("node0"),
        "address": "tls://10.0.0.9:8786",
        "dashboard": "http://10.0.0.9:8787/status",
        "workers": workers or tuple(worker(number) for number in range(4)),
        "need": GIB,
        "threads": 1,
        "named": {
            "versions": {"daskt2i": "0.1.0"},
            "image_model": "sha256:a",
            "text_model": "sha256:b",
            "image": "1.jpg",
        },
    }
    return Found(**{**given, **changes})
