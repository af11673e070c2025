"""Draw a part of the pictures on one worker, with the one pipeline that its process holds.

Covers: loading the pipeline of a run folder once per process, drawing a part of the pictures.
Does not cover: the drawing itself (`painter`), the choice of pictures (`driver`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass

from daskt2i.config.settings import DatasetSettings
from daskt2i.encode.model_cache import REPEATABLE, without_collection
from daskt2i.hosts.model_files import bring_models
from daskt2i.machine.allocator import keep_memory
from daskt2i.model.own_encoders import OwnEncoders
from daskt2i.model.pipeline import about, local
from daskt2i.sample.other_model import NO_OTHER, OtherModel
from daskt2i.sample.painter import DrawnPicture, Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder

Part = tuple[int, tuple[SampleRequest, ...]]
"""The number of the first request of a part, and the requests of the part."""


@dataclass(frozen=True, slots=True)
class SampleJob:
    """The values that each worker needs besides its part of the requests.

    Attributes:
        folder: the run folder.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: torch threads of each worker.
        dataset: section of the workflow, if the pipeline has no encoders of its own.
        other: another pipeline, or a LoRA.
    """

    folder: RunFolder
    settings: SamplerSettings
    device: str
    threads: int
    dataset: DatasetSettings | None = None
    other: OtherModel = NO_OTHER


_turn = threading.Lock()
_held: tuple[str, Painter] | None = None
"""The pipeline of this process, and the key that identifies it."""


def painter_for(task: SampleJob) -> Painter:
    """The pipeline of a run folder. Loads it if this process does not hold it yet.

    Raises:
        ModelMissing, ModelError: there is no pipeline, or it cannot be loaded.
        ConfigError: this machine has no such device.
    """
    global _held
    os.environ.setdefault("MKL_CBWR", REPEATABLE)
    if task.settings.keep_memory:
        keep_memory()
    from daskt2i.machine.precision import check_device, default_device

    device = default_device() if task.device == "auto" else check_device(task.device)
    # The key includes the training data and settings, so a pipeline of another training is loaded again.
    found = task.other.brought(task.folder)
    given = found.pipeline
    label = about(task.folder) if given is None else given.weights
    key = repr((str(task.folder), device, label, task.dataset, task.other))
    with _turn:
        if _held is None or _held[0] != key:
            _held = None
            if task.dataset is not None:
                bring_models(task.dataset.encoders, task.dataset.image.side, task.folder)
            source = local(task.folder) if given is None else contextlib.nullcontext(given.folder)
            with source as place, without_collection():
                own = None if task.dataset is None else OwnEncoders(task.dataset, device, task.threads)
                lora = None if found.lora is None else (found.lora, task.other.lora_scale)
                _held = (key, Painter(place, device, task.threads, own, lora))
        return _held[1]


def draw_part(task: SampleJob, part: Part) -> list[DrawnPicture]:
    """On a worker: draw a part of the pictures."""
    return list(painter_for(task).paint(part[1], task.settings))
