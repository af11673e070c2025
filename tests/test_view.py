"""Views of results: text at a Python prompt, HTML in a notebook, without scripts or requests."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

from daskt2i.view import MOST_FAILURES, Picture, Section, View, Viewed

NASTY = "<script>alert(1)</script> & \"quotes\" 'too'"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def everything() -> View:
    return View(
        NASTY,
        ((NASTY, NASTY), ("rows", "20")),
        about=NASTY,
        failures=(NASTY,),
        done=0.75,
        rejected=0.25,
        curves=(((1, 2.0), (2, 1.0)), ((2, 1.5),)),
        curves_label=NASTY,
        make_pictures=lambda: (Picture(PNG, NASTY), Picture(PNG, "", wide=True)),
        sections=(
            Section(NASTY, rows=((NASTY, NASTY),), text=NASTY, bars=((NASTY, 3), ("none", 0))),
            Section("open", folded=False),
        ),
    )


class Tags(HTMLParser):
    """Tags and attributes of a piece of HTML. It checks that each opened tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag != "img":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html_escapes_every_text() -> None:
    shown = everything().html()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 9


def test_html_has_no_terminal_colours() -> None:
    shown = View("a \x1b[31mred\x1b[0m title", failures=("\x1b[1mfailed",)).html()
    assert "\x1b" not in shown
    assert "a red title" in shown


def test_html_has_no_script_and_makes_no_request() -> None:
    tags = Tags(everything().html()).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "form"})
    for _, attributes in tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in everything().html()
    assert "http" not in everything().html()


def test_sections_are_closed_unless_folded_is_false() -> None:
    details = [attributes for tag, attributes in Tags(everything().html()).tags if tag == "details"]
    assert ["open" in attributes for attributes in details] == [False, True]


def test_colours_follow_the_theme_of_jupyterlab_and_have_a_fallback() -> None:
    style = everything().html().partition("</style>")[0]
    variables = re.findall(r"var\((--[\w-]+)(, [^;{}]+)?\)", style)
    assert all(name.startswith("--jp-") for name, _ in variables)
    assert all(fallback for _, fallback in variables)
    assert {name for name, _ in variables} >= {"--jp-ui-font-color1", "--jp-ui-font-color2", "--jp-layout-color2"}


def test_style_rules_apply_only_to_the_view() -> None:
    style = everything().html().partition("<style>")[2].partition("</style>")[0]
    selectors = [part.strip() for rule in re.findall(r"([^{}]+)\{", style) for part in rule.split(",")]
    assert selectors
    assert all(selector.startswith("div.daskt2i-view") for selector in selectors)


def test_failures_come_first_and_in_red() -> None:
    view = View("Encoded in part", (("rows", "20"),), failures=("chunk 2 failed after 3 tries: OSError: gone",))
    shown = view.html()
    assert shown.index("chunk 2 failed") < shown.index("<table>")
    assert re.search(r'<div class="failed">chunk 2 failed', shown)
    assert re.search(r"\.failed \{ color: var\(--jp-error-color", shown)
    assert view.text().splitlines()[1] == "  FAILED: chunk 2 failed after 3 tries: OSError: gone"


def test_a_view_lists_the_first_failures_and_counts_the_rest() -> None:
    view = View("x", failures=tuple(f"chunk {number} failed" for number in range(1000)))
    assert view.html().count('class="failed"') == MOST_FAILURES + 1
    assert "and 990 more" in view.html()
    assert len(view.text().splitlines()) == MOST_FAILURES + 2


def test_text_has_a_title_and_aligned_values() -> None:
    view = View("Trained", (("steps", "3"), ("learning rate", "0.1")), about="runs/demo")
    assert view.text() == "Trained  runs/demo\n  steps          3\n  learning rate  0.1"


def test_text_does_not_make_pictures() -> None:
    def broken() -> tuple[Picture, ...]:
        raise AssertionError

    assert View("x", make_pictures=broken).text() == "x"


def test_a_chart_of_one_point_is_left_out() -> None:
    assert "<svg" not in View("x", curves=(((1, 2.0),),)).html()
    flat = View("x", curves=(((0, 1.0), (0, 1.0)),)).html()
    assert "<svg" in flat
    assert "nan" not in flat


def test_a_chart_shows_its_highest_and_lowest_value_and_its_last_step() -> None:
    shown = View("x", curves=(((1, 2.1234), (1200, 0.05)),)).html()
    assert re.findall(r"<text [^>]*>([^<]*)</text>", shown) == ["2.12", "0.05", "0", "1,200"]


def test_pictures_of_another_row_begin_a_new_line() -> None:
    made = tuple(Picture(PNG, str(number), row=number // 2) for number in range(4))
    assert View("x", make_pictures=lambda: made).html().count('<div class="pictures">') == 2
    assert '<div class="pictures">' not in View("x").html()


def test_a_result_shows_its_view() -> None:
    class Result(Viewed):
        def view(self) -> View:
            return View("Done", (("rows", "2"),))

    assert repr(Result()) == "Done\n  rows  2"
    assert Result()._repr_html_() == Result().view().html()
