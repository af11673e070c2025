"""Which image is in which row of a store, without its arrays; and the rows that a part is made of.

Covers: the ids and file names in the manifest of a finished store; the list of rows in the folder of a part.
Does not cover: writing a manifest (`store.manifest`), finding rows in a source (`facts.part_rows`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError, StoreMissing
from daskt2i.store.run_folder import MANIFEST, PART_ROWS, RunFolder

_ABOUT = b"daskt2i-part"


@dataclass(frozen=True, slots=True)
class RowIds:
    """The rows of a finished store.

    Attributes:
        rows: their numbers in the store, `int64[n]`, ascending.
        image_ids: the source's numbers, `int64[n]`.
        file_names: the images below the source's image root.
        accepted: whether each row has arrays, `bool[n]`.
        captions: number of captions in the source of each row, `int64[n]`.
    """

    rows: npt.NDArray[np.int64]
    image_ids: npt.NDArray[np.int64]
    file_names: Sequence[str]
    accepted: npt.NDArray[np.bool_]
    captions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class PartRows:
    """The rows of a part, as they are written down before it is encoded.

    Attributes:
        image_ids, file_names: of its rows, in their order.
        about: what made it: `{"command": "append", "source": …}`. JSON values.
    """

    image_ids: npt.NDArray[np.int64]
    file_names: Sequence[str]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.image_ids)


def row_ids(folder: RunFolder) -> RowIds:
    """The rows of the store in a run folder, from its manifest.

    Raises:
        StoreMissing: the encode has not finished, so there is no manifest.
        StoreError: the manifest is damaged.
    """
    try:
        table = _table(folder, MANIFEST, ["row", "image_id", "file_name", "status", "captions"])
    except FileNotFoundError:
        raise StoreMissing(
            f"{folder} has no {MANIFEST}, because its encode has not finished. Nothing was changed; run encode to its "
            "end first."
        ) from None
    accepted = np.array([one == "accepted" for one in table["status"].to_pylist()], np.bool_)
    rows, ids, captions = (_whole(table[name]) for name in ("row", "image_id", "captions"))
    return RowIds(rows, ids, table["file_name"].to_pylist(), accepted, captions)


def write_part_rows(part: RunFolder, rows: PartRows) -> None:
    """Write down the rows of a part, into its folder. It is small: some 30 bytes a row.

    Raises:
        StoreFull, StoreError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [*map(plain_name, rows.file_names)]
    columns = {"image_id": pa.array(rows.image_ids, pa.int64()), "file_name": pa.array(names, pa.string())}
    table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(dict(rows.about)).encode()})
    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd", use_dictionary=False)
    part.write(PART_ROWS, stream.getvalue())


def part_rows(part: RunFolder) -> PartRows | None:
    """The rows of a part; None if they were not written down, so nothing of it was encoded.

    Raises:
        StoreError: the list is damaged.
    """
    try:
        table = _table(part, PART_ROWS, ["image_id", "file_name"])
        about = json.loads((table.schema.metadata or {})[_ABOUT])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (KeyError, ValueError) as error:
        raise _damaged(part, PART_ROWS, error) from error
    return PartRows(_whole(table["image_id"]), table["file_name"].to_pylist(), about)


def plain_name(name: str) -> str:
    """A file name as a manifest and a list of rows hold it: text that Parquet accepts."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()


def _table(folder: RunFolder, name: str, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = folder.read(name)
    try:
        return pq.read_table(io.BytesIO(data), columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(folder, name, error) from error


def _damaged(folder: RunFolder, name: str, error: Exception) -> StoreError:
    return StoreError(
        f"{folder.address(name)} is damaged ({' '.join(str(error).split())}). Nothing was changed; restore this file, "
        "or run encode in its folder: that writes a manifest again."
    )


def _whole(column: Any) -> npt.NDArray[np.int64]:
    return np.asarray(column.to_numpy(), np.int64)
