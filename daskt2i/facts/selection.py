"""`dataset.where`: a source of which only those rows are left that an expression keeps.

Covers: finding the facts of all rows, once for a run folder; choosing rows; the chosen ones as a source.
Does not cover: the expression (`expression`), the facts (`survey`).

Rows left out are none of the run: they are counted beside it (`SourceInfo.left_out`), and the others are numbered anew
without gaps, so that each row of the run still ends in exactly one bucket. Which expression, which rules and which rows
were kept is part of the fingerprint: a store that was made with another choice is refused.

The facts lie in the run folder (`reports/facts.parquet`), under a key of what decided them. `insights` leaves them
there too, so that what it found on a whole cluster `encode --where` need not find again on the driver.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings
from daskt2i.config.workflow_file import fingerprint
from daskt2i.errors import ConfigError, Reason
from daskt2i.facts import table as facts
from daskt2i.facts.captions.rules import compile_rules, load_rules
from daskt2i.facts.coco_instances import persons_of
from daskt2i.facts.expression import Expression, parse_where
from daskt2i.facts.survey import Survey, fold, survey_chunk
from daskt2i.images import read as images
from daskt2i.protocols import Source
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.types import Chunk, Row, SourceInfo

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = f"{REPORTS}/facts.parquet"

ROWS = 1024
"""Rows that are surveyed at a time."""

_KEY = b"daskt2i.facts"


class SelectedSource:
    """Some rows of another source, numbered anew. A copy that only reads images needs no list of them.

    Args:
        source: the other source, as a component (`class` and arguments).
        kept: which of its rows, ascending.
        info: what this one says of itself.
    """

    def __init__(
        self, source: Mapping[str, Any], kept: npt.NDArray[np.int64] | None = None, info: SourceInfo | None = None
    ) -> None:
        self._source: Source = Component.model_validate(dict(source)).build(Source, "dataset.source")
        self._kept, self._info = kept, info

    def info(self) -> SourceInfo:
        """As `choose` found it."""
        assert self._info is not None, "a copy on a worker knows no rows"
        return self._info

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop` of those kept; `origin` is their row in the other source."""
        assert self._kept is not None, "a copy on a worker knows no rows"
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        wanted = self._kept[start:stop]
        found: list[Row] = []
        # Runs of neighbours in one call: a source may answer a range faster than its rows one by one.
        for run in np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1) if len(wanted) else []:
            found.extend(self._source.rows(int(run[0]), int(run[-1]) + 1))
        return [replace(row, index=start + place, origin=row.index) for place, row in enumerate(found)]

    def read(self, row: Row) -> bytes:
        """As the other source; raises what that raises."""
        return self._source.read(row if row.origin is None else replace(row, index=row.origin))


def open_source(dataset: DatasetSettings, folder: RunFolder | None = None, *, keep: bool = True) -> Source:
    """The source of a workflow, narrowed down where it has a `where`.

    Args:
        folder: where the facts lie, or are put if `keep`.

    Raises:
        ConfigError: the expression is wrong, or keeps no row.
        SourceError: the source cannot be used.
    """
    source: Source = dataset.source.build(Source, "dataset.source")
    if dataset.where is None:
        return source
    expression = parse_where(dataset.where)
    table = known_facts(dataset, source, folder, pictures=expression.needs_pictures)
    if table is None:
        table = find_facts(dataset, source, pictures=expression.needs_pictures)
        if folder is not None and keep:
            keep_facts(table, dataset, source, folder, pictures=expression.needs_pictures)
    return choose(dataset, source, expression, table)


def reading_component(dataset: DatasetSettings) -> Component:
    """What a worker reads images with: it needs no list of the rows."""
    if dataset.where is None:
        return dataset.source
    plain = dataset.source.model_dump(by_alias=True)
    return Component.model_validate({"class": f"{__name__}.{SelectedSource.__name__}", "source": plain})


def kept_rows(table: pa.Table, expression: Expression) -> npt.NDArray[np.int64]:
    """Rows of the table that an expression keeps, ascending."""
    decided: dict[tuple[Any, ...], bool] = {}
    kept = []
    for row, values in enumerate(facts.values_of(table, expression.names)):
        keeps = decided.get(values)
        if keeps is None:  # most rows share their values with others: evaluating costs 20 times a look into a table
            keeps = decided[values] = expression.keeps(dict(zip(expression.names, values, strict=True)))
        if keeps:
            kept.append(row)
    return np.array(kept, np.int64)


