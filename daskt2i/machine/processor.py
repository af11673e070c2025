"""Which processor this is, and which instructions it has that decide the speed of matrix products.

Covers: Linux on x86-64; elsewhere the name alone.
Does not cover: how many cores we may use (`machine`), which precision is fastest (`precision`).
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_MATRIX = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def processor_name() -> str:
    """As the processor calls itself."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def matrix_instructions() -> tuple[str, ...]:
    """Of avx2, avx512f, avx512_bf16 and amx_bf16 the ones that are there; none where nobody tells."""
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
