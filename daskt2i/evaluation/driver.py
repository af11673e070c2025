"""The evaluate stage: draw unseen prompts, and measure whether the pictures show them.

Covers: the choice of prompts, drawing them, the contact sheet and the figures in `reports/`.
Does not cover: the measures (`judging`, `clip_scores`, `figures`), drawing (`sample.driver`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.evaluation.clip_scores import by_clip
from daskt2i.evaluation.figures.driver import measure
from daskt2i.evaluation.figures.result import Figures
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
from daskt2i.types import Pixels

_SHEET_PICTURES = 128


def evaluate(
    workflow: Workflow,
    folder: RunFolder,
    executors: Callable[[], Executor],
    prompts: Sequence[str] | None = None,
    listener: Listener = ignore,
) -> EvaluateResult:
    """Draw unseen prompts, and measure the pictures: by the judge, by CLIP, or by the figures of `evaluate.metrics`.

    Args:
        executors: makes an executor that is not started yet; this function closes it at the end. The judge and the
            figures have one each.
        prompts: used instead of the prompts of the workflow.
        listener: gets the number of drawn and of judged pictures.

    Raises:
        ConfigError: there are no prompts, the judge cannot read them, or a figure lacks something.
        Daskt2iError: pictures could not be drawn.
    """
    metrics = workflow.evaluate.metrics
    figures: tuple[Figures, list[Pixels], list[str]] | None = None
    if any(metric != "judge" for metric in metrics):

        def unseen(count: int) -> list[str]:
            return _prompts(workflow, folder, count)

        figures = measure(workflow, folder, executors(), prompts, unseen, listener)
    if metrics and "judge" not in metrics:
        assert figures is not None
        measured, pictures, labels = figures
        page, texts = image_grid(pictures, labels), len(set(prompts)) if prompts else measured.drawn
        found = EvaluateResult(texts, 1, folder.address(SHEET), folder, figures=measured)
    else:
        found, page = _judged(workflow, folder, executors(), prompts, listener)
        found = replace(found, figures=figures and figures[0])
    claim(folder)
    folder.write(SHEET, png(page, {"Software": "daskt2i"}))
    folder.write(f"{REPORTS}/evaluate.json", (json.dumps(found.to_json(), indent=1) + "\n").encode())
    return found


def _judged(
    workflow: Workflow, folder: RunFolder, executor: Executor, prompts: Sequence[str] | None, listener: Listener
) -> tuple[EvaluateResult, Pixels]:
    """The shares of the judge, or CLIP scores, of several seeds of each prompt; and the contact sheet."""
    wanted, sample = workflow.evaluate, workflow.sample
    by_eye = wanted.clip_model is None or "judge" in wanted.metrics
    if prompts is None:
        prompts = _prompts(workflow, folder, wanted.prompts)
    settings = SamplerSettings(sample.steps, sample.guidance, sample.sampler, sample.batch, workflow.run.keep_memory)
    if by_eye:
        for prompt in prompts:
            expectation(prompt)  # refused before minutes of drawing
    requests = requests_for(prompts, sample.seed, wanted.seeds)
    pictures = draw(folder, requests, settings, executor, workflow.run.device, listener, workflow.dataset)
    found = EvaluateResult(len(prompts), wanted.seeds, folder.address(SHEET), folder)
    marks: list[bool | None] | None = None
    labels = [request.prompt for request in requests]
    if by_eye:
        fidelity = by_judge(pictures, listener)
        found, marks = replace(found, fidelity=fidelity), list(fidelity.right)
        labels = [f"{text} [{why}]" if why else text for text, why in zip(labels, fidelity.problems, strict=True)]
    else:
        assert wanted.clip_model is not None
        device = "cpu" if workflow.run.device == "auto" else workflow.run.device
        found = replace(found, clip=by_clip(pictures, wanted.clip_model, device))
    # Sort by seed first, so that the sheet shows as many prompts as possible.
    order = sorted(range(len(pictures)), key=lambda i: (i % wanted.seeds, i))[:_SHEET_PICTURES]
    shown = [pictures[i].pixels for i in order]
    return found, image_grid(shown, [labels[i] for i in order], marks=marks and [marks[i] for i in order])


def _prompts(workflow: Workflow, folder: RunFolder, count: int) -> list[str]:
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
