"""Which columns of a table hold the names of images, captions and ids: by their usual names, or as the user names them.

Covers: guessing, one sentence if it fails.
Does not cover: reading tables (`records`), what the values mean (`index`), tables of web addresses (`web_addresses`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.documents import shown
from daskt2i.errors import SourceError
from daskt2i.sources.listed.web_addresses import ADDRESSES, is_web_address, lists_web_addresses

_IMAGES = (
    *("file_name", "filename", "image", "image_path", "image_name", "image_file"),
    *("filepath", "file_path", "path", "file", "img", "img_path"),
)
CAPTIONS = ("caption", "captions", "text", "sentences")
IDS = ("image_id", "id")
LICENCES = ("license", "licence")
"""Usual names of columns, the likeliest first. Capitals and white-space around a name do not matter."""


@dataclass(frozen=True, slots=True)
class Named:
    """The columns that a user names. None: by their usual names."""

    image: str | None = None
    caption: str | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table; None for one that it has not."""

    image: str
    caption: str
    identity: str | None
    licence: str | None

    def of(self, record: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
        """Image, captions, id and licence of a record; None for a value that it has not."""
        identity = None if self.identity is None else record.get(self.identity)
        licence = None if self.licence is None else record.get(self.licence)
        return record.get(self.image), record.get(self.caption), identity, licence


def columns_of(names: Iterable[str], first: Mapping[str, Any], named: Named, address: str) -> Columns:
    """The columns of a table.

    Args:
        names: the names of all its columns.
        first: its first record: a table of web addresses may call them `image`.
        address: the table, for messages.

    Raises:
        SourceError: there is no column of images or of captions, or the images are web addresses.
    """
    names = list(names)
    given = {"image_column": named.image, "caption_column": named.caption, "id_column": named.identity}
    for key, name in given.items():
        if name is not None and name not in names:
            raise SourceError(
                f"{address} has no column {shown(name)} (dataset.source.{key}): its columns are {_list(names)}. "
                "Nothing was read; name one of these."
            )
    image, caption = find(names, named.image, _IMAGES), find(names, named.caption, CAPTIONS)
    url = find(names, None, ADDRESSES)
    if url is None and image is not None and is_web_address(first.get(image)):
        url, image = image, None
    if image is None and url is not None:
        raise lists_web_addresses(address, url, caption)
    if image is None or caption is None:
        what, key = ("file names", "image_column") if image is None else ("captions", "caption_column")
        usual = (_IMAGES if image is None else CAPTIONS)[0]
        raise SourceError(
            f"{address} has no column of {what} under a usual name: its columns are {_list(names)}. Nothing was read; "
            f"name the column (dataset.source.{key}), or call it {usual}."
        )
    return Columns(image, caption, find(names, named.identity, IDS), find(names, None, LICENCES))


def is_header(names: Iterable[str]) -> bool:
    """Whether the first line of a table holds names of columns: one of them is a usual one."""
    usual = {*_IMAGES, *CAPTIONS, *IDS, *ADDRESSES}
    return any(name.strip().casefold() in usual for name in names)


def find(names: list[str], given: str | None, usual: tuple[str, ...]) -> str | None:
    """The name that the user gave, or the likeliest usual one; None if it is not among the names."""
    if given is not None:
        return given if given in names else None
    plain = {name.strip().casefold(): name for name in reversed(names)}
    return next((plain[name] for name in usual if name in plain), None)


def _list(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:12]) + ", …" * (len(names) > 12)
