"""The rows of a benchmark: the first N of a source, with what only the part that is measured needs.

Covers: cutting a source to N rows, or going round it when it has fewer; leaving out pictures or captions.
Does not cover: reading them (the source itself).
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
"""What is measured: the image encoder alone, the text encoder alone, or both, as `encode` runs them."""

BLANK = 32
"""Side in pixels of the plain picture that stands for each image where text alone is measured."""

CAPTION = "a picture"
"""Stands for the captions where images alone are measured: one for all rows, so it is encoded once a chunk."""


class BenchRows:
    """The first `rows` rows of a source; row i is its row i modulo its length.

    Args:
        source: a component as a workflow names it: `class`, and its arguments.
        rows: how many.
        part: `vae` gives every row the same one caption, `text` the same small picture, `both` changes nothing.

    Raises:
        ConfigError: `rows` is below 1, or the source has none.
    """

    def __init__(self, source: Mapping[str, Any], rows: int, part: Part = "both") -> None:
        self._source: Source = Component.model_validate(dict(source)).build(Source, "dataset.source")
        self._rows, self._part = rows, part
        self._of: SourceInfo | None = None
        if rows < 1:
            raise ConfigError(f"--rows is {rows}; a benchmark takes one row at least.")

    def info(self) -> SourceInfo:
        """Counts of the rows as they are given; `content` names the source and the choice."""
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
        """The source's bytes, or the plain picture."""
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
    """The workflow over `rows` rows, with a fake in place of the encoder that is not measured.

    The fake costs microseconds a row: for `vae` one short caption a chunk, for `text` a picture of 32 x 32 pixels.

    Raises:
        ConfigError: the workflow selects rows with `where`.
    """
    dataset = workflow.dataset
    if dataset.where is not None:
        raise ConfigError("A benchmark takes the first rows of a source; leave dataset.where out.")
    source = {"class": f"{__name__}.{BenchRows.__name__}", "source": dataset.source.model_dump(by_alias=True)}
    changes: dict[str, Any] = {"source": Component.model_validate({**source, "rows": rows, "part": part})}
    if part == "vae":
        fake = _fake("FakeTextEncoder", features=8, max_tokens=8)
        changes["encoders"] = dataset.encoders.model_copy(update={"text": fake})
    if part == "text":
        fake = _fake("FakeImageEncoder", reduction=BLANK)
        changes["encoders"] = dataset.encoders.model_copy(update={"image": fake})
        changes["image"] = dataset.image.model_copy(update={"resolution": BLANK, "min_side": 1})
    run = workflow.run if part != "text" else workflow.run.model_copy(update={"gate_rows": 0})  # no likeness to check
    return workflow.model_copy(update={"scenes": None, "run": run, "dataset": dataset.model_copy(update=changes)})


def _fake(name: str, **arguments: Any) -> Component:
    return Component.model_validate({"class": f"daskt2i.encoders.fake.{name}", **arguments})
