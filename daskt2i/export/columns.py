"""The arrays of the columns of a store, on their way to another format.

Covers: which columns there are, their names in an export, their rows; that the folder of a column is no store alone.
Does not cover: the arrays of the store itself (`rows`), what a column is (`store.columns`).

States of captions are as they are stored: padded to the length of their encoder, with their mask beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError, StoreError
from daskt2i.store.columns.arrays import column_arrays
from daskt2i.store.forms.made_rows import read_made
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import Member
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


class ExportedColumns:
    """The arrays of all complete columns of a run folder.

    Args:
        folder: the run folder of the store.
        taken: names of arrays that are exported anyway. An array of a column with such a name gets two `_` behind it.

    Attributes:
        names: names of all arrays.
        of_captions: names of arrays that have an entry for each caption.
    """

    def __init__(self, folder: RunFolder, taken: Collection[str]) -> None:
        there = column_arrays(folder)
        self._arrays = {f"{name}__" if name in taken else name: array for name, array in there.items()}
        self.names = frozenset(self._arrays)
        self.of_captions = frozenset(name for name, one in self._arrays.items() if one.about["dims"][:1] == ["slot"])

    def read(self, numbers: npt.NDArray[np.int64], captions: npt.NDArray[np.int64]) -> dict[str, Sequence[np.ndarray]]:
        """Name -> an array for each row.

        Args:
            numbers: rows of the store, ascending.
            captions: number of captions of each of them.

        Raises:
            StoreError: a shard is damaged.
        """
        start, stop = int(numbers[0]), int(numbers[-1]) + 1
        found: dict[str, Sequence[np.ndarray]] = {}
        for name, array in self._arrays.items():
            values = read_made(array.store, array.name, start, stop)[numbers - start]
            if name in self.of_captions:
                found[name] = [value[:count] for value, count in zip(values, captions.tolist(), strict=True)]
            else:
                found[name] = list(values)
        return found


def require_same_columns(stores: Sequence[Member], columns: Sequence[ExportedColumns]) -> None:
    """Refuse a store whose parts do not have the columns of the first store: an export has a value in each row.

    Raises:
        StoreError: a part lacks a column, or has one more.
    """
    for store, one in zip(stores, columns, strict=True):
        if differ := sorted(one.names ^ columns[0].names):
            raise StoreError(
                f"The part {store.name} and the first store do not both have {', '.join(differ)}. Nothing was written; "
                "run add again with the same column: it encodes the rows that lack it."
            )


def refuse_column(folder: RunFolder) -> None:
    """Refuse the run folder of a column: alone it has half of what a store has.

    Raises:
        ConfigError: it is one.
    """
    about = about_store(ZarrStore(folder))
    if about is not None and "accepted_by" in about["identity"].get("source", {}):
        raise ConfigError(
            f"{folder} is a column of a store, and it goes to others only with its store. Nothing was written; give "
            "the run folder of the store (out)."
        )
