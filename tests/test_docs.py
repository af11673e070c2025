"""The documentation is of today: its picture of the rooms, the files and names that it walks through, its links."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / "daskt2i"
BUILT = TOP / "docs" / "_build"
PAGES = sorted(
    page
    for page in [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"), *(TOP / "tests").rglob("*.md")]
    if BUILT not in page.parents
)
ARCHITECTURE = TOP / "docs" / "why" / "architecture.md"
SCREEN = 45
"""Lines of a walk."""

OLD_NAMES = PACKAGE / "facts" / "captions" / "rules.yaml"
"""The SHA-256 of this file stands in fingerprints of selections, comments included: it keeps old page names."""


def _shown(path: Path) -> str:
    return path.relative_to(TOP).as_posix()


def test_the_picture_and_the_table_of_rooms_are_of_today() -> None:
    """Each room is in both. `python docs/rooms.py` writes them."""
    command = [sys.executable, str(TOP / "docs" / "rooms.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _walks() -> dict[str, str]:
    parts = re.split(r"^## ", ARCHITECTURE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: part for part in parts}


@pytest.mark.parametrize("walk", _walks())
def test_a_walk_fits_a_screen(walk: str) -> None:
    assert len(_walks()[walk].strip().splitlines()) <= SCREEN


def _steps() -> Iterator[tuple[str, list[str]]]:
    """File below the package, and names that a walk has in it: rows of a table, and "`file`: `name`" in a text."""
    for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines():
        step = re.match(r"\| `([\w/.]+)` \| (.*?) \|", line)
        if step:
            yield step[1], re.findall(r"`([\w.]+)`", step[2])
        for path, names in re.findall(r"`([\w/]+\.(?:py|yaml))`:((?: `[\w.]+`,?)+)", line):
            yield path, re.findall(r"`([\w.]+)`", names)


def test_a_walk_names_what_is_there() -> None:
    steps = list(_steps())
    assert len(steps) > 40
    wrong = []
    for path, names in steps:
        if not (PACKAGE / path).is_file():
            wrong.append(path)
            continue
        text = (PACKAGE / path).read_text(encoding="utf-8")
        for name in (part for dotted in names for part in dotted.split(".")):
            if not re.search(rf"\b(def|class) {name}\b|^{name}\b.*= ", text, re.MULTILINE):
                wrong.append(f"{path}: {name}")
    assert wrong == []


def test_commands_that_pick_tests_find_some() -> None:
    """`python -m pytest FILE -k WORD` in a page: a test that was renamed would leave the reader with none."""
    found = []
    for page in PAGES:
        for path, word in re.findall(r"python -m pytest [^#\n]*?(tests/[\w/.]+\.py) -k (\w+)", page.read_text("utf-8")):
            found.append(path)
            assert re.search(rf"^ *def test_\w*{word}", (TOP / path).read_text("utf-8"), re.MULTILINE), (
                f"{path} -k {word}"
            )
    assert found


def _plain(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^(    |```).*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda match: match[0] if "](" not in match[0] else "", text)


def _anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=_shown)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _plain(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_pages_that_code_and_texts_mention_are_there() -> None:
    folders = [PACKAGE, TOP / "tests", TOP / "workflows", TOP / "docs"]
    files = [path for folder in folders for suffix in ("py", "yaml") for path in folder.rglob(f"*.{suffix}")]
    wrong = []
    for path in {*PAGES, *files} - {OLD_NAMES}:
        for page in re.findall(r"(?<![\w/])docs/[\w/.-]+\.(?:md|svg|py|png|json)\b", path.read_text(encoding="utf-8")):
            if not (TOP / page).is_file():
                wrong.append(f"{_shown(path)}: {page}")
    assert wrong == []
