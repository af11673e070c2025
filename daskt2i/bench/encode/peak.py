"""The machine's peak in products and convolutions, and the operations of the encoders, to compare a speed with.

Covers: square products and 3 x 3 convolutions in the precision of the run, one thread on each of k cores at the same
time (with AMX a convolution may be faster than any product, and products vary by a factor of two within an hour);
counting with
`torch.utils.flop_counter` (2 for each multiply-add in convolutions, matrix products, attention; none elementwise).
Does not cover: memory bandwidth; GPUs.

All threads belong to one process: torch releases the interpreter lock in a product, and each Python thread has its own
number of torch threads, here 1.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from daskt2i.bench.encode.rows import CAPTION
from daskt2i.bench.measured import BenchTask
from daskt2i.config.settings import Workflow
from daskt2i.machine.precision import resolve
from daskt2i.protocols import ImageEncoder, Source, TextEncoder
from daskt2i.types import Runtime

SAMPLE = 64
"""Number of captions whose operations are counted. Their mean is used for all captions."""


def measure(task: BenchTask, workflow: Workflow) -> dict[str, Any]:
    """Measure the peak and the operations for a part of the workflow.

    Returns:
        `precision`: `dataset.precision`, resolved here; `peaks`: precision -> busy cores -> FLOP/s of all together;
        `image_flop`: operations of one image; `caption_flop`: mean of one caption as `encode` runs it; `padded_flop`:
        operations of one caption at full length. Figures of a part that is not measured are 0.
    """
    import torch

    wanted = workflow.dataset.precision
    precision = resolve(wanted, "cpu")
    peaks = {
        name: {
            str(busy): peak(name, busy, task.peak_seconds, task.peak_sides, task.peak_convolutions)
            for busy in task.busy
        }
        for name in dict.fromkeys(precision if name == "auto" else name for name in task.precisions)
    }
    torch.set_num_threads(max(task.busy))
    return {"precision": precision, "peaks": peaks, **operations(task, workflow, max(task.busy))}


def peak(
    precision: str,
    busy: int,
    seconds: float,
    sides: Sequence[int],
    convolutions: Sequence[tuple[int, int]] = (),
) -> float:
    """FLOP/s of `busy` threads together, each with its own numbers; the best of several shapes.

    Args:
        seconds: for each shape.
        sides: of square products.
        convolutions: channels, and side of the picture in pixels.
    """
    from torch import bfloat16, float16, float32

    dtype = {"fp32": float32, "bf16": bfloat16, "fp16": float16}[precision]
    shapes = [functools.partial(_product, side) for side in sides]
    shapes += [functools.partial(_convolution, *shape) for shape in convolutions]
    return max(_rate(functools.partial(shape, dtype), busy, seconds) for shape in shapes)


Shape = Callable[[], tuple[Callable[[], object], float]]
"""Makes the numbers of one thread. Returns a function that computes once, and its operations."""


def _product(side: int, dtype: Any) -> tuple[Callable[[], object], float]:
    import torch

    a, b = (torch.full((side, side), 0.5, dtype=dtype) for _ in range(2))
    return functools.partial(torch.mm, a, b, out=torch.empty_like(a)), 2.0 * side**3


def _convolution(channels: int, side: int, dtype: Any) -> tuple[Callable[[], object], float]:
    import torch

    x = torch.full((1, channels, side, side), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.full((channels, channels, 3, 3), 0.01, dtype=dtype).to(memory_format=torch.channels_last)
    return functools.partial(torch.conv2d, x, weight, padding=1), 2.0 * 9 * channels**2 * side**2


def _rate(shape: Shape, busy: int, seconds: float) -> float:
    import torch

    ready = threading.Barrier(busy)
    rates = [0.0] * busy

    def work(place: int) -> None:
        torch.set_num_threads(1)
        with torch.inference_mode():
            compute, flop = shape()
            compute()
            ready.wait()
            begun = time.perf_counter()
            count = 0
            while (now := time.perf_counter()) - begun < seconds or count == 0:
                compute()
                count += 1
            now = time.perf_counter()
        rates[place] = flop * count / (now - begun)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(busy)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def operations(task: BenchTask, workflow: Workflow, threads: int) -> dict[str, float]:
    """Count `image_flop`, `caption_flop` and `padded_flop` on one image and on the first captions of the source.

    Attention is counted with torch's plain version (`SDPBackend.MATH`), because the counter does not know the fused
    version of CPUs. Both do the same operations.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found = {"image_flop": 0.0, "caption_flop": 0.0, "padded_flop": 0.0}
    dataset, runtime = workflow.dataset, Runtime("cpu", "fp32", threads)
    with sdpa_kernel(SDPBackend.MATH):
        if task.part != "text":
            image: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
            image.load(runtime)
            side = dataset.image.resolution
            found["image_flop"] = _count(image.encode, np.zeros((1, side, side, 3), np.uint8))
            del image
        if task.part != "vae":
            source: Source = dataset.source.build(Source, "dataset.source")
            text: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
            captions = list(dict.fromkeys(c for row in source.rows(0, SAMPLE) for c in row.captions))[:SAMPLE]
            text.load(runtime)
            found["caption_flop"] = _count(text.encode, captions or [CAPTION])
            found["padded_flop"] = _count(text.encode, [" ".join(["a"] * 1000)])
    return found


def _count(encode: Any, items: Any) -> float:
    """Mean operations of one item."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        encode(items, len(items))
    return float(counter.get_total_flops()) / len(items)
