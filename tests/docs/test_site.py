"""The site that Sphinx makes of `docs/`: it builds without a warning and loads nothing from another host, links lead
somewhere, and every command and public name has its place. `.ci/run` runs this file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
from builders.code_blocks import TOP
from builders.workflows import child_environment

import daskt2i
from daskt2i.workflow import app

pytestmark = pytest.mark.slow

LOADING = {"src", "srcset", "data", "poster", "action", "formaction", "background"}
"""Attributes whose address a browser asks for without being told to; of `link` also `href`."""


class Page(HTMLParser):
    """What a page loads, links to, and offers as an anchor."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.policy = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        values = {name: value or "" for name, value in attrs}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        self.loads += [value for name, value in values.items() if name in LOADING]
        if tag == "link":
            self.loads.append(values.get("href", ""))
        elif tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "meta" and values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"]
        elif tag == "meta" and values.get("http-equiv") == "refresh":
            self.loads.append(values.get("content", ""))

    handle_startendtag = handle_starttag


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as CONTRIBUTING.md says."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed (pip install '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "-W", "--keep-going", "-b", "html", "docs", str(folder)]
    done = subprocess.run(command, cwd=TOP, env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page of the site."""
    found = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert len(found) > 40
    return found


def _outside(address: str) -> bool:
    return bool(urlsplit(address).netloc) or urlsplit(address).scheme not in ("", "data", "mailto")


def test_no_page_loads_anything_from_another_host(pages: dict[Path, Page]) -> None:
    assert {(path.name, one) for path, page in pages.items() for one in page.loads if _outside(one)} == set()


def test_every_page_has_browsers_refuse_other_hosts(pages: dict[Path, Page]) -> None:
    policies = {page.policy for page in pages.values()}
    assert len(policies) == 1
    rules = dict(rule.split(maxsplit=1) for rule in policies.pop().split("; "))
    assert rules["default-src"] == "'none'"
    allowed = {word for words in rules.values() for word in words.split()}
    assert allowed <= {"'none'", "'self'", "'unsafe-inline'", "data:"}


def test_no_style_sheet_loads_anything_from_another_host(site: Path) -> None:
    wrong = []
    for path in [*site.rglob("*.css"), *site.rglob("*.html"), *site.rglob("*.svg")]:
        text = path.read_text(encoding="utf-8")
        wrong += re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", text)
    assert wrong == []


def test_links_between_pages_lead_to_a_page_and_to_a_place_on_it(pages: dict[Path, Page]) -> None:
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if _outside(link) or parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {parts.fragment}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                wrong.append(f"{path.name}: {link}")
    assert sorted(set(wrong)) == []


def _commands(group: object, before: str = "") -> Iterator[str]:
    shown = {name: one for name, one in group.commands.items() if not one.hidden}  # type: ignore[attr-defined]
    for name, command in shown.items():
        yield from _commands(command, f"{before}{name}-") if hasattr(command, "commands") else [f"{before}{name}"]


def test_every_command_has_a_section_with_its_options(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "reference" / "command-line.html"]
    assert set(_commands(typer.main.get_command(app))) <= page.anchors
    assert "--dry-run" in page.path.read_text(encoding="utf-8")


def test_every_public_name_is_on_the_page_of_names(site: Path, pages: dict[Path, Page]) -> None:
    page = pages[site / "reference" / "api.html"]
    assert {f"daskt2i.{name}" for name in daskt2i.__all__} <= page.anchors
    assert {"daskt2i.errors.StoreBusy", "daskt2i.launch.rank.tell", "daskt2i.events.ChunkDone"} <= page.anchors


def test_a_word_in_code_quotes_is_code_on_the_page_of_names(pages: dict[Path, Page], site: Path) -> None:
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert "`" not in re.sub(r"<(pre|script).*?</\1>", "", text, flags=re.DOTALL)
    assert "problematic" not in text
