"""Two pictures of who imports whom: the flat modules of before the rooms, and the rooms of today.

    python docs/rooms.py                     # writes why/rooms.svg and the table in why/architecture.md, from today
    python docs/rooms.py --check             # writes nothing; fails where the two are not what it would write
    python docs/rooms.py --commit b8c4509    # writes docs/why/rooms-before.svg too, from that commit, by git

Covers: every import in the source, inside functions and under TYPE_CHECKING too. Only the standard library is needed.
Does not cover: which imports are allowed (tests/test_architecture.py).

tests/test_docs.py runs `--check`.

rooms-before.svg needs the history of the repository. It does not change, so it is made once and kept.
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

DOCS = Path(__file__).resolve().parent
WHY = DOCS / "why"
"""The part of the documentation that shows the rooms."""

PACKAGE = "daskt2i"
FONT = "font-family='Helvetica, Arial, DejaVu Sans, sans-serif'"
INK, FAINT, LINE, BOX, EDGE = "#1f2933", "#616e7c", "#7b8794", "#eef4fb", "#9fb9d6"
MARKED = "#c2410c"
BEGIN, END = "<!-- rooms: written by docs/rooms.py -->", "<!-- end of rooms -->"

Graph = dict[str, set[str]]
"""Importer -> what it imports."""


def sources_of_today() -> dict[str, str]:
    """Path below the repository -> text, as the files are now."""
    top = DOCS.parent
    return {
        path.relative_to(top).as_posix(): path.read_text(encoding="utf-8") for path in (top / PACKAGE).rglob("*.py")
    }


def sources_of(commit: str) -> dict[str, str]:
    """The same, as the files were in a commit."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", commit, PACKAGE], cwd=DOCS.parent, capture_output=True, check=True
    ).stdout
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            held = archive.extractfile(member) if member.name.endswith(".py") else None
            if held is not None:
                found[member.name] = held.read().decode("utf-8")
    return found


def room_of(path: str) -> str:
    """`daskt2i/store/publishing/lock.py` lies in the room `store`, `daskt2i/errors.py` is the room `errors`."""
    return path.removesuffix(".py").split("/")[1]


def imports(sources: dict[str, str]) -> Graph:
    """Room -> rooms that it imports. The `__init__.py` of the whole is a door, not a room."""
    rooms = {room_of(path) for path in sources} - {"__init__"}
    graph: Graph = {room: set() for room in rooms}
    for path, text in sorted(sources.items()):
        if room_of(path) in rooms:
            graph[room_of(path)].update(name for name in _named(ast.parse(text)) if name in rooms)
    return {room: names - {room} for room, names in graph.items()}


