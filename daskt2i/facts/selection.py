"""Keeps only the rows of a source for which `dataset.where` is true.

Covers: finding the facts of all rows, once for a run folder; choosing rows; a source with the kept rows.
Does not cover: the expression (`expression`), the facts (`survey`).

The other rows do not belong to the run. `SourceInfo.left_out` counts them. The kept rows get new numbers without gaps.
The expression, the rules and the kept rows are part of the fingerprint, so a store that was made with another choice is
refused.

The facts are stored in the run folder (`reports/facts.parquet`), under a key of everything that they depend on.
`insights` stores its facts there too. So if `insights` found them on a cluster, `encode` does not find them again on
the driver.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings
from daskt2i.config.workflow_file import fingerprint
from daskt2i.errors import ConfigError, Reason, StoreMissing
from daskt2i.facts import table as facts
from daskt2i.facts.accepted import AcceptedRows
from daskt2i.facts.bucketed import Bucket, BucketedRows, buckets_of_store
from daskt2i.facts.captions.rules import compile_rules, load_rules
from daskt2i.facts.coco_instances import persons_of, read_instances
from daskt2i.facts.expression import Expression, parse_where
from daskt2i.facts.image_sizes import image_sizes
from daskt2i.facts.part_rows import info_of, places_of
from daskt2i.facts.renumbered import original, renumbered, rows_at
from daskt2i.facts.survey import Survey, fold, survey_chunk
from daskt2i.images import read as images
from daskt2i.protocols import IndexedSource, Source, StampedSource
from daskt2i.store.columns.places import folder_of_store
from daskt2i.store.layout import about_store
from daskt2i.store.ownership import claim
from daskt2i.store.parts.places import store_of_part
from daskt2i.store.parts.row_ids import part_rows, row_ids
from daskt2i.store.parts.rows_file import read_rows
from daskt2i.store.run_folder import MANIFEST, PART_ROWS, REPORTS, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chunk, Row, SourceInfo

if TYPE_CHECKING:
    import pyarrow as pa

FACTS = f"{REPORTS}/facts.parquet"

ROWS = 1024
"""Rows in one chunk of the survey."""

_KEY = b"daskt2i.facts"


class SelectedSource:
    """Some rows of another source, with new numbers. A copy that only reads images needs no list of the rows.

    Args:
        source: the other source, as a component (`class` and arguments).
        kept: numbers of its kept rows, ascending.
        info: the info of this source.
        opened: the other source, if it was made already; its index is then not read once more.
        numbers: numbers of the kept rows, ascending; None for 0, 1, 2, …
        buckets: of the kept rows, if their store has them in buckets.
    """

    def __init__(
        self,
        source: Mapping[str, Any],
        kept: npt.NDArray[np.int64] | None = None,
        info: SourceInfo | None = None,
        opened: Source | None = None,
        numbers: npt.NDArray[np.int64] | None = None,
        buckets: Sequence[Bucket] = (),
    ) -> None:
        self._source: Source = opened or Component.model_validate(dict(source)).build(Source, "dataset.source")
        self._kept, self._info, self._numbers, self.buckets = kept, info, numbers, tuple(buckets)

    def info(self) -> SourceInfo:
        """The info that `choose` computed."""
        assert self._info is not None, "a copy on a worker has no list of rows"
        return self._info

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Kept rows `start <= index < stop`. `origin` is the row number in the other source."""
        assert self._kept is not None, "a copy on a worker has no list of rows"
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        if self._numbers is not None:
            low, high = (int(place) for place in np.searchsorted(self._numbers, (start, stop)))
            return renumbered(rows_at(self._source, self._kept[low:high]), self._numbers[low:high].tolist())
        wanted = self._kept[start:stop]
        return renumbered(rows_at(self._source, wanted), range(start, start + len(wanted)))

    def read(self, row: Row) -> bytes:
        """The same as `read` of the other source, with its errors."""
        return self._source.read(original(row))

    def stamps(self, rows: Sequence[Row]) -> Sequence[str] | None:
        """The same as `stamps` of the other source; None if it has none."""
        return self._source.stamps([*map(original, rows)]) if isinstance(self._source, StampedSource) else None


def open_source(dataset: DatasetSettings, folder: RunFolder | None = None, *, keep: bool = True) -> Source:
    """The source of a workflow. With `dataset.where` it has only the kept rows, with buckets they are in order.

    Args:
        folder: the run folder that may hold the facts. If `keep` is True, new facts are stored there.

    Raises:
        ConfigError: the expression is wrong, or keeps no row; no image fits a bucket.
        SourceError: the source cannot be used.
    """
    if folder is None and (dataset.column or dataset.part):
        what = "part" if dataset.column is None else "column"
        raise ConfigError(
            f"The rows of the {what} {dataset.column or dataset.part} are those of a store, and no run folder was "
            f"given. Nothing was started; give the run folder of the {what} (out)."
        )
    if folder is not None and dataset.column is not None:
        store = folder_of_store(folder, dataset.column)
        plain = dataset.model_copy(update={"column": None})
        about = about_store(ZarrStore(store)) if read_rows(store).parts else None
        if about is None:
            whole = open_source(plain, store, keep=False)
        else:  # it may have grown since
            whole = source_of_store(plain, store, about["identity"])
        return AcceptedRows(whole, dataset.source.identity(), store)
    source = _plain_source(dataset, folder, keep=keep)
    if dataset.image.buckets is None:
        return source
    sizes = image_sizes(dataset, source, folder, keep=keep)
    return BucketedRows(source, sizes, dataset.image.buckets, dataset.rows_per_chunk)


