"""The device itself: its name, memory, driver, and its rate of matrix products.

Covers: an NVIDIA GPU through torch and `nvidia-smi`, a CPU.
Does not cover: the machine around it, which is in every report (`bench.report`).
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from daskt2i.bench.device.clock import Clock, product_rate, why_not
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Sizes
from daskt2i.machine.processor import matrix_instructions, processor_name

_ASKED = ("driver_version", "power.limit", "clocks.max.sm", "clocks.max.mem", "persistence_mode")
_FORMATS = (("fp32", "float32", False), ("tf32", "float32", True), ("bf16", "bfloat16", False),
            ("fp16", "float16", False))  # fmt: skip


def measure(sizes: Sizes, clock: Clock, record: Recorder) -> None:
    """Record facts about the device, and one line for the peak of each precision."""
    import torch

    for name, value in (_gpu() if clock.gpu else _cpu()).items():
        record.fact(name, value)
    for precision, dtype, tf32 in _FORMATS:
        values = {"model": f"product of {sizes.product_side}", "way": "torch.mm", "precision": precision}
        if not clock.gpu and precision in ("tf32", "fp16"):
            continue  # a CPU has no such units
        try:
            rate = product_rate(clock, getattr(torch, dtype), sizes.product_side, tf32, 2 * sizes.sample_seconds)
        except Exception as error:
            record.cell(values, why_not(error))
            continue
        record.cell({**values, "tflops": rate / 1e12})
        record.fact("peaks", {precision: rate})


def _cpu() -> dict[str, Any]:
    return {"device": processor_name(), "device_instructions": " ".join(matrix_instructions())}


def _gpu() -> dict[str, Any]:
    import torch

    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    free, whole = torch.cuda.mem_get_info()
    found: dict[str, Any] = {
        "device": about.name,
        "compute_capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "device_memory_gib": round(whole / 2**30, 1),
        "device_free_gib": round(free / 2**30, 1),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }
    return found | _told_by_driver()


def _told_by_driver() -> dict[str, Any]:
    """What `nvidia-smi` tells of the first GPU; nothing if there is no such program."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    command = [program, f"--query-gpu={','.join(_ASKED)}", "--format=csv,noheader"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in text.splitlines()[0].split(",")] if text.strip() else []
    return {name.replace(".", "_"): value for name, value in zip(_ASKED, values, strict=False)}
