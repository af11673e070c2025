"""The name of the processor, and its instructions for fast matrix products.

Covers: Linux on x86-64; on other systems only the name.
Does not cover: how many cores this process may use (`machine`), which precision is fastest (`precision`).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_MATRIX = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor_name() -> str:
    """The name that the processor reports."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def matrix_instructions() -> tuple[str, ...]:
    """Which of avx2, avx512f, avx512_bf16 and amx_bf16 the processor has; empty if the system does not report it."""
    for line in _cpuinfo():
        if line.startswith("flags"):
            there = set(line.partition(":")[2].split())
            return tuple(name for name in _MATRIX if name in there)
    return ()


@cache
def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:  # not Linux
        return ()