def _plain_source(dataset: DatasetSettings, folder: RunFolder | None, *, keep: bool) -> Source:
    """The source, with `dataset.where` or the rows of a part. Arguments and errors as in `open_source`."""
    if folder is not None and dataset.part is not None:
        return _of_part(dataset, dataset.part, folder, keep)
    source: Source = dataset.source.build(Source, "dataset.source")
    keep_index(source, folder, write=keep)
    if dataset.where is None:
        return source
    expression = parse_where(dataset.where)
    table = known_facts(dataset, source, folder, pictures=expression.needs_pictures)
    if table is None:
        table = find_facts(dataset, source, pictures=expression.needs_pictures)
        if folder is not None and keep:
            keep_facts(table, dataset, source, folder, pictures=expression.needs_pictures)
    return choose(dataset, source, expression, table)


def source_of_run(dataset: DatasetSettings, folder: RunFolder, *, keep: bool) -> Source:
    """As `open_source`. If rows were appended to the store, its source may have grown: it gives those of the store."""
    about = about_store(ZarrStore(folder)) if read_rows(folder).parts else None
    if about is None:
        return open_source(dataset, folder, keep=keep)
    return source_of_store(dataset, folder, about["identity"])


def source_of_store(dataset: DatasetSettings, folder: RunFolder, identity: Mapping[str, Any]) -> Source:
    """The source of a store that exists. If it has grown since, it gives the rows of the store alone, in their order.

    Args:
        folder: the run folder of the store.
        identity: of the store, from its attributes.

    Raises:
        ConfigError, SourceError: as in `open_source`; the source has lost rows of the store.
    """
    if dataset.column is not None or dataset.part is not None:
        return open_source(dataset, folder, keep=False)
    source: Source = dataset.source.build(Source, "dataset.source")
    keep_index(source, folder, write=False)
    there = {**dataset.source.identity(), **source.info().content}
    stored = {key: value for key, value in identity.get("source", {}).items() if key != "buckets"}
    if there == stored or not folder.exists(MANIFEST):
        return open_source(dataset, folder, keep=False)
    ids = row_ids(folder)
    kept = places_of(source, ids.image_ids, ids.file_names)
    plain = dataset.source.model_dump(by_alias=True)
    counts: list[int] = []

    def every() -> Iterator[Row]:
        for row in _rows_of(SelectedSource(plain, kept, opened=source), len(kept)):
            counts.append(len(row.captions))
            yield row

    info = info_of(source, kept, every(), identity.get("where"))
    if counts == ids.captions.tolist():
        info = replace(info, content=identity["source"])  # they are the rows of the store
    buckets = () if dataset.image.buckets is None else buckets_of_store(ZarrStore(folder))
    return SelectedSource(plain, kept, info, source, ids.rows, buckets)


def _of_part(dataset: DatasetSettings, name: str, part: RunFolder, keep: bool) -> SelectedSource:
    """The rows of a part, by the list in its folder. `dataset.where` chose them when the list was made.

    Raises:
        StoreMissing: there is no list.
        SourceError: the source does not have all of them.
    """
    listed = part_rows(part)
    if listed is None:
        raise StoreMissing(
            f"{part} is the part {name} of a store, and has no {PART_ROWS}, so it is not known which rows it has. "
            "Nothing was started; remove this folder if rows.json does not name it, and append again."
        )
    source: Source = dataset.source.build(Source, "dataset.source")
    keep_index(source, store_of_part(part), write=keep)  # what is known of files of before is not read again
    kept = places_of(source, listed.image_ids, listed.file_names)
    plain = dataset.source.model_dump(by_alias=True)
    every = _rows_of(SelectedSource(plain, kept, opened=source), len(kept))
    where = None if dataset.where is None else _expression_identity(dataset, parse_where(dataset.where))
    return SelectedSource(plain, kept, info_of(source, kept, every, where), source)


def _rows_of(source: Source, count: int) -> Iterator[Row]:
    return (row for start in range(0, count, ROWS) for row in source.rows(start, start + ROWS))


def _expression_identity(dataset: DatasetSettings, expression: Expression) -> dict[str, Any]:
    """What decides which rows `dataset.where` keeps, without the rows."""
    digest = compile_rules(load_rules(dataset.facts.rules)).digest
    return {"expression": expression.text, "rules": digest, "facts": facts.VERSION}


