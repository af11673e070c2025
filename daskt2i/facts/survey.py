"""Finds the facts of a chunk of rows, from its captions and its images.

Covers: one chunk on a worker (`survey_chunk`), joining the chunks on the driver (`fold`).
Does not cover: where chunks run (`insights`, `selection`), how captions are parsed (`captions`), how pictures are
compared (`near_duplicates`).

An image is decoded at 32 pixels with the function that `encode` uses, so both find the same images unreadable. At this
size the decoder skips most of a JPEG.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.component import Component
from daskt2i.errors import Daskt2iError, Reason, RowRejected
from daskt2i.facts import near_duplicates as likeness
from daskt2i.facts.captions.mentions import tokens_of
from daskt2i.facts.captions.people import read_tokens
from daskt2i.facts.captions.rules import Rules, compile_rules
from daskt2i.facts.table import schema
from daskt2i.faults.patience import fetched_patiently
from daskt2i.images import read as images
from daskt2i.images.formats import open_image
from daskt2i.protocols import Source, TextEncoder
from daskt2i.types import Chunk, Row

if TYPE_CHECKING:
    import pyarrow as pa

READERS = 4
"""Threads that read and decode images. Most of the time they wait for a disk or a network, or run outside Python."""

_NO_MATTER = frozenset(("a", "an", "the", "some", "his", "her", "its", "their", "is", "are", "of", ",", ".", ";", ":"))
"""Words and marks that do not change the meaning of a caption."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Which facts to find. It is small and can be pickled, because it is sent with every chunk.

    Attributes:
        source: the source of the images.
        rules: text of the rules file.
        limits: limits of the images that encode accepts.
        pictures: whether to read the images too.
        text: the text encoder that counts tokens, or None.
    """

    source: Component
    rules: str
    limits: images.Limits
    pictures: bool = True
    text: Component | None = None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The facts of one chunk.

    Attributes:
        start: its first row.
        facts: a line for each row, with `table.schema`.
        tokens: number of tokens of each caption, int32[captions]; empty if tokens are not counted.
        limit: number of tokens that the encoder takes, 0 if tokens are not counted.
        exact: a hash of each caption, uint64[captions].
        alike: a hash of the words of each caption without order, articles and plurals, uint64[captions].
        of_row: the row of each caption, int64[captions].
        note: what could not be done, or "".
    """

    start: int
    facts: pa.RecordBatch
    tokens: npt.NDArray[np.int32]
    limit: int
    exact: npt.NDArray[np.uint64]
    alike: npt.NDArray[np.uint64]
    of_row: npt.NDArray[np.int64]
    note: str = ""


def survey_chunk(survey: Survey, chunk: Chunk) -> Surveyed:
    """Find the facts of a chunk that holds its rows.

    Raises:
        SourceError, OSError: the images as a whole cannot be read (a disk or a network failed).
    """
    import pyarrow as pa

    rules = compile_rules(survey.rules)
    captions = [caption for row in chunk.rows for caption in row.captions]
    counts, limit, note = _tokens(survey.text, captions)
    tokens = [[tokens_of(caption) for caption in row.captions] for row in chunk.rows]
    lines = [_of_captions(row, said, rules) for row, said in zip(chunk.rows, tokens, strict=True)]
    if survey.pictures:
        source: Source = _built(survey.source.model_dump_json(by_alias=True))
        look = functools.partial(_look, source, survey.limits)
        with ThreadPoolExecutor(READERS, thread_name_prefix="daskt2i-look") as pool:
            for line, seen in zip(lines, pool.map(look, chunk.rows), strict=True):
                line.update(seen)
    _add_tokens(lines, chunk.rows, counts, limit)
    wanted = schema()
    columns = [pa.array([line[field.name] for line in lines], field.type) for field in wanted]
    return Surveyed(
        start=chunk.start,
        facts=pa.RecordBatch.from_arrays(columns, schema=wanted),
        tokens=counts,
        limit=limit,
        exact=_hashes(" ".join(caption.split()) for caption in captions),
        alike=_hashes(map(_gist, captions, itertools.chain.from_iterable(tokens))),
        of_row=np.repeat([row.index for row in chunk.rows], [len(row.captions) for row in chunk.rows]).astype(np.int64),
        note=note,
    )


def fold(parts: Iterable[Surveyed], bits: int, persons: Mapping[int, int] | None = None) -> pa.Table:
    """The whole table: the chunks in order, with `duplicate_of`, `exact_duplicate` and `persons`.

    Args:
        bits: number of the 128 bits in which the signatures of near copies may differ.
        persons: image id -> number of boxed people; None gives -1 for each row.
    """
    import pyarrow as pa

    table = pa.Table.from_batches([part.facts for part in sorted(parts, key=lambda part: part.start)], schema())
    found, exact = likeness.copies(table["sha256"].to_pylist(), table["signature"].to_pylist(), bits)
    boxed = [-1 if persons is None else persons.get(number, 0) for number in table["image_id"].to_pylist()]
    table = table.append_column("duplicate_of", pa.array(found))
    table = table.append_column("exact_duplicate", pa.array(exact))
    return table.append_column("persons", pa.array(boxed, pa.int32()))


