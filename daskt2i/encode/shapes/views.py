"""The views that a run makes: of which chunks, in which sizes, and from which part of each image.

Covers: settings and buckets -> views; the framing of the images of a chunk.
Does not cover: arrays (`arrays`), pixels (`pictures`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from daskt2i.config.image_settings import ImageSettings
from daskt2i.facts.bucketed import Bucket
from daskt2i.images.buckets import Size
from daskt2i.images.framing import Crop, Framing
from daskt2i.plan import ChunkGrid
from daskt2i.store.views import View, short_chunks, view_name


@dataclass(frozen=True, slots=True)
class Shapes:
    """The views of a run.

    Attributes:
        views: in the order of their chunks; at least one.
        crop, seed: which part of an image they show.
        upscale: whether an image may be scaled up.
        side: side of the square that the encoder is asked about, pixels.
    """

    views: tuple[View, ...]
    crop: Crop
    seed: int
    upscale: bool
    side: int

    @property
    def named(self) -> bool:
        """Whether the arrays are named after their view. One square view has plain names."""
        first = self.views[0]
        return len(self.views) > 1 or first.flipped or first.width != first.height

    def of_chunk(self, chunk: int) -> tuple[View, ...]:
        """The views of the rows of a chunk."""
        return tuple(view for view in self.views if view.covers(chunk))

    def begins(self, chunk: int) -> bool:
        """Whether a chunk is the first one of a view."""
        return any(view.first_chunk == chunk for view in self.views)

    def framing(self, chunk: int) -> Framing:
        """Which part of the images of a chunk is read, in which sizes."""
        sizes = tuple(dict.fromkeys(view.size for view in self.of_chunk(chunk)))
        return Framing(sizes, self.crop, self.seed, self.upscale)

    @property
    def pixels(self) -> int:
        """Pixels of all pictures of one image, where they are most."""
        return sum(width * height for width, height in self.framing(self.heaviest()).sizes)

    def heaviest(self) -> int:
        """The first chunk among those with the most pixels for each row."""
        return max(
            sorted({view.first_chunk for view in self.views}, reverse=True),
            key=lambda chunk: sum(view.width * view.height for view in self.of_chunk(chunk)),
        )

    def as_one_bucket(self, chunks: int, rows: int) -> Shapes:
        """The views of the heaviest chunk, for images of any ratio: what an estimate encodes."""
        views = [replace(one, first_chunk=0, chunks=chunks, rows=rows) for one in self.of_chunk(self.heaviest())]
        return replace(self, views=tuple(views), upscale=True)


def shapes_of(image: ImageSettings, buckets: Sequence[Bucket], rows: int, rows_per_chunk: int) -> Shapes:
    """The views of a run.

    Args:
        buckets: those of the source; none for squares.
        rows: number of rows of the source.
    """
    chunks = -(-rows // rows_per_chunk)
    sides = sorted(image.resolutions or (image.resolution,))
    places: list[tuple[Size, int, int, int]] = [((side, side), 0, chunks, rows) for side in sides]
    if buckets:
        places = [(one.size, one.first_chunk, one.chunks, one.rows) for one in buckets]
    views = [
        View(view_name(size, flipped), *size, flipped, *place)
        for size, *place in places
        for flipped in (False, *[True] * image.flip)
    ]
    return shapes_with(views, image)


def shapes_with(views: Sequence[View], image: ImageSettings) -> Shapes:
    """The views of a store that exists."""
    upscale = image.buckets.upscale if image.buckets is not None else True
    return Shapes(tuple(views), image.crop, image.seed, upscale, image.side)


def grid_for(shapes: Shapes, rows_per_chunk: int) -> ChunkGrid:
    """The chunks of a run."""
    last = max(shapes.views, key=lambda view: view.first_chunk)
    before = (last.first_chunk + last.chunks - 1) * rows_per_chunk
    rows = before + last.rows - (last.chunks - 1) * rows_per_chunk
    short = short_chunks(shapes.views, rows_per_chunk)
    return ChunkGrid(rows, rows_per_chunk, {chunk: n for chunk, n in short.items() if chunk * rows_per_chunk < before})