def keep_index(source: Source, folder: RunFolder | None, *, write: bool) -> None:
    """Let a source that has an index keep it in the run folder.

    Args:
        folder: None for nowhere.
        write: whether a new index is written there; else only one that is there is read.
    """
    if folder is not None and isinstance(source, IndexedSource):
        source.keep_index(_Claimed(folder), write)


class _Claimed:
    """A run folder that becomes one of daskt2i with the first object of an index, and not before: a place without data
    leaves nothing behind.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.read, self.list = folder.read, folder.list

    def write(self, name: str, data: bytes) -> None:
        claim(self._folder)
        self._folder.write(name, data)


def reading_component(dataset: DatasetSettings) -> Component:
    """The component with which a worker reads images. It needs no list of the rows."""
    if dataset.where is None and dataset.part is None and dataset.image.buckets is None:
        return dataset.source
    plain = dataset.source.model_dump(by_alias=True)
    return Component.model_validate({"class": f"{__name__}.{SelectedSource.__name__}", "source": plain})


def kept_rows(table: pa.Table, expression: Expression) -> npt.NDArray[np.int64]:
    """Numbers of the rows that an expression keeps, ascending."""
    decided: dict[tuple[Any, ...], bool] = {}
    kept = []
    for row, values in enumerate(facts.values_of(table, expression.names)):
        keeps = decided.get(values)
        if keeps is None:  # many rows have equal values, and evaluating takes 20 times as long as a table lookup
            keeps = decided[values] = expression.keeps(dict(zip(expression.names, values, strict=True)))
        if keeps:
            kept.append(row)
    return np.array(kept, np.int64)


def choose(dataset: DatasetSettings, source: Source, expression: Expression, table: pa.Table) -> SelectedSource:
    """A source with the rows that an expression keeps.

    Raises:
        ConfigError: it keeps no row.
    """
    kept = kept_rows(table, expression)
    whole = source.info()
    if not len(kept):
        raise ConfigError(
            f"dataset.where (`{expression.text}`) keeps none of {whole.rows:,} rows, so there is nothing to encode. "
            "Run insights to see which facts the rows have."
        )
    plain = dataset.source.model_dump(by_alias=True)
    chosen = SelectedSource(plain, kept, opened=source)
    slots = captions = characters = 0
    for start in range(0, len(kept), ROWS):
        for row in chosen.rows(start, start + ROWS):
            slots, captions = max(slots, len(row.captions)), captions + len(row.captions)
            characters += sum(map(len, row.captions))
    where = {
        **_expression_identity(dataset, expression),
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
    return SelectedSource(plain, kept, info, source)


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
    """The survey of a workflow: which facts to find."""
    limits = images.Limits(min_side=dataset.image.min_side, max_pixels=dataset.image.max_pixels)
    return Survey(dataset.source, load_rules(dataset.facts.rules), limits, pictures, text)


def boxed_persons(dataset: DatasetSettings) -> dict[int, int] | None:
    """Image id -> number of boxed people; None if the workflow names no instance file."""
    return None if dataset.facts.coco_instances is None else persons_of(dataset.facts.coco_instances)


def facts_key(dataset: DatasetSettings, source: Source) -> str:
    """A hash of everything that the facts of a source depend on."""
    instances = dataset.facts.coco_instances
    return fingerprint(
        {
            "version": facts.VERSION,
            "source": {**dataset.source.identity(), **source.info().content},
            "images": str(dataset.source.arguments.get("images", "")),
            "limits": [dataset.image.min_side, dataset.image.max_pixels],
            "rules": compile_rules(load_rules(dataset.facts.rules)).digest,
            "near": dataset.facts.near,
            # The old name of `coco_instances`: facts.parquet of existing run folders holds a hash of it.
            "instances": None if instances is None else hashlib.sha256(read_instances(instances)).hexdigest(),
        }
    )


def keep_facts(table: pa.Table, dataset: DatasetSettings, source: Source, folder: RunFolder, *, pictures: bool) -> None:
    """Store the facts with their key in the run folder. If all images are missing (no mount), it stores nothing."""
    import pyarrow.parquet as pq

    if pictures and set(table["reason"].to_pylist()) == {str(Reason.MISSING_FILE)}:
        return
    mark = f"{facts_key(dataset, source)} {'pictures' if pictures else 'captions'}"
    stream = io.BytesIO()
    table = table.replace_schema_metadata({_KEY: mark.encode()})
    pq.write_table(table.drop_columns(["signature"]), stream, compression="zstd")
    claim(folder)
    folder.write(FACTS, stream.getvalue())


def known_facts(
    dataset: DatasetSettings, source: Source, folder: RunFolder | None, *, pictures: bool
) -> pa.Table | None:
    """The facts in the run folder if they belong to this source and these rules; else None."""
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
