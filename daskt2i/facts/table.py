"""What is known of each image, as one table: a line per row of the source, a column per fact.

Covers: the columns, which of them `where:` may name and what values they can have, the table as CSV.
Does not cover: finding the facts (`survey`), totals over them (`insights.report`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskt2i.errors import Reason

if TYPE_CHECKING:
    import pyarrow as pa

GENDERS = ("none", "male", "female", "neutral", "mixed")
AGES = ("none", "child", "teen", "adult", "elderly", "mixed", "unstated")
GROUPS = ("none", "single", "pair", "group")
"""`none` is of an image without people."""

VERSION = 1
"""Of what the facts mean; part of a selection's fingerprint. It rises with any change that moves a row."""

YES_NO, NUMBER, TEXT, WORDS = "yes or no", "a number", "a text", "a list of words"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact that `where:` may name.

    Attributes:
        kind: yes or no, a number, a text, or a list of words.
        meaning: one line.
        values: all that a text can be; empty for any.
        picture: the image file must be read to know it.
    """

    kind: str
    meaning: str
    values: tuple[str, ...] = ()
    picture: bool = False


FACTS = {
    "people": Fact(YES_NO, "a caption speaks of people"),
    "gender": Fact(TEXT, "as captions say", GENDERS),
    "age": Fact(TEXT, "as captions say", AGES),
    "group": Fact(TEXT, "how many people captions speak of", GROUPS),
    "activity": Fact(TEXT, "the main verb of the people, its lemma; empty if none"),
    "activities": Fact(WORDS, "all verbs of the people"),
    "captions": Fact(NUMBER, "captions that are not blank"),
    "words": Fact(NUMBER, "words of the longest caption"),
    "file_name": Fact(TEXT, "below the source's image root"),
    "image_id": Fact(NUMBER, "the source's number"),
    "licence": Fact(TEXT, "as the source names it"),
    "persons": Fact(NUMBER, "people boxed in dataset.facts.coco_instances; -1 without that file"),
    "width": Fact(NUMBER, "of the upright image, pixels; 0 if unknown", picture=True),
    "height": Fact(NUMBER, "of the upright image, pixels; 0 if unknown", picture=True),
    "bytes": Fact(NUMBER, "of the file", picture=True),
    "format": Fact(TEXT, "JPEG, PNG, …", picture=True),
    "mode": Fact(TEXT, "of the colours: RGB, L, CMYK, …", picture=True),
    "usable": Fact(YES_NO, "encode would accept the row, as far as can be told", picture=True),
    "reason": Fact(TEXT, "why it would be rejected; empty if not", ("", *map(str, Reason)), picture=True),
    "duplicate": Fact(YES_NO, "it repeats an earlier row, exactly or nearly", picture=True),
    "exact_duplicate": Fact(YES_NO, "it is the same file as an earlier row", picture=True),
}
"""Everything that `where:` may name."""

COLUMNS = (
    "row", "image_id", "file_name", "reason", "detail", "people", "gender", "age", "group", "activity", "activities",
    "captions", "words", "tokens", "cut", "width", "height", "bytes", "format", "mode", "licence", "persons",
    "duplicate_of", "exact_duplicate",
)  # fmt: skip
"""Of the CSV file; the table also holds `sha256` and `signature`."""


def schema() -> pa.Schema:
    """Of the table before copies and persons are added: what one chunk gives."""
    import pyarrow as pa

    text, number = pa.string(), pa.int32()
    kinds = {
        "row": pa.int64(), "image_id": pa.int64(), "file_name": text, "reason": text, "detail": text,
        "people": pa.bool_(), "gender": text, "age": text, "group": text, "activities": pa.list_(text),
        "captions": number, "words": number, "tokens": number, "cut": number, "width": number, "height": number,
        "bytes": pa.int64(), "format": text, "mode": text, "licence": text,
        "sha256": pa.binary(), "signature": pa.binary(),
    }  # fmt: skip
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def values_of(table: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    """For each row the values of these facts, as Python values in the order of `names`."""
    columns = [_column(table, name) for name in names]
    yield from zip(*columns, strict=True)


def _column(table: pa.Table, name: str) -> list[Any]:
    if name == "activity":
        return [listed[0] if listed else "" for listed in table["activities"].to_pylist()]
    if name == "activities":
        return [tuple(listed) for listed in table["activities"].to_pylist()]
    if name == "duplicate":
        return [row >= 0 for row in table["duplicate_of"].to_pylist()]
    if name == "usable":
        return [not reason for reason in table["reason"].to_pylist()]
    return list(table[name].to_pylist())


def to_csv(table: pa.Table) -> bytes:
    """The table as CSV in UTF-8, `COLUMNS` in order; activities are separated by spaces."""
    import pyarrow as pa
    from pyarrow import csv

    columns = {}
    for name in COLUMNS:
        if name == "activities":
            columns[name] = pa.array([" ".join(listed) for listed in table[name].to_pylist()], pa.string())
        elif name == "activity":
            columns[name] = pa.array(_column(table, name), pa.string())
        else:
            columns[name] = table[name]
    stream = io.BytesIO()
    csv.write_csv(pa.table(columns), stream)
    return stream.getvalue()
