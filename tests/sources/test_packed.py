"""Packed caption files: whole ones are read, damaged ones and ambiguous ones are refused."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from builders.outcomes import sentence_of
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.errors import SourceError
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.files import packed
from daskt2i.sources.files.packed import BadPacking, unpack

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}
TEXT = json.dumps({"a": list(range(200))}).encode()


def zip_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


@given(st.binary(max_size=2000), st.sampled_from(sorted(PACKERS)))
def test_what_is_packed_comes_out_again(data: bytes, kind: str) -> None:
    assert unpack(PACKERS[kind](data), f"captions.json.{kind}") == (data, "")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_joined_streams_and_zeros_at_the_end_are_read(kind: str) -> None:
    pack = PACKERS[kind]
    assert unpack(pack(TEXT) + pack(b" ") + bytes(512), f"x.{kind}") == (TEXT + b" ", "")
    assert unpack(pack(bytes(3 * packed._BLOCK)), f"x.{kind}") == (bytes(3 * packed._BLOCK), "")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("block", [1, 7, 40, 1000])
def test_streams_end_anywhere_in_a_block(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_BLOCK", block)
    parts = [TEXT[: 3 * n] for n in range(12)]
    joined = bytes(3).join(map(PACKERS[kind], parts))
    assert unpack(joined, f"x.{kind}") == (b"".join(parts), "")
    with pytest.raises(BadPacking, match="its end is missing"):
        unpack(joined[:-1], f"x.{kind}")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_the_first_bytes_tell_the_packing_if_the_name_does_not(kind: str) -> None:
    assert unpack(PACKERS[kind](TEXT), "captions.json") == (TEXT, "")
    assert unpack(TEXT, "captions.json") == (TEXT, "")


@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_file_is_refused_wherever_it_is_cut(kind: str) -> None:
    whole = PACKERS[kind](TEXT)
    for end in range(1, len(whole), 11):
        with pytest.raises(BadPacking, match=r"its end is missing \(was it cut\?\)"):
            unpack(whole[:end], f"x.{kind}")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_what_follows_the_end_is_refused(kind: str) -> None:
    with pytest.raises(BadPacking, match="5 bytes that belong to nothing follow its end"):
        unpack(PACKERS[kind](TEXT) + b"extra", f"x.{kind}")
    with pytest.raises(BadPacking, match="its end is missing"):
        unpack(PACKERS[kind](TEXT) + PACKERS[kind](TEXT)[:-3], f"x.{kind}")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_a_file_that_unpacks_to_too_much_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "MAX_BYTES", 1000)
    data = zip_of({"x.json": bytes(1001)}) if kind == "zip" else PACKERS[kind](bytes(1001))
    with pytest.raises(BadPacking, match="more than 1,000 bytes"):
        unpack(data, f"x.{kind}")


@given(st.sampled_from([*PACKERS, "zip", "zst", "json"]), st.binary(max_size=60), st.data())
def test_any_bytes_are_unpacked_or_refused(kind: str, extra: bytes, draw: st.DataObject) -> None:
    raw = bytearray(zip_of({"a.json": TEXT}) if kind == "zip" else PACKERS.get(kind, bytes)(TEXT))
    place = draw.draw(st.integers(0, len(raw)))
    raw[place : place + len(extra)] = extra
    sentence_of(BadPacking, unpack, bytes(raw), f"x.{kind}")


def test_the_only_json_file_of_a_zip_is_read_and_named(tmp_path: Path) -> None:
    document = {"images": [{"id": 1, "file_name": "1.bmp"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}
    files = {
        "annotations/": b"",
        "annotations/captions_val.json": json.dumps(document).encode(),
        "__MACOSX/annotations/._captions_val.json": b"\0\5\x16\7",
        "README.txt": b"{}",
    }
    path = tmp_path / "annotations.zip"
    path.write_bytes(zip_of(files))
    info = CocoSource(str(tmp_path), str(path)).info()
    assert info.label == "captions_val.json in annotations.zip (1 image, 1 caption)"


@pytest.mark.parametrize(
    ("files", "clause"),
    [
        ({"a/val.json": b"{}", "a/train.json": b"{}"}, "holds 2 JSON files: a/val.json, a/train.json"),
        ({"a.txt": b"{}"}, "holds no JSON file"),
        ({}, "holds no JSON file"),
        ({f"{n}.json": b"{}" for n in range(20)}, "holds 20 JSON files: 0.json, 1.json"),
    ],
)
def test_a_zip_with_another_number_of_json_files_is_refused_by_name(
    files: dict[str, bytes], clause: str, tmp_path: Path
) -> None:
    path = tmp_path / "annotations.zip"
    path.write_bytes(zip_of(files))
    with pytest.raises(SourceError) as caught:
        CocoSource(str(tmp_path), str(path)).info()
    assert clause in str(caught.value)
    assert ("give one: zip://NAME::" in str(caught.value)) == (len(files) > 1)


def test_what_is_no_archive_is_not_told_to_name_a_file_in_it(tmp_path: Path) -> None:
    path = tmp_path / "captions.json.gz"
    path.write_bytes(TEXT)
    with pytest.raises(SourceError) as caught:
        CocoSource(str(tmp_path), str(path)).info()
    assert "zip" not in str(caught.value)
