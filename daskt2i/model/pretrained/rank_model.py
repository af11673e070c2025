"""The denoiser of a pretrained pipeline on a rank: built, tuned, and exported.

Covers: the model with its base's weights, what is trained of it, its noise levels and its scheduler, the plain model
that a pipeline folder gets, the files of LoRA.
Does not cover: the loop (`train.loop`), the pipeline folder (`model.pipeline`), checks (`train.upkeep.tuning_checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.training.pretrained import PretrainedSettings
from daskt2i.model import pipeline
from daskt2i.model.pretrained import lora_files, tuning
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline, find
from daskt2i.model.pretrained.schedule import alphas_of
from daskt2i.store.artifacts.finished import LORA_FOLDER
from daskt2i.store.artifacts.publish import publishing
from daskt2i.store.run_folder import RunFolder


class TunedModel:
    """A pipeline whose denoiser this rank tunes.

    Args:
        settings: of the pipeline.

    Raises:
        ModelMissing, ModelError: it is not on this host, or cannot be read.
    """

    def __init__(self, settings: PretrainedSettings) -> None:
        self.settings = settings
        self.given: PretrainedPipeline = find(settings)

    def alphas(self) -> npt.NDArray[np.float64] | None:
        """The noise levels of the base; None for flow."""
        return None if self.given.objective == "flow" else alphas_of(self.given.scheduler, self.given.name)

    def scheduler(self) -> dict[str, Any]:
        """The config of the scheduler that draws, with noise levels and defaults of the base's scheduler."""
        import diffusers

        given = {key: value for key, value in self.given.scheduler.items() if not key.startswith("_")}
        kind = getattr(diffusers, str(self.given.scheduler.get("_class_name")), diffusers.DDIMScheduler)
        return dict(pipeline.scheduler_for(kind.from_config(given).config, "dpm++").config)

    def begin(self, model: Any, seed: int) -> Any:
        """Put the base's weights into a new model, and freeze what is not trained.

        Raises:
            ConfigError, ModelError: see `tuning`.
        """
        tuning.load_weights(model, self.given)
        tuning.choose(model, self.settings, self.given.name, seed)
        return model.train()

    def plain(self, model: Any, build: Callable[[], Any]) -> Any:
        """A model of the base's class, with all that was learned in the base's own weights.

        Args:
            build: makes a new model of the base's config.
        """
        if self.settings.method != "lora":
            return model
        made = build()
        made.load_state_dict(tuning.merged(model, self.settings.lora.scale))
        return made.eval().requires_grad_(False)

    def finish(self, model: Any, folder: RunFolder, label: Mapping[str, Any]) -> dict[str, Any]:
        """Write `lora/` into the run folder if there is one, and return the figures of the tuning.

        Args:
            label: of the training.

        Raises:
            StoreFull, StoreError: it cannot be written.
        """
        found: dict[str, Any] = {"trained": sum(weight.numel() for weight in tuning.trained(model).values())}
        if self.settings.method != "lora":
            return found
        with publishing(folder, LORA_FOLDER) as new:
            lora_files.write(tuning.adapters(model), self.settings.lora.scale, self.given.part, new.place)
            new.label.update({**label, "base": self.given.name, "base_weights": self.given.weights})
        return {**found, "lora": folder.address(LORA_FOLDER.name)}