@functools.lru_cache(maxsize=4)
def _built(component: str) -> Any:
    """The object of a component, built once per process."""
    return Component.model_validate_json(component).build(Source, "dataset.source")


@functools.lru_cache(maxsize=4)
def _counter(component: str) -> Callable[[Sequence[str]], tuple[Sequence[int], int]] | None:
    """The function that counts tokens for a text encoder, built once per process; None if the encoder has none."""
    encoder = Component.model_validate_json(component).build(TextEncoder, "dataset.encoders.text")
    return getattr(encoder, "count_tokens", None)


def _tokens(text: Component | None, captions: list[str]) -> tuple[npt.NDArray[np.int32], int, str]:
    none = np.zeros(0, np.int32)
    if text is None:
        return none, 0, ""
    try:
        count = _counter(text.model_dump_json(by_alias=True))
        if count is None:
            return none, 0, f"{text.class_path} cannot count tokens, because it has no count_tokens"
        counts, limit = count(captions)
    except Daskt2iError as error:
        return none, 0, str(error)
    return np.asarray(counts, np.int32), limit, ""


def _add_tokens(lines: list[dict[str, Any]], rows: Sequence[Row], counts: npt.NDArray[np.int32], limit: int) -> None:
    place = 0
    for line, row in zip(lines, rows, strict=True):
        mine = counts[place : place + len(row.captions)]
        place += len(row.captions)
        line["tokens"] = int(mine.max()) if len(mine) else -1
        line["cut"] = int((mine > limit).sum()) if len(mine) else 0


def facts_of_captions(row: Row, rules: Rules) -> dict[str, Any]:
    """The facts of a row that need no image."""
    return _of_captions(row, [tokens_of(caption) for caption in row.captions], rules)


def _of_captions(row: Row, tokens: list[list[str]], rules: Rules) -> dict[str, Any]:
    found = read_tokens(tokens, rules)
    return {
        "row": row.index,
        "image_id": row.image_id,
        "file_name": row.file_name.encode("utf-8", "backslashreplace").decode(),
        "reason": str(row.reason or ("" if row.captions else Reason.NO_CAPTION)),
        "detail": row.detail.encode("utf-8", "backslashreplace").decode(),
        "people": found.people,
        "gender": found.gender,
        "age": found.age,
        "group": found.group,
        "activities": list(found.activities),
        "captions": len(row.captions),
        "words": max((len(caption.split()) for caption in row.captions), default=0),
        "width": 0,
        "height": 0,
        "bytes": 0,
        "format": "",
        "mode": "",
        "licence": row.licence,
        "sha256": b"",
        "signature": b"",
    }


def _look(source: Source, limits: images.Limits, row: Row) -> dict[str, Any]:
    """The facts of one image file. A damaged file is a fact; a disk that fails is an error."""
    seen: dict[str, Any] = {}
    if row.reason in (Reason.UNSAFE_PATH, Reason.MISSING_FILE):
        return seen
    known = row.reason is not None or not row.captions  # the row already has a reason, so a new one is not added
    try:
        data = fetched_patiently(source, row)
        seen |= {"bytes": len(data), "sha256": hashlib.sha256(data).digest()}
        seen |= _header(data)
        picture = images.read(data, likeness.SIDE, limits)
        seen["width"], seen["height"] = picture.source_size
        seen["signature"] = likeness.signature(picture.pixels)
    except RowRejected as error:
        if not known:
            seen |= {"reason": str(error.reason), "detail": error.detail.encode("utf-8", "backslashreplace").decode()}
    return seen


def _header(data: bytes) -> dict[str, Any]:
    """Format, mode and size from the header, also of a file that cannot be decoded."""
    try:
        image = open_image(data)
    except Exception:  # Pillow's parsers raise almost anything; `images.read` then gives the reason
        return {}
    return {"format": image.format or "", "mode": image.mode, "width": image.width, "height": image.height}


def _gist(caption: str, tokens: list[str]) -> str:
    """The words without order, articles, marks and plural s. Captions with equal results mean the same."""
    words = {token[:-1] if token[-1] == "s" and len(token) > 3 else token for token in tokens}
    return " ".join(sorted(words - _NO_MATTER)) or caption.strip()


def _hashes(texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """A hash of 64 bits of each text. The chance that any two of a million texts agree is 3 in 100 million."""
    joined = b"".join(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest() for text in texts)
    return np.frombuffer(joined, np.uint64)
