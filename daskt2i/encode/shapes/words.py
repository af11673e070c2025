"""What a plan and a result say of the shapes of pictures.

Covers: lines about buckets and the pixels that they leave out, a note about small buckets.
Does not cover: the table around the lines (`view`).
"""

from __future__ import annotations

from collections.abc import Sequence

from daskt2i.facts.bucketed import Bucket
from daskt2i.formatting import many

_LISTED = 12
"""So many buckets get a line each."""


def bucket_lines(buckets: Sequence[Bucket]) -> list[tuple[str, str]]:
    """Lines of a table: all buckets together, then each; none without buckets."""
    if not buckets:
        return []
    rows = sum(one.rows for one in buckets)
    lost = sum(one.wasted * one.rows for one in buckets) / rows
    square = sum(one.square * one.rows for one in buckets) / rows
    sizes = many(len(buckets), "size")
    lines = [("buckets", f"{sizes}; crops leave out {lost:.1%} of the pixels, squares {square:.1%}")]
    lines += [(f"{one.size[0]} x {one.size[1]}", _one(one)) for one in buckets[:_LISTED]]
    if len(buckets) > _LISTED:
        lines.append(("", f"and {many(len(buckets) - _LISTED, 'other size')}"))
    return lines


def _one(bucket: Bucket) -> str:
    return f"{many(bucket.rows, 'row')} in {many(bucket.chunks, 'chunk')}; {bucket.wasted:.1%} of the pixels left out"


def bucket_notes(buckets: Sequence[Bucket], batch: int) -> tuple[str, ...]:
    """A sentence about buckets that have fewer rows than a batch of training.

    Args:
        batch: samples of one step of training.
    """
    few = [f"{one.size[0]} x {one.size[1]} ({one.rows:,})" for one in buckets if one.rows < batch]
    if not few:
        return ()
    named = ", ".join(few[:5]) + f" and {len(few) - 5} others" * (len(few) > 5)
    return (
        f"Buckets with fewer rows than one training batch (train.batch={batch}): {named}. Training draws such a batch "
        "only once in several epochs; a larger dataset.image.buckets.step makes fewer, larger buckets.",
    )
