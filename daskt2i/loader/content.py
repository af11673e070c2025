"""Which rows of a store show or say the same, and a split of the rows that keeps them together.

Covers: equal captions, equal and nearly equal pictures, groups of rows that share one of them, the validation rows, the
list of groups in a run folder.
Does not cover: duplicate files (`facts.near_duplicates` compares pixels; this module compares latents), the order of
training (`sample_order`).

Rows are in one group if a chain of equal captions or nearly equal pictures joins them. Captions are compared without
case, spaces and punctuation at their ends. Of a picture the mean latent is known, but not the pixels. Its coarse
structure is that of the picture, so `facts.near_duplicates` finds copies from it: a latent is normalised per channel,
and three of its channels count as colours.

The split takes rows in a random order. A row brings its group along. If a group is too large for that, see `split`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.facts.near_duplicates import SIDE, copies, signatures
from daskt2i.loader.forms.decoded import ReadsBlocks, array_of
from daskt2i.loader.sample_order import Whole
from daskt2i.store.forms.made_rows import stored_forms
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import TRAIN, RunFolder
from daskt2i.store.views import grid_of, views_of
from daskt2i.store.zarr_store import ZarrStore

GROUPS = f"{TRAIN}/equal-content.json"
"""The groups of a store in its run folder. The driver writes it, so that all ranks and a resumed training have the same
split: on another processor the last bit of a mean may be rounded otherwise."""

_ENDS = " .!?,;:'\"-"
_LEFT_OUT = 20
"""At most one row of so many is left out of both sides of a split."""
_SPREAD = 8
"""A group gives at most one of so many validation rows, if there are enough other rows."""

Groups = Sequence[Sequence[int]]
"""Groups of two or more rows with equal content."""


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of a store, divided.

    Attributes:
        heldout: validation rows, `int64[n]`, ascending.
        training: training rows, `int64[n]`, ascending.
        left_out: number of rows that are neither, because they share content with validation rows.
    """

    heldout: Whole
    training: Whole
    left_out: int = 0


