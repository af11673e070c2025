"""Captions of validation rows, as prompts that the model has not seen.

Covers: the first caption of each of the first validation rows.
Does not cover: sentences about drawn scenes (`fidelity.unseen_prompts`), suggestions from all captions (`insights`).
"""

from __future__ import annotations

import numpy as np

from daskt2i.config.settings import TrainSettings
from daskt2i.loader.dataset import SAMPLES, LatentDataset
from daskt2i.model import pipeline
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


def heldout_captions(settings: TrainSettings, folder: RunFolder, count: int) -> list[str]:
    """The first caption of each of the first `count` validation rows of the pipeline's training, or of fewer.

    Args:
        settings: `validation`, at least 1, and `seed` choose the rows.

    Raises:
        StoreMissing, StoreError: the store cannot be read.
    """
    data = LatentDataset(
        folder,
        seed=settings.seed,
        batch=settings.batch,
        window=settings.shuffle_window,
        heldout=settings.validation,
        older=SAMPLES not in pipeline.about(folder).get("identity", {}),
    )
    rows = np.sort(data.heldout)[:count]
    data.close()
    store = ZarrStore(folder)
    return [str(store.read("caption", int(row), int(row) + 1)[0, 0]) for row in rows]
