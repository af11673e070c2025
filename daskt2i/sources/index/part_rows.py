"""The lower level of an index: the rows of one part as an Arrow table.

| column | type | |
|---|---|---|
| id | int64 | `Row.image_id` |
| name | string | `Row.file_name` |
| captions | list of string | |
| offset, size | int64 | where the image lies in its file, bytes; -1 if it is not found so |
| reason, detail, licence | string | "" for none |

Covers: a table from what a source found; rows from a table; the bytes of a table; a hash of what the rows are.
Does not cover: which part a row is in (`row_index`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import Reason
from daskt2i.sources.files.spans import SpannedRow
from daskt2i.sources.index.found import Found
from daskt2i.types import Row


def table_of(found: Sequence[Found], ids: Sequence[int]) -> Any:
    """The Arrow table of these rows.

    Args:
        ids: image id of each row.
    """
    captions = [one.captions for one in found]
    return _table(
        _integers(ids, "q"),
        _texts([one.name for one in found]),
        _lists(captions),
        _integers([one.offset for one in found], "q"),
        _integers([one.size for one in found], "q"),
        _texts([one.reason or "" for one in found]),
        _texts([one.detail for one in found]),
        _texts([one.licence for one in found]),
    )


def with_repeats(table: Any, repeated: Mapping[int, str]) -> Any:
    """The table with some rows rejected as `duplicate-id`.

    Args:
        repeated: place in the table -> detail.
    """
    reasons, details = table["reason"].to_pylist(), table["detail"].to_pylist()
    for place, detail in repeated.items():
        reasons[place], details[place] = str(Reason.DUPLICATE_ID), detail
    kept = table.combine_chunks()
    columns = [kept.column(name).chunk(0) for name in kept.column_names]
    columns[5], columns[6] = _texts(reasons), _texts(details)
    return _table(*columns)


def to_bytes(table: Any) -> bytes:
    """The table as an Arrow file, compressed."""
    import pyarrow as pa

    stream = pa.BufferOutputStream()
    with pa.ipc.new_file(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(stream.getvalue())


def from_bytes(data: bytes) -> Any:
    """The table in an Arrow file."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.py_buffer(data)).read_all()


def ids_of(table: Any) -> npt.NDArray[np.int64]:
    """The image ids of a table."""
    found: npt.NDArray[np.int64] = np.concatenate([np.frombuffer(one.buffers()[1], np.int64) for one in _chunks(table)])
    return found[: table.num_rows]


def rows_of(table: Any, start: int, stop: int, first: int, container: str) -> list[Row]:
    """Rows of a table.

    Args:
        start, stop: places in the table.
        first: number of the first row of the table in the source.
        container: name of the file that the rows are from.
    """
    part = table.slice(start, stop - start)
    columns = [part[name].to_pylist() for name in ("id", "name", "captions", "reason", "detail", "licence")]
    spans = zip(part["offset"].to_pylist(), part["size"].to_pylist(), strict=True)
    rows: list[Row] = []
    for index, (values, (offset, size)) in enumerate(
        zip(zip(*columns, strict=True), spans, strict=True), first + start
    ):
        number, name, captions, reason, detail, licence = values
        common = (index, number, name, tuple(captions), Reason(reason) if reason else None, detail, licence)
        rows.append(Row(*common) if offset < 0 else SpannedRow(*common, None, container, offset, size))
    return rows


class ContentHash:
    """SHA-256 over rows: what they are, not where they lie."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, row: Found, image_id: int) -> None:
        """Add the next row."""
        texts = [text.encode() for text in (row.name, row.licence, row.reason or "", *row.captions)]
        self._sha.update(f"{image_id} {row.size} {' '.join(str(len(text)) for text in texts)}\n".encode())
        self._sha.update(b"".join(texts))

    def look(self, text: str) -> None:
        """Add what a look at the file shows besides."""
        self._sha.update(f"look {len(text)}\n{text}".encode())

    def hexdigest(self) -> str:
        """64 hex digits."""
        return self._sha.hexdigest()


_NAMES = ("id", "name", "captions", "offset", "size", "reason", "detail", "licence")


def _table(*columns: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_arrays(list(columns), names=list(_NAMES))


def _chunks(table: Any) -> list[Any]:
    return list(table["id"].chunks)


def _texts(values: Sequence[str]) -> Any:
    """`pa.array` would import pandas (53 MiB)."""
    import pyarrow as pa

    builder = pa.lib.StringBuilder()
    builder.append_values([str(value) for value in values])
    return builder.finish()


def _integers(values: Sequence[int], kind: str) -> Any:
    import pyarrow as pa

    numbers = array(kind, values)
    return pa.Array.from_buffers(pa.int64() if kind == "q" else pa.int32(), len(numbers), [None, pa.py_buffer(numbers)])


def _lists(values: Sequence[Sequence[str]]) -> Any:
    import pyarrow as pa

    ends = _integers([0, *accumulate(map(len, values))], "i")
    return pa.ListArray.from_arrays(ends, _texts(list(chain.from_iterable(values))))
