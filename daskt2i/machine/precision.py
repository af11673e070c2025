"""The device, and the precision in which models run on it.

Covers: `auto`, which a short measurement resolves; devices and precisions that are refused.
Does not cover: where the resolved precision is kept (the store keeps it, and each worker gets it with its work).

bf16 halves the time of an encoder if the processor multiplies bf16 in hardware (avx512_bf16, AMX). On other processors
it is slower than fp32. The speed is measured, not looked up, because a virtual machine may hide or emulate bf16. It may
also report instructions that it does not run, so a child process measures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.machine.processor import matrix_instructions
from daskt2i.probes.measure import Measured, clock_for, seconds_of
from daskt2i.types import MEASURED_LATER, Chosen, Precision

GAIN = 1.2
"""bf16 is used if it is at least this many times faster than fp32, because it has only three significant digits."""

PROBE_SECONDS = 0.3
"""The probe starts no further repetition after this time, but it makes three of each."""

TURNS = 9
"""Most repetitions of each precision."""

FORMATS: Mapping[str, Precision] = {"fp32": "fp32", "bf16": "bf16", "fp16": "fp16"}

OF = "a convolution"
"""What the seconds of the probe are of."""

PROBE = f"{__name__}:probe"
"""What a child process calls."""

VERSION = 3
"""Of the probe: another one asks for another measurement."""


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


def rank_device(wanted: str) -> str:
    """The device of a rank that wants `cpu`, `cuda`, `cuda:N` or `auto`. A rank sees only its own GPU, if it has one.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    if wanted == "auto":
        mine = os.environ.get("CUDA_VISIBLE_DEVICES", "") != "" and torch.cuda.is_available()
        return "cuda" if mine else "cpu"
    return check_device(wanted, "launch.device")


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


def resolve(requested: str, device: str, setting: str = "dataset.precision", gain: float = GAIN) -> Precision:
    """The precision to use. Arguments and errors as in `choose`."""
    return FORMATS[choose(requested, device, setting, gain).value]


def choose(
    requested: str,
    device: str,
    setting: str = "dataset.precision",
    gain: float = GAIN,
    measure: bool = True,
) -> Chosen:
    """The precision, and why it was chosen.

    Args:
        requested: `auto`, `fp32`, `bf16` or `fp16`.
        device: `cpu`, `cuda` or `cuda:N`.
        setting: the setting that asks for it, for the message.
        gain: how many times faster a convolution must be for `auto` to choose bf16 on a CPU.
        measure: False to use only figures of an earlier measurement; without them the value is `auto`. It imports no
            torch for a CPU.

    Raises:
        ConfigError: the name is unknown, the device does not exist, or fp16 is requested on a CPU.
    """
    check_device(device)
    if requested == "fp16" and device == "cpu":
        raise ConfigError(f"fp16 does not run on a CPU. Use {setting}=auto, fp32 or bf16.")
    if requested in FORMATS:
        return Chosen("precision", requested, "given in the settings")
    if requested != "auto":
        raise ConfigError(f"{setting} is {requested!r}; it can be auto, fp32, bf16 or fp16.")
    if device == "cpu":
        return _by_speed(_measured(measure), gain, measure)
    import torch

    # Compute capability 8.0 is Ampere, the first with bf16 units. Older GPUs emulate bf16.
    major, minor = torch.cuda.get_device_capability(torch.device(device))
    return Chosen("precision", "bf16" if major >= 8 else "fp32", f"the GPU has compute capability {major}.{minor}")


def _by_speed(found: Measured, gain: float, measure: bool) -> Chosen:
    if found.failure:
        words = f"The speed of bf16 could not be measured: {found.failure}. The models run in fp32."
        return Chosen("precision", "fp32", "bf16 could not be measured", notes=(words,))
    if not found.seconds and not measure:
        return Chosen("precision", "auto", MEASURED_LATER)
    ratio = found.seconds["fp32"] / found.seconds["bf16"]
    value = "bf16" if ratio >= gain else "fp32"
    why = f"bf16 is {ratio:.2g} times as fast as fp32, and {gain:g} times is the least"
    return Chosen("precision", value, why, found.seconds, OF, notes=found.notes)


def _measured(measure: bool = True) -> Measured:
    """Seconds of a typical convolution on this CPU, by precision."""
    return seconds_of("precision", [VERSION], ("torch",), ("fp32", "bf16"), PROBE, {}, measure)


def probe(tell: Callable[[str, float], None]) -> None:
    """In a child process: time a convolution in fp32 and in bf16, with one thread.

    Which one is faster does not depend on the number of threads. CPU time of one thread hardly depends on other work on
    the machine: with two threads and wall time, ratios from 0.2 to 84 were seen within minutes.
    """
    import torch

    torch.set_num_threads(1)
    clock, begun = clock_for(1), time.perf_counter()
    best = {"fp32": float("inf"), "bf16": float("inf")}
    with torch.inference_mode():
        calls = {name: _convolution(torch, kind) for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
        for call in calls.values():
            call()
        for turn in range(TURNS):
            for name, call in calls.items():
                start = clock()
                call()
                best[name] = min(best[name], clock() - start)
            if turn >= 2 and time.perf_counter() - begun > PROBE_SECONDS:
                break
    for name, seconds in best.items():
        tell(name, seconds)


def _convolution(torch: Any, dtype: Any) -> Callable[[], Any]:
    """A 3x3 convolution, 128 channels, 32 x 32 (0.3 GFLOP)."""
    x = torch.full((1, 128, 32, 32), 0.5, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.full((128, 128, 3, 3), 0.01, dtype=dtype).to(memory_format=torch.channels_last)
    return lambda: torch.nn.functional.conv2d(x, weight, padding=1)
