"""The evaluate stage: draw unseen prompts, and measure whether the pictures show them.

Covers: the choice of prompts, drawing them, the contact sheet and the figures in `reports/`.
Does not cover: the measures (`judging`, `clip_scores`), drawing (`sample.driver`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.evaluation.clip_scores import by_clip
from daskt2i.evaluation.heldout_captions import heldout_captions, of_training
from daskt2i.evaluation.judging import by_judge, expectation
from daskt2i.evaluation.result import SHEET, EvaluateResult
from daskt2i.evaluation.unseen_prompts import unseen_prompts
from daskt2i.events import Listener, ignore
from daskt2i.protocols import Executor
from daskt2i.sample.driver import draw, requests_for
from daskt2i.sample.image_grid import image_grid, png
from daskt2i.sample.painter import SamplerSettings
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.store.zarr_store import ZarrStore

_SHEET_PICTURES = 128


def evaluate(
    workflow: Workflow,
    folder: RunFolder,
    executor: Executor,
    prompts: Sequence[str] | None = None,
    listener: Listener = ignore,
) -> EvaluateResult:
    """Draw unseen prompts with several seeds each, and measure whether the pictures show them.

    Args:
        executor: not started yet; this function closes it at the end.
        prompts: used instead of the prompts of the workflow.
        listener: gets the number of drawn and of judged pictures.

    Raises:
        ConfigError: there are no prompts, or the judge cannot read them.
        Daskt2iError: pictures could not be drawn.
    """
    wanted, sample = workflow.evaluate, workflow.sample
    if prompts is None:
        prompts = _prompts(workflow, folder)
    settings = SamplerSettings(sample.steps, sample.guidance, sample.sampler, sample.batch, workflow.run.keep_memory)
    if wanted.clip_model is None:
        for prompt in prompts:
            expectation(prompt)  # refused before minutes of drawing
    requests = requests_for(prompts, sample.seed, wanted.seeds)
    pictures = draw(folder, requests, settings, executor, workflow.run.device, listener, workflow.dataset)
    found = EvaluateResult(len(prompts), wanted.seeds, folder.address(SHEET), folder)
    marks: list[bool | None] | None = None
    labels = [request.prompt for request in requests]
    if wanted.clip_model is None:
        fidelity = by_judge(pictures, listener)
        found, marks = replace(found, fidelity=fidelity), list(fidelity.right)
        labels = [f"{text} [{why}]" if why else text for text, why in zip(labels, fidelity.problems, strict=True)]
    else:
        device = "cpu" if workflow.run.device == "auto" else workflow.run.device
        found = replace(found, clip=by_clip(pictures, wanted.clip_model, device))
    # Sort by seed first, so that the sheet shows as many prompts as possible.
    order = sorted(range(len(pictures)), key=lambda i: (i % wanted.seeds, i))[:_SHEET_PICTURES]
    page = image_grid(
        [pictures[i].pixels for i in order], [labels[i] for i in order], marks=marks and [marks[i] for i in order]
    )
    claim(folder)
    folder.write(SHEET, png(page, {"Software": "daskt2i"}))
    folder.write(f"{REPORTS}/evaluate.json", (json.dumps(found.to_json(), indent=1) + "\n").encode())
    return found


def _prompts(workflow: Workflow, folder: RunFolder) -> list[str]:
    """For drawn scenes: sentences that are not in the data. For other data: captions of held-out rows."""
    count = workflow.evaluate.prompts
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
