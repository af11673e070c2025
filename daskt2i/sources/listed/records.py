"""The records of a JSON Lines or a CSV file, one after the other.

Covers: unpacking and text; broken lines, each named by its number; delimiters and quotes of CSV files.
Does not cover: which columns are used (`columns`), strict JSON (`documents`).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i import documents
from daskt2i.documents import BadDocument, shown
from daskt2i.errors import SourceError
from daskt2i.sources.files.packed import BadPacking, unpack
from daskt2i.sources.listed.columns import Columns, Named, columns_of, is_header

_DELIMITERS = (",", "\t", ";", "|")
_UNQUOTED = ("\t", "|")
"""Files with these delimiters are often written without any rule of quotes: a quote is a character like others."""

_HEADER = "write names of columns into the first line, such as `file_name,caption`"

_PEEKED = 1000
"""Records whose keys count as the columns of a JSON Lines file: one record may leave a key out."""

Record = Mapping[str, Any]


def read_records(raw: bytes, address: str, kind: str, named: Named) -> tuple[Columns, Iterator[Record]]:
    """The columns of a table, and its records in order.

    Args:
        raw: the bytes of the file; gzip, bzip2 and xz are unpacked.
        kind: `jsonl` or `csv`.
        address: where the file lies, for messages.

    Raises:
        SourceError: the file is damaged or empty, or it has no columns that can be used. A broken line is reported when
            the iterator comes to it.
    """
    try:
        raw, _ = unpack(raw, address.partition("::")[0])
        text = documents.text_of(raw)
    except BadPacking as error:
        raise SourceError(
            f"{address} cannot be unpacked: {error}. Nothing was read; give a file with gzip, bzip2, xz or no packing "
            "(images, captions)."
        ) from error
    except BadDocument as error:
        raise SourceError(f"{address} cannot be read: {error}. Nothing was read; write it as UTF-8.") from error
    records = _json_lines(text, address) if kind == "jsonl" else _csv(text, address)
    first = list(itertools.islice(records, _PEEKED))
    if not first:
        raise SourceError(f"{address} has no entries. Nothing was read; give a file that lists images.")
    keys = list(dict.fromkeys(key for record in first for key in record))
    return columns_of(keys, first[0], named, address), itertools.chain(first, records)


def _json_lines(text: str, address: str) -> Iterator[Record]:
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)  # other separators of Unicode may stand inside a caption
        end = len(text) if end < 0 else end
        line, start, number = text[start:end], end + 1, number + 1
        if not line.strip():
            continue
        try:
            found = documents.read_json(line)
        except BadDocument as error:
            raise _broken(address, number, str(error), "write one JSON object in each line") from error
        if not isinstance(found, dict):
            raise _broken(address, number, f"it is {shown(found)}, and no object", "write one JSON object in each line")
        yield found


def _csv(text: str, address: str) -> Iterator[Record]:
    names, options = _dialect(text, address)
    reader = _reader(text, options)
    next(reader, None)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise _broken(address, number, str(error), "put a value with quotes, commas or lines in quotes") from error
        if values is None:
            return
        if len(values) > len(names):
            said = f"it has {len(values)} values for {len(names)} columns"
            raise _broken(address, number, said, "put a value with a delimiter in quotes")
        if values:
            yield dict(zip(names, values, strict=False))


def _reader(text: str, options: dict[str, Any]) -> Any:
    return csv.reader(io.StringIO(text, newline=""), strict=True, **options)


def _dialect(text: str, address: str) -> tuple[list[str], dict[str, Any]]:
    """The names of the columns, and how the file is written."""
    head = text[: text.find("\n") + 1] or text
    if not head.strip():
        raise SourceError(f"{address} has no header: its first line is empty. Nothing was read; {_HEADER}.")
    found = {delimiter: next(csv.reader([head], delimiter=delimiter), []) for delimiter in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda one: len(found[one]))
    names = found[delimiter]
    spaced = len(names) > 1 and all(name.startswith(" ") for name in names[1:])
    names = [name.strip() for name in names]
    if not is_header(names):
        raise SourceError(
            f"{address} has no header with a usual name: its first line is {shown(head.strip())}. Nothing was read; "
            f"{_HEADER}."
        )
    if len(set(names)) < len(names):
        raise SourceError(f"{address} has two columns of one name: {shown(head.strip())}. Nothing was read; {_HEADER}.")
    options: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": spaced}
    if delimiter in _UNQUOTED:
        try:
            for _ in _reader(text, options):
                pass
        except csv.Error:
            options["quoting"] = csv.QUOTE_NONE
    return names, options


def _broken(address: str, line: int, said: str, advice: str) -> SourceError:
    return SourceError(f"Line {line:,} of {address} is broken: {said}. Nothing was read; {advice}.")
