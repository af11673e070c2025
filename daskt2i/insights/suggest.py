"""Prompt suggestions from the captions of a store: captions that continue the letters or words of a user.

Covers: completions by frequency, captions that contain the words elsewhere, captions with a similar meaning.
Does not cover: new text. Every suggestion is a caption of the store.

Loading sorts the captions as rows of word numbers, in alphabetical order. Then a prefix is a range, found by bisection,
and the next words of a range are runs in a column. Similar meaning is the cosine between pooled text states. For speed
the states are projected to their 64 principal dimensions, and the best ones are compared again in full. The text of the
user has no state here, because that would need the encoder. Its state is the mean over the captions found so far,
unless the caller gives one.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.errors import StoreError
from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.rows_file import members
from daskt2i.store.run_folder import STORE, RunFolder
from daskt2i.store.zarr_store import ZarrStore

Why = Literal["goes on", "holds the words", "means similar"]

DIMENSIONS = 64
COUNT = 8

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_DEPTH = 24
"""Number of words that are compared. Captions that differ only after them count as equal."""
_AGAIN = 256
_SEEDS = 32
_SAMPLE = 20_000
_PART = 8192
_CELLS = 512
_PROBES = 12
"""Cells that are searched, out of about 512: one caption in forty."""
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One suggestion.

    Attributes:
        text: the caption, trimmed.
        times: how often the store has it; case and punctuation are ignored.
        why: how it was found.
    """

    text: str
    times: int
    why: Why


