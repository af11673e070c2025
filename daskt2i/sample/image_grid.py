"""PNG files that record how a picture was made, and contact sheets of many pictures.

Covers: PNG text, file names from prompts, contact sheets with up to three lines of text below each picture.
Does not cover: making pictures (`painter`), the folders of the files (`driver`, `evaluation.driver`).
"""

from __future__ import annotations

import hashlib
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
"""Minimum side of a picture on a sheet in pixels. Smaller pictures are enlarged by a whole number."""

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


def file_name(number: int, prompt: str, seed: int, *more: object) -> str:
    """`"003-a-red-circle-seed7-1f0c9a22.png"`: a number, the first words of the prompt, the seed, and a short hash.

    Args:
        more: what else the picture depends on. Pictures that differ in anything have different names.
    """
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:48].strip("-")
    mark = hashlib.sha256(repr((prompt, seed, *more)).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{number:03d}-{words or 'prompt'}-seed{seed}-{mark}.png"


def image_grid(
    pictures: Sequence[Pixels],
    labels: Sequence[str],
    columns: int | None = None,
    marks: Sequence[bool | None] | None = None,
) -> Pixels:
    """Put pictures into rows, each with its label below.

    Args:
        pictures: `uint8[height, width, 3]`, all of the same size.
        labels: one for each picture; up to three lines of it are shown.
        columns: pictures in a row; None for about as many columns as rows.
        marks: True draws a green frame around a picture, False a red one, None no frame.

    Returns:
        `uint8[height, width, 3]`.

    Raises:
        ValueError: there are no pictures, or the number of labels is wrong.
    """
    from PIL import Image, ImageDraw, ImageFont

    if not pictures or len(labels) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures with {len(labels)} labels cannot make a sheet")
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
    """At most `_LINES` lines that fit; a longer text ends in an ellipsis."""
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
