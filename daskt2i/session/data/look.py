"""A first look at data: of a place that a user names, or of the source of a run.

Covers: making the source, the HTML file.
Does not cover: reading rows (`insights.first_rows`), the guess of a source (`choice`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from daskt2i.addresses import expanded
from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings
from daskt2i.dashboard.report.page_file import writing_page
from daskt2i.errors import SourceError
from daskt2i.images import read as images
from daskt2i.insights.first_rows import LookResult, first_rows
from daskt2i.insights.first_rows_page import page
from daskt2i.protocols import Source
from daskt2i.session.data.choice import choose_source
from daskt2i.sources.names import name_of


def look(
    images: str,
    captions: str | None = None,
    *,
    source: str | None = None,
    rows: int = 8,
    html: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> LookResult:
    """Look at the first rows of a data set: pictures, captions, sizes, and what would be rejected.

    Args:
        images, captions: a place of images, and the file of their captions if they are not in the same place.
        source: how to read them: `coco`, `folder`, `jsonl`, `csv`, `karpathy`, or a class path. None: it is guessed.
        rows: how many rows to read. All rows are counted.
        html: a file to write a page into. It needs no server and makes no request.
        storage_options: arguments of fsspec, for addresses.

    Raises:
        ConfigError: there is no such source, or nothing fits the place.
        SourceMissing, SourceError: the data cannot be used.
        StoreError: the file cannot be written.
    """
    options = {} if storage_options is None else {"storage_options": dict(storage_options)}
    settings = {f"dataset.source.{name}": value for name, value in options.items()}
    path, notes = choose_source(str(images), captions, source, settings)
    given = {"images": str(images), **({} if captions is None else {"captions": str(captions)}), **options}
    component = Component.model_validate({"class": path, **given})
    made: Source = component.build(Source, "source")
    try:
        found = first_rows(made, name_of(component.class_path), rows)
    except SourceError as error:
        if not notes:
            raise
        raise type(error)(" ".join([str(error), *notes])) from error  # a wrong guess may be the reason
    return _written(replace(found, notes=notes), html)


def look_at(dataset: DatasetSettings, rows: int, html: str | Path | None) -> LookResult:
    """Look at the first rows of the source of a workflow. `dataset.where` does not count."""
    limits = images.Limits(dataset.image.min_side, dataset.image.max_pixels)
    made: Source = dataset.source.build(Source, "dataset.source")
    return _written(first_rows(made, name_of(dataset.source.class_path), rows, limits), html)


def _written(found: LookResult, html: str | Path | None) -> LookResult:
    """The result with its page written, if a file is given."""
    if html is None:
        return found
    path = expanded(html, "html").absolute()
    with writing_page(path) as file:
        file.write(page(found))
    return replace(found, html=str(path))