class Suggestions:
    """The captions of a store, prepared for suggestions.

    Args:
        captions: any number of captions.
        states: the pooled text state of each caption, `[captions, features]`; None if the encoder has none.
    """

    def __init__(self, captions: Sequence[str], states: npt.NDArray[Any] | None = None) -> None:
        keys = [tuple(_words(caption)[:_DEPTH]) for caption in captions]
        words = sorted({word for key in keys for word in key})
        number = {word: place + 1 for place, word in enumerate(words)}  # 0 is the end of a caption; it sorts first
        table = np.zeros((len(keys), _DEPTH), np.int32)
        for row, key in enumerate(keys):
            table[row, : len(key)] = [number[word] for word in key]
        order = np.lexsort(table.T[::-1])  # the sort is stable: equal captions keep their order
        order = order[table[order, 0] > 0]
        ordered = table[order]
        changes = (np.diff(ordered, axis=0) != 0).any(axis=1)
        starts = np.flatnonzero(np.append(True, changes)[: len(order)])
        # The first of equal captions represents all of them: its spelling is shown, and its state is used.
        first = order[starts]
        self._words = words
        self._columns = np.ascontiguousarray(ordered[starts].T)  # [word of a caption, captions]
        self._times = np.diff(np.append(starts, len(order)))
        self._texts = [" ".join(captions[int(place)].split()) for place in first]
        self._length = (self._columns > 0).sum(axis=0)
        self._holders = _holders(self._columns, len(words) + 1)
        self._states = None if states is None else _Meaning(np.asarray(states)[first])

    def __len__(self) -> int:
        return len(self._texts)

    @classmethod
    def of_store(cls, path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> Suggestions:
        """Read the captions and pooled states of a run folder, without rejected and removed rows.

        Raises:
            StoreMissing: there is no store.
            StoreError: the store is damaged, or has no caption.
        """
        folder = RunFolder(path, storage_options)
        name = "" if folder.exists("zarr.json") else STORE
        captions: list[str] = []
        states: list[npt.NDArray[Any]] = []
        for member in members(folder):
            store = ZarrStore(member.folder, name)
            layout = checked_layout(store)
            rows, step = layout["rows"], layout["rows_per_chunk"]
            pooled = "text_pooled" in layout["arrays"]
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                texts = store.read("caption", start, stop)
                there = store.read("valid", start, stop) & member.kept(np.arange(start, stop))
                used = (texts != "") & there[:, None]
                captions += texts[used].tolist()
                if pooled:
                    states.append(store.read("text_pooled", start, stop)[used])
        if not captions:
            raise StoreError(
                f"{ZarrStore(folder, name).address} has no captions yet, so there is nothing to suggest. Encode first."
            )
        return cls(captions, np.concatenate(states) if states else None)

    def suggest(self, text: str, count: int = COUNT, state: npt.NDArray[Any] | None = None) -> list[Suggestion]:
        """Captions that continue a text, the most likely first, without repeats.

        Up to three quarters of the suggestions continue the text. The others have a similar meaning.

        Args:
            text: letters and words; a last word without a space after it may be unfinished.
            count: number of suggestions.
            state: the pooled state of the text, if the caller has an encoder: float[features].
        """
        if count < 1:
            return []
        whole, part = _typed(text)
        by_meaning = self._states is not None
        ahead = max(1, -(-3 * count // 4)) if by_meaning else count
        low, high = self._range(whole, part)
        found = [(place, "goes on") for place in self._go_on(low, high, len(whole), ahead)]
        if len(found) < ahead and (whole or part):
            taken = {place for place, _ in found}
            holding = self._holding(whole, part)
            found += [(place, "holds the words") for place in holding if place not in taken][: ahead - len(found)]
        if self._states is not None and (found or state is not None):
            taken = {place for place, _ in found}
            seeds = self._seeds(low, high) if high > low else [place for place, _ in found[:_SEEDS]]
            near = self._states.nearest(state, seeds, count + len(taken), exclude=(low, high))
            found += [(place, "means similar") for place in near if place not in taken][: count - len(found)]
        if len(found) < count:
            taken = {place for place, _ in found}
            more = self._go_on(low, high, len(whole), count + len(taken))
            found += [(place, "goes on") for place in more if place not in taken][: count - len(found)]
        return [Suggestion(self._texts[place], int(self._times[place]), why) for place, why in found]  # type: ignore[arg-type]

    def _range(self, whole: Sequence[str], part: str) -> tuple[int, int]:
        """First index and last index + 1 of the captions that begin with these words."""
        low, high = 0, len(self._texts)
        for depth, word in enumerate(whole):
            place = bisect_left(self._words, word)
            if place == len(self._words) or self._words[place] != word or depth >= _DEPTH:
                return 0, 0
            low, high = _within(self._columns[depth], low, high, place + 1, place + 2)
        if part and len(whole) < _DEPTH:
            first, last = bisect_left(self._words, part), bisect_left(self._words, part + _LAST)
            low, high = _within(self._columns[len(whole)], low, high, first + 1, last + 1)
        return low, high

    def _go_on(self, low: int, high: int, depth: int, count: int) -> list[int]:
        """Captions of a range, one for each of the most frequent next words; if these are too few, for later words."""
        if high <= low:
            return []
        edges = np.array([low])
        for column in range(depth, _DEPTH):
            here = np.flatnonzero(np.diff(self._columns[column, low:high])) + low + 1
            edges = np.union1d(edges, here)
            if len(edges) >= count:
                break
        sums = np.add.reduceat(self._times[low:high], edges - low)
        best = np.argsort(-sums, kind="stable")[:count]
        stops = np.append(edges[1:], high)
        return [self._typical(int(edges[run]), int(stops[run])) for run in best]

    def _typical(self, low: int, high: int) -> int:
        """The most frequent caption of a run. Among equals, the one of median length: not too short, not too long."""
        times = self._times[low:high]
        ties = np.flatnonzero(times == times.max())
        lengths = self._length[low:high][ties]
        return low + int(ties[np.argmin(np.abs(lengths - np.median(lengths)))])

    def _holding(self, whole: Sequence[str], part: str) -> list[int]:
        """Captions that contain all these words, the most frequent first. `part` is the start of a word, or ""."""
        found: npt.NDArray[np.int64] | None = None
        rows, starts = self._holders
        for word, last in [*((word, f"{word}\0") for word in whole), *([(part, part + _LAST)] if part else [])]:
            mine = rows[starts[bisect_left(self._words, word) + 1] : starts[bisect_left(self._words, last) + 1]]
            if found is None:
                found = mine
                continue
            holds = np.zeros(len(self), np.bool_)
            holds[mine] = True
            found = found[holds[found]]
        if found is None or not len(found):
            return []
        found = np.unique(found)
        return [int(row) for row in found[np.argsort(-self._times[found], kind="stable")[:_SEEDS]]]

    def _seeds(self, low: int, high: int) -> list[int]:
        """Captions that represent a range, spread evenly over it, so that no single continuation decides."""
        step = max(1, (high - low) // _SEEDS)
        return list(range(low, high, step))[:_SEEDS]


class _Meaning:
    """Pooled states of captions, and short forms of them for the search.

    The short forms are sorted into cells, each around one of them. A search reads the nearest cells, and more cells if
    these hold too few captions. So searching 400,000 captions costs no more than searching some thousands.
    """

    def __init__(self, states: npt.NDArray[Any]) -> None:
        self._states = states
        sample = _unit(states[:: max(1, len(states) // _SAMPLE)].astype(np.float32))
        self._mean = sample.mean(axis=0)
        spread = (sample - self._mean).T @ (sample - self._mean)
        _, axes = np.linalg.eigh(spread)  # ascending
        self._axes = np.ascontiguousarray(axes[:, ::-1][:, :DIMENSIONS], dtype=np.float32)
        # In parts, because all states in float32 would need twice the memory.
        parts = [_unit(self._short(states[start : start + _PART])) for start in range(0, len(states), _PART)]
        shorts = np.concatenate(parts)
        self._centres = shorts[:: max(1, len(shorts) // _CELLS)]
        cell = np.concatenate([(part @ self._centres.T).argmax(axis=1) for part in parts])
        self._order = np.argsort(cell, kind="stable")
        self._starts = np.searchsorted(cell[self._order], np.arange(len(self._centres) + 1))
        self._shorts = shorts[self._order]

    def _short(self, states: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        short: npt.NDArray[np.float32] = (_unit(states.astype(np.float32)) - self._mean) @ self._axes
        return short

    def nearest(
        self, state: npt.NDArray[Any] | None, seeds: Sequence[int], count: int, exclude: tuple[int, int]
    ) -> list[int]:
        """Captions outside a range whose meaning is nearest to a state, or to the mean of the seed captions."""
        if state is None:
            if not seeds:
                return []
            state = _unit(self._states[list(seeds)].astype(np.float32)).mean(axis=0)
        wanted = np.asarray(state, np.float32)
        short = _unit(self._short(wanted[None]))[0]
        cells = np.argsort(-(self._centres @ short), kind="stable")
        rows, likeness = self._in_cells(cells, short, exclude, max(count, _AGAIN))
        best = rows[np.argsort(-likeness, kind="stable")[:_AGAIN]]
        # Subtract the mean, which all captions share, so that the differences between captions decide.
        exact = (_unit(self._states[best].astype(np.float32)) - self._mean) @ (_unit(wanted[None])[0] - self._mean)
        return [int(place) for place in best[np.argsort(-exact, kind="stable")[:count]]]

    def _in_cells(
        self, cells: npt.NDArray[np.intp], short: npt.NDArray[np.float32], exclude: tuple[int, int], enough: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Captions of the nearest cells with their similarity. Reads more cells while these hold too few."""
        probes = _PROBES
        while True:
            spans = [np.arange(self._starts[cell], self._starts[cell + 1]) for cell in cells[:probes]]
            places = np.concatenate(spans)
            rows = self._order[places]
            outside = (rows < exclude[0]) | (rows >= exclude[1])
            if outside.sum() >= enough or probes >= len(cells):
                return rows[outside], self._shorts[places[outside]] @ short
            probes *= 4


def _words(text: str) -> list[str]:
    return [word.replace("’", "'").lower() for word in _WORD.findall(text)]


def _typed(text: str) -> tuple[list[str], str]:
    """The complete words, and the last word if it may be unfinished, else ""."""
    words = _words(text[:1000])
    if words and text[:1000][-1:].isalnum():
        return words[:-1], words[-1]
    return words, ""


def _within(column: npt.NDArray[np.int32], low: int, high: int, first: int, last: int) -> tuple[int, int]:
    """The part of a sorted run with first <= number < last."""
    run = column[low:high]
    return low + int(np.searchsorted(run, first)), low + int(np.searchsorted(run, last))


def _holders(columns: npt.NDArray[np.int32], words: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Captions by word: `rows[starts[w]:starts[w + 1]]` are the captions with word w."""
    rows = np.nonzero(columns)[1]
    numbers = columns[columns > 0]
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(words + 1))
    return rows[order], starts.astype(np.int64)


def _unit(states: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = states / np.maximum(np.linalg.norm(states, axis=-1, keepdims=True), 1e-9)
    return found
