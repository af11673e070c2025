"""Which pictures `evaluate` draws: prompts that the model has not seen, and a seed for each picture.

Covers: sentences for drawn scenes, captions of held-out rows or of the pictures to compare with, the order of seeds.
Does not cover: making sentences (`unseen_prompts`), reading captions (`heldout_captions`, `figures.reference`).
"""

from __future__ import annotations

from collections.abc import Sequence

from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.evaluation.figures.prepare import Prepared
from daskt2i.evaluation.figures.reference import RealPictures, captions_of
from daskt2i.evaluation.heldout_captions import heldout_captions, of_training
from daskt2i.evaluation.judging import expectation
from daskt2i.evaluation.unseen_prompts import unseen_prompts
from daskt2i.sample.driver import requests_for
from daskt2i.sample.painter import SampleRequest
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


def judged_requests(workflow: Workflow, folder: RunFolder, prompts: Sequence[str] | None) -> list[SampleRequest]:
    """Each prompt with several seeds, for the judge and for CLIP scores.

    Args:
        prompts: None for those that the model has not seen.

    Raises:
        ConfigError: there are no prompts, or the judge cannot read one.
    """
    wanted = workflow.evaluate
    if prompts is None:
        prompts = _unseen(workflow, folder, wanted.prompts)
    if wanted.clip_model is None or "judge" in wanted.metrics:
        for prompt in prompts:
            expectation(prompt)  # refused before minutes of drawing
    return requests_for(prompts, workflow.sample.seed, wanted.seeds)


def figure_requests(
    workflow: Workflow, folder: RunFolder, prompts: Sequence[str] | None, prepared: Prepared
) -> list[SampleRequest]:
    """One picture of each prompt, in turn; with the judge, its own pictures, so that they are drawn once.

    Args:
        prompts: None for captions of the pictures to compare with, if they were given and have some; else for those
            that the model has not seen.

    Raises:
        ConfigError: there are no prompts, or the judge cannot read one.
    """
    wanted, first, count = workflow.evaluate, workflow.sample.seed, prepared.request.samples
    judged = "judge" in wanted.metrics
    if judged and wanted.samples is None:
        return judged_requests(workflow, folder, prompts)
    if prompts is None and not judged and isinstance(prepared.real, RealPictures) and wanted.reference is not None:
        prompts = captions_of(prepared.real.open(), count, first)
    texts = prompts or _unseen(workflow, folder, count)
    if judged:
        for prompt in texts:
            expectation(prompt)
    return [SampleRequest(texts[n % len(texts)], first + n) for n in range(count)]


def _unseen(workflow: Workflow, folder: RunFolder, count: int) -> list[str]:
    """For drawn scenes: sentences that are not in the data. For other data: captions of held-out rows."""
    if workflow.scenes is not None:
        known: list[str] = []
        if ZarrStore(folder).attributes() is not None:
            store = ZarrStore(folder)
            known = [str(text) for text in store.read("caption", 0, store.layout()["rows"]).ravel()]
        return unseen_prompts(count, known, workflow.scenes.shapes)
    settings = of_training(workflow.train, folder)
    found = heldout_captions(settings, folder, count)
    if not found:
        none = "the training held out none (train.validation is 0)"
        why = "all rows share captions or pictures" if settings.validation else none
        raise ConfigError(
            f"evaluate takes its prompts from validation rows, but {why}, so nothing was drawn. Give prompts (prompts)."
        )
    return found
