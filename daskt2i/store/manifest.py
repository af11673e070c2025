"""The manifest: a Parquet table with one line for each row of a finished store, accepted, or rejected with the reason.

| column | type | |
|---|---|---|
| row | int64 | row of the store |
| image_id | int64 | the number that the source gives to the image |
| file_name | string | path below the source's image root |
| status | string | `accepted` or `rejected` |
| reason | string | one of `errors.Reason`; null when accepted |
| detail | string | one clause for a person; null when accepted |
| captions | int32 | number of captions in the source that are not blank |
| chunk | int64 | chunk of the row |

Covers: combining rows and receipts into this table; an error if they contradict each other.
Does not cover: which receipts are valid (`receipts`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from daskt2i.errors import StoreError
from daskt2i.plan import ChunkGrid
from daskt2i.store.run_folder import MANIFEST, RunFolder
from daskt2i.types import Receipt, Row

_GROUP_ROWS = 1_024
"""Rows of a row group. Writing 20,000 rows takes 2 MiB more memory than writing 200; with 8,192 it took 17 MiB more."""

_REPETITIVE = ["status", "reason", "detail", "captions"]
"""Columns with a dictionary. The values of the other columns are all different: dictionaries doubled the file."""

Line = tuple[int, int, str, str, str | None, str | None, int, int]


def write_manifest(
    folder: RunFolder,
    rows_of: Callable[[int, int], Sequence[Row]],
    receipts: Iterable[Receipt],
    rows: int | None = None,
    grid: ChunkGrid | None = None,
) -> int:
    """Write `manifest.parquet`, completely or not at all. At most 1,024 rows are in memory at once.

    Args:
        rows_of: `(start, stop)` -> these rows, such as the `rows` of a source.
        receipts: the receipts in the order of chunks, without gaps, from row 0.
        rows: the expected number of rows; None for no check.
        grid: the chunks, if some before the last one are short: row numbers are left out after them.

    Returns:
        The number of rows.

    Raises:
        StoreError: receipts and rows contradict each other. An older manifest stays unchanged.
        StoreFull: no space is left.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("file_name", pa.string(), nullable=False),
            pa.field("status", pa.string(), nullable=False),
            pa.field("reason", pa.string()),
            pa.field("detail", pa.string()),
            pa.field("captions", pa.int32(), nullable=False),
            pa.field("chunk", pa.int64(), nullable=False),
        ]
    )

    def flush(writer: Any, lines: list[Line]) -> None:
        columns = zip(*lines, strict=True)
        try:
            arrays = [_array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        except (pa.ArrowException, OverflowError, TypeError) as error:
            first, last = lines[0][0], lines[-1][0]
            raise _contradiction(f"a number in rows {first} to {last} is too large ({error})") from error
        writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=_GROUP_ROWS)

    written = 0
    with folder.writing(MANIFEST) as file:
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=_REPETITIVE) as writer:
            lines: list[Line] = []
            for line in _lines(rows_of, receipts, grid):
                lines.append(line)
                written += 1
                if len(lines) == _GROUP_ROWS:
                    flush(writer, lines)
                    lines = []
            if lines:
                flush(writer, lines)
        if rows is not None and written != rows:
            raise _contradiction(f"the receipts cover {written} rows, but the source has {rows}")
    return written


def _array(values: Sequence[Any], kind: Any) -> Any:
    """The same as `pa.array(values, kind)` for text and whole numbers, which would import pandas (53 MiB)."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        builder = pa.lib.StringBuilder()
        builder.append_values(values)
        return builder.finish()
    numbers = array("i" if kind == pa.int32() else "q", values)
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def _lines(
    rows_of: Callable[[int, int], Sequence[Row]], receipts: Iterable[Receipt], grid: ChunkGrid | None
) -> Iterator[Line]:
    expected = 0
    for receipt in receipts:
        if receipt.start != expected:
            raise _contradiction(f"chunk {receipt.chunk} starts at row {receipt.start} instead of {expected}")
        expected = receipt.stop
        if grid is not None and receipt.stop == grid[receipt.chunk].stop:
            expected = min((receipt.chunk + 1) * grid.rows_per_chunk, grid.rows)
        rows = rows_of(receipt.start, receipt.stop)
        if [row.index for row in rows] != list(range(receipt.start, receipt.stop)):
            raise _contradiction(f"the source gave other rows than rows {receipt.start} to {receipt.stop}")
        rejected = {rejection.row: rejection for rejection in receipt.rejected}
        captions = 0
        for row in rows:
            rejection = rejected.pop(row.index, None)
            if rejection is None:
                captions += len(row.captions)
            elif rejection.image_id != row.image_id:
                raise _contradiction(
                    f"row {row.index} is image {row.image_id}, but its receipt says {rejection.image_id}"
                )
            yield (
                row.index,
                row.image_id,
                _valid(row.file_name),
                "accepted" if rejection is None else "rejected",
                None if rejection is None else str(rejection.reason),
                None if rejection is None else _valid(rejection.detail),
                len(row.captions),
                receipt.chunk,
            )
        if rejected:
            raise _contradiction(f"chunk {receipt.chunk} rejects rows that it does not have: {sorted(rejected)[:5]}")
        if captions != receipt.captions:
            raise _contradiction(
                f"chunk {receipt.chunk} has {captions} captions in the source, but {receipt.captions} in its receipt"
            )


def _contradiction(what: str) -> StoreError:
    return StoreError(
        f"The manifest was not written: {what}. Latents and receipts are unchanged. If the caption file (captions) was "
        "changed, restore it; else remove the receipt of that chunk below receipts/, then encode again."
    )


def _valid(text: str) -> str:
    """Text that Parquet accepts. A lone surrogate, as in a broken file name, becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode()
