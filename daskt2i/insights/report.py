"""The totals of `insights`: people, captions, pictures.

Covers: counting the table of facts (`facts`) and the hashes of captions; the JSON of `insights --json`.
Does not cover: finding facts (`facts.survey`), showing them on a terminal (`display.insights`) or as a page (`page`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import Reason
from daskt2i.facts.survey import Surveyed
from daskt2i.facts.table import AGES, GENDERS, GROUPS
from daskt2i.formatting import many
from daskt2i.types import SourceInfo
from daskt2i.view import Section, View, Viewed

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 20
"""Number of activities in the report."""

REPEATED = 10

SHOWN = 10
"""Number of activities in the view, which is shorter than the page."""

UNREADABLE = frozenset({str(Reason.UNREADABLE_IMAGE), str(Reason.MISSING_FILE), str(Reason.UNSAFE_PATH)})


@dataclass(frozen=True, slots=True, repr=False)
class InsightsResult(Viewed):
    """The totals of a data set. A row is an image.

    Attributes:
        label: one line about the source.
        rows, left_out: rows in the report, and rows that `where` leaves out.
        where: the expression, or "".
        people: rows whose captions mention people.
        gender, age, group: value -> rows, among the rows with people.
        activities: main verb -> rows; `activities_any`: any verb of a row -> rows. The `top` most frequent ones.
        captions, blank, orphan: as in `SourceInfo`. `captions_per_image`: number -> rows.
        tokens: length in tokens -> captions; empty if tokens were not counted. `limit`: maximum of the text encoder.
        cut: captions longer than the limit.
        repeated, alike: captions that repeat an earlier one, exactly, or in all important words.
        most_repeated: (caption, number of times).
        looked: whether image files were read; if not, the fields that need them are empty.
        reasons: reason of a rejection by encode -> rows. `unreadable`: those whose file is missing or not readable.
        formats, modes, licences: name -> rows.
        sizes: (width, height) -> rows, the most frequent ones.
        aspects: portrait, square, landscape -> rows (square: within 5 %).
        bytes: total size of all files.
        exact, near: rows that repeat an earlier row: the same file, or nearly the same picture.
        boxes: agreement of captions and boxes of people -> rows; empty without an instance file.
        files: kind of file -> its address. `seconds`, `workers`: the wall time, and the number of workers.
        notes: things that could not be done.
        table: the facts, one line for each row.
        html: the page, the same as `files["html"]`.
    """

    label: str
    rows: int
    left_out: int = 0
    where: str = ""
    people: int = 0
    gender: dict[str, int] = field(default_factory=dict)
    age: dict[str, int] = field(default_factory=dict)
    group: dict[str, int] = field(default_factory=dict)
    activities: dict[str, int] = field(default_factory=dict)
    activities_any: dict[str, int] = field(default_factory=dict)
    captions: int = 0
    blank: int = 0
    orphan: int = 0
    captions_per_image: dict[int, int] = field(default_factory=dict)
    tokens: dict[int, int] = field(default_factory=dict)
    limit: int = 0
    cut: int = 0
    repeated: int = 0
    alike: int = 0
    most_repeated: list[tuple[str, int]] = field(default_factory=list)
    looked: bool = True
    reasons: dict[str, int] = field(default_factory=dict)
    unreadable: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    licences: dict[str, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    aspects: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    exact: int = 0
    near: int = 0
    boxes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    workers: int = 0
    table: pa.Table = None
    html: str = ""

    def to_json(self) -> dict[str, Any]:
        """The object that `insights --json` prints."""
        return {
            "source": self.label,
            "rows": self.rows,
            "where": self.where or None,
            "left_out": self.left_out,
            "people": self.people,
            "gender": self.gender,
            "age": self.age,
            "group": self.group,
            "activities": self.activities,
            "activities_any": self.activities_any,
            "captions": {
                "count": self.captions,
                "blank": self.blank,
                "orphan": self.orphan,
                "per_image": {str(number): rows for number, rows in self.captions_per_image.items()},
                "tokens": {str(number): count for number, count in self.tokens.items()},
                "limit": self.limit,
                "cut": self.cut,
                "repeated": self.repeated,
                "alike": self.alike,
                "most_repeated": [{"caption": text, "times": times} for text, times in self.most_repeated],
            },
            "images": {
                "looked_at": self.looked,
                "unreadable": self.unreadable,
                "rejected": self.reasons,
                "formats": self.formats,
                "modes": self.modes,
                "sizes": {f"{width} x {height}": rows for (width, height), rows in self.sizes.items()},
                "aspects": self.aspects,
                "bytes": self.bytes,
                "exact_duplicates": self.exact,
                "near_duplicates": self.near,
            },
            "licences": self.licences,
            "boxes": self.boxes,
            "notes": self.notes,
            "files": self.files,
            "seconds": round(self.seconds, 3),
            "workers": self.workers,
        }

    def view(self) -> View:
        """The totals in words, and bars in a notebook. The complete report is the page in `files`."""
        charts = (
            ("gender", self.gender),
            ("age group", self.age),
            ("group size", self.group),
            ("activity", dict(list(self.activities.items())[:SHOWN])),
        )
        sections = tuple(
            Section(title, bars=tuple(counts.items()), bars_total=self.people, folded=False)
            for title, counts in charts
            if counts
        )
        return View("Insights", tuple(self._rows()), sections=sections)

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "source", self.label
        yield "images", f"{self.rows:,}" + f" with {self.where}; {self.left_out:,} left out" * bool(self.where)
        share, say = self.people / max(1, self.rows), "mentions" if self.people == 1 else "mention"
        yield "people", f"{many(self.people, 'image')} ({share:.1%}) {say} people in captions"
        yield "captions", f"{self.captions:,}; {self.alike:,} repeat another one, {self.repeated:,} of them exactly"
        if self.limit:
            mean = sum(n * c for n, c in self.tokens.items()) / max(1, sum(self.tokens.values()))
            yield (
                "tokens",
                f"{mean:.1f} per caption; {self.cut:,} captions are longer than {self.limit} tokens and will be cut",
            )
        if self.looked:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
            yield "rejected", f"{sum(self.reasons.values()):,} by encode{f' ({reasons})' * bool(reasons)}"
            yield "repeats", f"{self.exact:,} with the same file, {self.near:,} with nearly the same picture"
            yield "shapes", ", ".join(f"{count:,} {name}" for name, count in self.aspects.items())
            yield "modes", ", ".join(f"{count:,} {name}" for name, count in self.modes.items())
        if self.licences:
            yield "licences", ", ".join(f"{count:,} {name}" for name, count in list(self.licences.items())[:8])
        if self.boxes:
            yield "boxes", ", ".join(f"{name} {count:,}" for name, count in self.boxes.items())
        yield from (("note", note) for note in self.notes)
        yield (
            "speed",
            f"{self.rows / max(1e-9, self.seconds):,.0f} images/s, {self.workers} worker{'s' * (self.workers != 1)}",
        )
        yield from (("written", place) for place in self.files.values())


def make_report(
    info: SourceInfo,
    table: pa.Table,
    parts: Sequence[Surveyed],
    caption_of: Callable[[int, int], str],
    *,
    kept: npt.NDArray[np.int64] | None = None,
    looked: bool = True,
    top: int = TOP,
) -> InsightsResult:
    """Count the facts.

    Args:
        info: info of the whole source.
        table: facts of all rows of the source.
        parts: the chunks, for the hashes of captions.
        caption_of: (row, n) -> the n-th caption of a row.
        kept: the rows to report; None for all.
        looked: whether image files were read.
    """
    captions = _Captions.of(parts, kept)
    if kept is not None:
        table = table.take(kept)
    rows = table.num_rows
    people = table.filter(table["people"])
    main = Counter(listed[0] for listed in people["activities"].to_pylist() if listed)
    every = Counter(lemma for listed in people["activities"].to_pylist() for lemma in listed)
    report = InsightsResult(
        label=info.label,
        rows=rows,
        left_out=info.rows - rows,
        people=people.num_rows,
        gender=_counted(people["gender"], GENDERS[1:]),
        age=_counted(people["age"], AGES[1:]),
        group=_counted(people["group"], GROUPS[1:]),
        activities=dict(main.most_common(top)),
        activities_any=dict(every.most_common(top)),
        captions=len(captions.exact),
        blank=info.blank_captions,
        orphan=info.orphan_captions,
        captions_per_image=dict(sorted(Counter(table["captions"].to_pylist()).items())),
        tokens={int(n): int(c) for n, c in zip(*np.unique(captions.tokens, return_counts=True), strict=True)},
        limit=captions.limit,
        cut=int((captions.tokens > captions.limit).sum()),
        repeated=len(captions.exact) - len(np.unique(captions.exact)),
        alike=len(captions.alike) - len(np.unique(captions.alike)),
        most_repeated=captions.most_repeated(caption_of),
        looked=looked,
        reasons=_counted(table["reason"], without=("",)),
        licences=_counted(table["licence"], without=("",)),
        boxes=_boxes(table),
        notes=list(dict.fromkeys(part.note for part in parts if part.note)),
        table=table,
    )
    return replace(report, **_pictures(report.reasons, table)) if looked else report


def _pictures(reasons: Mapping[str, int], table: pa.Table) -> dict[str, Any]:
    """The fields of `InsightsResult` that describe image files."""
    widths, heights = (table[name].to_numpy() for name in ("width", "height"))
    known = (widths > 0) & (heights > 0)
    pairs = Counter(zip(widths[known].tolist(), heights[known].tolist(), strict=True))
    ratio = widths[known] / heights[known]
    repeats = table["duplicate_of"].to_numpy() >= 0
    exact = table["exact_duplicate"].to_numpy(zero_copy_only=False)
    return {
        "sizes": dict(pairs.most_common(10)),
        "aspects": {
            "portrait": int((ratio < 0.95).sum()),
            "square": int(((ratio >= 0.95) & (ratio <= 1.05)).sum()),
            "landscape": int((ratio > 1.05).sum()),
        },
        "unreadable": sum(count for reason, count in reasons.items() if reason in UNREADABLE),
        "formats": _counted(table["format"], without=("",)),
        "modes": _counted(table["mode"], without=("",)),
        "bytes": int(table["bytes"].to_numpy().sum()),
        "exact": int(exact.sum()),
        "near": int((repeats & ~exact).sum()),
    }


def _counted(column: pa.ChunkedArray, order: Sequence[str] = (), without: Sequence[str] = ()) -> dict[str, int]:
    """Value -> count, in a fixed order, or the most frequent first. Values with count 0 are left out."""
    found = Counter(column.to_pylist())
    names = order or [name for name, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    return {name: found[name] for name in names if found[name] and name not in without}


def _boxes(table: pa.Table) -> dict[str, int]:
    boxed = table["persons"].to_numpy()
    if not len(boxed) or boxed.min() < 0:
        return {}
    told, seen = table["people"].to_numpy(zero_copy_only=False), boxed > 0
    return {
        "both": int((told & seen).sum()),
        "captions only": int((told & ~seen).sum()),
        "boxes only": int((~told & seen).sum()),
        "neither": int((~told & ~seen).sum()),
    }


@dataclass(frozen=True, slots=True)
class _Captions:
    """Tokens and hashes of all captions, in row order."""

    tokens: npt.NDArray[np.int32]
    limit: int
    exact: npt.NDArray[np.uint64]
    alike: npt.NDArray[np.uint64]
    of_row: npt.NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Surveyed], kept: npt.NDArray[np.int64] | None) -> _Captions:
        ordered = sorted(parts, key=lambda part: part.start)
        of_row = np.concatenate([part.of_row for part in ordered])
        chosen = np.ones(len(of_row), np.bool_) if kept is None else np.isin(of_row, kept)
        tokens = np.concatenate([part.tokens for part in ordered])
        return cls(
            tokens=tokens[chosen] if len(tokens) == len(of_row) else np.zeros(0, np.int32),
            limit=max((part.limit for part in ordered), default=0),
            exact=np.concatenate([part.exact for part in ordered])[chosen],
            alike=np.concatenate([part.alike for part in ordered])[chosen],
            of_row=of_row[chosen],
        )

    def most_repeated(self, caption_of: Callable[[int, int], str]) -> list[tuple[str, int]]:
        """The most frequent captions, in the spelling of their first occurrence."""
        if not len(self.alike):
            return []
        _, first, counts = np.unique(self.alike, return_index=True, return_counts=True)
        order = np.lexsort((first, -counts))[:REPEATED]
        found = []
        for place in order[counts[order] > 1]:
            row = int(self.of_row[first[place]])
            number = int(first[place] - np.searchsorted(self.of_row, row))
            found.append((" ".join(caption_of(row, number).split()), int(counts[place])))
        return found


def shares(counts: Mapping[str, int], total: int) -> dict[str, float]:
    """Each count as a share of a total."""
    return {name: count / total for name, count in counts.items()} if total else {}
