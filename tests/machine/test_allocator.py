"""A process that keeps its memory uses the same pages for each batch."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from daskt2i.machine import allocator

CHILD = """
import ctypes, resource, sys, threading
from daskt2i.machine.allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
    assert keep_memory()  # a second call changes nothing
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
libc.free.argtypes = (ctypes.c_void_p,)
def work():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(160 << 20)
        libc.memset(block, 1, 160 << 20)
        libc.free(block)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
HUGE_PAGES = 32
"""The fewest pages that a block can have."""


def faults(how: str, **environment: str) -> list[int]:
    """Page faults of three equal batches of 160 MiB, in a thread of a new process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(line) for line in done.stdout.split()]


@pytest.mark.skipif(not allocator.can_keep_memory(), reason="no glibc")
def test_a_batch_gets_the_pages_of_the_batch_before_it_also_in_another_thread() -> None:
    assert max(faults("keep")[1:]) < HUGE_PAGES
    assert min(faults("as it comes")) >= HUGE_PAGES


@pytest.mark.skipif(not allocator.can_keep_memory(), reason="no glibc")
def test_what_the_user_has_set_stays_and_what_dask_sets_does_not() -> None:
    assert min(faults("keep", MALLOC_MMAP_THRESHOLD_="65536")) >= HUGE_PAGES
    assert max(faults("keep", MALLOC_TRIM_THRESHOLD_="65536")[1:]) < HUGE_PAGES


def test_other_systems_are_left_alone_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    allocator.can_keep_memory.cache_clear()
    try:
        assert not allocator.keep_memory()
    finally:
        allocator.can_keep_memory.cache_clear()
