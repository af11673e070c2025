"""Pictures as PNG files that say how they were made, and many of them on one sheet.

Covers: PNG text, file names from prompts, contact sheets with a line or two below each picture.
Does not cover: making pictures (`painter`), where files go (`driver`, `evaluate`).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from daskt2i.types import Pixels

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

TILE = 128
"""Smallest side of a picture on a sheet, pixels; smaller ones are enlarged by whole numbers."""

_GAP, _LINE, _FONT = 8, 13, 11
_LINES = 3
_PAPER, _INK = (250, 250, 248), (40, 40, 40)
_MARKS = {True: (30, 140, 60), False: (200, 40, 40)}


def png(pixels: Pixels, about: Mapping[str, object]) -> bytes:
    """A PNG file with a text entry for each fact: `Prompt`, `Seed`, …"""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    text = PngInfo()
    for key, value in about.items():
        text.add_itxt(key, str(value))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def file_name(number: int, prompt: str, seed: int) -> str:
    """`"003-a-red-circle-seed7.png"`: a number, the prompt's first words in letters that every system takes."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    return f"{number:03d}-{words or 'prompt'}-seed{seed}.png"


def image_grid(
    pictures: Sequence[Pixels],
    labels: Sequence[str],
    columns: int | None = None,
    marks: Sequence[bool | None] | None = None,
) -> Pixels:
    """Pictures in rows, each with its label below.

    Args:
        pictures: `uint8[height, width, 3]`, all of one size.
        labels: as many; three lines of each are shown.
        columns: pictures side by side; None for about as many as rows.
        marks: a green (True) or red (False) frame around a picture.

    Returns:
        `uint8[height, width, 3]`.

    Raises:
        ValueError: no pictures, or not as many labels.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not pictures or len(labels) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures with {len(labels)} labels make no sheet")
    height, width = pictures[0].shape[:2]
    scale = max(1, math.ceil(TILE / min(height, width)))
    tile = (width * scale, height * scale)
    columns = min(columns or math.ceil(math.sqrt(len(pictures) * 1.3)), len(pictures))
    rows = math.ceil(len(pictures) / columns)
    cell = (tile[0] + _GAP, tile[1] + _GAP + _LINES * _LINE)
    paper = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default(_FONT)
    for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = _GAP + number % columns * cell[0], _GAP + number // columns * cell[1]
        paper.paste(Image.fromarray(pixels).resize(tile, Image.Resampling.NEAREST), (left, top))
        mark = marks[number] if marks else None
        if mark is not None:
            box = (left - 3, top - 3, left + tile[0] + 2, top + tile[1] + 2)
            draw.rectangle(box, outline=_MARKS[mark], width=3)
        for line, text in enumerate(_wrapped(label, font, tile[0])):
            draw.text((left, top + tile[1] + 3 + line * _LINE), text, _INK, font=font)
    return np.asarray(paper)


def _wrapped(text: str, font: FreeTypeFont | BitmapFont, width: int) -> list[str]:
    """At most `_LINES` lines that fit; what is left over ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _LINES:
        lines = lines[:_LINES]
        while lines[-1] and font.getlength(lines[-1] + "…") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "…"
    return lines
