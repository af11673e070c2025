"""What `evaluate` measured last, on the page of a run and in its summary.

Covers: reading `reports/evaluate.json`, figures with their intervals, the table by word.
Does not cover: measuring (`evaluation`), the rest of the page (`html`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from daskt2i.store.run_folder import REPORTS, RunFolder

_FILE = f"{REPORTS}/evaluate.json"

_SHARES = ("background", "colour", "shape", "binding", "place", "clean", "all")
_FIGURES = ("fid", "kid", "cmmd", "clip_score", "precision", "recall")
"""Names in the file, in the order in which they are shown."""

Figures = tuple[tuple[str, str, str], ...]
"""Name, value and interval as text; the interval is "" if there is none."""


def read_evaluation(folder: RunFolder) -> Mapping[str, Any]:
    """The JSON of the last `evaluate`; empty if there is none.

    Raises:
        OSError, StoreError, ValueError: it cannot be read.
    """
    if not folder.exists(_FILE):
        return {}
    found = json.loads(folder.read(_FILE))
    return found if isinstance(found, Mapping) else {}


def figures_of(found: Mapping[str, Any]) -> Figures:
    """The shares of the judge, and the other figures."""
    shares, others = _of(found, "intervals"), _of(found, "figure_intervals")
    rows = [
        (f"right: {name}", _percent(found[name]), _between(shares.get(name), _percent))
        for name in _SHARES
        if _is_number(found.get(name))
    ]
    for name in _FIGURES:
        if _is_number(found.get(name)):
            beside = ", ".join(
                f"{model} {_short(value)}"
                for model, value in _of(_of(found, "published"), name).items()
                if _is_number(value)
            )
            value = _short(found[name]) + (f" (published: {beside})" if beside else "")
            rows.append((name.replace("_", " "), value, _between(others.get(name), _short)))
    return tuple(rows)


def words_of(found: Mapping[str, Any]) -> Figures:
    """Kind and word, share, interval; as `evaluate` sorts them: the worst first."""
    return tuple(
        (f"{kind} {word}", f"{_percent(one['share'])} of {one['count']:,}", _between(one.get("interval"), _percent))
        for kind, words in _of(found, "words").items()
        if isinstance(words, Mapping)
        for word, one in words.items()
        if isinstance(one, Mapping) and _is_number(one.get("share")) and isinstance(one.get("count"), int)
    )


def summary(found: Mapping[str, Any]) -> str:
    """One line: `"right: all 86.7% (80.0% to 91.2%), fid 6.1; 256 pictures"`; "" without figures."""
    rows = [row for row in figures_of(found) if row[0] == "right: all" or not row[0].startswith("right: ")]
    told = [f"{name} {value}" + (f" ({interval})" if interval else "") for name, value, interval in rows]
    return ", ".join(told) + _count(found) if told else ""


def evaluation_html(found: Mapping[str, Any]) -> str:
    """A section of the page; "" without figures."""
    figures, words = figures_of(found), words_of(found)
    if not figures:
        return ""
    tables = _table(("figure", "value", "95 %"), figures)
    if words:
        tables += _table(("word", "pictures that show it", "95 %"), words)
    return f'<h2>Evaluation</h2><p class="sub">{escape(_about(found))}</p><div class="line">{tables}</div>'


def _about(found: Mapping[str, Any]) -> str:
    parts = [_count(found).removeprefix("; ")]
    if found.get("reference"):
        parts.append(f"compared with {found['reference']}")
    return ", ".join(filter(None, parts))


def _count(found: Mapping[str, Any]) -> str:
    count = found.get("drawn", found.get("count"))
    return f"; {count:,} pictures" if isinstance(count, int) else ""


def _table(head: tuple[str, ...], rows: Figures) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div><table class="facts"><tr>{top}</tr>{lines}</table></div>'


def _of(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _between(ends: Any, words: Any) -> str:
    if isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends)):
        return f"{words(ends[0])} to {words(ends[1])}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _short(value: float) -> str:
    return f"{value:.4g}"
