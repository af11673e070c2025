"""Which columns of an Arrow table hold images, captions and ids: by their usual names, or as the user names them.

Covers: the types that fit; one sentence, with the columns that are there, if none fits; tables of web addresses.
Does not cover: reading the values (`parquet`, `hf`), what captions are (`captions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from daskt2i.errors import SourceError
from daskt2i.sources.index.captions import KEYS, split, values
from daskt2i.sources.listed.columns import IDS, LICENCES
from daskt2i.sources.listed.web_addresses import ADDRESSES, is_web_address, lists_web_addresses

_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes", "bytes")
_PATHS = ("file_name", "filename", "image_path", "filepath", "file_path", "path", "file", "img_path")

Form = Literal["bytes", "struct", "path"]


@dataclass(frozen=True, slots=True)
class Named:
    """The columns that a user names. None: by their usual names."""

    image: str | None = None
    captions: tuple[str, ...] | None = None
    identity: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one table.

    Attributes:
        image: the images; form: `bytes` (files), `struct` (HF: fields `bytes` and `path`), or `path` (names of files).
        captions: one or more columns of text or lists of text.
        identity, licence: None for one that it has not.
    """

    image: str
    form: Form
    captions: tuple[str, ...]
    identity: str | None
    licence: str | None

    @property
    def told(self) -> list[str]:
        """The columns that the index needs; never the bytes of images."""
        found = [*self.captions, *filter(None, (self.identity, self.licence))]
        return [*found, self.image] if self.form == "path" else found

    def captions_of(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
        """The captions of a row that are not blank, and the number of the others."""
        return split(one for name in self.captions for one in values(record[name]))

    def id_of(self, record: Mapping[str, Any]) -> int | None:
        """The number of the image; None if the data give none."""
        number = None if self.identity is None else record[self.identity]
        return number if isinstance(number, int) and -(2**63) <= number < 2**63 else None


def columns_of(schema: Any, named: Named, address: str) -> Columns:
    """The columns of an Arrow schema.

    Raises:
        SourceError: there is no fitting column of images or captions, or the images are web addresses.
    """
    for name in filter(None, (named.image, *(named.captions or ()), named.identity)):
        if name not in schema.names:
            raise SourceError(
                f"{address} has no column {name!r}. It has {_listed(schema)}. Nothing was read; name one of these "
                "(image_column, caption_column, id_column)."
            )
    image, form = _image(schema, named, address)
    captions = named.captions or tuple(filter(None, [_usual(schema, KEYS)]))
    if not captions:
        raise SourceError(
            f"{address} has no column of captions under a usual name. It has {_listed(schema)}. Nothing was read; name "
            "the column (caption_column)."
        )
    for name in captions:
        if not _is_captions(schema.field(name).type):
            raise SourceError(
                f"The column {name!r} of {address} is {schema.field(name).type}, but captions are text or lists of "
                f"text. It has {_listed(schema)}. Nothing was read; name another column (caption_column)."
            )
    identity = named.identity or _usual(schema, IDS, _is_integer)
    if identity is not None and not _is_integer(schema.field(identity).type):
        raise SourceError(
            f"The column {identity!r} of {address} is {schema.field(identity).type}, but ids are whole numbers. "
            "Nothing was read; name another column, or none (id_column)."
        )
    licence = _usual(schema, LICENCES, _is_text)
    return Columns(image, form, tuple(captions), identity, licence)


def refuse_web_addresses(columns: Columns, record: Mapping[str, Any], address: str) -> None:
    """Refuse a table whose column of file names holds web addresses.

    Args:
        record: a row of the table.

    Raises:
        SourceError: it does.
    """
    if columns.form == "path" and is_web_address(record[columns.image]):
        raise lists_web_addresses(address, columns.image, columns.captions[0])


def _image(schema: Any, named: Named, address: str) -> tuple[str, Form]:
    if named.image is None:
        wanted = _usual(schema, (*_IMAGES, *_PATHS))
        url = _usual(schema, ADDRESSES)
        if url is not None and (wanted is None or wanted.casefold() in _PATHS):
            raise lists_web_addresses(address, url, _usual(schema, KEYS))
        if wanted is None:
            raise SourceError(
                f"{address} has no column of images under a usual name. It has {_listed(schema)}. Nothing was read; "
                "name the column (image_column)."
            )
    else:
        wanted = named.image
    if (form := _form(schema.field(wanted).type)) is None:
        raise SourceError(
            f"The column {wanted!r} of {address} is {schema.field(wanted).type}, but images are bytes, HF's struct of "
            f"bytes and path, or names of files. It has {_listed(schema)}. Nothing was read; name another column "
            "(image_column)."
        )
    return wanted, form


def _form(kind: Any) -> Form | None:
    import pyarrow as pa

    if _is_bytes(kind):
        return "bytes"
    if _is_text(kind):
        return "path"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
        return "struct"
    return None


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = _plain(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _plain(kind: Any) -> Any:
    """The type of the values. pandas writes a categorical column as a dictionary of them."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_captions(kind: Any) -> bool:
    import pyarrow as pa

    kind = _plain(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_captions(kind.value_type)
    return _is_text(kind) or bool(pa.types.is_struct(kind)) or bool(pa.types.is_null(kind))


def _is_integer(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(_plain(kind)))


def _usual(schema: Any, names: Sequence[str], fits: Callable[[Any], bool] = lambda kind: True) -> str | None:
    """The first of these names that a column has, in small or capital letters, with a type that fits."""
    there = {name.casefold(): name for name in reversed(schema.names)}
    found = (there[name.casefold()] for name in names if name.casefold() in there)
    return next((name for name in found if fits(schema.field(name).type)), None)


def _listed(schema: Any, most: int = 12) -> str:
    shown = [f"{_cut(one.name)} ({_cut(str(one.type))})" for one in list(schema)[:most]]
    return f"the columns {', '.join(shown)}" + (", …" if len(schema) > most else "")


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
