"""Parquet and Arrow files of images with captions, made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from daskt2i.sources.fake import bitmap, colour

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(number: int) -> bytes:
    """A BMP of one colour; each number has another size too."""
    return bitmap(33 + number % 5, 32, colour(number))


def table(
    images: Sequence[Any], captions: Sequence[Any], form: Any = None, name: str = "image", **more: Sequence[Any]
) -> pa.Table:
    """A table with a column of images and a column `caption`.

    Args:
        form: Arrow type of the images; bytes without it.
        more: further columns.
    """
    columns = {name: pa.array(images, form or pa.binary()), "caption": captions}
    return pa.table({**columns, **{key: pa.array(values) for key, values in more.items()}})


def numbered(rows: range, form: Any = None, **more: Sequence[Any]) -> pa.Table:
    """A table with a picture and two captions in each row."""
    pictures = [picture(n) for n in rows]
    images = [{"bytes": one, "path": f"{n}.bmp"} for n, one in zip(rows, pictures, strict=True)]
    return table(images if form == STRUCT else pictures, [[f"number {n}", "again"] for n in rows], form, **more)


def odd_rows(form: Any = None) -> pa.Table:
    """Rows that go wrong: no image, no caption, a blank one, an id twice; the last is good."""
    pictures: list[Any] = [picture(90), None, picture(92), picture(93), picture(94), picture(95)]
    if form == STRUCT:
        pictures = [None if one is None else {"bytes": one, "path": None} for one in pictures]
    captions = [["good"], ["no image"], [], [" ", "one"], ["twice"], ["good"]]
    return table(pictures, captions, form, image_id=[1, 2, 3, 4, 1, 6], license=["CC0", None, "BY", "", "BY", "BY"])


def write_parquet(path: Path, content: pa.Table, group: int = 4) -> Path:
    """A Parquet file with row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(content, path, row_group_size=group)
    return path


def write_arrow(path: Path, content: pa.Table, batch: int = 4, compression: str | None = None) -> Path:
    """An Arrow file in the stream format, as `datasets` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, content.schema, options=options) as writer:
        writer.write_table(content, max_chunksize=batch)
    return path
