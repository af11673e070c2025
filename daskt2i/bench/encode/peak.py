"""The machine's peak in matrix products, and the operations of the encoders, to compare a speed with.

Covers: square products in the precision of the run, one thread on each of k cores at the same time; counting with
`torch.utils.flop_counter` (2 for each multiply-add in convolutions, matrix products, attention; none elementwise).
Does not cover: memory bandwidth; GPUs.

All threads belong to one process: torch releases the interpreter lock in a product, and each Python thread has its own
number of torch threads, here 1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
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
    precision = resolve(wanted, "cpu", 1)
    peaks = {
        name: {str(busy): peak(name, busy, task.peak_seconds, task.peak_sides) for busy in task.busy}
        for name in dict.fromkeys(precision if name == "auto" else name for name in task.precisions)
    }
    torch.set_num_threads(max(task.busy))
    return {"precision": precision, "peaks": peaks, **operations(task, workflow, max(task.busy))}


def peak(precision: str, busy: int, seconds: float, sides: Sequence[int]) -> float:
    """FLOP/s of `busy` threads together, each with its own products; the best of several sizes."""
    return max(_rate(precision, busy, seconds, side) for side in sides)


def _rate(precision: str, busy: int, seconds: float, side: int) -> float:
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    ready = threading.Barrier(busy)
    rates = [0.0] * busy

    def work(place: int) -> None:
        torch.set_num_threads(1)
        a, b = (torch.full((side, side), 0.5, dtype=dtype) for _ in range(2))
        out = torch.empty_like(a)
        with torch.inference_mode():
            torch.mm(a, b, out=out)
            ready.wait()
            begun = time.perf_counter()
            count = 0
            while (now := time.perf_counter()) - begun < seconds or count == 0:
                torch.mm(a, b, out=out)
                count += 1
            now = time.perf_counter()
        rates[place] = 2.0 * side**3 * count / (now - begun)

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