def split(mixed: Whole, groups: Groups, count: int) -> Split:
    """Validation rows by content: no group is on both sides.

    A group that is small enough is held out as a whole. If that does not give enough rows, some rows of further groups
    are held out, and the other rows of these groups are left out, which costs at most a twentieth of all rows. If that
    is not enough either, there are fewer validation rows.

    Args:
        mixed: all accepted rows in random order.
        groups: rows with equal content.
        count: number of validation rows that are wanted, less than all rows.
    """
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    members: dict[int, list[int]] = {}
    for row in mixed.tolist():
        if row in group_of:
            members.setdefault(group_of[row], []).append(row)
    held: dict[int, None] = {}
    gone = set[int]()  # numbers of groups that do not train
    for most in (max(2, count // _SPREAD), count):
        for row in mixed.tolist():
            number = group_of.get(row)
            group = [row] if number is None else members[number]
            if row not in held and len(group) <= min(most, count - len(held)):
                held |= dict.fromkeys(group)
                gone |= set() if number is None else {number}
    opened: list[list[int]] = []
    missing = count - len(held)
    for number, group in sorted(members.items(), key=lambda one: len(one[1])):
        if number in gone:
            continue
        if len(opened) == missing or sum(map(len, opened)) + len(group) > missing + len(mixed) // _LEFT_OUT:
            break
        opened.append(group)
        gone.add(number)
    turns = (row for turn in zip_longest(*opened) for row in turn if row is not None)
    held |= dict.fromkeys(islice(turns, missing))
    left_out = sum(row not in held for group in opened for row in group)
    keep = [row for row in mixed.tolist() if group_of.get(row) not in gone]
    heldout = np.sort(np.array(list(held), np.int64))
    return Split(heldout, np.setdiff1d(np.array(keep, np.int64), heldout), left_out)


def groups_of(folder: RunFolder, accepted: Whole, fingerprint: str) -> Groups:
    """The groups of a store: from its run folder if they are there, else found now."""
    kept = _kept(folder, fingerprint)
    return _find_all(folder, accepted) if kept is None else kept


def groups_are_kept(folder: RunFolder, fingerprint: str) -> bool:
    """Whether the groups of the store with this fingerprint are in its run folder."""
    return _kept(folder, fingerprint) is not None


def keep_groups(folder: RunFolder, accepted: Whole, fingerprint: str) -> None:
    """Write the groups of a store into its run folder, if they are not there yet.

    Raises:
        StoreError, StoreFull: a shard is damaged, or no space is left.
    """
    if _kept(folder, fingerprint) is None:
        groups = _find_all(folder, accepted)
        folder.write(GROUPS, json.dumps({"store": fingerprint, "groups": groups}).encode())


def _kept(folder: RunFolder, fingerprint: str) -> Groups | None:
    try:
        found = json.loads(folder.read(GROUPS))
        groups: list[list[int]] = found["groups"]
        good = all(type(row) is int for group in groups for row in group) and found["store"] == fingerprint
        return groups if good else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _find_all(folder: RunFolder, accepted: Whole) -> Groups:
    """Groups over all stores of a run folder."""
    return find_groups([(ZarrStore(member.folder), member.offset) for member in members(folder)], accepted)


def find_groups(stores: Sequence[tuple[ZarrStore, int]], accepted: Whole) -> Groups:
    """Groups of accepted rows with equal content, each ascending, by their first row.

    Args:
        stores: each with the number of its row 0.
        accepted: numbers of the accepted rows of all of them, ascending.

    Raises:
        StoreError: a shard is damaged.
    """
    joined = _Joined()
    first: dict[int, int] = {}
    pictures: list[bytes] = []
    scale: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
    for rows, texts, latents in _contents(stores, accepted):
        for row, captions in zip(rows, texts, strict=True):
            for text in captions:
                if text:
                    joined.join(first.setdefault(hash(plain_text(text)), row), row)
        # A missing shard is refused when training reads it.
        good = np.logical_and.reduce(np.isfinite(latents.reshape(len(rows), -1)), axis=1)
        if scale is None and good.any():
            scale = latents[good].mean((0, 2, 3)), latents[good].std((0, 2, 3)) + np.float32(1e-6)
        seen = iter(signatures(_as_pixels(latents[good], *scale)) if scale is not None and good.any() else ())
        pictures += [next(seen) if one else b"" for one in good]
    repeated, _ = copies([b""] * len(pictures), pictures)
    for place in np.flatnonzero(repeated >= 0):
        joined.join(int(accepted[repeated[place]]), int(accepted[place]))
    return joined.groups()


def _contents(
    stores: Sequence[tuple[ZarrStore, int]], accepted: Whole
) -> Iterator[tuple[list[int], Sequence[Any], npt.NDArray[np.float32]]]:
    """Accepted rows, their captions and their mean latents (of the first view), chunk by chunk."""
    for store, offset in stores:
        layout, about = store.layout(), (store.attributes() or {}).get("daskt2i")
        about = about if isinstance(about, dict) else {}
        views = [view for view in views_of(about) if not view.flipped]
        reads: dict[str, ReadsBlocks] = {}
        forms = stored_forms(store)
        for chunk in grid_of(layout, about):
            low, high = np.searchsorted(accepted, (chunk.start + offset, chunk.stop + offset))
            rows = accepted[low:high].tolist()
            if not rows:
                continue
            local = [row - offset for row in rows]
            texts: Sequence[Any] = [()] * len(rows)
            if "caption" in layout["arrays"]:
                every = store.read("caption", chunk.start, chunk.stop)
                texts = [every[row - chunk.start] for row in local]
            view = next((one for one in views if one.covers(chunk.index)), None)
            name = "latent_mean" if view is None else view.array("latent_mean")
            read = reads.setdefault(name, array_of(store, name, forms))
            blocks = [
                block[[row - start for row in local if start <= row < start + len(block)]].astype(np.float32)
                for start, block in read.blocks(chunk.start, chunk.stop, local)
            ]
            yield rows, texts, np.concatenate(blocks)


def plain_text(text: str) -> str:
    """A caption without case, spaces and punctuation at its ends, and double spaces."""
    return " ".join(str(text).casefold().split()).strip(_ENDS)


def _as_pixels(
    latents: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], std: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """`float32[n, c, y, x]` -> `uint8[n, 32, 32, 3]`: three channels as colours, one standard deviation is 40 steps."""
    _, channels, height, width = latents.shape
    places = [channel % channels for channel in range(3)]
    wide = (latents[:, places] - mean[places, None, None]) / std[places, None, None]
    for axis, side in ((2, height), (3, width)):
        if side >= SIDE:
            edges = np.arange(SIDE) * side // SIDE
            sizes = np.diff(np.append(edges, side)).astype(np.float32)
            wide = np.add.reduceat(wide, edges, axis=axis) / sizes.reshape((-1, 1) if axis == 2 else (-1,))
        else:
            wide = np.take(wide, np.arange(SIDE) * side // SIDE, axis=axis)
    pixels: npt.NDArray[np.uint8] = np.clip(np.rint(wide * 40 + 128), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))


class _Joined:
    """Rows that are joined, directly or by others (union-find)."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def join(self, one: int, other: int) -> None:
        one, other = self._top(one), self._top(other)
        if one != other:
            self._above[max(one, other)] = min(one, other)

    def _top(self, row: int) -> int:
        while (above := self._above.get(row, row)) != row:
            self._above[row] = self._above.get(above, above)
            row = above
        return row

    def groups(self) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for row in sorted(self._above):
            found.setdefault(self._top(row), []).append(row)
        return [[top, *rows] for top, rows in sorted(found.items())]