def _named(tree: ast.AST) -> Iterator[str]:
    """First names below the package in every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in dotted:
            if name.startswith(f"{PACKAGE}."):
                yield name.split(".")[1]


def numbers(sources: dict[str, str]) -> dict[str, int]:
    """Room -> how many modules it has; the sign of a package is none."""
    paths = [path for path in sources if not path.endswith("__init__.py")]
    return {room: sum(room_of(path) == room for path in paths) for room in {room_of(path) for path in paths}}


def first_sentence(sources: dict[str, str], room: str) -> str:
    """What the sign of a room, or the docstring of a module, says first."""
    text = sources.get(f"{PACKAGE}/{room}/__init__.py") or sources[f"{PACKAGE}/{room}.py"]
    return (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].replace("\n", " ")


def reachable(graph: Graph) -> Graph:
    """Room -> all rooms that it imports, itself or by way of others."""
    found: Graph = {}

    def visit(room: str, above: tuple[str, ...]) -> set[str]:
        if room in above:
            raise SystemExit(f"Rooms import each other: {' -> '.join((*above, room))}. A picture needs floors.")
        if room not in found:
            direct = graph[room]
            found[room] = direct.union(*(visit(name, (*above, room)) for name in sorted(direct)))
        return found[room]

    for room in sorted(graph):
        visit(room, ())
    return found


def reduced(graph: Graph) -> Graph:
    """Without the imports that also go by way of another room: the same floors and far fewer lines."""
    reach = reachable(graph)
    return {
        room: {name for name in names if not any(name in reach[other] for other in names)}
        for room, names in graph.items()
    }


def floors(graph: Graph) -> dict[str, int]:
    """Room -> its floor: one below the lowest room that it imports."""
    reach = reachable(graph)
    found: dict[str, int] = {}
    for room in sorted(graph, key=lambda name: (len(reach[name]), name)):
        found[room] = 1 + max((found[name] for name in graph[room]), default=-1)
    return found


@dataclass
class Spot:
    """A box, or the place where a long line passes a floor."""

    name: str
    wide: int
    x: float = 0.0


WIDE, HIGH, STEP, MARGIN, PASS = 104, 40, 76, 24, 6


def _levels(graph: Graph) -> tuple[list[list[Spot]], list[tuple[list[Spot], list[int]]]]:
    """Spots by floor, and each line as the spots that it goes through, from the importer up."""
    floor = floors(graph)
    levels: list[list[Spot]] = [[] for _ in range(max(floor.values()) + 1)]
    boxes = {}
    for room in sorted(graph):
        boxes[room] = Spot(room, WIDE)
        levels[floor[room]].append(boxes[room])
    lines = []
    for room in sorted(graph):
        for name in sorted(graph[room]):
            way, levels_of_way = [boxes[room]], [floor[room]]
            for level in range(floor[room] - 1, floor[name], -1):
                spot = Spot("", PASS)
                levels[level].append(spot)
                way.append(spot)
                levels_of_way.append(level)
            lines.append(([*way, boxes[name]], [*levels_of_way, floor[name]]))
    return levels, lines


def _arrange(levels: list[list[Spot]], lines: Iterable[tuple[list[Spot], list[int]]], width: int) -> None:
    """Give each spot its place: near what it is tied to, never over another. Sweeps down and up, then settles."""
    up: dict[int, list[Spot]] = {}
    down: dict[int, list[Spot]] = {}
    for way, _ in lines:
        for low, high in pairwise(way):
            up.setdefault(id(low), []).append(high)
            down.setdefault(id(high), []).append(low)
    for level in levels:
        _spread(level, [(place + 0.5) * width / len(level) for place in range(len(level))], width)
    for turn in range(60):
        ties = (
            [up, down] if turn < 50 else [{key: up.get(key, []) + down.get(key, []) for key in up.keys() | down.keys()}]
        )
        for tied in ties:
            for level in levels if tied is not down else reversed(levels):
                wish = []
                for spot in level:
                    others = [other.x for other in tied.get(id(spot), [])]
                    wish.append(sum(others) / len(others) if others else spot.x)
                if turn < 50:
                    order = sorted(range(len(level)), key=lambda place: (round(wish[place], 3), place))
                    level[:] = [level[place] for place in order]
                    wish = [wish[place] for place in order]
                _spread(level, wish, width)


def _spread(level: list[Spot], wish: list[float], width: int) -> None:
    """Places as near to the wishes as the widths allow, in this order."""
    for spot, x in zip(level, wish, strict=True):
        spot.x = x
    for _ in range(1000):
        moved = 0.0
        for left, right in pairwise(level):
            gap = 12 if left.name and right.name else 7
            lack = (left.wide + right.wide) / 2 + gap - (right.x - left.x)
            if lack > 0.01:
                left.x -= lack / 2
                right.x += lack / 2
                moved = max(moved, lack)
        for spot in (level[0], level[-1]):
            inside = min(max(spot.x, MARGIN + spot.wide / 2), width - MARGIN - spot.wide / 2)
            moved = max(moved, abs(inside - spot.x))
            spot.x = inside
        if moved <= 0.01:
            break


def _page(width: int, height: int, title: str, body: list[str]) -> str:
    """A white page with round corners, so that it reads on a light page and on a dark one."""
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        f" role='img' aria-label='{escape(title, quote=True)}' {FONT}>"
    )
    back = f"<rect x='0.5' y='0.5' width='{width - 1}' height='{height - 1}' rx='12' fill='#ffffff' stroke='#d5dbe1'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", back, *body, "</svg>"]) + "\n"


def _text(x: float, y: float, words: str, size: int, colour: str = INK, more: str = "") -> str:
    return f"<text x='{round(x)}' y='{round(y)}' font-size='{size}' fill='{colour}' {more}>{escape(words)}</text>"


def draw_rooms(sources: dict[str, str]) -> str:
    """The rooms on their floors. Lines go from an importer up to what it imports."""
    graph = imports(sources)
    kept = reduced(graph)
    count = numbers(sources)
    width, top = 900, 78
    levels, lines = _levels(kept)
    _arrange(levels, lines, width)
    y = {id(spot): top + STEP * level for level, spots in enumerate(levels) for spot in spots}
    body = [
        _text(MARGIN, 32, "daskt2i: the rooms, in the order in which data flows", 18, INK, "font-weight='bold'"),
        _text(
            MARGIN,
            53,
            f"A room imports rooms above it. {sum(map(len, kept.values()))} lines are drawn: of the"
            f" {sum(map(len, graph.values()))} imports those that no other way through the rooms contains.",
            12,
            FAINT,
        ),
    ]
    for way, _ in lines:
        body.append(f"<path d='{_curve(way, y)}' fill='none' stroke='{LINE}' stroke-width='1.3' opacity='0.75'/>")
    for spots in levels:
        for spot in spots:
            if spot.name:
                body += _box(spot, y[id(spot)], count[spot.name], sources)
    return _page(width, top + STEP * (len(levels) - 1) + HIGH + 24, "Which rooms of daskt2i import which", body)


def _curve(way: list[Spot], y: dict[int, int]) -> str:
    """From the top of the lowest box through the floors between to the bottom of the highest."""
    first = way[0]
    drawn = f"M{round(first.x)} {y[id(first)]}"
    for low, high in pairwise(way):
        start = y[id(low)]
        end = y[id(high)] + HIGH
        middle = (start + end) // 2
        drawn += f" C{round(low.x)} {middle} {round(high.x)} {middle} {round(high.x)} {end}"
        if not high.name:
            drawn += f" V{y[id(high)]}"
    return drawn


def _box(spot: Spot, y: int, modules: int, sources: dict[str, str]) -> list[str]:
    package = f"{PACKAGE}/{spot.name}/__init__.py" in sources
    name = f"{spot.name}/" if package else f"{spot.name}.py"
    left = round(spot.x) - WIDE // 2
    middle = "text-anchor='middle'"
    return [
        f"<g><title>{escape(first_sentence(sources, spot.name))}</title>",
        f"<rect x='{left}' y='{y}' width='{WIDE}' height='{HIGH}' rx='7' fill='{BOX if package else '#ffffff'}'"
        f" stroke='{EDGE}'/>",
        _text(spot.x, y + 17, name, min(13, 180 // len(name)), INK, f"{middle} font-weight='bold'"),
        _text(spot.x, y + 33, f"{modules} modules" if modules > 1 else "1 module", 11, FAINT, middle),
        "</g>",
    ]


def draw_before(sources: dict[str, str], marked: set[str], words: str) -> str:
    """Modules on a circle by the alphabet, as a listing shows them, with a line for each import.

    marked: names to show in another colour. words: what is said of them.
    """
    graph = imports(sources)
    names = sorted(graph)
    width, height, radius = 900, 960, 330
    middle, centre = width / 2, height / 2 + 32
    angle = {name: 2 * math.pi * place / len(names) - math.pi / 2 for place, name in enumerate(names)}
    lines = sum(map(len, graph.values()))
    body = [
        _text(MARGIN, 32, f"daskt2i before the rooms: {len(names)} names side by side", 18, INK, "font-weight='bold'"),
        _text(
            MARGIN,
            53,
            f"By the alphabet, as the folder listed them; each of the {lines} lines is an import.",
            12,
            FAINT,
        ),
        _text(MARGIN, 70, words, 12, MARKED),
    ]

    def place(name: str, far: float) -> tuple[float, float]:
        return middle + far * math.cos(angle[name]), centre + far * math.sin(angle[name])

    pairs = [(name, other) for name in names for other in sorted(graph[name])]
    for name, other in sorted(pairs, key=lambda pair: marked >= set(pair)):
        (x1, y1), (x2, y2) = place(name, radius), place(other, radius)
        inner = marked >= {name, other}
        stroke = f"stroke='{MARKED}' opacity='0.9'" if inner else f"stroke='{LINE}' opacity='0.28'"
        body.append(
            f"<path d='M{x1:.0f} {y1:.0f} Q{middle:.0f} {centre:.0f} {x2:.0f} {y2:.0f}' fill='none' {stroke}"
            f" stroke-width='{1.6 if inner else 1}'/>"
        )
    for name in names:
        x, y = place(name, radius + 8)
        left = math.cos(angle[name]) < -1e-9
        turn = math.degrees(angle[name]) + (180 if left else 0)
        anchor = "end" if left else "start"
        shown = f"{name}/" if f"{PACKAGE}/{name}/__init__.py" in sources else name
        strong = " font-weight='bold'" if name in marked else ""
        body.append(
            f"<text x='{x:.0f}' y='{y:.0f}' dy='4' font-size='12' fill='{MARKED if name in marked else INK}'{strong}"
            f" text-anchor='{anchor}' transform='rotate({turn:.1f} {x:.0f} {y:.0f})'>{escape(shown)}</text>"
        )
    return _page(width, height, "Which modules of daskt2i imported which before the rooms", body)


def moved_to(room: str, commit: str) -> set[str]:
    """Flat modules of a commit that lie in this room today."""
    told = subprocess.run(
        ["git", "diff", "-M40%", "--name-status", "--diff-filter=R", commit, "HEAD", "--", PACKAGE],
        cwd=DOCS.parent,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    moves = [line.split("\t")[1:] for line in told.splitlines()]
    return {room_of(old) for old, new in moves if new.startswith(f"{PACKAGE}/{room}/") and old.count("/") == 1}


def with_table(page: str, sources: dict[str, str]) -> str:
    """docs/why/architecture.md with the table of rooms as the signs have it, in the order of the floors."""
    floor = floors(imports(sources))
    rows = ["| floor | room | its sign says |", "|---|---|---|"]
    for room in sorted(floor, key=lambda name: (floor[name], name)):
        path = f"{room}/" if f"{PACKAGE}/{room}/__init__.py" in sources else f"{room}.py"
        rows.append(f"| {floor[room]} | [`{path}`](../../{PACKAGE}/{path}) | {first_sentence(sources, room)} |")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"docs/why/architecture.md has no place for the table: {BEGIN} and {END}, each on a line.")
    return f"{before}{begin}\n\n" + "\n".join(rows) + f"\n\n{end}{after}"


def main() -> None:
    """Write what is made from today's source; with --commit rooms-before.svg too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commit", help="draw the modules of this commit as rooms-before.svg too")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is out of date")
    given = parser.parse_args()
    today, page = sources_of_today(), WHY / "architecture.md"
    made = {WHY / "rooms.svg": draw_rooms(today), page: with_table(page.read_text(encoding="utf-8"), today)}
    if given.commit:
        marked = moved_to("store", given.commit)
        words = (
            f"In colour: the {len(marked)} modules that are the room store today, and what they imported of each other."
        )
        made[WHY / "rooms-before.svg"] = draw_before(sources_of(given.commit), marked, words)
    for path, text in made.items():
        if not given.check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise SystemExit(f"docs/why/{path.name} is not of today's source: run `python docs/rooms.py`.")


if __name__ == "__main__":
    main()
