"""Draw picture after picture in this process, as somebody types: `Run.painter`.

Covers: the pipeline of a run folder in memory, single pictures, previews of each step, ending one early, PNG files.
Does not cover: many pictures over workers (`driver`), the drawing itself (`painter`).

A picture of the same prompt, seed, steps, guidance and sampler is the one of `Run.sample`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.samplers import SAMPLERS, SAMPLERS_TEXT, Sampler
from daskt2i.config.settings import DatasetSettings, SampleSettings
from daskt2i.errors import ConfigError
from daskt2i.machine.machine import this_machine
from daskt2i.sample.driver import dataset_to_draw, requests_for
from daskt2i.sample.image_grid import png
from daskt2i.sample.painter import DrawnPicture, SamplerSettings
from daskt2i.sample.worker import SampleJob, painter_for
from daskt2i.store.run_folder import RunFolder

OnPreview = Callable[[int, int, npt.NDArray[np.uint8]], None]
"""Called after each step with the step (from 1), the number of steps, and a small picture `uint8[y, x, 3]`. What it
raises ends the drawing."""


@dataclass(frozen=True, slots=True)
class LivePicture:
    """A drawn picture with what it was drawn with.

    Attributes:
        drawn: the picture.
        settings: steps, guidance and sampler.
        model: fingerprint of the model, as in the files of `Run.sample`.
    """

    drawn: DrawnPicture
    settings: SamplerSettings
    model: str

    def about(self) -> dict[str, Any]:
        """What it was drawn with, by the names that its PNG file has."""
        return {
            "Prompt": self.drawn.request.prompt,
            "Seed": self.drawn.request.seed,
            "Steps": self.settings.steps,
            "Guidance": self.settings.guidance,
            "Sampler": self.settings.sampler,
            "Model": self.model,
            "Software": "daskt2i",
        }

    def png(self) -> bytes:
        """The picture as a PNG file that holds `about`."""
        return png(self.drawn.pixels, self.about())


class LivePainter:
    """The trained model in this process. One thread draws at a time: the next call waits for the running one.

    Args:
        folder: the run folder.
        dataset: section of the workflow, for a pipeline without encoders.
        defaults: section of the workflow.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelMissing, ModelError: there is no trained model, or it cannot be loaded.
    """

    def __init__(self, folder: RunFolder, dataset: DatasetSettings, defaults: SampleSettings, device: str) -> None:
        self.defaults = defaults
        self._folder, self._device = folder, device
        self._dataset = dataset_to_draw(folder, dataset)
        self._threads = this_machine().cores

    def draw(
        self,
        prompt: str,
        seed: int | None = None,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: Sampler | None = None,
        count: int = 1,
        on_preview: OnPreview | None = None,
    ) -> list[LivePicture]:
        """Draw one prompt. What is None has its value in `sample` of the workflow.

        Args:
            count: pictures with the seeds `seed`, `seed + 1`, …; they are one batch.
            on_preview: gets the first of them after each step.

        Raises:
            ConfigError: the prompt or the seed cannot be used, or there is no such sampler.
        """
        own = self.defaults
        if sampler is not None and sampler not in SAMPLERS:
            raise ConfigError(f"There is no sampler {sampler!r}, so nothing was drawn. Give one of {SAMPLERS_TEXT}.")
        requests = requests_for([prompt], own.seed if seed is None else seed, count)
        how = SamplerSettings(
            own.steps if steps is None else steps,
            own.guidance if guidance is None else guidance,
            own.sampler if sampler is None else sampler,
            count,
            keep_memory=False,
        )
        painter = painter_for(SampleJob(self._folder, how, self._device, self._threads, self._dataset))
        tell = None if on_preview is None else lambda step, of, small: on_preview(step, of, small[0])
        model = str(painter.about.get("fingerprint", ""))
        return [LivePicture(drawn, how, model) for drawn in painter.paint(requests, how, tell)]
