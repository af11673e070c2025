"""The insights stage: find the facts of all rows on an executor, make a report, and write it into the run folder.

Covers: chunks of rows for the workers, the values that a worker needs, writing the reports.
Does not cover: one chunk (`facts.survey`), the totals (`report`), the page (`page`), where chunks run (`executors`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from time import perf_counter

from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings, Workflow
from daskt2i.errors import SourceError
from daskt2i.events import Listener, Progress, ignore, tell_deaths
from daskt2i.facts.expression import parse_where
from daskt2i.facts.selection import boxed_persons, keep_facts, keep_index, kept_rows, survey_of
from daskt2i.facts.survey import Surveyed, fold, survey_chunk
from daskt2i.facts.table import to_csv
from daskt2i.hosts.check import INSIGHTS, check_workers
from daskt2i.hosts.sight import Needs, first_image
from daskt2i.insights import page
from daskt2i.insights.report import TOP, InsightsResult, make_report
from daskt2i.plan import ChunkGrid
from daskt2i.protocols import Executor, Source
from daskt2i.store.ownership import claim, refuse_foreign
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.types import Chunk

HTML, JSON, CSV = f"{REPORTS}/insights.html", f"{REPORTS}/insights.json", f"{REPORTS}/insights.csv"

MOST_ROWS = 1024
"""Rows of one task: 1 to 10 seconds of work, and a result of about 100 KB."""


def settled(workflow: Workflow) -> DatasetSettings:
    """The workflow's data set with absolute paths, because workers may run in another folder."""
    dataset = workflow.dataset
    text = dataset.encoders.text.absolute()
    encoders = dataset.encoders.model_copy(update={"text": text})
    return dataset.model_copy(update={"source": dataset.source.absolute(), "encoders": encoders})


def insights(
    dataset: DatasetSettings,
    folder: RunFolder,
    executor: Executor,
    *,
    pictures: bool = True,
    tokens: bool = True,
    top: int = TOP,
    listener: Listener = ignore,
) -> InsightsResult:
    """Find the facts of all rows, count them, and write the reports.

    Args:
        dataset: the result of `settled`.
        folder: the run folder; the reports go into its `reports/`.
        executor: not started yet; this function always closes it at the end.
        pictures: read the image files too.
        tokens: count tokens with the text encoder of the workflow.
        top: number of activities to list.
        listener: gets the number of rows that were read.

    Raises:
        ConfigError: `where` or the rules are wrong. SourceError: the source cannot be used.
        Daskt2iError, OSError: a chunk could not be read, because a disk or a network failed.
    """
    begun = perf_counter()
    refuse_foreign(folder)
    expression = None if dataset.where is None else parse_where(dataset.where)
    source: Source = dataset.source.build(Source, "dataset.source")
    keep_index(source, folder, write=True)
    info = source.info()
    if info.rows == 0:
        raise SourceError(f"The source has no rows ({info.label}), so there is nothing to report.")
    persons = boxed_persons(dataset)
    text = dataset.encoders.text if tokens else None
    with closing(executor):
        executor_info = executor.start()
        if pictures:
            _require_images(dataset, source, folder, executor, executor_info.workers, listener)
        parts = _surveyed(dataset, source, executor, info.rows, executor_info.workers, pictures, text, listener)
    table = fold(parts, dataset.facts.near, persons)
    keep_facts(table, dataset, source, folder, pictures=pictures)
    report = make_report(
        info,
        table,
        parts,
        lambda row, number: next(iter(source.rows(row, row + 1))).captions[number],
        kept=None if expression is None else kept_rows(table, expression),
        looked=pictures,
        top=top,
    )
    report = replace(
        report,
        where="" if expression is None else expression.text,
        workers=executor_info.workers,
        files={"html": folder.address(HTML), "csv": folder.address(CSV), "json": folder.address(JSON)},
    )
    html = page.render(report, source if pictures else None, _about(dataset, text))
    report = replace(report, html=html, seconds=perf_counter() - begun)
    _write(report, folder)
    return report


def _require_images(
    dataset: DatasetSettings, source: Source, folder: RunFolder, executor: Executor, workers: int, listener: Listener
) -> None:
    row, image = first_image(source)
    needs = Needs(folder, source=dataset.source, row=row, image=image)
    check_workers(executor, needs, workers, 0.0, listener, INSIGHTS)


def _surveyed(
    dataset: DatasetSettings,
    source: Source,
    executor: Executor,
    rows: int,
    workers: int,
    pictures: bool,
    text: Component | None,
    listener: Listener,
) -> list[Surveyed]:
    grid = ChunkGrid(rows, max(1, min(MOST_ROWS, -(-rows // (4 * max(1, workers))))))
    work = partial(survey_chunk, survey_of(dataset, pictures=pictures, text=text))
    parts: list[Surveyed] = []
    done = 0
    for chunk, outcome in executor.run(work, _chunks(grid, source)):
        tell_deaths(executor, listener, "read")
        if isinstance(outcome, BaseException):
            raise outcome
        parts.append(outcome)
        done += len(chunk)
        listener(Progress("images read", done, rows))
    return parts


def _chunks(grid: ChunkGrid, source: Source) -> Iterator[Chunk]:
    for chunk in grid:
        yield replace(chunk, rows=tuple(source.rows(chunk.start, chunk.stop)))


def _about(dataset: DatasetSettings, text: Component | None) -> page.About:
    given = {} if text is None else text.arguments
    return page.About(
        tokenizer=str(given.get("tokenizer") or given.get("model") or (text.class_path if text else "")),
        rules=dataset.facts.rules or "",
        limits=survey_of(dataset).limits,
    )


def _write(report: InsightsResult, folder: RunFolder) -> None:
    claim(folder)
    folder.write(HTML, report.html.encode("utf-8", "replace"))
    folder.write(CSV, to_csv(report.table))
    folder.write(JSON, (json.dumps(report.to_json(), ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace"))
