"""The rows of a benchmark: the first N rows of a source, only with the data that the measured part needs.

Covers: limiting a source to N rows, or repeating it if it has fewer; leaving out pictures or captions.
Does not cover: reading rows (the source itself).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.protocols import Source
from daskt2i.sources.fake import bitmap
from daskt2i.types import Row, SourceInfo

Part = Literal["vae", "text", "both"]
"""The measured part: only the image encoder, only the text encoder, or both as in `encode`."""

BLANK = 32
"""Side in pixels of the plain picture that replaces each image when only text is measured."""

CAPTION = "a picture"
"""Replaces all captions when only images are measured. It is the same for all rows, so it is encoded once per chunk."""


class BenchRows:
    """The first `rows` rows of a source; row i is its row i modulo its length.

    Args:
        source: a component as in a workflow: `class`, and its arguments.
        rows: number of rows.
        part: `vae` gives every row the same caption, `text` the same small picture, `both` changes nothing.

    Raises:
        ConfigError: `rows` is below 1, or the source has no rows.
    """

    def __init__(self, source: Mapping[str, Any], rows: int, part: Part = "both") -> None:
        self._source: Source = Component.model_validate(dict(source)).build(Source, "dataset.source")
        self._rows, self._part = rows, part
        self._of: SourceInfo | None = None
        if rows < 1:
            raise ConfigError(f"A benchmark of {rows} rows cannot run. Use at least one row (rows).")

    def info(self) -> SourceInfo:
        """Counts of the rows of this source; `content` names the wrapped source and the choice."""
        of = self._inner()
        captions = characters = slots = 0
        for start in range(0, self._rows, 4096):
            for row in self.rows(start, min(start + 4096, self._rows)):
                captions += len(row.captions)
                characters += sum(map(len, row.captions))
                slots = max(slots, len(row.captions))
        return replace(
            of,
            rows=self._rows,
            slots=slots,
            captions=captions,
            caption_characters=characters,
            content={"rows": self._rows, "part": self._part, "of": dict(of.content)},
            label=f"{self._rows:,} rows of {of.label}",
        )

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`; `origin` is their row in the source."""
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        length, found = self._inner().rows, list[Row]()
        stop = min(stop, self._rows)
        while start < stop:
            origin = start % length
            part = self._source.rows(origin, min(length, origin + stop - start))
            found += [replace(row, index=start + place, origin=row.index) for place, row in enumerate(part)]
            start += len(part)
        if self._part == "vae":
            return [replace(row, captions=(CAPTION,)) if row.captions else row for row in found]
        return found

    def read(self, row: Row) -> bytes:
        """The bytes of the source, or the plain picture."""
        if self._part == "text":
            return bitmap(BLANK, BLANK, (128, 128, 128))
        return self._source.read(row if row.origin is None else replace(row, index=row.origin, origin=None))

    def _inner(self) -> SourceInfo:
        if self._of is None:
            self._of = self._source.info()
            if not self._of.rows:
                raise ConfigError(f"The source has no rows ({self._of.label}), so there is nothing to measure.")
        return self._of


def with_rows(workflow: Workflow, rows: int, part: Part) -> Workflow:
    """The workflow with `rows` rows, and with a fake encoder in place of the one that is not measured.

    The fake needs microseconds per row: for `vae` one short caption per chunk, for `text` a picture of 32 x 32 pixels.

    Raises:
        ConfigError: the workflow selects rows with `where`.
    """
    dataset = workflow.dataset
    if dataset.where is not None:
        raise ConfigError("A benchmark uses the first rows of a source, so it needs a workflow without dataset.where.")
    source = {"class": f"{__name__}.{BenchRows.__name__}", "source": dataset.source.model_dump(by_alias=True)}
    changes: dict[str, Any] = {"source": Component.model_validate({**source, "rows": rows, "part": part})}
    if part == "vae":
        fake = _fake("FakeTextEncoder", features=8, max_tokens=8)
        changes["encoders"] = dataset.encoders.model_copy(update={"text": fake})
    if part == "text":
        fake = _fake("FakeImageEncoder", reduction=BLANK)
        changes["encoders"] = dataset.encoders.model_copy(update={"image": fake})
        changes["image"] = dataset.image.model_copy(update={"resolution": BLANK, "min_side": 1})
    run = workflow.run if part != "text" else workflow.run.model_copy(update={"gate_rows": 0})  # nothing to decode back
    return workflow.model_copy(update={"scenes": None, "run": run, "dataset": dataset.model_copy(update=changes)})


def _fake(name: str, **arguments: Any) -> Component:
    return Component.model_validate({"class": f"daskt2i.encoders.fake.{name}", **arguments})
