"""The number of parameters of a denoiser, before a rank builds it.

Covers: presets, whose number is known; other models, which are built without their weights.
Does not cover: memory (`rank_memory`), pipelines that are tuned (`model.pretrained.tuning`).
"""

from __future__ import annotations

from daskt2i.config.settings import TrainSettings
from daskt2i.model.denoisers.denoiser import StoreFacts
from daskt2i.model.denoisers.kinds import KINDS, class_of, kind_of


def parameters_of(settings: TrainSettings, facts: StoreFacts) -> int:
    """The number of parameters; 0 if it is not known. A model without a preset takes seconds: torch is imported.

    Args:
        facts: of the store, which decides channels and widths.
    """
    model, kind = settings.model, kind_of(settings.model)
    if settings.pretrained is not None:
        return 0
    if known := kind.presets.get(model.preset or "", 0):
        return known
    import torch

    try:
        config = kind.config(model.preset, model.config, facts)
        with torch.device("meta"):  # shapes alone: no memory, no numbers, so no sample can go through it
            built = class_of(kind)(**config) if kind.class_path in KINDS else kind.build(config, settings.seed)
    except Exception:  # a class of the user's may need numbers; and what is wrong with a config, the training says
        return 0
    return sum(one.numel() for one in built.parameters())
