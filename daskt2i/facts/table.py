"""The table of facts: a line for each row of the source, a column for each fact.

Covers: the columns, the facts that `dataset.where` may name with their possible values, the table as CSV.
Does not cover: finding the facts (`survey`), totals of them (`insights.report`).
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
"""`none` means an image without people."""

VERSION = 1
"""Version of the meaning of the facts, part of a selection's fingerprint. Raise it if a change can move a row."""

YES_NO, NUMBER, TEXT, WORDS = "yes or no", "a number", "a text", "a list of words"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact that `dataset.where` may name.

    Attributes:
        kind: yes or no, a number, a text, or a list of words.
        meaning: one line.
        values: all possible values of a text; empty if it can be any text.
        picture: whether the image file must be read to know it.
    """

    kind: str
    meaning: str
    values: tuple[str, ...] = ()
    picture: bool = False


FACTS = {
    "people": Fact(YES_NO, "a caption mentions people"),
    "gender": Fact(TEXT, "the gender that captions give", GENDERS),
    "age": Fact(TEXT, "the age that captions give", AGES),
    "group": Fact(TEXT, "number of people that captions mention", GROUPS),
    "activity": Fact(TEXT, "lemma of the main verb of the people; empty if none"),
    "activities": Fact(WORDS, "lemmas of all verbs of the people"),
    "captions": Fact(NUMBER, "number of captions that are not blank"),
    "words": Fact(NUMBER, "number of words of the longest caption"),
    "file_name": Fact(TEXT, "path below the source's image root"),
    "image_id": Fact(NUMBER, "the source's number for the image"),
    "licence": Fact(TEXT, "the licence that the source gives"),
    "persons": Fact(NUMBER, "number of people in dataset.facts.coco_instances; -1 without that file"),
    "width": Fact(NUMBER, "width of the upright image, pixels; 0 if unknown", picture=True),
    "height": Fact(NUMBER, "height of the upright image, pixels; 0 if unknown", picture=True),
    "bytes": Fact(NUMBER, "size of the file", picture=True),
    "format": Fact(TEXT, "format of the file: JPEG, PNG, …", picture=True),
    "mode": Fact(TEXT, "colour mode: RGB, L, CMYK, …", picture=True),
    "usable": Fact(YES_NO, "encode would accept the row, as far as is known", picture=True),
    "reason": Fact(TEXT, "why encode would reject it; empty if not", ("", *map(str, Reason)), picture=True),
    "duplicate": Fact(YES_NO, "it repeats an earlier row, exactly or nearly", picture=True),
    "exact_duplicate": Fact(YES_NO, "it is the same file as an earlier row", picture=True),
}
"""All facts that `dataset.where` may name."""

COLUMNS = (
    "row", "image_id", "file_name", "reason", "detail", "people", "gender", "age", "group", "activity", "activities",
    "captions", "words", "tokens", "cut", "width", "height", "bytes", "format", "mode", "licence", "persons",
    "duplicate_of", "exact_duplicate",
)  # fmt: skip
"""Columns of the CSV file. The table also has `sha256` and `signature`."""


def schema() -> pa.Schema:
    """Schema of the facts of one chunk, before duplicates and persons are added."""
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
    """The Python values of these facts for each row, in the order of `names`."""
    if not names:  # `zip` of no columns would have no rows
        yield from ((),) * table.num_rows
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
    """The table as CSV in UTF-8, with `COLUMNS` in order. Spaces separate activities."""
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
