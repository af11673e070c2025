"""Chooses rows of a store by their facts: `where` after encoding.

Covers: facts of captions and of the size of pictures, which the store has; other facts, from `reports/facts.parquet`.
Does not cover: choosing rows before encoding (`selection`), the expression (`expression`).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError
from daskt2i.facts import table as facts
from daskt2i.facts.captions.rules import Rules, compile_rules, load_rules
from daskt2i.facts.expression import parse_where
from daskt2i.facts.survey import facts_of_captions
from daskt2i.store.parts.places import store_of_part
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Row

_OF_CAPTIONS = ("people", "gender", "age", "group", "activity", "activities", "captions", "words")
_OF_STORE = ("image_id", "file_name")
_SIZES = ("width", "height")


def rows_where(
    store: ZarrStore, rows: npt.NDArray[np.int64], where: str, stop: Callable[[], None] = lambda: None
) -> npt.NDArray[np.int64]:
    """The rows for which an expression is true.

    Args:
        rows: accepted rows of the store, ascending.
        where: the expression, with the shipped rules for captions.
        stop: called for each shard; it may raise.

    Raises:
        ConfigError: the expression is wrong, or names a fact that neither the store nor `reports/facts.parquet` has.
        StoreError: a shard is damaged.
    """
    expression = parse_where(where)
    layout = store.layout()
    kept_elsewhere = tuple(name for name in expression.names if name not in (*_OF_CAPTIONS, *_OF_STORE, *_SIZES))
    elsewhere = facts_of_images(store_of_part(store.folder), kept_elsewhere) if kept_elsewhere else {}
    rules = compile_rules(load_rules(None))
    needed = {*_OF_STORE, "caption"} | ({"source_size"} if set(_SIZES) & set(expression.names) else set())
    if missing := sorted(needed - layout["arrays"].keys()):
        raise ConfigError(
            f"{store.address} has no {missing[0]}, which where (`{expression.text}`) needs. It was not changed; leave "
            "where out."
        )
    kept: list[int] = []
    size = layout["rows_per_chunk"]
    for start in np.unique(rows // size) * size:
        stop()
        end = min(int(start) + size, layout["rows"])
        read = {name: store.read(name, int(start), end) for name in needed}
        for row in rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)].tolist():
            values = _facts(expression.names, read, row - int(start), rules)
            for name in kept_elsewhere:
                values[name] = elsewhere[name].get(values["image_id"])
            if all(values[name] is not None for name in kept_elsewhere) and expression.keeps(values):
                kept.append(row)
    return np.array(kept, np.int64)


def _facts(names: tuple[str, ...], read: dict[str, Any], place: int, rules: Rules) -> dict[str, Any]:
    """The facts of a row that the store has."""
    image, file = int(read["image_id"][place]), str(read["file_name"][place])
    found: dict[str, Any] = {"image_id": image, "file_name": file}
    if set(names) & set(_OF_CAPTIONS):
        captions = tuple(str(text) for text in read["caption"][place] if str(text))
        found |= facts_of_captions(Row(place, image, file, captions), rules)
        found["activities"] = tuple(found["activities"])
        found["activity"] = found["activities"][0] if found["activities"] else ""
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
        table = pq.read_table(io.BytesIO(folder.read(f"{REPORTS}/facts.parquet")))
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(
            f"{names[0]} is a fact that the store does not have, and {folder} has no table of facts. Nothing was "
            "read; run insights on this run folder first, which writes it."
        ) from error
    values = facts.values_of(table, ("image_id", *names))
    columns = list(zip(*values, strict=True)) or [()] * (1 + len(names))
    return {name: dict(zip(columns[0], column, strict=True)) for name, column in zip(names, columns[1:], strict=True)}
