"""Captions of validation rows, as prompts that the model has not seen.

Covers: the first caption of each of the first validation rows.
Does not cover: sentences about drawn scenes (`unseen_prompts`), suggestions from all captions (`insights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from daskt2i.config.settings import TrainSettings, completed
from daskt2i.loader.dataset import SAMPLES, LatentDataset
from daskt2i.loader.joined.joined_reader import place_of
from daskt2i.model import pipeline
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

_DIVIDE = ("validation", "seed", "where", "view")
"""Settings of `train:` that divide the rows."""


def of_training(settings: TrainSettings, folder: RunFolder) -> TrainSettings:
    """The settings with what divided the rows in the pipeline's training: other values divide them otherwise, so that
    captions that the model learned would count as unseen."""
    section = completed(_identity(folder)).get("train")
    if not isinstance(section, Mapping):
        return settings
    return settings.model_copy(update={name: section[name] for name in _DIVIDE})


def heldout_captions(settings: TrainSettings, folder: RunFolder, count: int) -> list[str]:
    """The first caption of each of the first `count` validation rows of the pipeline's training, or of fewer.

    The list is empty if the training held out no rows.

    Args:
        settings: they choose the rows if the pipeline does not say how it was trained.

    Raises:
        StoreMissing, StoreError: the store cannot be read.
    """
    settings = of_training(settings, folder)
    if not settings.validation:
        return []
    data = LatentDataset(
        folder,
        seed=settings.seed,
        batch=settings.batch,
        window=settings.shuffle_window,
        heldout=settings.validation,
        where=settings.where,
        view=settings.view,
        older=SAMPLES not in _identity(folder),
    )
    rows = np.sort(data.heldout)[:count]
    data.close()
    return [_first_caption(*place_of(folder, int(row))) for row in rows]


def _first_caption(store: ZarrStore, row: int) -> str:
    return str(store.read("caption", row, row + 1)[0, 0])


def _identity(folder: RunFolder) -> Mapping[str, Any]:
    """What decided the training of the pipeline; empty if it does not say."""
    found = pipeline.about(folder).get("identity")
    return found if isinstance(found, Mapping) else {}
