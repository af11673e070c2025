"""Tables of web addresses: daskt2i reads images, and another program downloads them.

Covers: what a web address is, and one sentence for a table of them.
Does not cover: which column holds the images (`columns`, `index.columns`).
"""

from __future__ import annotations

import posixpath
from typing import Any

from daskt2i.errors import SourceError

ADDRESSES = ("url", "image_url", "img_url", "urls")
"""Usual names of columns of web addresses, the likeliest first."""

_WEB = ("http://", "https://")
_KINDS = {".jsonl": "jsonl", ".json": "json", ".tsv": "tsv", ".parquet": "parquet", ".pq": "parquet"}


def is_web_address(value: Any) -> bool:
    """Whether a value of a table is one."""
    return isinstance(value, str) and value.strip().lower().startswith(_WEB)


def lists_web_addresses(address: str, column: str, caption: str | None) -> SourceError:
    """The error for a table of web addresses.

    Args:
        address: the table.
        column: the column that holds them.
        caption: the column of the captions, if it is known.
    """
    name = posixpath.basename(address)
    kind = next((kind for ending, kind in _KINDS.items() if ending in name), "csv")
    words = f" --caption_col {caption}" if caption else ""
    return SourceError(
        f"{address} lists web addresses of images (its column {column}), and no files. Nothing was read; daskt2i does "
        f"not download images, but img2dataset does: run `img2dataset --url_list {address} --input_format {kind} "
        f"--url_col {column}{words} --output_format webdataset --output_folder FOLDER`, and give FOLDER (images)."
    )
