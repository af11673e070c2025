"""The rows of a store that a training takes: `train.where`.

Covers: choosing them, and a list of them in the run folder, so that ranks need not choose again.
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
from daskt2i.facts.stored import StoredWhere
from daskt2i.formatting import many
from daskt2i.loader.sample_order import Whole
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
        accepted: accepted rows of its store, ascending.
        fingerprint: of the store.
        where: `train.where`.
        keep: whether to write the list into the run folder.

    Raises:
        ConfigError: the expression is wrong, names a fact that is not there, or keeps no row.
        StoreError, StoreFull: a shard is damaged, or no space is left.
    """
    chooser = StoredWhere(ZarrStore(folder), where, _ASKED)
    depends = f"{fingerprint} {chooser.digest} ".encode() + accepted.astype("<i8").tobytes()
    key = hashlib.sha256(depends).hexdigest()
    kept = _kept(folder, key)
    rows = chooser.rows(accepted) if kept is None else kept
    if not len(rows):
        raise ConfigError(
            f"train.where (`{where}`) keeps none of {many(len(accepted), 'accepted row')} of {folder}, so there is "
            "nothing to train on. Nothing was trained; give another train.where, or null for all rows."
        )
    if keep and kept is None:
        folder.write(CHOSEN, json.dumps({"key": key, "where": where, "rows": ranges(rows)}).encode())
    return rows


def digest_of(rows: Whole) -> str:
    """`"1,204 rows, 3f9a…"`: what an identity says of chosen rows."""
    return f"{many(len(rows), 'row')}, {hashlib.sha256(rows.astype('<i8').tobytes()).hexdigest()[:12]}"


def ranges(rows: Whole) -> list[list[int]]:
    """Ascending rows as ranges `[start, stop)`."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    return [[int(part[0]), int(part[-1]) + 1] for part in np.split(rows, edges) if len(part)]


def from_ranges(found: Sequence[Sequence[int]]) -> Whole:
    """The rows of ranges `[start, stop)`."""
    return np.concatenate([np.empty(0, np.int64), *(np.arange(start, stop) for start, stop in found)])


def _kept(folder: RunFolder, key: str) -> Whole | None:
    try:
        found: Any = json.loads(folder.read(CHOSEN))
        return from_ranges(found["rows"]) if found["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