def choose(dataset: DatasetSettings, source: Source, expression: Expression, table: pa.Table) -> SelectedSource:
    """The rows that an expression keeps, as a source.

    Raises:
        ConfigError: it keeps none.
    """
    kept = kept_rows(table, expression)
    whole = source.info()
    if not len(kept):
        raise ConfigError(
            f"dataset.where (`{expression.text}`) keeps none of {whole.rows:,} rows, so there is nothing to encode. "
            "`insights` shows what there is."
        )
    plain = dataset.source.model_dump(by_alias=True)
    chosen = SelectedSource(plain, kept)
    slots = captions = characters = 0
    for start in range(0, len(kept), ROWS):
        for row in chosen.rows(start, start + ROWS):
            slots, captions = max(slots, len(row.captions)), captions + len(row.captions)
            characters += sum(map(len, row.captions))
    where = {
        "expression": expression.text,
        "rules": compile_rules(load_rules(dataset.facts.rules)).digest,
        "facts": facts.VERSION,
        "rows": hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest(),
        "left_out": whole.rows - len(kept),
    }
    info = replace(
        whole,
        rows=len(kept),
        slots=slots,
        captions=captions,
        caption_characters=characters,
        left_out=whole.rows - len(kept),
        where=where,
    )
    return SelectedSource(plain, kept, info)


def find_facts(dataset: DatasetSettings, source: Source, *, pictures: bool) -> pa.Table:
    """The facts of all rows, in this process."""
    survey = survey_of(dataset, pictures=pictures)
    rows = source.info().rows
    chunks = (
        Chunk(number, start, min(start + ROWS, rows), tuple(source.rows(start, start + ROWS)))
        for number, start in enumerate(range(0, rows, ROWS))
    )
    return fold([survey_chunk(survey, chunk) for chunk in chunks], dataset.facts.near, boxed_persons(dataset))


def survey_of(dataset: DatasetSettings, *, pictures: bool = True, text: Component | None = None) -> Survey:
    """What is to be found out for a workflow."""
    limits = images.Limits(min_side=dataset.image.min_side, max_pixels=dataset.image.max_pixels)
    return Survey(dataset.source, load_rules(dataset.facts.rules), limits, pictures, text)


def boxed_persons(dataset: DatasetSettings) -> dict[int, int] | None:
    """Image id -> people boxed, where the workflow names an instance file."""
    return None if dataset.facts.coco_instances is None else persons_of(dataset.facts.coco_instances)


def facts_key(dataset: DatasetSettings, source: Source) -> str:
    """What decides the facts of a source."""
    instances = dataset.facts.coco_instances
    return fingerprint(
        {
            "version": facts.VERSION,
            "source": {**dataset.source.identity(), **source.info().content},
            "images": str(dataset.source.arguments.get("images", "")),
            "limits": [dataset.image.min_side, dataset.image.max_pixels],
            "rules": compile_rules(load_rules(dataset.facts.rules)).digest,
            "near": dataset.facts.near,
            # The name of before `coco_instances`: facts.parquet of run folders holds a hash of this.
            "instances": None if instances is None else hashlib.sha256(_bytes(instances)).hexdigest(),
        }
    )


def keep_facts(table: pa.Table, dataset: DatasetSettings, source: Source, folder: RunFolder, *, pictures: bool) -> None:
    """Put the facts into the run folder, with what decided them. Not where no image was there: a mount is missing."""
    import pyarrow.parquet as pq

    if pictures and set(table["reason"].to_pylist()) == {str(Reason.MISSING_FILE)}:
        return
    mark = f"{facts_key(dataset, source)} {'pictures' if pictures else 'captions'}"
    stream = io.BytesIO()
    table = table.replace_schema_metadata({_KEY: mark.encode()})
    pq.write_table(table.drop_columns(["signature"]), stream, compression="zstd")
    folder.write(FACTS, stream.getvalue())


def known_facts(
    dataset: DatasetSettings, source: Source, folder: RunFolder | None, *, pictures: bool
) -> pa.Table | None:
    """The facts that lie in the run folder, if they are those of this source and these rules; else None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder is None:
        return None
    try:
        table = pq.read_table(io.BytesIO(folder.read(FACTS)))
        mark = (table.schema.metadata or {}).get(_KEY, b"").decode()
        fits = mark.partition(" ")[0] == facts_key(dataset, source) and table.num_rows == source.info().rows
    except (FileNotFoundError, NotADirectoryError, pa.ArrowException, UnicodeDecodeError):
        return None
    return table if fits and (not pictures or mark.endswith(" pictures")) else None


def _bytes(address: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(address, "rb") as stream:
            return bytes(stream.read())
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"dataset.facts.coco_instances is {address}, which cannot be read ({error}).") from error
