"""The page in a real browser: drawing while one types, curves, sheets, keys, narrow windows. Needs playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.browser import chromium as chromium
from builders.studios import TOKEN, Visitor, studio_of
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PROMPT = "a red circle on a blue background"
WIDE, NARROW = (1400, 900), (390, 844)


@pytest.fixture(scope="module")
def studio(demo_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """Two runs; one has sheets of two steps, and the name of the other is a script."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("demo", "<img src=x onerror=alert(1)>"):
        shutil.copytree(demo_run, folder / name)
    sheets = folder / "demo" / "train" / "sheets"
    sheets.mkdir()
    for step in (0, 2):
        Image.new("RGB", (64, 64), (step * 100, 0, 0)).save(sheets / f"step-{step:07d}.png")
    with studio_of(folder) as visitor:
        yield visitor


class Tab:
    """A tab of the browser. It keeps what the page complained of, and what it asked of other hosts."""

    def __init__(self, browser: Any, studio: Visitor, size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.outside: list[str] = []
        self.base = f"http://127.0.0.1:{studio.port}/"
        self.page.on("console", lambda one: self.complaints.append(one.text) if one.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(f"{self.base}?token={TOKEN}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.base, "blob:", "data:")):
            self.outside.append(request.url)

    def open(self, view: str, run: str = "demo") -> Any:
        self.page.goto(f"{self.base}#/{view}/{run}")
        return self.page

    def close(self) -> None:
        assert self.complaints == []
        assert self.outside == []
        self.page.context.close()


@pytest.fixture
def tab(chromium: Any, studio: Visitor) -> Iterator[Tab]:
    one = Tab(chromium, studio)
    yield one
    one.close()


def test_runs_are_listed_and_a_name_that_is_a_script_is_only_text(tab: Tab) -> None:
    page = tab.open("runs", "")
    page.wait_for_selector("tbody tr:nth-child(2)")
    text = page.locator("#runs").inner_text()
    assert "<img src=x onerror=alert(1)>" in text
    assert "20 of 20" in text
    assert page.locator("#runs img").count() == 0


def test_a_preview_appears_while_one_types_and_the_picture_when_one_rests(tab: Tab) -> None:
    from playwright.sync_api import expect

    page = tab.open("draw")
    page.wait_for_selector("#prompt:focus")
    page.keyboard.type("a red", delay=40)
    expect(page.locator("#preview")).to_have_attribute("alt", "Preview: a red", timeout=60_000)
    page.wait_for_selector("#suggestions li")
    page.keyboard.type(PROMPT.removeprefix("a red"), delay=10)
    expect(page.locator("#said")).to_have_text("Drawn.", timeout=60_000)
    assert page.locator("#preview").get_attribute("alt") == PROMPT
    assert page.locator("#film img").count() == 3
    assert page.locator("#history button").count() >= 1
    page.keyboard.press("Enter")
    assert page.locator("#suggestions").is_hidden()


def test_a_suggestion_is_taken_with_the_keys_and_slash_goes_to_the_prompt(tab: Tab) -> None:
    page = tab.open("draw")
    page.wait_for_selector("#prompt:focus")
    page.keyboard.type("a")
    page.wait_for_selector("#suggestions li")
    first = page.locator("#suggestions li").first.inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert page.locator("#prompt").input_value() == first
    page.locator("#seed").focus()
    page.locator("#seed").blur()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_a_curve_is_drawn_and_the_slider_shows_the_sheets(tab: Tab) -> None:
    from playwright.sync_api import expect

    page = tab.open("training")
    page.wait_for_selector("#curve canvas")
    expect(page.locator("#state")).to_have_text("step 3 of 3")
    assert page.locator("#sheet").get_attribute("alt") == "Pictures of demo at step 2"
    page.locator("#step").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#sheet").get_attribute("alt") == "Pictures of demo at step 0"
    page.locator("#now").click()
    expect(page.locator("#asked")).to_contain_text("draws at its next step")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["runs", "training", "draw"])
def test_no_view_is_wider_than_a_phone(chromium: Any, studio: Visitor, view: str, scheme: str) -> None:
    one = Tab(chromium, studio, NARROW, scheme)
    page = one.open(view)
    page.wait_for_selector("main h2")
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]
    one.close()


def test_a_studio_that_ended_is_said_on_the_page(chromium: Any, demo_run: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    shutil.copytree(demo_run, tmp_path / "demo")
    with studio_of(tmp_path) as visitor:
        one = Tab(chromium, visitor)
        page = one.open("training")
        page.wait_for_selector("#curve canvas")
    expect(page.locator("#trouble")).to_contain_text("The studio does not answer", timeout=20_000)
    page.context.close()
