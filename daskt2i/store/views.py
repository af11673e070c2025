"""The views of a store: the sizes of picture that its latents show, and the chunks that have each.

Covers: the attribute `views` of a store, names of the arrays of a view, the chunks of a store with short chunks.
Does not cover: which row belongs to which bucket (`facts.buckets`), pixels (`images.framing`).

    latent_mean_512x448/            the view 512x448: 512 pixels wide, 448 high
    latent_mean_512x448_flipped/    the same crops, mirrored

A store whose rows all have one square view has plain names (`latent_mean`) and no attribute `views`. With several
resolutions each view has all chunks. With buckets each chunk belongs to one bucket, and row numbers are left out after
the last chunk of a bucket, which may be short.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.errors import StoreError
from daskt2i.plan import ChunkGrid

VIEWS = "views"
"""Key of the views in the attribute `daskt2i` of a store."""

FLIPPED = "_flipped"


@dataclass(frozen=True, slots=True)
class View:
    """One latent of a row.

    Attributes:
        name: `512x448`, or `512x448_flipped`.
        width, height: of its pictures, pixels.
        flipped: whether the pictures are mirrored.
        first_chunk: the first chunk that has it.
        chunks: number of chunks that have it, one after the other.
        rows: number of rows of these chunks.
    """

    name: str
    width: int
    height: int
    flipped: bool
    first_chunk: int
    chunks: int
    rows: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.width, self.height

    def array(self, name: str) -> str:
        """The name in the store of an array of the image encoder: `latent_mean` -> `latent_mean_512x448`."""
        return f"{name}_{self.name}"

    def covers(self, chunk: int) -> bool:
        """Whether the rows of a chunk have this view."""
        return self.first_chunk <= chunk < self.first_chunk + self.chunks

    def to_json(self) -> dict[str, Any]:
        """The view, as JSON."""
        return dataclasses.asdict(self)


def view_name(size: tuple[int, int], flipped: bool = False) -> str:
    """`512x448` for a width of 512 and a height of 448 pixels."""
    return f"{size[0]}x{size[1]}{FLIPPED if flipped else ''}"


def views_of(about: Mapping[str, Any]) -> tuple[View, ...]:
    """The views of a store, in the order of its chunks; none if its rows have one square view under plain names.

    Args:
        about: the attribute `daskt2i` of the store.

    Raises:
        StoreError: they are damaged.
    """
    kinds = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in dataclasses.fields(View)}
    given = about.get(VIEWS, [])
    good = isinstance(given, list) and all(isinstance(one, dict) and one.keys() == kinds.keys() for one in given)
    if not good or not all(type(one[key]) is kind for one in given for key, kind in kinds.items()):
        raise StoreError(
            "The views in the attributes of the store (zarr.json) are damaged. The arrays are unchanged; restore this "
            "file, or encode into another run folder (out)."
        )
    return tuple(View(**one) for one in given)


def view_of_array(name: str, views: Iterable[View]) -> View | None:
    """The view that an array of a store belongs to; None for an array that belongs to all rows.

    The name of the view ends the name of the array, or a part of its form follows: `latent_mean_512x448_scale`.
    """
    found = [view for view in views if f"_{view.name}_" in f"{name}_"]
    return max(found, key=lambda view: len(view.name), default=None)  # a mirrored view has the longer name


def short_chunks(views: Iterable[View], rows_per_chunk: int) -> dict[int, int]:
    """Chunks that are the last of their view and have fewer rows than the others -> how many."""
    found = {}
    for view in views:
        rows = view.rows - (view.chunks - 1) * rows_per_chunk
        if rows < rows_per_chunk:
            found[view.first_chunk + view.chunks - 1] = rows
    return found


def grid_of(layout: Mapping[str, Any], about: Mapping[str, Any]) -> ChunkGrid:
    """The chunks of a store.

    Args:
        layout: its layout (`ZarrStore.layout`).
        about: its attribute `daskt2i` (`layout.about_store`).

    Raises:
        StoreError: its views are damaged.
    """
    rows, size = int(layout["rows"]), int(layout["rows_per_chunk"])
    last = -(-rows // size) - 1
    short = short_chunks(views_of(about), size)
    return ChunkGrid(rows, size, {chunk: count for chunk, count in short.items() if chunk < last})
