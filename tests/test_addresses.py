"""A path is never taken for an address, nor an address for a path."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.addresses import absolute, is_address, read_bytes
from daskt2i.errors import ConfigError, SourceMissing
from daskt2i.facts.captions.rules import load_rules
from daskt2i.sample.driver import read_prompts

ODD = [
    "run::1", "a#b", "a?b=c", "a[1]", "a*", "a%20b", "a b", " a", "~", "~a", "~nosuchuser", "C:", "C:\\x", "file:a",
    "s3:", "http:", "-x", "$HOME", "ünï", "zip::x", "a;b", "a\nb", "a'b\"", "data:x", "{a}", "memory::",
    b"\xff".decode("utf-8", "surrogateescape"),
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_file_with_an_odd_name_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"./{name}").mkdir()
    Path(f"./{name}/{name}.json").write_bytes(b"here")
    for text in (f"{name}/{name}.json", f"./{name}/{name}.json", str(tmp_path / name / f"{name}.json")):
        assert not is_address(text)
        if text.startswith("~/"):
            continue  # the home folder
        assert read_bytes(text) == b"here"
        assert absolute(text) == str(tmp_path / name / f"{name}.json")


@pytest.mark.parametrize(
    "text", ["s3://b/x", "memory://x", "https://h/x?y#z", "zip://a/b.json::/tmp/x.zip", "simplecache::s3://b/x"]
)
def test_an_address_stays_as_it_is(text: str) -> None:
    assert is_address(text)
    assert absolute(text) == text


def test_an_address_of_this_machine_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "a::b").write_bytes(b"x")
    assert absolute(f"file://{tmp_path}/x") == absolute(f"local://{tmp_path}/x") == str(tmp_path / "x")
    assert read_bytes((tmp_path / "x").as_uri().replace("/x", "/a::b")) == b"x"


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute("~/x") == str(tmp_path / "x")


@pytest.mark.parametrize("text", ["", " ", "\n", "a\0b"])
def test_text_that_no_path_can_be_is_refused_with_a_clause(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is empty|it has a NUL character"):
        absolute(text)


@given(st.text(max_size=20))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = absolute(text)
    except ValueError:
        return
    assert is_address(place) or os.path.isabs(place)  # noqa: PTH117
    assert absolute(place) == place


@pytest.mark.parametrize(
    "text", ["", "nonsense://x", "memory://gone", "/gone", "/", "zip://x::/gone.zip", "a\0b", "x" * 5000]
)
def test_what_cannot_be_read_is_an_error_of_the_operating_system(text: str) -> None:
    with pytest.raises(OSError, match=r"."):
        read_bytes(text)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")  # noqa: PTH110
def test_a_device_is_not_read_but_a_pipe_is(tmp_path: Path) -> None:
    """A device such as /dev/zero has no end: reading it takes all memory."""
    with pytest.raises(OSError, match="it is a device"):
        read_bytes("/dev/zero")
    with pytest.raises(ConfigError, match="it is a device"):
        load_rules("/dev/zero")
    with pytest.raises(SourceMissing, match="it is a device"):
        read_prompts("/dev/zero")
    (tmp_path / "prompts").write_bytes(b"a dog\r\na cat\r\n")
    assert read_prompts(str(tmp_path / "prompts")) == ["a dog", "a cat"]
    reader, writer = os.pipe()
    os.write(writer, b"there")
    os.close(writer)
    assert read_bytes(f"/dev/fd/{reader}") == b"there"
    os.close(reader)


def test_an_address_is_read_with_its_options() -> None:
    fsspec.filesystem("memory").pipe("/of-addresses/x[1].json", b"there")
    assert read_bytes("memory://of-addresses/x[1].json", {"use_listings_cache": False}) == b"there"
