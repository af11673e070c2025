"""Keep freed memory in the process, so that the next batch uses the same pages again.

Covers: glibc's `malloc` in a running process.
Does not cover: when it is wanted (`run.keep_memory`), how much memory a model needs (`encoders.footprint`), GPU memory
(torch keeps it by itself), giving memory back when models are unloaded (`encode.model_cache`).

glibc takes each large block from the kernel, and gives it back at once. The kernel clears each page anew: with Stable
Diffusion's VAE at 256 px these are 180,000 page faults for two images. Other C libraries (musl) and other systems are
left alone.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache

_MIB = 1 << 20

MMAP_THRESHOLD = 1024 * _MIB
"""Blocks below this size come from the heap."""

TRIM_THRESHOLD = 2048 * _MIB - 1
"""The heap gives memory back when more than this is free at its end, bytes: the largest number that `mallopt` takes."""

TOP_PAD = 64 * _MIB
"""The heap grows in steps of this size. Pages are used only when they are written."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
"""Parameters of `mallopt`, from glibc's malloc.h."""


@cache
def can_keep_memory() -> bool:
    """Whether this process uses glibc."""
    return platform.system() == "Linux" and platform.libc_ver()[0] == "glibc"


def keep_memory() -> bool:
    """Keep freed memory in this process from now on. It must be called before a model is loaded.

    All threads share one heap then. The heaps of other threads are small, so large blocks of a worker's thread would
    come from the kernel all the same.

    Variables of glibc that the user has set (`MALLOC_TRIM_THRESHOLD_` and the like) stay in force.

    Returns:
        whether it was done. It is left undone without a word where there is no glibc.
    """
    return can_keep_memory() and _kept()


@cache
def _kept() -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    wanted = {
        "MALLOC_ARENA_MAX": (_M_ARENA_MAX, 1),
        "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, MMAP_THRESHOLD),
        "MALLOC_TRIM_THRESHOLD_": (_M_TRIM_THRESHOLD, TRIM_THRESHOLD),
        "MALLOC_TOP_PAD_": (_M_TOP_PAD, TOP_PAD),
    }
    set_by_user = {name for name in wanted if name in os.environ} - _set_by_nanny()
    done = [mallopt(*wanted[name]) for name in wanted if name not in set_by_user]
    return all(done)


def _set_by_nanny() -> set[str]:
    """Dask's nannies set this variable for workers. Another value of it is the user's."""
    return {"MALLOC_TRIM_THRESHOLD_"} if os.environ.get("MALLOC_TRIM_THRESHOLD_") == "65536" else set()
