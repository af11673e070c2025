"""Figures over pictures that are drawn on the workers: each part comes back as features, and is kept.

Covers: parts on the workers, what is there already, statistics of the real pictures, the figures.
Does not cover: what is checked before (`prepare`), one part (`worker`), the formulas (`distances`), the judge
(`evaluation.driver`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import numpy as np

from daskt2i.config.settings import Workflow
from daskt2i.errors import Interrupted
from daskt2i.evaluation.figures import distances
from daskt2i.evaluation.figures.parts import Arrays, KeptParts, key_of
from daskt2i.evaluation.figures.prepare import Prepared, require_models
from daskt2i.evaluation.figures.reference import RealPictures
from daskt2i.evaluation.figures.request import FigureRequest, require_enough
from daskt2i.evaluation.figures.result import Figure, Figures
from daskt2i.evaluation.figures.statistics import Statistics, StatisticsFile, from_bytes, to_bytes
from daskt2i.evaluation.figures.worker import (
    PICTURES,
    TEXTS,
    FigureJob,
    features_of_drawn,
    features_of_real,
)
from daskt2i.evaluation.intervals import wilson
from daskt2i.events import Activity, Listener, Note, Progress, tell_deaths
from daskt2i.hosts.check import SAMPLE, check_workers
from daskt2i.hosts.sight import Needs, shown
from daskt2i.images.read import Limits
from daskt2i.model.pipeline import ABOUT, about
from daskt2i.protocols import Executor
from daskt2i.sample.driver import dataset_to_draw
from daskt2i.sample.painter import DrawnPicture, SampleRequest, SamplerSettings
from daskt2i.sample.worker import SampleJob
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import PIPELINE, REPORTS, SAMPLES, RunFolder
from daskt2i.types import Pixels

SHOWN = 64
"""Pictures of the contact sheet."""

_REAL_ROWS = 128
"""Real pictures of one part: some seconds of work."""

Work = Callable[[Any], Arrays]


def measure(
    workflow: Workflow,
    folder: RunFolder,
    executor: Executor,
    prepared: Prepared,
    requests: Sequence[SampleRequest],
    listener: Listener,
    every: bool = False,
) -> tuple[Figures, list[DrawnPicture]]:
    """Draw pictures, make features of them and of the real ones, and compute the figures of `evaluate.metrics`.

    Args:
        executor: not started yet; this function closes it at the end.
        requests: what to draw.
        every: whether all pictures are returned, and not only the first ones.

    Returns:
        the figures; the first pictures, or all.

    Raises:
        ModelMissing, ModelError: there is no trained model, or a model of features is missing.
        WorkerWithoutFiles: a host lacks the run folder, or a model of features.
        Interrupted: the user pressed Ctrl-C. Finished parts are kept.
        Daskt2iError: an error on a worker.
    """
    with closing(executor):
        wanted, request, real = workflow.evaluate, prepared.request, prepared.real
        dataset = dataset_to_draw(folder, workflow.dataset)
        claim(folder)
        try:
            workers = executor.start()
            label = f"{PIPELINE}/{ABOUT}"
            check_workers(executor, Needs(folder, shown(folder, label), label), workers.workers, 0.0, listener, SAMPLE)
            require_models(executor, request.models)
            models = request.models
            job = FigureJob(
                models=models,
                texts="clip" in request.metrics,
                device=workflow.run.device,
                threads=workers.threads,
                shown=len(requests) if every else SHOWN,
                kept=f"{SAMPLES}/evaluate" if wanted.keep_pictures else "",
            )
            compared = None
            if isinstance(real, RealPictures):
                compared = _statistics(workflow, folder, executor, real, request, job, listener)
            sample = workflow.sample
            how = SamplerSettings(sample.steps, sample.guidance, sample.sampler, sample.batch, workflow.run.keep_memory)
            drawing = SampleJob(folder, how, job.device, job.threads, dataset)
            found, pixels = _drawn(executor, drawing, job, requests, listener)
        except KeyboardInterrupt:
            raise Interrupted(
                "Stopped while pictures were drawn and measured. Finished parts are kept in reports/features; run "
                "evaluate again to go on."
            ) from None
    file, label, address = compared or (real, wanted.reference or "", "")
    listener(Activity("all parts are there; now the figures"))
    values = _values(request, found, file if isinstance(file, StatisticsFile) else None)
    counts = [one.count for one in file.by_kind.values()] if isinstance(file, StatisticsFile) else []
    figures = Figures(
        figures=tuple(values),
        drawn=len(requests),
        real=counts[0] if counts else 0,
        reference=label,
        models={model.kind: {"model": model.model, "digest": model.digest} for model in models},
        published=wanted.published,
        statistics=address,
    )
    return figures, [DrawnPicture(one, picture) for one, picture in zip(requests, pixels, strict=False)]


def _statistics(
    workflow: Workflow,
    folder: RunFolder,
    executor: Executor,
    real: RealPictures,
    request: FigureRequest,
    job: FigureJob,
    listener: Listener,
) -> tuple[StatisticsFile, str, str]:
    """The statistics of a place, its label, and the address of the file that keeps them for the next time."""
    source = real.open()
    info = source.info()
    made_of = real.made_of(info, request.models)
    name = f"{REPORTS}/reference-{key_of(made_of)}.safetensors"
    if folder.exists(name):
        return from_bytes(folder.read(name), name), info.label, folder.address(name)
    image = workflow.dataset.image
    starts = range(0, info.rows, _REAL_ROWS)
    kept = KeptParts(folder, {**made_of, "part": _REAL_ROWS})
    parts = ((start, tuple(source.rows(start, min(start + _REAL_ROWS, info.rows)))) for start in starts)
    work = partial(features_of_real, job, real, Limits(image.min_side, image.max_pixels))
    found = _all(executor, work, parts, kept, info.rows, "real pictures measured", listener)
    features: Arrays = {
        model.kind: np.concatenate([found[start][model.kind] for start in starts]) for model in job.models
    }
    count = len(next(iter(features.values())))
    require_enough(request, count, "readable real", workflow.evaluate.few_samples)
    if count < info.rows:
        listener(Note(f"{info.rows - count:,} of {info.rows:,} real pictures cannot be read, and are left out."))
    data = to_bytes(features, {**made_of, "count": count})
    folder.write(name, data)
    kept.remove()
    return from_bytes(data, name), info.label, folder.address(name)


def _drawn(
    executor: Executor, drawing: SampleJob, job: FigureJob, requests: Sequence[SampleRequest], listener: Listener
) -> tuple[Arrays, list[Pixels]]:
    """Features of all drawn pictures in the order of the requests, and the first pictures."""
    how, size = drawing.settings, drawing.settings.batch
    made_of = {
        "pipeline": about(drawing.folder).get("fingerprint"),
        "requests": key_of({"all": [[one.prompt, one.seed] for one in requests]}),
        "how": [how.steps, how.guidance, how.sampler, size],
        "models": {model.kind: model.digest for model in job.models},
        "texts": job.texts,
        "kept": job.kept,
        **({} if job.shown == SHOWN else {"shown": job.shown}),
    }
    starts = range(0, len(requests), size)
    parts = ((start, tuple(requests[start : start + size])) for start in starts)
    work = partial(features_of_drawn, job, drawing)
    kept = KeptParts(drawing.folder, made_of)
    found = _all(executor, work, parts, kept, len(requests), "pictures drawn and measured", listener)
    names = [*(model.kind for model in job.models), *([TEXTS] if job.texts else [])]
    pictures = [picture for start in starts for picture in found[start].get(PICTURES, ())]
    return {name: np.concatenate([found[start][name] for start in starts]) for name in names}, pictures


def _all(
    executor: Executor,
    work: Work,
    parts: Iterable[tuple[int, Sequence[Any]]],
    kept: KeptParts,
    total: int,
    label: str,
    listener: Listener,
) -> dict[int, Arrays]:
    """The arrays of each part by its start: those that are kept, and those that the workers make."""
    found: dict[int, Arrays] = {}
    left, done = [], 0
    for start, items in parts:
        there = kept.read(start)
        if there is None:
            left.append((start, items))
        else:
            found[start] = there
            done += len(items)
    if found:
        listener(Note(f"{done:,} of {total:,} were done before, and are not done again: {label}."))
    for (start, items), outcome in executor.run(work, left):
        tell_deaths(executor, listener, "measured")
        if isinstance(outcome, BaseException):
            raise outcome
        kept.write(start, outcome)
        found[start] = outcome
        done += len(items)
        listener(Progress(label, done, total))
    return found


def _values(request: FigureRequest, drawn: Arrays, real: StatisticsFile | None) -> list[Figure]:
    found: list[Figure] = []
    for metric in request.metrics:
        kind = request.model_of(metric).kind
        if metric == "clip":
            scores = distances.clip_scores(drawn[kind], drawn[TEXTS])
            mean, reach = float(scores.mean()), 1.96 * float(scores.std()) / len(scores) ** 0.5
            found.append(Figure("clip_score", max(mean, 0.0), (max(mean - reach, 0.0), max(mean + reach, 0.0))))
            continue
        assert real is not None
        found += _compared(metric, drawn[kind], real.by_kind[kind])
    return found


def _compared(metric: str, drawn: distances.Features, real: Statistics) -> list[Figure]:
    if metric == "fid":
        return [Figure("fid", distances.fid(drawn, real))]
    assert real.features is not None
    if metric == "kid":
        mean, deviation = distances.kid(drawn, real.features)
        return [Figure("kid", mean, (mean - 1.96 * deviation, mean + 1.96 * deviation))]
    if metric == "cmmd":
        return [Figure("cmmd", distances.cmmd(drawn, real.features))]
    inside, covered = distances.precision_recall(drawn, real.features)
    precision = Figure("precision", inside / len(drawn), wilson(inside, len(drawn)))
    return [precision, Figure("recall", covered / real.count, wilson(covered, real.count))]
