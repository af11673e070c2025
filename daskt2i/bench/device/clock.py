"""Time and memory of calls on one device.

Covers: warm-up, CUDA events between two synchronisations (a CPU: the monotonic clock), ways that take turns, the memory
of a call, a way that runs out of memory or is refused, the rate of matrix products.
Does not cover: what is called (the parts).

Every sample begins with an empty queue of the GPU, and ends when the GPU has done everything. So it includes the time
in which the GPU waits for the CPU.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from daskt2i.bench.report import Value, spread
from daskt2i.errors import Daskt2iError
from daskt2i.faults.kinds import is_memory

NO_MEMORY = "Not measured: the memory of the device is too small for it."
NO_TIME = "Not measured: the time of this part was over."
MOST_CALLS = 1000
"""Largest number of calls in one sample."""


@dataclass(slots=True)
class Way:
    """One way to do the same work.

    Attributes:
        values: its key in the table.
        call: does the work once.
        items: items of one call.
        tf32: leave torch's defaults for fp32 on a GPU, which are TF32 in convolutions; False: true fp32.
        flop: operations of one item; 0 if they are not known.
        seconds: of one item, one for each round.
        work_bytes: memory of a call on a GPU, beyond what was there before it.
        flag: why it was not measured.
    """

    values: dict[str, Value]
    call: Callable[[], Any]
    items: int
    tf32: bool = True
    flop: float = 0.0
    seconds: list[float] = field(default_factory=list)
    work_bytes: int | None = None
    flag: str = ""


class Clock:
    """Times calls on a device.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        threads: torch threads of this process; the models get as many.
    """

    def __init__(self, device: str, threads: int = 1) -> None:
        import torch

        self.device, self.gpu, self.threads = device, device != "cpu", threads
        torch.set_num_threads(threads)
        if self.gpu:
            torch.cuda.set_device(torch.device(device) if ":" in device else 0)

    def seconds(self, call: Callable[[], Any], times: int = 1) -> float:
        """Seconds of `times` calls."""
        import torch

        if not self.gpu:
            begun = time.perf_counter()
            for _ in range(times):
                call()
            return time.perf_counter() - begun
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        for _ in range(times):
            call()
        last.record()
        torch.cuda.synchronize()
        return float(first.elapsed_time(last)) / 1000

    def memory(self, call: Callable[[], Any]) -> int | None:
        """Largest memory of torch during a call beyond what was there before it, bytes; None on a CPU."""
        import torch

        if not self.gpu:
            call()
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before

    def free(self) -> None:
        """Give back the memory of what nobody uses any more."""
        import torch

        gc.collect()
        if self.gpu:
            torch.cuda.empty_cache()

    def take_turns(self, ways: Sequence[Way], rounds: int, shortest: float, left: Callable[[], float]) -> None:
        """Measure the ways: two calls of each to warm up, then rounds in which each way is measured once.

        Args:
            rounds: number of rounds, if the time suffices.
            shortest: shortest time of a sample, seconds. Short calls are repeated.
            left: gives the seconds that are left. When none is left, the round is the last one.
        """
        times: dict[int, int] = {}
        for number, way in enumerate(ways):
            if way.flag:
                continue
            if left() <= 0:
                way.flag = NO_TIME
                continue
            with self._kept(way):
                way.work_bytes = self.memory(way.call)
                once = self.seconds(way.call)
                times[number] = min(MOST_CALLS, max(1, math.ceil(shortest / max(once, 1e-6))))
        for _ in range(rounds):
            for number, way in enumerate(ways):
                if way.flag or (left() <= 0 and way.seconds):
                    continue
                with self._kept(way):
                    way.seconds.append(self.seconds(way.call, times[number]) / times[number] / way.items)

    @contextlib.contextmanager
    def _kept(self, way: Way) -> Iterator[None]:
        """An error of a way becomes its flag."""
        with precision_of(way.tf32):
            try:
                yield
                return
            except Exception as error:
                way.flag = why_not(error)
                way.seconds.clear()
        self.free()


@contextlib.contextmanager
def precision_of(tf32: bool) -> Iterator[None]:
    """Products in fp32 as torch does them by default on a GPU, or in true fp32."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def why_not(error: BaseException) -> str:
    """The flag of what an error ended."""
    if is_memory(error):
        return NO_MEMORY
    text = " ".join(str(error).split())
    if isinstance(error, Daskt2iError):
        return f"Not measured: {text}"
    return f"Failed: {type(error).__name__}: {text[:300]}"


def figures(way: Way) -> dict[str, Value]:
    """The figures of a way for the table."""
    if not way.seconds:
        return {}
    middle, least, most = spread(way.seconds)
    found: dict[str, Value] = {"rate": 1 / middle, "rate_low": 1 / most, "rate_high": 1 / least, "each_s": middle}
    if way.flop:
        found["tflops"] = way.flop / middle / 1e12
    return {**found, "work_bytes": way.work_bytes}


def operations(call: Callable[[], Any]) -> float:
    """Operations of a call: 2 for each multiply-add in convolutions, products and attention."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know the fused attention of CPUs. The plain version does the same operations.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def product_rate(clock: Clock, dtype: Any, side: int, tf32: bool = False, seconds: float = 0.2) -> float:
    """FLOP/s of products of two square matrices, the best of five samples."""
    import torch

    a, b = (torch.full((side, side), 0.5, dtype=dtype, device=clock.device) for _ in range(2))
    out = torch.empty_like(a)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32

    def call() -> None:
        torch.mm(a, b, out=out)

    try:
        call()
        times = max(1, math.ceil(seconds / 5 / max(clock.seconds(call), 1e-6)))
        return max(2.0 * side**3 * times / clock.seconds(call, times) for _ in range(5))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
