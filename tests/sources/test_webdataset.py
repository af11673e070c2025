"""Tars: what is a row, what is rejected and why, and tars that are cut, compressed, or changed under an index."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import fsspec
import pytest
from builders.tars import as_json, picture, sample, two_tars, write_tar

from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.sources.identity import id_of
from daskt2i.sources.webdataset import WebDatasetSource
from daskt2i.types import FileBytes, Row


def rows(source: WebDatasetSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def refused(place: Path | str, kind: type[SourceError] = SourceError) -> str:
    with pytest.raises(kind) as caught:
        WebDatasetSource(str(place)).info()
    return str(caught.value)


def test_every_image_is_a_row_and_everything_else_is_counted(tmp_path: Path) -> None:
    source = WebDatasetSource(str(two_tars(tmp_path, rows=3)))
    info = source.info()
    assert (info.rows, info.captions, info.slots) == (8, 8, 2)
    assert (info.orphan_captions, info.blank_captions) == (1, 0)
    assert info.label == f"{tmp_path.name} (2 files, 8 images, 8 captions)"
    found = rows(source)
    assert [(row.file_name, row.captions, row.reason) for row in found[2:]] == [
        ("00000.tar/00002.bmp", ("number 2", "again"), None),
        ("00001.tar/alone.bmp", (), Reason.NO_CAPTION),
        ("00001.tar/blank.bmp", (), Reason.NO_CAPTION),
        ("00001.tar/twice.bmp", ("first",), None),
        ("00001.tar/twice.bmp", (), Reason.DUPLICATE_ID),
        ("00001.tar/told.bmp", ("from JSON",), None),
    ]
    assert (found[-1].image_id, found[-1].licence) == (77, "CC0")
    assert found[0].image_id == id_of("00000.tar/00000.bmp")
    assert [source.read(row) for row in found[:3]] == [picture(0), picture(1), picture(2)]
    with pytest.raises(RowRejected, match="duplicate-id"):
        source.read(found[-2])


def test_two_images_of_one_key_with_other_endings_are_one_row_and_one_rejected(tmp_path: Path) -> None:
    members = [("a.bmp", picture(1)), ("a.PNG", picture(2)), ("a.txt", b"one"), ("a.mask.png", picture(3))]
    source = WebDatasetSource(str(write_tar(tmp_path / "x.tar", members)))
    first, second = rows(source)
    assert (first.file_name, first.captions, first.reason) == ("x.tar/a.bmp", ("one",), None)
    assert (second.file_name, second.captions, second.reason) == ("x.tar/a.PNG", (), Reason.DUPLICATE_ID)
    assert "an earlier image with the key a" in second.detail
    assert source.info().orphan_captions == 0


def test_captions_need_not_stand_beside_their_image(tmp_path: Path) -> None:
    members = [(f"a/{n}.jpg", picture(n)) for n in range(3)] + [(f"a/{n}.TXT", b"late") for n in range(3)]
    found = rows(WebDatasetSource(str(write_tar(tmp_path / "x.tar", members))))
    assert [(row.file_name, row.captions) for row in found] == [(f"x.tar/a/{n}.jpg", ("late",)) for n in range(3)]


def test_text_comes_before_json_and_a_key_may_be_named(tmp_path: Path) -> None:
    members = [
        *sample("both", 1, "from text"),
        ("both.json", as_json(caption="from JSON", id=5)),
        ("other.bmp", picture(2)),
        ("other.json", as_json(caption="no", long=["a long one", "", 3])),
    ]
    place = str(write_tar(tmp_path / "x.tar", members))
    assert [(row.captions, row.image_id) for row in rows(WebDatasetSource(place))] == [
        (("from text",), 5),
        (("no",), id_of("x.tar/other.bmp")),
    ]
    named = WebDatasetSource(place, caption_key="long")
    assert rows(named)[1].captions == ("a long one",)
    assert named.info().blank_captions == 2


@pytest.mark.parametrize(("name", "data"), [("a.txt", b"\xff\xfe\xff"), ("a.json", b"{"), ("a.json", b"[1]")])
def test_a_caption_file_that_cannot_be_read_rejects_its_row_and_says_why(
    name: str, data: bytes, tmp_path: Path
) -> None:
    (row,) = rows(WebDatasetSource(str(write_tar(tmp_path / "x.tar", [("a.bmp", picture(1)), (name, data)]))))
    assert row.reason is Reason.NO_CAPTION
    assert "its JSON" in row.detail or "its text file" in row.detail


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_and_foreign_names_are_read(form: int, tmp_path: Path) -> None:
    long = "d" * 90 + "/" + "ä" * 90
    source = WebDatasetSource(
        str(write_tar(tmp_path / "x.tar", [*sample(f"./{long}", 3, "a"), *sample("b", 4, "b")], form))
    )
    found = rows(source)
    assert found[0].file_name == f"x.tar/{long}.bmp"
    assert [source.read(row) for row in found] == [picture(3), picture(4)]


def test_a_hard_link_is_read_and_another_link_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.bmp").write_bytes(picture(1))
    os.link(tmp_path / "in" / "a.bmp", tmp_path / "in" / "b.bmp")
    (tmp_path / "in" / "c.bmp").symlink_to("/etc/passwd")
    for key in "abc":
        (tmp_path / "in" / f"{key}.txt").write_text(f"caption {key}")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for path in sorted((tmp_path / "in").iterdir()):
            archive.add(path, path.name)
    source = WebDatasetSource(str(tmp_path / "x.tar"))
    found = rows(source)
    assert [source.read(row) for row in found[:2]] == [picture(1), picture(1)]
    assert (found[2].reason, found[2].detail) == (Reason.UNREADABLE_IMAGE, "a link or a device, not a file in the tar")


@pytest.mark.parametrize("where", ["in an image", "in a header", "between members", "damaged header"])
def test_rows_before_a_cut_are_used_and_the_rest_is_told(where: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", [one for n in range(4) for one in sample(f"{n}", n, f"n {n}")])
    with tarfile.open(path) as archive:
        third = archive.getmember("2.bmp")
    raw = bytearray(path.read_bytes())
    if where == "in an image":
        del raw[third.offset_data + 100 :]
    elif where == "in a header":
        del raw[third.offset + 100 :]
    elif where == "between members":
        del raw[third.offset :]
    else:
        raw[third.offset + 20 : third.offset + 400] = b"\xff" * 380
    path.write_bytes(raw)
    source = WebDatasetSource(str(path))
    info, found = source.info(), rows(source)
    assert [source.read(row) for row in found[:2]] == [picture(0), picture(1)]
    assert [row.reason for row in found] == [None, None] + [Reason.UNREADABLE_IMAGE] * (where == "in an image")
    (note,) = info.notes
    assert ("no end mark" if where == "between members" else "is cut or damaged at byte") in note
    assert f"{len(found)} images" in note


def test_tars_that_were_joined_with_cat_are_told(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "in" / "a.tar", sample("a", 1, "a")).read_bytes()
    (tmp_path / "x.tar").write_bytes(
        first + write_tar(tmp_path / "in" / "b.tar", sample("b", 2, "b" * 30_000)).read_bytes()
    )
    info = WebDatasetSource(str(tmp_path / "x.tar")).info()
    assert info.rows == 1
    assert "after its end mark" in info.notes[0]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar"])
def test_a_compressed_tar_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / name, "w:gz") as archive:
        archive.add(__file__, "a.txt")
    for place in (tmp_path, tmp_path / name):
        said = refused(place)
        assert "compressed tar" in said
        assert "gunzip" in said


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"<html>not found</html>" * 100)
    assert "is not a tar" in refused(tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes(b"")
    assert "was it cut?" in refused(tmp_path / "y.tar")


def test_a_place_without_tars_is_refused_and_a_list_with_a_gap_names_it(tmp_path: Path) -> None:
    assert "There is nothing at" in refused(tmp_path / "nowhere", SourceMissing)
    (tmp_path / "empty").mkdir()
    assert "There is no tar in" in refused(tmp_path / "empty", SourceMissing)
    two_tars(tmp_path)
    assert str(tmp_path / "00002.tar") in refused(tmp_path / "{00000..00002}.tar", SourceMissing)
    assert "1,000,001 files" in refused(tmp_path / "{0..99999999}.tar")


@pytest.mark.parametrize("place", ["", "*.tar", "{00000..00001}.tar", "{00001,00000}.tar"])
def test_names_are_the_same_whatever_names_the_tars(place: str, tmp_path: Path) -> None:
    whole = WebDatasetSource(str(two_tars(tmp_path / "set", rows=2)))
    other = WebDatasetSource(f"{tmp_path}/set/{place}")
    assert rows(other) == rows(whole)
    assert other.info().content == whole.info().content
    one = WebDatasetSource(str(tmp_path / "set" / "00000.tar"))
    assert [row.file_name for row in rows(one)] == [row.file_name for row in rows(whole)[:2]]
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = WebDatasetSource(str(tmp_path / "moved"))
    assert moved.info().content == whole.info().content
    assert moved.read(rows(moved)[0]) == picture(0)


def test_content_changes_with_captions_names_and_sizes(tmp_path: Path) -> None:
    def content(*members: tuple[str, bytes]) -> object:
        return WebDatasetSource(str(write_tar(tmp_path / "x.tar", members))).info().content["rows_sha256"]

    base = content(("a.bmp", b"12"), ("a.txt", b"one"))
    assert base == content(("a.txt", b"one\n"), ("a.bmp", b"34"))
    others = [
        content(("a.bmp", b"12"), ("a.txt", b"two")),
        content(("b.bmp", b"12"), ("b.txt", b"one")),
        content(("a.bmp", b"123"), ("a.txt", b"one")),
        content(("a.bmp", b"12"), ("a.txt", b"one"), ("b.bmp", b"12")),
    ]
    assert len({str(one) for one in [base, *others]}) == 5


def test_an_image_has_the_stamp_of_the_tar_that_was_opened(tmp_path: Path) -> None:
    source = WebDatasetSource(str(two_tars(tmp_path)))
    row = rows(source)[0]
    data = source.read(row)
    assert isinstance(data, FileBytes)
    assert [data.stamp] == source.stamps([row])
    (tmp_path / "00000.tar").touch()
    assert [data.stamp] != source.stamps([row])


def test_a_tar_that_changes_under_its_index_is_told_and_one_that_is_gone_is_no_rejection(tmp_path: Path) -> None:
    source = WebDatasetSource(str(two_tars(tmp_path)))
    found = rows(source)
    write_tar(tmp_path / "00000.tar", [*sample("another", 7, "x" * 2000), *sample("00000", 8, "y")])
    with pytest.raises(SourceError, match=r"was changed after its index was made.*run the command again"):
        source.rows(0, 1)
    with pytest.raises(OSError, match="another archive"):
        WebDatasetSource(str(tmp_path)).read(found[3])
    (tmp_path / "00000.tar").unlink()
    with pytest.raises(OSError, match="not there now"):
        source.read(found[0])


def test_an_address_without_stamps_gives_none(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/of-webdataset/x.tar", write_tar(tmp_path / "x.tar", sample("a", 1, "a")).read_bytes())
    source = WebDatasetSource("memory://of-webdataset")
    assert source.stamps(rows(source)) is not None
    memory.rm("/of-webdataset", recursive=True)
    assert source.stamps([*rows(WebDatasetSource(str(tmp_path)))]) is None
