"""Checks before a pretrained pipeline is tuned, on the driver: nothing starts if one of them fails.

Covers: what is checked and in which order, the notes for the user.
Does not cover: the checks themselves (`model.pretrained`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from daskt2i.config.settings import DatasetSettings, TrainSettings, Workflow
from daskt2i.events import Listener, Note
from daskt2i.loader.joined.joined_reader import Choice, open_reader
from daskt2i.model.pretrained.fit import padding_note, require_fits, times_note
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline, find
from daskt2i.model.pretrained.same_encoders import require_same
from daskt2i.model.pretrained.tuning import cost_of, require_finite, require_peft
from daskt2i.store.layout import about_store, padding_is_text
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


def planned_pipeline(settings: TrainSettings, folder: RunFolder | None) -> PretrainedPipeline | None:
    """The pipeline that is tuned, if its files and the numbers of the store fit together. It imports no torch.

    Args:
        folder: of the store; None if there is no store yet.

    Raises:
        ConfigError, ModelMissing, ModelError: they do not, or `peft` is missing.
    """
    if settings.pretrained is None:
        return None
    given = find(settings.pretrained)
    if settings.pretrained.method == "lora":
        require_peft()
    cost_of(given)
    stored = None if folder is None else about_store(ZarrStore(folder))
    if folder is not None and stored is not None:
        reader = open_reader(folder, 0, sample=False, choice=Choice(settings.view))
        reader.close()
        require_fits(given, reader.shapes, stored["text_encoder"])
    return given


def check_tuning(
    settings: TrainSettings, dataset: DatasetSettings, folder: RunFolder, stored: Mapping[str, Any], listener: Listener
) -> None:
    """All checks of a tuning, with those that read weights and run encoders.

    Raises:
        FingerprintMismatch: the store was made by other encoders than those of the pipeline.
        ConfigError, ModelMissing, ModelError: it does not fit, or weights are not finite.
    """
    given = planned_pipeline(settings, folder)
    if given is None:
        return
    require_finite(given)
    notes = require_same(given, dataset, stored)
    more = padding_note(given, not padding_is_text(stored)), times_note(given, settings.times)
    for text in filter(None, (*notes, *more)):
        listener(Note(text))


def kept_with_pipeline(workflow: Workflow, settings: TrainSettings) -> Workflow:
    """The workflow that the run folder keeps: its objective is that of the pipeline, so it contradicts nothing later.

    Args:
        settings: with what follows from the pipeline.
    """
    if settings.pretrained is None:
        return workflow
    follows = {"objective": settings.objective, "shift": settings.shift}
    return workflow.model_copy(update={"train": workflow.train.model_copy(update=follows)})


def models_to_send(find_encoders: Callable[[], object], settings: TrainSettings) -> Callable[[], object]:
    """A function that finds all models of a training, for hosts that lack them."""

    def found() -> object:
        if settings.pretrained is not None:
            find(settings.pretrained)
        return find_encoders()

    return found
