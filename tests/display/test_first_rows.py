"""Pictures of the first rows on a terminal, and at a prompt and in a notebook."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.coco import write_coco
from rich.console import Console
from rich.text import Text

import daskt2i
from daskt2i.display.first_rows import HALF, draws_pictures, half_blocks, look_table
from daskt2i.insights.first_rows import LookResult


@pytest.fixture
def found(tmp_path: Path) -> LookResult:
    coco = write_coco(tmp_path)
    return daskt2i.look(str(coco / "images"), str(coco / "captions.json"), rows=3)


def printed(found: LookResult, pictures: bool) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80, force_terminal=True, color_system="truecolor").print(look_table(found, pictures))
    return stream.getvalue()


def test_a_half_block_shows_two_pixels_one_above_the_other() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[0], pixels[1] = (255, 0, 0), (0, 0, 255)
    first = half_blocks(pixels).split("\n")[0]
    assert first.plain == HALF * 20
    style: Any = first.spans[0].style
    assert (style.color.name, style.bgcolor.name) == ("#ff0000", "#0000ff")
    assert len(half_blocks(pixels).plain.splitlines()) == 10


def test_pictures_stand_beside_their_captions_in_80_columns(found: LookResult) -> None:
    text = Text.from_ansi(printed(found, pictures=True)).plain
    assert max(map(len, text.splitlines())) <= 80
    assert text.count(HALF * 20) == 3 * 10
    assert f"{HALF * 20}  0  000.bmp" in text


def test_without_pictures_no_half_block_is_printed(found: LookResult) -> None:
    assert HALF not in printed(found, pictures=False)


@pytest.mark.parametrize(
    ("terminal", "colours", "plain", "draws"),
    [
        (True, "truecolor", False, True),
        (True, "256", False, False),
        (True, "truecolor", True, False),
        (False, "truecolor", False, False),
    ],
)
def test_only_a_terminal_of_24_bit_colours_gets_pictures(
    terminal: bool, colours: Any, plain: bool, draws: bool
) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, color_system=colours, no_color=plain)
    assert draws_pictures(console) is draws


def test_a_notebook_shows_thumbnails_with_captions_and_a_prompt_shows_counts(found: LookResult) -> None:
    html = found._repr_html_()
    assert html.count("data:image/png;base64,") == 3
    assert "A man rides a bike" in html
    assert "captions.json (10 images, 12 captions)" in repr(found)
    assert "\n" not in found.info.label


def test_a_run_looks_at_its_own_source(tmp_path: Path) -> None:
    run = daskt2i.Run("demo", tmp_path / "run", progress=False, settings={"scenes.rows": 4})
    assert [seen.row.index for seen in run.look(rows=2).first] == [0, 1]
    assert run.look().source == "daskt2i.sources.scenes.ScenesSource"
