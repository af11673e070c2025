"""How large the parts of a message may be.

Covers: limits of a message, texts and values cut to them, the pause between two messages.
Does not cover: what is told (`messages`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from daskt2i.redact import without_secret

Message = dict[str, Any]

PAUSE, PULSE_PAUSE = 1.0, 5.0
"""Seconds between two messages about chunks, or about one count; and about what ranks need."""

MOST_TEXT, MOST_WORKERS, MOST_REJECTED, MOST_PICTURE, MOST_THUMBNAIL = 300, 100, 5, 65_536, 8_192
"""Limits of a message: characters of a sentence, workers, rejected rows, characters of a picture and a thumbnail."""


def plain(value: Any) -> Any:
    """A JSON value of bounded size, or None: numbers, short texts, and flat objects of numbers."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None  # as in metrics.jsonl
    if isinstance(value, str):
        return short(without_secret(value))
    if isinstance(value, Mapping):
        inner = {str(k): v for k, v in list(value.items())[:20] if isinstance(v, int | float)}
        return {k: v for k, v in inner.items() if math.isfinite(v)}
    return None


def short(text: str) -> str:
    """One line of at most `MOST_TEXT` characters that can be written as UTF-8."""
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= MOST_TEXT else line[: MOST_TEXT - 2] + " …"
