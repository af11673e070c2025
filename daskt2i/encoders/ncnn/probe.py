"""Which engine computes an autoencoder faster on this processor: a short measurement, kept for the next time.

Covers: the convolutions of a model, timed with torch and with ncnn; the file in the user's cache folder.
Does not cover: the precision of torch (`machine.precision`), what follows from the figures (`choice`).

Nothing but a measurement can tell. In fp32 ncnn took 0.39 of torch's time on an EPYC with avx512_bf16, and 0.8 of it on
a Xeon. A processor with AMX is fastest with bf16. Only 3 x 3 convolutions are timed, which are 9 of 10 operations.
No weights are read.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.encoders.ncnn.engine import Net
from daskt2i.encoders.ncnn.network import INPUT, Network
from daskt2i.types import Runtime

REPEATS, SECONDS = 5, 0.6
"""Each convolution is timed so often with both engines in turn, or for so many seconds. The shortest time counts."""

LARGEST_SIDE = 64
"""Larger pictures are timed at this side, and the time is scaled with the number of pixels."""

_MOST_SECONDS = 1e5
"""A kept figure above this is no measurement."""

DOUBTED = 5.0
"""A ratio of the two engines that no processor has shown: something disturbed the measurement, so it is repeated."""

PAIR = 1
"""Number of convolutions that are timed one after the other, as in a block of the model."""


def seconds_for(config: Mapping[str, Any], resolution: int, runtime: Runtime) -> dict[str, float]:
    """About the time of one image in the encoder: `{"torch": 2.3, "ncnn": 1.1}`, in seconds.

    torch runs in `runtime.precision`, ncnn in fp32. The result of an earlier call on such a machine is used again.

    Args:
        config: of the model: `block_out_channels` and `layers_per_block`.
        resolution: side of the picture, pixels.
    """
    shapes = _shapes(config, resolution)
    key = json.dumps([_processor(), _versions(), runtime.threads, runtime.precision, sorted(map(list, shapes.items()))])
    if (kept := _kept().get(key)) is not None:
        return {"torch": float(kept["torch"]), "ncnn": float(kept["ncnn"])}
    found = _measured(shapes, runtime)
    if not 1 / DOUBTED < found["torch"] / found["ncnn"] < DOUBTED:
        found = _measured(shapes, runtime)
    _keep(key, found)
    return found


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
            blob = network.add("Convolution", [INPUT], {0: channels, 1: 1, 6: 3 * channels}, [(first, True)])
            for weight in weights:
                about = {0: channels, 1: 3, 4: 1, 6: weight.numel()}
                blob = network.add("Convolution", [blob], about, [(weight, True)])
            network.add("Pooling", [blob], {0: 1, 4: 1})
            net = Net(network)
            picture = pixels.numpy()[0]
            # torch shares an image among its threads. ncnn computes it by one, and a batch may be a single image.
            return dict(zip(("torch", "ncnn"), _least(by_torch, lambda: net.run(picture)), strict=True))
    finally:
        torch.set_num_threads(before)


def _least(*calls: Callable[[], object]) -> list[float]:
    """The shortest time of each call. They take turns, so that other work on the machine disturbs all of them."""
    for call in calls:
        call()
    best, start = [float("inf")] * len(calls), time.perf_counter()
    for _ in range(REPEATS):
        for place, call in enumerate(calls):
            begun = time.perf_counter()
            call()
            best[place] = min(best[place], time.perf_counter() - begun)
        if time.perf_counter() - start > SECONDS:
            break
    return best


def _processor() -> list[str]:
    """The name of the processor and its instructions; virtual machines of one name may differ in them."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        found = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in lines if ":" in line}
        return [found.get("model name", ""), found.get("flags", found.get("Features", ""))]
    return [platform.processor(), platform.machine()]


def _versions() -> list[str]:
    return [importlib.metadata.version("torch"), importlib.metadata.version("ncnn")]


def _file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "daskt2i" / "engines.json"


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_bytes())
    except (OSError, ValueError, RuntimeError):  # no home folder, or not there yet, or damaged
        return {}
    good = isinstance(found, dict)
    return {k: v for k, v in found.items() if isinstance(v, dict) and _is_good(v)} if good else {}


def _is_good(figures: Mapping[str, Any]) -> bool:
    return all(type(figures.get(e)) in (int, float) and 0 < figures[e] < _MOST_SECONDS for e in ("torch", "ncnn"))


def _keep(key: str, found: Mapping[str, float]) -> None:
    """Write the figures. A cache that cannot be written is no error: the next process measures again."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _file()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
        partial.write_text(json.dumps({**_kept(), key: dict(found)}, indent=1), encoding="utf-8")
        partial.replace(file)
