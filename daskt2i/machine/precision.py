"""The device, and the precision in which models run on it.

Covers: `auto`, which a short measurement resolves; devices and precisions that are refused.
Does not cover: where the resolved precision is kept (the store keeps it, and each worker gets it with its work).

bf16 halves the time of an encoder if the processor multiplies bf16 in hardware (avx512_bf16, AMX). On other processors
it is slower than fp32. The speed is measured, not looked up, because a virtual machine may hide or emulate bf16.
"""

from __future__ import annotations

import time
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.machine.processor import matrix_instructions
from daskt2i.types import Precision

GAIN = 1.2
"""bf16 is used if it is at least this many times faster than fp32, because it has only three significant digits."""

PROBE_SECONDS = 0.3
"""The probe starts no further repetition after this time."""


def default_device() -> str:
    """`"cuda"` if torch sees a GPU, else `"cpu"`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str, setting: str = "run.device") -> str:
    """The device, if it exists.

    Args:
        setting: where it was asked for, for the message.

    Raises:
        ConfigError: the name is not `cpu`, `cuda` or `cuda:N`, or no such GPU is visible.
    """
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise ConfigError(f"The device {device!r} is not known; give cpu, cuda or cuda:N.")
    if kind == "cuda":
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise ConfigError(f"There is no device {device}: torch sees {count} GPUs. Use {setting}=cpu.")
    return device


def kind_of(device: str) -> str:
    """The kind of device, in words. Devices of one kind choose the same precision.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
    """
    if device == "cpu":
        return " ".join(["cpu", *(name for name in matrix_instructions() if "bf16" in name)])
    import torch

    major, minor = torch.cuda.get_device_capability(torch.device(device))
    return f"cuda {major}.{minor}"


def resolve(
    requested: str, device: str, threads: int = 1, setting: str = "dataset.precision", gain: float = GAIN
) -> Precision:
    """The precision to use.

    Args:
        requested: `auto`, `fp32`, `bf16` or `fp16`.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: torch threads during the probe; give the number of threads of a worker.
        setting: the setting that asks for it, for the message.
        gain: how many times faster a convolution must be for `auto` to choose bf16 on a CPU.

    Raises:
        ConfigError: the name is unknown, the device does not exist, or fp16 is requested on a CPU.
    """
    check_device(device)
    if requested == "fp16" and device == "cpu":
        raise ConfigError(f"fp16 does not run on a CPU. Use {setting}=auto, fp32 or bf16.")
    formats: dict[str, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}
    if requested in formats:
        return formats[requested]
    if requested != "auto":
        raise ConfigError(f"{setting} is {requested!r}; it can be auto, fp32, bf16 or fp16.")
    if device == "cpu":
        return "bf16" if _bf16_gain(threads) >= gain else "fp32"
    import torch

    # Compute capability 8.0 is Ampere, the first with bf16 units. Older GPUs emulate bf16.
    return "bf16" if torch.cuda.get_device_capability(torch.device(device))[0] >= 8 else "fp32"


def _bf16_gain(threads: int) -> float:
    """Time of a typical convolution in fp32 divided by its time in bf16, on this CPU."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            seconds = [_conv_seconds(torch, dtype) for dtype in (torch.float32, torch.bfloat16)]
    finally:
        torch.set_num_threads(before)
    return seconds[0] / seconds[1]


def _conv_seconds(torch: Any, dtype: Any) -> float:
    """Seconds of a 3x3 convolution, 128 channels, 32 x 32 (0.3 GFLOP): the best of up to 5 runs after a warm-up run."""
    x = torch.full((1, 128, 32, 32), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.full((128, 128, 3, 3), 0.01, dtype=dtype).to(memory_format=torch.channels_last)
    best, start = float("inf"), time.perf_counter()
    torch.nn.functional.conv2d(x, weight, padding=1)
    for _ in range(5):
        begun = time.perf_counter()
        torch.nn.functional.conv2d(x, weight, padding=1)
        ended = time.perf_counter()
        best = min(best, ended - begun)
        if ended - start > PROBE_SECONDS / 2:
            break
    return best
