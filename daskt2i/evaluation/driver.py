"""The evaluate stage: draw unseen prompts, and measure whether the pictures show them.

Covers: drawing, the contact sheet and the figures in `reports/`.
Does not cover: the choice of prompts (`requests`), the measures (`judging`, `clip_scores`, `figures`), drawing
(`sample.driver`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.evaluation.clip_scores import by_clip
from daskt2i.evaluation.figures.driver import measure
from daskt2i.evaluation.figures.prepare import prepare
from daskt2i.evaluation.judging import by_judge
from daskt2i.evaluation.requests import figure_requests, judged_requests
from daskt2i.evaluation.result import SHEET, EvaluateResult
from daskt2i.events import Listener, ignore
from daskt2i.protocols import Executor
from daskt2i.sample.driver import draw
from daskt2i.sample.image_grid import image_grid, png
from daskt2i.sample.painter import DrawnPicture, SamplerSettings
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.types import Pixels

_SHEET_PICTURES = 128


def evaluate(
    workflow: Workflow,
    folder: RunFolder,
    make_executor: Callable[[], Executor],
    prompts: Sequence[str] | None = None,
    listener: Listener = ignore,
) -> EvaluateResult:
    """Draw unseen prompts, and measure the pictures: by the judge, by CLIP, or by the figures of `evaluate.metrics`.

    Args:
        make_executor: makes an executor that is not started yet; this function closes it at the end.
        prompts: used instead of the prompts of the workflow.
        listener: gets the number of drawn and of judged pictures.

    Raises:
        ConfigError: there are no prompts, the judge cannot read them, or a figure lacks something.
        Daskt2iError: pictures could not be drawn.
    """
    metrics = workflow.evaluate.metrics
    if any(metric != "judge" for metric in metrics):
        prepared = prepare(workflow, folder, prompts)
        requests, judged = figure_requests(workflow, folder, prompts, prepared), "judge" in metrics
        figures, pictures = measure(workflow, folder, make_executor(), prepared, requests, listener, every=judged)
    else:
        requests, judged, figures = judged_requests(workflow, folder, prompts), True, None
        sample = workflow.sample
        how = SamplerSettings(sample.steps, sample.guidance, sample.sampler, sample.batch, workflow.run.keep_memory)
        device = workflow.run.device
        pictures = draw(folder, requests, how, make_executor(), device, listener, workflow.dataset)
    seeds = workflow.evaluate.seeds if judged and (figures is None or workflow.evaluate.samples is None) else 1
    count = len(requests) // seeds if judged else len({request.prompt for request in requests})
    found = EvaluateResult(count, seeds, folder.address(SHEET), folder, figures=figures)
    if judged:
        found, page = _judged(workflow, found, pictures, listener)
    else:
        page = image_grid([one.pixels for one in pictures], [one.request.prompt for one in pictures])
    claim(folder)
    folder.write(SHEET, png(page, {"Software": "daskt2i"}))
    folder.write(f"{REPORTS}/evaluate.json", (json.dumps(found.to_json(), indent=1) + "\n").encode())
    return found


def check_figures(workflow: Workflow, folder: RunFolder, rows: int) -> None:
    """Refuse an evaluation that would fail after a training of days: figures that lack something.

    Args:
        rows: number of images that will be encoded.

    Raises:
        ConfigError, ModelMissing, ModelError, SourceError: see `figures.prepare.prepare`.
    """
    if any(metric != "judge" for metric in workflow.evaluate.metrics):
        prepare(workflow, folder, None, rows)


def _judged(
    workflow: Workflow, found: EvaluateResult, pictures: Sequence[DrawnPicture], listener: Listener
) -> tuple[EvaluateResult, Pixels]:
    """The result with the shares of the judge, or with CLIP scores; and the contact sheet."""
    wanted = workflow.evaluate
    marks: list[bool | None] | None = None
    labels = [picture.request.prompt for picture in pictures]
    if wanted.clip_model is None or "judge" in wanted.metrics:
        fidelity = by_judge(pictures, listener)
        found, marks = replace(found, fidelity=fidelity), list(fidelity.right)
        labels = [f"{text} [{why}]" if why else text for text, why in zip(labels, fidelity.problems, strict=True)]
    else:
        device = "cpu" if workflow.run.device == "auto" else workflow.run.device
        found = replace(found, clip=by_clip(pictures, wanted.clip_model, device))
    # Sort by seed first, so that the sheet shows as many prompts as possible.
    order = sorted(range(len(pictures)), key=lambda i: (i % found.seeds, i))[:_SHEET_PICTURES]
    shown = [pictures[i].pixels for i in order]
    return found, image_grid(shown, [labels[i] for i in order], marks=marks and [marks[i] for i in order])
