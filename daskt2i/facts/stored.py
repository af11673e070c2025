"""Chooses rows of a store by their facts and columns: `where` after encoding.

Covers: facts of captions and of the size of pictures, which the store has; numbers and texts of its columns (`add`);
other facts, from `reports/facts.parquet`.
Does not cover: choosing rows before encoding (`selection`), the expression (`expression`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError
from daskt2i.facts import table as facts
from daskt2i.facts.captions.rules import Rules, compile_rules, load_rules
from daskt2i.facts.expression import NO_COLUMNS, Asked, parse_where
from daskt2i.facts.survey import facts_of_captions
from daskt2i.facts.table import FACTS, NUMBER, TEXT, YES_NO, Fact
from daskt2i.store.columns.arrays import VALID, column_arrays
from daskt2i.store.forms.made_rows import read_made
from daskt2i.store.parts.places import store_of_part
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Row

_OF_CAPTIONS = ("people", "gender", "age", "group", "activity", "activities", "captions", "words")
_OF_STORE = ("image_id", "file_name")
_SIZES = ("width", "height")
_TABLE = f"{REPORTS}/facts.parquet"

ASKED = Asked("where", "Nothing was read")


def rows_where(
    store: ZarrStore, rows: npt.NDArray[np.int64], where: str, stop: Callable[[], None] = lambda: None
) -> npt.NDArray[np.int64]:
    """The rows for which an expression is true. See `StoredWhere`."""
    return StoredWhere(store, where).rows(rows, stop)


class StoredWhere:
    """An expression over the facts of the rows of a store, and over its columns that have one value a row.

    Args:
        store: the store.
        where: the expression, with the shipped rules for captions.
        asked: where the expression stands, for messages.
        elsewhere: columns that other stores of the run folder have. If the expression names one that this store does
            not have, it keeps none of its rows.

    Raises:
        ConfigError: the expression is wrong, or it names a fact that the store does not have.
        StoreError: metadata are damaged.
    """

    def __init__(
        self, store: ZarrStore, where: str, asked: Asked = ASKED, elsewhere: Mapping[str, Fact] = NO_COLUMNS
    ) -> None:
        self._store, self._layout = store, store.layout()
        arrays, columns = self._layout["arrays"], column_arrays(store.folder)
        known = column_facts(store)
        self.expression = parse_where(where, {**elsewhere, **known}, asked)
        names = self.expression.names
        self._lacks = tuple(name for name in names if name not in FACTS and name not in known)
        self._columns = {name: columns[name] for name in names if name not in (*FACTS, *arrays, *self._lacks)}
        own = [name for name in names if name in arrays and name not in FACTS]
        self._elsewhere = tuple(
            name for name in names if name in FACTS and name not in (*_OF_CAPTIONS, *_OF_STORE, *_SIZES)
        )
        parts = (
            (("caption",), _OF_CAPTIONS),
            (("source_size",), _SIZES),
            (("image_id",), ("image_id", *self._elsewhere)),
            (("file_name",), ("file_name",)),
        )
        self._needed = {*own, *(array for needed, of in parts if set(of) & set(names) for array in needed)}
        if missing := sorted(self._needed - arrays.keys()):
            raise ConfigError(
                f"{store.address} has no {missing[0]}, which {asked.setting} (`{self.expression.text}`) needs. It was "
                "not changed; leave where out."
            )

    @property
    def digest(self) -> str:
        """A hash of what decides the answer, besides the store itself and its rows."""
        columns = {name: one.fingerprint for name, one in self._columns.items()}
        rules = compile_rules(load_rules(None)).digest
        said = [self.expression.text, facts.VERSION, rules, columns]
        if self._elsewhere:
            with contextlib.suppress(OSError):  # `rows` says that it is missing
                said.append(hashlib.sha256(store_of_part(self._store.folder).read(_TABLE)).hexdigest())
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def rows(self, rows: npt.NDArray[np.int64], stop: Callable[[], None] = lambda: None) -> npt.NDArray[np.int64]:
        """The rows for which the expression is true. A row without a value in a column is not kept.

        Args:
            rows: accepted rows of the store, ascending.
            stop: called for each shard; it may raise.

        Raises:
            ConfigError: the expression names a fact that neither the store nor `reports/facts.parquet` has.
            StoreError: a shard is damaged.
        """
        if self._lacks:
            return rows[:0]
        expression = self.expression
        elsewhere = facts_of_images(store_of_part(self._store.folder), self._elsewhere) if self._elsewhere else {}
        rules = compile_rules(load_rules(None))
        kept: list[int] = []
        size = self._layout["rows_per_chunk"]
        for first in (np.unique(rows // size) * size).tolist():
            stop()
            end = min(first + size, self._layout["rows"])
            read = {name: self._store.read(name, first, end) for name in self._needed}
            columns = {name: read_made(one.store, one.name, first, end) for name, one in self._columns.items()}
            there = [one.store.read(VALID, first, end) for one in self._columns.values()]
            for row in rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)].tolist():
                place = row - first
                if not all(valid[place] for valid in there):
                    continue
                values = _facts(expression.names, read, place, rules)
                values |= {name: _plain(column[place]) for name, column in columns.items()}
                for name in self._elsewhere:
                    values[name] = elsewhere[name].get(values["image_id"])
                if all(values[name] is not None for name in self._elsewhere) and expression.keeps(values):
                    kept.append(row)
        return np.array(kept, np.int64)


def column_facts(store: ZarrStore) -> dict[str, Fact]:
    """The arrays of a store and of its columns that have one value a row, as an expression may name them.

    Raises:
        StoreError: metadata are damaged.
    """
    columns = {name: one.about for name, one in column_arrays(store.folder).items()}
    every = {**columns, **store.layout()["arrays"]}
    return {name: Fact(kind, "a column") for name, one in every.items() if name != VALID and (kind := _kind(one))}


def _kind(about: Mapping[str, Any]) -> str | None:
    """The kind of value of an array; None if a row has several, or none that an expression can compare."""
    if about["shape"]:
        return None
    if about["dtype"] in ("string", "bool"):
        return TEXT if about["dtype"] == "string" else YES_NO
    return NUMBER if np.dtype(about["dtype"]).kind in "iuf" else None


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _facts(names: tuple[str, ...], read: dict[str, Any], place: int, rules: Rules) -> dict[str, Any]:
    """The facts of a row that the store has, and its arrays with one value."""
    found: dict[str, Any] = {}
    if "caption" in read:
        captions = tuple(str(text) for text in read["caption"][place] if str(text))
        found |= facts_of_captions(Row(place, 0, "", captions), rules)
        found["activities"] = tuple(found["activities"])
        found["activity"] = found["activities"][0] if found["activities"] else ""
    found |= {name: _plain(values[place]) for name, values in read.items() if values.ndim == 1}
    if "source_size" in read:
        found["width"], found["height"] = (int(side) for side in read["source_size"][place])
    return found


def facts_of_images(folder: RunFolder, names: tuple[str, ...]) -> dict[str, dict[int, Any]]:
    """Fact -> image id -> value, of the table that `insights` or `encode --where` wrote.

    Raises:
        ConfigError: there is no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(folder.read(_TABLE)))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"{names[0]} is a fact that the store does not have, and {folder} has no table of facts. Nothing was "
            "read; run insights on this run folder first, which writes it."
        ) from error
    values = facts.values_of(table, ("image_id", *names))
    columns = list(zip(*values, strict=True)) or [()] * (1 + len(names))
    return {name: dict(zip(columns[0], column, strict=True)) for name, column in zip(names, columns[1:], strict=True)}
