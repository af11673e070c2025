"""The page is self-contained: it contacts no host, no text of the data becomes markup, a browser shows it."""

from __future__ import annotations

import asyncio
import base64
import http.server
import io
import re
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from builders.browser import visit
from builders.coco import PEOPLE, settings, write_coco
from PIL import Image
from rich.console import Console

from daskt2i.display.insights import report_view
from daskt2i.executors.serial import SerialExecutor
from daskt2i.insights import page
from daskt2i.insights.driver import insights
from daskt2i.insights.report import InsightsResult
from daskt2i.store.run_folder import RunFolder

HOSTILE = "</script><script>alert(1)</script><img src=https://example.org/x>"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[InsightsResult, Path]:
    """A report of data that contains markup, and the path of its page."""
    folder = tmp_path_factory.mktemp("page")
    captions = [[*PEOPLE[0], HOSTILE], *PEOPLE[1:], [HOSTILE], [HOSTILE]]
    write_coco(folder / "data", captions, same={5: 1})
    dataset = settings(folder / "data", "captions > 0").dataset
    report = insights(dataset, RunFolder(folder / "out"), SerialExecutor())
    return report, folder / "out" / "reports" / "insights.html"


def test_the_page_holds_everything_that_it_shows(shown: tuple[InsightsResult, Path]) -> None:
    report, path = shown
    html = path.read_text(encoding="utf-8")
    assert html == report.html
    assert "default-src 'none'" in html
    sources = _Sources()
    sources.feed(html)
    assert [address for address in sources.found if not address.startswith("data:")] == []
    assert len(sources.found) >= 10
    picture = next(address for address in sources.found if address.startswith("data:image/jpeg"))
    assert Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size == (112, 112)


class _Sources(HTMLParser):
    """Every address that a browser would fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_text_of_the_data_does_not_become_markup(shown: tuple[InsightsResult, Path]) -> None:
    report, _ = shown
    assert HOSTILE not in report.html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in report.html
    assert "<b>NC" not in report.html


def test_a_notebook_shows_totals_and_bars_without_a_script(shown: tuple[InsightsResult, Path]) -> None:
    shown_there = shown[0]._repr_html_()
    assert "<script" not in shown_there
    assert "<b>NC" not in shown_there, "captions are escaped"
    assert f"{shown[0].rows:,} with captions &gt; 0; 1 left out" in shown_there
    for name, count in shown[0].activities.items():
        assert re.search(rf"<th>{name}</th>.*?{count} \(", shown_there)


def test_activities_are_shares_of_the_images_with_people_in_every_view() -> None:
    """Not of the listed ones, whose number depends on how many are listed."""
    report = InsightsResult("a set", rows=20, people=10, activities={"hold": 2, "ride": 1}, looked=False)
    assert "2 (20%)" in report._repr_html_()
    console = Console(file=io.StringIO(), width=80)
    console.print(report_view(report))
    assert "20%" in console.file.getvalue()  # type: ignore[attr-defined]
    columns = [line.data_source.data for line in page._figures(report)["activities"].renderers]
    assert "2  (20%)" in [text for column in columns for values in column.values() for text in values]


# In a browser


@pytest.fixture
def server(shown: tuple[InsightsResult, Path]) -> Iterator[str]:
    """An HTTP server on this machine for the folder of the page."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(shown[1].parent))) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_browser_shows_it_from_file_and_server(shown: tuple[InsightsResult, Path], browser: str, server: str) -> None:
    for url in (shown[1].as_uri(), f"{server}/insights.html"):
        complaints, asked, picture = asyncio.run(visit(browser, url))
        assert complaints == []
        assert [one for one in asked if not one.startswith("data:")] == [url]
        look_at(picture)


def look_at(picture: bytes) -> None:
    """The charts are drawn: bars in the colours of the classes, in some hundreds of pixels each, on white panels."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3).astype(np.int16)

    def area(*colour: int) -> int:
        return int((np.abs(pixels - np.array(colour)).max(axis=1) <= 6).sum())

    assert len(pixels) == 1200 * 1600
    assert area(255, 255, 255) > 100_000
    for name, colour in {"male": (0x44, 0x77, 0xAA), "female": (0xCC, 0x66, 0x77), "pair": (0xDD, 0xCC, 0x77)}.items():
        assert area(*colour) > 500, name
