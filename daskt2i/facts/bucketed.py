"""The rows of a source in the order of their aspect buckets.

Covers: the bucket of each row, the order of the rows and their numbers in the store, what the buckets cost in pixels;
the buckets of a store that exists.
Does not cover: which buckets there are, and which an image gets (`images.buckets`), the sizes of images
(`image_sizes`).

Rows are ordered by the shape of their bucket, and then as in the source. Each bucket begins with a new chunk, so a
chunk has pictures of one size. After the last rows of a bucket, numbers are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.image_settings import BucketSettings
from daskt2i.errors import ConfigError, Reason
from daskt2i.facts.image_sizes import Sizes
from daskt2i.facts.renumbered import original, renumbered, rows_at
from daskt2i.images.buckets import Rule, Size, wasted
from daskt2i.protocols import Source, StampedSource
from daskt2i.store.layout import about_store, checked_layout
from daskt2i.store.views import views_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Row, SourceInfo

_NONE = -1


@dataclass(frozen=True, slots=True)
class Bucket:
    """The rows of one size.

    Attributes:
        size: width and height of the pictures, pixels.
        rows: number of rows.
        first_chunk: the first chunk; `chunks`: number of chunks.
        wasted: mean share of the images' pixels that no picture shows, 0 to 1.
        square: the same, if the pictures were squares.
    """

    size: Size
    rows: int
    first_chunk: int
    chunks: int
    wasted: float
    square: float

    def to_json(self) -> dict[str, Any]:
        """Size, rows, and the share of pixels that is left out."""
        return {"width": self.size[0], "height": self.size[1], "rows": self.rows, "wasted": round(self.wasted, 4)}


class BucketedRows:
    """The rows of a source, bucket by bucket.

    Args:
        source: the source, with `dataset.where`.
        sizes: of all its images.
        settings: of the buckets.
        rows_per_chunk: rows in every chunk; the last one of a bucket may have fewer.

    It stays on the driver. Workers read images by the plain source.

    Attributes:
        buckets: those that have rows, in order.

    Raises:
        ConfigError: no image is large enough for a bucket.
    """

    def __init__(self, source: Source, sizes: Sizes, settings: BucketSettings, rows_per_chunk: int) -> None:
        self._source, self._rows_per_chunk = source, rows_per_chunk
        rule = Rule(settings.size, settings.step, settings.max_ratio, settings.upscale)
        shapes, of_row, self._too_small = _assigned(sizes, rule)
        if not shapes:
            raise ConfigError(
                f"None of {len(sizes):,} images is large enough for a bucket: both sides need {settings.step} pixels. "
                "Nothing was started; make dataset.image.buckets.step smaller."
            )
        self._order = np.argsort(of_row, kind="stable").astype(np.int64)
        counts = np.bincount(of_row, minlength=len(shapes))
        self._begins = np.append(0, np.cumsum(counts))
        self.buckets = tuple(_buckets(shapes, counts, of_row, sizes, rows_per_chunk))
        content = hashlib.sha256(repr(shapes).encode() + of_row.astype("<i4").tobytes()).hexdigest()
        info = source.info()
        self._info = replace(info, content={**info.content, "buckets": content})

    def info(self) -> SourceInfo:
        """The info of the source. Its content holds the buckets of the rows too."""
        return self._info

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """The rows of the store with numbers `start <= number < stop`. `origin` is the number in the source."""
        if start < 0:
            raise IndexError(f"rows start at 0, not at {start}")
        places, numbers = list[npt.NDArray[np.int64]](), list[int]()
        for number, bucket in enumerate(self.buckets):
            first = bucket.first_chunk * self._rows_per_chunk
            low, high = max(start, first) - first, min(stop, first + bucket.rows) - first
            if low < high:
                places.append(self._order[self._begins[number] + low : self._begins[number] + high])
                numbers += range(first + low, first + high)
        wanted = np.concatenate(places) if places else np.zeros(0, np.int64)
        rows = [self._judged(row) for row in rows_at(self._source, wanted)]
        return renumbered(rows, numbers)

    def read(self, row: Row) -> bytes:
        """The same as `read` of the source, with its errors."""
        return self._source.read(original(row))

    def stamps(self, rows: Sequence[Row]) -> Sequence[str] | None:
        """The same as `stamps` of the source; None if it has none."""
        return self._source.stamps([*map(original, rows)]) if isinstance(self._source, StampedSource) else None

    def _judged(self, row: Row) -> Row:
        """The row, rejected if its image is too small for any bucket."""
        size = self._too_small.get(row.index)
        if size is None or not row.usable:
            return row
        detail = f"{size[0]} x {size[1]} pixels are fewer than the smallest bucket has"
        return replace(row, reason=Reason.IMAGE_TOO_SMALL, detail=detail)


def buckets_of(source: Source) -> tuple[Bucket, ...]:
    """The buckets of a source; none if its rows are not in buckets."""
    found: tuple[Bucket, ...] = getattr(source, "buckets", ())
    return found


def buckets_of_store(store: ZarrStore) -> tuple[Bucket, ...]:
    """The buckets that the rows of a store have, from the sizes that it keeps: its source may have other rows now.

    Raises:
        StoreError: the metadata of the store are damaged.
    """
    made: list[Bucket] = []
    size = int(checked_layout(store)["rows_per_chunk"])
    for view in views_of(about_store(store) or {}):
        if not view.flipped:
            first = view.first_chunk * size
            mine = [tuple(one) for one in store.read("source_size", first, first + view.rows).tolist() if one[0]]
            lost = [float(np.mean([wasted(one, to) for one in mine] or [0.0])) for to in (view.size, (1, 1))]
            made.append(Bucket(view.size, view.rows, view.first_chunk, view.chunks, *lost))
    return tuple(made)


def _assigned(sizes: Sizes, rule: Rule) -> tuple[list[Size], npt.NDArray[np.int64], Mapping[int, Size]]:
    """The shapes of buckets in order, the place in them of each row, and rows that are too small with their sizes.

    Rows without a bucket get the one with most rows: they will be rejected, but they count.
    """
    listed, known = rule.sizes(), dict[Size, Size | None]()
    chosen: list[Size | None] = []
    small = dict[int, Size]()
    for row, (width, height) in enumerate(sizes.tolist()):
        size = (width, height)
        if size not in known:
            known[size] = rule.bucket_of(size, listed) if width else None
        chosen.append(known[size])
        if width and known[size] is None:
            small[row] = size
    shapes = sorted({one for one in chosen if one is not None})
    if not shapes:
        return [], np.zeros(0, np.int64), {}
    place = {shape: number for number, shape in enumerate(shapes)}
    of_row = np.array([_NONE if one is None else place[one] for one in chosen], np.int64)
    of_row[of_row == _NONE] = np.bincount(of_row[of_row != _NONE]).argmax()
    return shapes, of_row, small


def _buckets(
    shapes: Sequence[Size],
    counts: npt.NDArray[np.int64],
    of_row: npt.NDArray[np.int64],
    sizes: Sizes,
    rows_per_chunk: int,
) -> list[Bucket]:
    made: list[Bucket] = []
    chunk = 0
    for number, shape in enumerate(shapes):
        mine = [tuple(size) for size in sizes[of_row == number].tolist() if size[0]]
        chunks = -(-int(counts[number]) // rows_per_chunk)
        loss, square = (float(np.mean([wasted(one, to) for one in mine])) for to in (shape, (1, 1)))
        made.append(Bucket(shape, int(counts[number]), chunk, chunks, loss, square))
        chunk += chunks
    return made
