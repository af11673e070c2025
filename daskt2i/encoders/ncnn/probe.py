"""Which engine computes an autoencoder faster on this processor: a short measurement, kept for the next time.

Covers: the convolutions of a model, timed with torch and with ncnn; every other kind of layer, run once with ncnn.
Does not cover: the child process and the file with the figures (`probes`), the precision of torch
(`machine.precision`), what follows from the figures (`choice`).

Nothing but a measurement can tell. In fp32 ncnn took 0.39 of torch's time on an EPYC with avx512_bf16, and 0.8 of it on
a Xeon. A processor with AMX is fastest with bf16. Only 3 x 3 convolutions are timed, which are 9 of 10 operations.
No weights are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from daskt2i.encoders.ncnn.engine import Net
from daskt2i.encoders.ncnn.network import INPUT, Network
from daskt2i.probes.measure import Measured, clock_for, seconds_of
from daskt2i.types import Runtime

PROBE = f"{__name__}:probe"
"""What a child process calls."""

VERSION = 3
"""Of the probe: another one asks for another measurement."""

ENGINES = ("torch", "ncnn")

REPEATS, SECONDS = 5, 0.6
"""Each convolution is timed so often with both engines in turn, or for so many seconds. The shortest time counts."""

LARGEST_SIDE = 64
"""Larger pictures are timed at this side, and the time is scaled with the number of pixels."""

DOUBTED = 5.0
"""A ratio of the two engines that no processor has shown: something disturbed the measurement, so it is repeated."""

PAIR = 1
"""Number of convolutions that are timed one after the other, as in a block of the model."""


def seconds_for(config: Mapping[str, Any], resolution: int, runtime: Runtime, measure: bool = True) -> Measured:
    """About the time of one image in the encoder: `{"torch": 2.3, "ncnn": 1.1}`, in seconds.

    torch runs in `runtime.precision`, ncnn in fp32. The result of an earlier call on such a machine is used again.

    Args:
        config: of the model: `block_out_channels` and `layers_per_block`.
        resolution: side of the picture, pixels.
        measure: False to look only for figures that are kept.
    """
    shapes = [[*shape, count] for shape, count in sorted(_shapes(config, resolution).items())]
    arguments = {"shapes": shapes, "threads": runtime.threads, "precision": runtime.precision}
    about = [runtime.threads, runtime.precision, shapes, VERSION]
    return seconds_of("engine", about, ENGINES, ENGINES, PROBE, arguments, measure)


def probe(
    tell: Callable[[str, float], None], shapes: Sequence[tuple[int, int, int]], threads: int, precision: str
) -> None:
    """In a child process: time the convolutions of a model with both engines.

    Args:
        tell: gets `torch` and `ncnn`, seconds an image.
        shapes: (channels, side, number of such convolutions).
    """
    runtime = Runtime("cpu", "bf16" if precision == "bf16" else "fp32", threads)
    counts = {(channels, side): count for channels, side, count in shapes}
    _run_every_layer()
    found = _measured(counts, runtime)
    if not 1 / DOUBTED < found["torch"] / found["ncnn"] < DOUBTED:
        found = _measured(counts, runtime)
    for engine, seconds in found.items():
        tell(engine, seconds)


def _run_every_layer() -> None:
    """Run each kind of layer once with ncnn: an instruction that the processor lacks ends this process alone."""
    import torch

    width, network = 32, Network()
    blob = network.add("Convolution", [INPUT], _about(width, 3, 3), [(torch.ones(width, 3, 3, 3), True)])
    norm = [(torch.ones(width), False), (torch.zeros(width), False)]
    blob = network.add("Swish", [network.add("GroupNorm", [blob], {0: 8, 1: width, 2: 1e-6, 3: 1}, norm)])
    rows = network.add("Permute", [network.add("Reshape", [blob], {0: -1, 1: width})], {0: 1})
    square = [(torch.ones(width, width), True), (torch.zeros(width), False)]
    heads = {0: width, 1: 1, 2: width * width, 3: width, 4: width, 6: width**-0.5}
    rows = network.add("MultiHeadAttention", [rows], heads, square * 4)
    back = network.add("Reshape", [network.add("Permute", [rows], {0: 1}), blob], {6: '"1w,1h,1c"'})
    blob = network.add("Interp", [network.add("BinaryOp", [back, blob], {0: 0})], {0: 1, 1: 2.0, 2: 2.0})
    network.add("Convolution", [blob], _about(width, width, 3), [(torch.ones(width, width, 3, 3), True)])
    Net(network).run(np.ones((3, 16, 16), np.float32))


def _about(outputs: int, inputs: int, side: int) -> dict[int, int]:
    """The parameters of a convolution without bias, which keeps the size of the picture."""
    return {0: outputs, 1: side, 4: side // 2, 6: side * side * inputs * outputs}


def _measured(shapes: Mapping[tuple[int, int], int], runtime: Runtime) -> dict[str, float]:
    found = {"torch": 0.0, "ncnn": 0.0}
    for (channels, side), count in shapes.items():
        near = min(side, LARGEST_SIDE)
        for engine, seconds in _pair_seconds(channels, near, runtime).items():
            found[engine] += count / PAIR * seconds * (side / near) ** 2
    return found


def _shapes(config: Mapping[str, Any], resolution: int) -> dict[tuple[int, int], int]:
    """(channels, side) -> about the number of 3 x 3 convolutions: two a block, and two blocks in the middle."""
    channels, layers = [int(c) for c in config["block_out_channels"]], int(config["layers_per_block"])
    found: dict[tuple[int, int], int] = {}
    for level, width in enumerate(channels):
        shape = width, max(1, resolution // 2**level)
        found[shape] = found.get(shape, 0) + 2 * layers + 4 * (level == len(channels) - 1)
    return found


def _pair_seconds(channels: int, side: int, runtime: Runtime) -> dict[str, float]:
    import torch

    values = np.random.default_rng(0).normal(0, 1 / (3 * channels**0.5), (PAIR, channels, channels, 3, 3))
    weights = torch.from_numpy(values.astype(np.float32))
    first = torch.zeros(channels, 3, 1, 1)
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 3, side, side)).astype(np.float32))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[runtime.precision]
    before = torch.get_num_threads()
    torch.set_num_threads(runtime.threads)
    try:
        with torch.inference_mode():
            parts = [one.to(dtype).to(memory_format=torch.channels_last) for one in (first, *weights)]
            given = pixels.to(dtype).to(memory_format=torch.channels_last)

            def by_torch() -> object:
                blob = torch.conv2d(given, parts[0])
                for weight in parts[1:]:
                    blob = torch.conv2d(blob, weight, padding=1)
                return blob.mean((2, 3))

            # A first small convolution and the mean: the values that go in and out of ncnn are few, as in the model.
            network = Network()
            blob = network.add("Convolution", [INPUT], _about(channels, 3, 1), [(first, True)])
            for weight in weights:
                blob = network.add("Convolution", [blob], _about(channels, channels, 3), [(weight, True)])
            network.add("Pooling", [blob], {0: 1, 4: 1})
            net = Net(network)
            picture = pixels.numpy()[0]
            # torch shares an image among its threads. ncnn computes it by one, and a batch may be a single image.
            return dict(
                zip(
                    ("torch", "ncnn"),
                    _least(clock_for(runtime.threads), by_torch, lambda: net.run(picture)),
                    strict=True,
                )
            )
    finally:
        torch.set_num_threads(before)


def _least(clock: Callable[[], float], *calls: Callable[[], object]) -> list[float]:
    """The shortest time of each call, by a clock. They take turns, so that other work disturbs all of them."""
    for call in calls:
        call()
    best, start = [float("inf")] * len(calls), time.perf_counter()
    for _ in range(REPEATS):
        for place, call in enumerate(calls):
            begun = clock()
            call()
            best[place] = min(best[place], clock() - begun)
        if time.perf_counter() - start > SECONDS:
            break
    return best
