"""The first rows of a data set on a terminal: small pictures in half blocks, beside captions and sizes.

Covers: rows at any width, with and without pictures; which terminals get them.
Does not cover: reading rows and thumbnails (`insights.first_rows`), notebooks (`view`).

Two pixels, one above the other, fill one character: its upper half has the colour of the text, the rest that of the
background. Every terminal with 24-bit colours can show that, also through ssh, where few know a protocol for pictures.
"""

from __future__ import annotations

from PIL import Image
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from daskt2i.formatting import facts
from daskt2i.insights.first_rows import LookResult, SeenRow
from daskt2i.types import Pixels

_SIDE = 20
"""Side of a picture in pixels: so many columns, and half as many lines."""

_CAPTIONS = 5
"""Captions of a row. The rest is counted."""

HALF = "\u2580"


def draws_pictures(console: Console) -> bool:
    """Whether pictures can be shown: a terminal that says that it has 24-bit colours, and wants colours."""
    return console.is_terminal and console.color_system == "truecolor" and not console.no_color


def look_table(result: LookResult, pictures: bool) -> RenderableType:
    """Counts of the data set, and its first rows.

    Args:
        pictures: whether to draw them.
    """
    rows = Table.grid(padding=(0, 2, 0, 0))
    if pictures:
        rows.add_column(width=_SIDE, no_wrap=True)
    rows.add_column(justify="right", style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for seen in result.first:
        cells: list[RenderableType] = [Text(str(seen.row.index)), _words(seen)]
        if pictures:
            cells.insert(0, Text("") if seen.pixels is None else half_blocks(seen.pixels))
        rows.add_row(*cells)
        rows.add_row()
    return Group(facts("First rows of a data set", result.facts()), Text(""), rows)


def half_blocks(pixels: Pixels) -> Text:
    """A square picture of any size in half blocks."""
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes()
    colours = [f"#{small[at : at + 3].hex()}" for at in range(0, len(small), 3)]
    lines = []
    for top in range(0, _SIDE * _SIDE, 2 * _SIDE):
        pairs = zip(colours[top : top + _SIDE], colours[top + _SIDE : top + 2 * _SIDE], strict=True)
        lines.append(Text.assemble(*((HALF, Style(color=upper, bgcolor=lower)) for upper, lower in pairs)))
    return Text("\n").join(lines)


def _words(seen: SeenRow) -> Text:
    captions = seen.captions()
    said = Text(_plain(seen.row.file_name), style="bold")
    said.append(f"\n{_plain(seen.words())}", style=f"not bold {'red' if seen.reason else 'dim'}")
    for caption in captions[:_CAPTIONS]:
        said.append(f"\n{_plain(caption)}", style="not bold")
    if len(captions) > _CAPTIONS:
        said.append(f"\nand {len(captions) - _CAPTIONS:,} more", style="not bold dim")
    return said


def _plain(text: str) -> str:
    """A text on one line without characters that steer a terminal: file names and captions may hold them."""
    return "".join(one if one.isprintable() else " " for one in text)
