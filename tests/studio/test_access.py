"""Who is answered: only who knows the token, under a name of the studio, from its own page."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from builders.studios import TOKEN, Visitor, studio_of


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    with studio_of(tmp_path_factory.mktemp("runs")) as visitor:
        yield visitor


def test_only_the_question_whether_it_is_there_needs_no_token(studio: Visitor) -> None:
    assert studio.ask("/healthz", authorization="").json() == {"status": "ok"}
    for path in ("/", "/api/runs", "/metrics", "/static/main.js", "/v1/images/generations"):
        for wrong in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}"):
            answer = studio.ask(path, authorization=wrong)
            assert answer.status == 401
            assert b"Open the address that it printed" in answer.body
    assert studio.ask("/api/runs").status == 200


def test_a_browser_gets_the_token_once_and_then_has_a_cookie_that_no_script_reads(studio: Visitor) -> None:
    first = studio.ask(f"/?token={TOKEN}&x=1", authorization="")
    assert first.status == 303
    assert first.headers["location"] == ".?x=1", "the token does not stay in the address"
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert studio.ask("/", authorization="", cookie=cookie.partition(";")[0]).status == 200
    assert studio.ask("/?token=wrong", authorization="").status == 401


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]:80", ""])
def test_another_host_name_is_refused(studio: Visitor, host: str) -> None:
    """A page of somebody else may have its own name lead to our address."""
    assert studio.ask("/api/runs", host=host).status == 421
    assert studio.ask("/api/runs", host="localhost:1234").status == 200


def test_a_request_that_another_page_sends_changes_nothing(studio: Visitor) -> None:
    path = "/api/runs/none/requests/stop"
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{studio.port + 1}"):
        assert studio.post(path, {}, origin=origin).status == 403
    own = f"http://127.0.0.1:{studio.port}"
    assert studio.post(path, {}, origin=own).status == 404


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.places += [str(given[name]) for name in ("src", "href") if given.get(name)]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def test_the_page_loads_nothing_from_elsewhere_and_has_no_script_inside(studio: Visitor) -> None:
    answer = studio.ask("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    found = _Loads()
    found.feed(answer.body.decode())
    assert found.inline == []
    assert found.places
    for place in found.places:
        assert place.startswith(("static/", "#")), place
        if place.startswith("static/"):
            assert studio.ask(f"/{place}").status == 200


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_files_outside_of_the_page_are_not_sent(studio: Visitor, path: str) -> None:
    answer = studio.ask(path)
    assert answer.status == 404
    assert b"import" not in answer.body
    assert b"root:" not in answer.body
