"""What the device does: the kernels of one VAE encode and of one training step, longest first, by torch.profiler.

Covers: the table, the share of each kind of kernel, the share of time in which the device was busy.
Does not cover: speed (the other parts: the profiler slows everything down).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from daskt2i.bench.device.clock import NO_TIME, Clock, precision_of, why_not
from daskt2i.bench.device.parts.training import steps
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Sizes, image_component
from daskt2i.machine.precision import resolve
from daskt2i.protocols import ImageEncoder
from daskt2i.types import Runtime

TOP = 15
CALLS = 3
NAME = 90

KINDS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("convolution", r"conv|cudnn|implicit|fprop|dgrad|wgrad|winograd"),
    ("matrix product", r"gemm|cutlass|nvjet|cublas|addmm|\bmm\b|bmm|matmul|linear"),
    ("normalisation", r"norm|moments|welford"),
    ("optimiser", r"multi_tensor|foreach|adam"),
    ("copy", r"memcpy|memset|copy|cat|transpose|nchw|nhwc|contiguous|clone|_to_"),
    ("elementwise", r"elementwise|silu|sigmoid|add|mul|div|sub|exp|softmax|reduce|fill|gelu|mse"),
)
"""Kind of a kernel, by the first expression that is found in its name."""


def measure(sizes: Sizes, clock: Clock, record: Recorder) -> None:
    """Record a profile of the first autoencoder at its first batch, and of a step of each denoiser."""
    precision = resolve("auto", clock.device)
    name, arguments = next(iter(sizes.images.items()))
    side, batch = sizes.sides[0], sizes.batches[0]

    def encode() -> Callable[[], Any]:
        encoder: Any = image_component(arguments).build(ImageEncoder, "dataset.encoders.image")
        encoder.load(Runtime(clock.device, precision, clock.threads))
        pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
        return lambda: encoder.encode(pixels, batch)

    makers = {f"{name}, {batch} images of {side} px, {precision}": encode}
    for wanted in sizes.denoisers:
        title = f"training step of {wanted.preset}, batch {wanted.batch}, {precision}"
        makers[title] = lambda wanted=wanted: steps(wanted, precision, clock.device)[0]  # type: ignore[misc]
    for title, maker in makers.items():
        if record.left() <= 0:
            record.note(f"Profile of {title}: {NO_TIME}")
            continue
        try:
            with precision_of(precision != "fp32"):
                record.fact("profile", {title: profile(maker(), clock)})
            record.tell(f"profile of {title}")
        except Exception as error:
            record.note(f"Profile of {title}: {why_not(error)}")
        clock.free()


def profile(call: Callable[[], Any], clock: Clock) -> dict[str, Any]:
    """The kernels of a call. On a CPU, the operators.

    Returns:
        `wall_ms` of a call under the profiler; `busy_share`: time in kernels divided by it; `kinds`: kind -> share of
        the time in kernels; `kernels`: the longest, with `name`, `kind`, `calls` and `ms` of a call, `share`.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    call()
    clock.seconds(call)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if clock.gpu else [])]
    with profiled(activities=activities) as found:
        begun = time.perf_counter()
        clock.seconds(call, CALLS)
        wall = time.perf_counter() - begun
    table: dict[str, list[float]] = {}
    for event in found.key_averages():
        on_gpu = str(event.device_type).endswith("CUDA")
        if on_gpu != clock.gpu or event.key.startswith(("ProfilerStep", "cuda")):
            continue
        spent = float(event.self_device_time_total if clock.gpu else event.self_cpu_time_total) / 1000 / CALLS
        if spent > 0:
            entry = table.setdefault(event.key, [0.0, 0.0])
            entry[0] += spent
            entry[1] += event.count / CALLS
    whole = sum(spent for spent, _ in table.values())
    kinds: dict[str, float] = {}
    lines = []
    for name, (spent, count) in sorted(table.items(), key=lambda item: -item[1][0]):
        share = spent / whole
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + share
        lines.append({"name": name[:NAME], "kind": kind_of(name), "calls": count, "ms": spent, "share": share})
    return {
        "wall_ms": 1000 * wall / CALLS,
        "busy_share": whole / (1000 * wall / CALLS),
        "kinds": kinds,
        "kernels": lines[:TOP],
    }


def kind_of(name: str) -> str:
    """The kind of a kernel or an operator, by its name."""
    low = name.lower()
    return next((kind for kind, words in KINDS if re.search(words, low)), "other")
