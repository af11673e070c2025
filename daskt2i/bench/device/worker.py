"""The process that measures: `python -m daskt2i.bench.device.worker TASK LINES`, a JSON file and a file to write.

Covers: the parts in their order, each with its share of the time that is left.
Does not cover: ending a part that hangs (`driver`). People do not type this command.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from daskt2i.bench.device.clock import Clock, why_not
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import sizes
from daskt2i.deploy.child_processes import end_with_parent
from daskt2i.machine.allocator import keep_memory

SHARES = {"device": 1, "encoders": 8, "whole": 5, "training": 6, "drawing": 4, "kernels": 2}
"""The parts in their order, and how the time is shared among those that are still to come."""


@dataclass(frozen=True, slots=True)
class DeviceTask:
    """What to measure.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.
        tiny: whether to use the tiny sizes.
        parts: names of `SHARES`.
        seconds: time for all of them.
        parent: process id of the command.
    """

    device: str
    tiny: bool
    parts: tuple[str, ...]
    seconds: float
    parent: int = 0

    def to_json(self) -> str:
        """The task as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeviceTask:
        """Read the result of `to_json`."""
        data = json.loads(text)
        return cls(**{**data, "parts": tuple(data["parts"])})


def perform(task: DeviceTask, record: Recorder) -> None:
    """Measure the parts, and write what was found. An error of a part becomes a line, and the next part begins.

    Raises:
        Exception: the device does not work any more after a part.
    """
    from daskt2i.bench.device.parts import drawing, encoders, hardware, kernels, training, whole_path
    from daskt2i.machine.machine import this_machine

    end = time.monotonic() + task.seconds
    clock = Clock(task.device, 1 if task.tiny else this_machine().cores)
    with tempfile.TemporaryDirectory(prefix="daskt2i-bench-") as temporary:
        place = Path(temporary)
        chosen = sizes(task.tiny, place)
        calls: dict[str, Callable[[], None]] = {
            "device": lambda: hardware.measure(chosen, clock, record),
            "encoders": lambda: encoders.measure(chosen, clock, record),
            "whole": lambda: whole_path.measure(chosen, clock, record, place),
            "training": lambda: training.measure(chosen, clock, record, place),
            "drawing": lambda: drawing.measure(chosen, clock, record, place),
            "kernels": lambda: kernels.measure(chosen, clock, record),
        }
        for number, part in enumerate(task.parts):
            later = sum(SHARES[name] for name in task.parts[number:])
            record.begin(part, max(0.0, end - time.monotonic()) * SHARES[part] / later)
            try:
                calls[part]()
            except Exception as error:
                record.failed(why_not(error))
            clock.free()
            # After some errors nothing works any more on a GPU in this process. Then it ends here, with the error, and
            # a new process measures the rest.
            clock.seconds(lambda: None)
            record.end()


def main(arguments: list[str]) -> None:
    """Do the task of the first file. The second file gets the lines."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command ends this process
    task = DeviceTask.from_json(Path(arguments[0]).read_text(encoding="utf-8"))
    end_with_parent(task.parent)
    keep_memory()
    perform(task, Recorder(Path(arguments[1])))


if __name__ == "__main__":
    main(sys.argv[1:])
