"""The rows of a run folder that an expression keeps: `train.where`, and `where` of `torch_dataset`.

Covers: choosing them over all stores of a run folder, and a list of them there, so that ranks need not choose again.
Does not cover: the expression (`facts.stored`), which of them are held out (`content`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from daskt2i.errors import ConfigError
from daskt2i.facts.expression import Asked
from daskt2i.facts.stored import ASKED, StoredWhere, column_facts
from daskt2i.formatting import many
from daskt2i.loader.sample_order import Whole
from daskt2i.store.parts.rows_file import members, numbers_of, ranges_of
from daskt2i.store.run_folder import TRAIN, RunFolder
from daskt2i.store.zarr_store import ZarrStore

CHOSEN = f"{TRAIN}/chosen-rows.json"
"""The list in a run folder. The driver writes it before the ranks start. It holds what the choice depends on, so a list
that no longer fits is not used."""

_ASKED = Asked("train.where", "Nothing was trained")


def chosen_rows(folder: RunFolder, accepted: Whole, fingerprint: str, where: str, *, keep: bool = False) -> Whole:
    """The rows for which an expression is true, ascending.

    Args:
        folder: the run folder.
        accepted: accepted rows, ascending.
        fingerprint: of its stores.
        where: `train.where`.
        keep: whether to write the list into the run folder.

    Raises:
        ConfigError: the expression is wrong, names a fact that is not there, or keeps no row.
        StoreError, StoreFull: a shard is damaged, or no space is left.
    """
    choosers = _choosers(folder, where, _ASKED)
    depends = f"{fingerprint} {[one.digest for one, _ in choosers]} ".encode() + accepted.astype("<i8").tobytes()
    key = hashlib.sha256(depends).hexdigest()
    kept = _kept(folder, key)
    rows = _choose(choosers, accepted) if kept is None else kept
    if not len(rows):
        raise ConfigError(
            f"train.where (`{where}`) keeps none of {many(len(accepted), 'accepted row')} of {folder}, so there is "
            "nothing to train on. Nothing was trained; give another train.where, or null for all rows."
        )
    if keep and kept is None:
        folder.write(CHOSEN, json.dumps({"key": key, "where": where, "rows": ranges_of(rows)}).encode())
    return rows


def rows_where(folder: RunFolder, accepted: Whole, where: str) -> Whole:
    """The rows of all stores of a run folder for which an expression is true, ascending.

    Args:
        accepted: accepted rows, ascending.

    Raises:
        ConfigError: the expression is wrong, or names a fact that is not there.
        StoreError: a shard is damaged.
    """
    return _choose(_choosers(folder, where, ASKED), accepted)


def _choosers(folder: RunFolder, where: str, asked: Asked) -> list[tuple[StoredWhere, int]]:
    """The expression over each store of a run folder, and the number of its row 0."""
    stores = [(ZarrStore(one.folder), one.offset) for one in members(folder)]
    known = {name: fact for store, _ in stores for name, fact in column_facts(store).items()} if stores[1:] else {}
    return [(StoredWhere(store, where, asked, known), offset) for store, offset in stores]


def _choose(choosers: Sequence[tuple[StoredWhere, int]], accepted: Whole) -> Whole:
    edges = np.searchsorted(accepted, [offset for _, offset in choosers[1:]])
    parts = np.split(accepted, edges)
    return np.concatenate(
        [chooser.rows(rows - offset) + offset for (chooser, offset), rows in zip(choosers, parts, strict=True)]
    )


def digest_of(rows: Whole) -> str:
    """`"1,204 rows, 3f9a…"`: what an identity says of chosen rows."""
    return f"{many(len(rows), 'row')}, {hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()[:12]}"


def _kept(folder: RunFolder, key: str) -> Whole | None:
    try:
        found: Any = json.loads(folder.read(CHOSEN))
        return numbers_of(tuple((start, stop) for start, stop in found["rows"])) if found["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
