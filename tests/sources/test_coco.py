"""COCO files, valid and broken, with images in folders, archives and at addresses."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import shutil
import threading
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from daskt2i import addresses
from daskt2i.errors import Reason, RowRejected, SourceError, SourceMissing
from daskt2i.images import read as images
from daskt2i.sources import coco_index
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import bitmap, colour
from daskt2i.sources.files.opening import Pictures
from daskt2i.types import Row

PICTURE = bitmap(40, 36, (10, 200, 30))
OUTSIDE = "a row asks for what lies outside"


def write(folder: Path, names: list[Any], annotations: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    """A caption file with one caption for each of `names`; ids are 1, 2, …"""
    document: dict[str, Any] = {
        "info": {"year": 2014},
        "images": [{"id": n, "file_name": name, "width": 40} for n, name in enumerate(names, 1)],
        "annotations": [{"id": n, "image_id": n, "caption": f"caption {n}"} for n in range(1, len(names) + 1)],
    }
    if annotations is not None:
        document["annotations"] = annotations
    path = folder / "captions.json"
    path.write_text(json.dumps({**document, **more}))
    return path


def source_of(tmp_path: Path, names: list[Any], annotations: list[dict[str, Any]] | None = None) -> CocoSource:
    root = tmp_path / "images"
    root.mkdir(exist_ok=True)
    (root / "readme.txt").touch()  # an empty folder is refused
    return CocoSource(str(root), str(write(tmp_path, names, annotations)))


def rows_of(source: CocoSource) -> list[Row]:
    return list(source.rows(0, source.info().rows))


def reason(source: CocoSource, row: Row) -> Reason:
    with pytest.raises(RowRejected) as caught:
        source.read(row)
    return caught.value.reason


def named(name: str) -> Row:
    return Row(0, 1, name, ("a caption",))


# ---- whole data sets ---------------------------------------------------------------------------------------------


def test_coco_mini_gives_every_row_and_caption_unchanged(coco_mini: Path) -> None:
    source = CocoSource(str(coco_mini / "images"), str(coco_mini / "captions.json"))
    document = json.loads((coco_mini / "captions.json").read_text(encoding="utf-8"))
    info, rows = source.info(), rows_of(source)
    assert (info.rows, info.captions, info.slots, info.orphan_captions, info.blank_captions) == (80, 400, 5, 0, 0)
    assert info.label == "captions.json (80 images, 400 captions)"
    assert info.content["captions_sha256"] == hashlib.sha256((coco_mini / "captions.json").read_bytes()).hexdigest()
    for row, image in zip(rows, document["images"], strict=True):
        assert (row.image_id, row.file_name, row.reason) == (image["id"], image["file_name"], None)
        assert list(row.captions) == [a["caption"] for a in document["annotations"] if a["image_id"] == image["id"]]
        assert source.read(row) == (coco_mini / "images" / row.file_name).read_bytes()


HOSTILE = {
    **dict.fromkeys((1, 5, 6, 7, 8, 9, 10, 14, 20, 21), None),
    **dict.fromkeys((2, 3, 4), Reason.UNREADABLE_IMAGE),
    **dict.fromkeys((11, 12), Reason.IMAGE_TOO_SMALL),
    13: Reason.IMAGE_TOO_LARGE,
    15: Reason.MISSING_FILE,
    **dict.fromkeys((16, 17), Reason.UNSAFE_PATH),
    **dict.fromkeys((18, 19, 22), Reason.NO_CAPTION),
    23: Reason.DUPLICATE_ID,
}


@pytest.mark.parametrize("resolution", [32, 64, 256])
def test_hostile_rows_are_accepted_or_rejected_as_their_table_says(hostile: Path, resolution: int) -> None:
    source = CocoSource(str(hostile / "images"), str(hostile / "captions.json"))
    info, rows = source.info(), rows_of(source)
    assert (info.rows, info.orphan_captions, info.blank_captions) == (23, 1, 2)
    pictures, found = {}, {}
    for number, row in enumerate(rows, 1):
        try:
            if row.reason:
                raise RowRejected(row.reason)
            pictures[number] = images.read(source.read(row), resolution, images.Limits())
            found[number] = None
        except RowRejected as error:
            found[number] = error.reason
    assert found == dict(sorted(HOSTILE.items()))
    assert Counter(value is None for value in found.values()) == {True: 10, False: 13}
    assert pictures[10].source_size == (200, 320)
    assert len(rows[0].captions) == 2
    assert rows[20].captions == ("Ünïcödé 🦒 in a 原っぱ, “quoted”\tand\ntwo lines",)
    grey = pictures[9].pixels[:, resolution // 2, 0].astype(int)
    assert (np.diff(grey) >= 0).all()  # a gradient from black to white, not clipped to white
    assert grey[0] < 16
    assert grey[-1] > 240
    assert len(np.unique(grey)) >= resolution * 0.8
    for number in (7, 8):
        assert pictures[number].pixels.max() >= 250


# ---- where images lie --------------------------------------------------------------------------------------------


def pack(path: Path | io.BytesIO, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


FILES = {f"{n}.bmp": bitmap(40 + n, 36, colour(n)) for n in range(1, 9)}


def places(tmp_path: Path) -> dict[str, str]:
    """The same eight images in every kind of location."""
    folder, memory = tmp_path / "plain", fsspec.filesystem("memory")
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
        memory.pipe(f"/coco-test/{name}", data)
    pack(tmp_path / "flat.zip", FILES)
    pack(tmp_path / "nested.ZIP", {f"train2014/{name}": data for name, data in FILES.items()}, zipfile.ZIP_DEFLATED)
    memory.pipe("/coco-test-zip/nested.zip", (tmp_path / "nested.ZIP").read_bytes())
    (tmp_path / "linked").symlink_to(folder)
    return {
        "folder": str(folder),
        "linked folder": str(tmp_path / "linked"),
        "file address": folder.as_uri(),
        "memory": "memory://coco-test",
        "zip": str(tmp_path / "flat.zip"),
        "deflated, below a prefix": str(tmp_path / "nested.ZIP"),
        "zip at an address": "memory://coco-test-zip/nested.zip",
        "zip at a file address": (tmp_path / "flat.zip").as_uri(),
        "chained": f"zip://train2014::{(tmp_path / 'nested.ZIP').as_uri()}",
    }


PLACES = [
    "folder",
    "linked folder",
    "file address",
    "memory",
    "zip",
    "deflated, below a prefix",
    "zip at an address",
    "zip at a file address",
    "chained",
]


@pytest.mark.parametrize("place", PLACES)
def test_every_place_gives_the_same_bytes(place: str, tmp_path: Path) -> None:
    captions = write(tmp_path, [*FILES, "gone.bmp", "./1.bmp"])
    source = CocoSource(places(tmp_path)[place], str(captions))
    rows = rows_of(source)
    assert [source.read(row) for row in rows[:8]] == list(FILES.values())
    assert reason(source, rows[8]) == Reason.MISSING_FILE
    assert source.read(rows[9]) == FILES["1.bmp"]
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(copy.read, rows[:8] * 20)) == list(FILES.values()) * 20


def test_captions_may_be_at_an_address_and_compressed(tmp_path: Path) -> None:
    path = write(tmp_path, list(FILES))
    plain = CocoSource(str(tmp_path), str(path))
    packed = gzip.compress(path.read_bytes(), mtime=0)
    fsspec.filesystem("memory").pipe("/coco-captions/captions.json.gz", packed)
    source = CocoSource(str(tmp_path), "memory://coco-captions/captions.json.gz")
    assert rows_of(source) == rows_of(plain)
    assert source.info().content["captions_sha256"] == hashlib.sha256(packed).hexdigest()


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = write(tmp_path, ["1.bmp"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert CocoSource(str(tmp_path), str(path)).info().rows == 1


def read_in_child(source: CocoSource, rows: list[Row], queue: Any) -> None:
    queue.put([source.read(row) for row in rows * 50] == list(FILES.values()) * 50)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_zip_survives_forks_that_read_at_the_same_time(tmp_path: Path) -> None:
    source = CocoSource(places(tmp_path)["zip"], str(write(tmp_path, list(FILES))))
    rows = rows_of(source)
    source.read(rows[0])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=read_in_child, args=(source, rows, queue)) for _ in range(2)]
    for child in children:
        child.start()
    assert [source.read(row) for row in rows * 50] == list(FILES.values()) * 50
    assert [queue.get(timeout=60) for _ in children] == [True, True]
    for child in children:
        child.join()


def test_a_zip_is_opened_once_by_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = zipfile.ZipFile

    class Counted(real):  # type: ignore[valid-type, misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            opened.append(threading.get_ident())
            super().__init__(*args, **options)

    source = CocoSource(places(tmp_path)["zip"], "/nowhere/captions.json")
    monkeypatch.setattr(zipfile, "ZipFile", Counted)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: source.read(named("1.bmp")), range(100)))
    assert len(opened) == 1


def test_a_worker_never_parses_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path, ["1.bmp"])
    (tmp_path / "images" / "1.bmp").write_bytes(PICTURE)
    (row,) = rows_of(source)
    copy = pickle.loads(pickle.dumps(source))
    monkeypatch.setattr(coco_index, "_load", lambda *_: pytest.fail("parsed"))
    assert copy.read(row) == PICTURE
    assert len(pickle.dumps(source)) < 1_000


def test_a_relative_path_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source_of(tmp_path, ["1.bmp"])
    (tmp_path / "images" / "1.bmp").write_bytes(PICTURE)
    monkeypatch.chdir(tmp_path)
    source = CocoSource("images", "captions.json")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(source)).read(rows_of(source)[0]) == PICTURE


def test_secrets_stay_out_of_repr_and_content(tmp_path: Path) -> None:
    source = CocoSource(str(tmp_path), str(write(tmp_path, ["1.bmp"])), {"secret": "hush"})
    assert "hush" not in repr(source) + repr(source.info())


# ---- archives ----------------------------------------------------------------------------------------------------


def test_an_entry_must_end_in_the_whole_file_name_and_be_the_only_one(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    pack(
        archive,
        {
            "a/train/1.bmp": b"train",
            "a/val/1.bmp": b"val",
            "a/train/2.bmp": b"two",
            "__MACOSX/a/train/2.bmp": b"not an image",
            "3.bmp": b"three",
            "b/3.bmp": b"another three",
        },
    )
    source = CocoSource(str(archive), "unused")
    assert source.read(named("train/1.bmp")) == b"train"
    assert source.read(named("2.bmp")) == b"two"
    assert source.read(named("3.bmp")) == b"three"
    for name in ("1.bmp", "other/2.bmp", "rain/1.bmp", "4.bmp", "a"):
        assert reason(source, named(name)) == Reason.MISSING_FILE


def test_a_zip_whose_entries_lead_out_of_it_touches_no_file(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    pack(archive, {"../1.bmp": b"climber", "/2.bmp": b"absolute"})
    source = CocoSource(str(archive), "unused")
    assert reason(source, named("../1.bmp")) == Reason.UNSAFE_PATH
    assert source.read(named("1.bmp")) == b"climber"  # the bytes come from the archive, under any name
    assert [path.name for path in tmp_path.iterdir()] == ["images.zip"]


def test_damaged_encrypted_and_oversized_entries_are_rejected(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    pack(archive, {"1.bmp": PICTURE, "2.bmp": bytes(10_000)}, zipfile.ZIP_DEFLATED)
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        second = opened.infolist()[1]

    def after(change: Any) -> Reason:
        data = bytearray(whole)
        change(data)
        archive.write_bytes(data)
        return reason(CocoSource(str(archive), "unused"), named("2.bmp"))

    directory = whole.rindex(b"PK\x01\x02")
    payload = second.header_offset + 30 + len(second.filename)
    assert after(lambda d: d.__setitem__(payload + 3, d[payload + 3] ^ 0xFF)) == Reason.UNREADABLE_IMAGE
    assert after(lambda d: d.__setitem__(second.header_offset, 0)) == Reason.UNREADABLE_IMAGE
    assert after(lambda d: d.__setitem__(directory + 8, 1)) == Reason.UNREADABLE_IMAGE  # encrypted
    assert after(lambda d: d.__setitem__(directory + 10, 97)) == Reason.UNREADABLE_IMAGE  # another compression
    assert after(lambda d: d.__setitem__(slice(directory + 24, directory + 28), b"\xff\xff\xff\x7f")) == (
        Reason.IMAGE_TOO_LARGE
    )
    # an entry that claims 100 bytes and inflates to more
    assert after(lambda d: d.__setitem__(slice(directory + 24, directory + 28), b"\x64\0\0\0")) == (
        Reason.UNREADABLE_IMAGE
    )


def test_a_zip_with_long_extra_fields_and_leading_bytes_can_be_read(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    entry = zipfile.ZipInfo("bilder/grün.bmp")
    entry.extra = b"\x99\x99\xe8\x03" + bytes(1000)
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(entry, PICTURE)
        opened.writestr("last.bmp", PICTURE)
    archive.write_bytes(b"#!/bin/sh\n" + archive.read_bytes())
    source = CocoSource(str(archive), "unused")
    assert source.read(named("grün.bmp")) == source.read(named("last.bmp")) == PICTURE


def test_a_broken_archive_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    pack(archive, FILES)
    captions = write(tmp_path, list(FILES))
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"images\.zip is neither a folder of images nor a zip archive.*was it cut\?"):
        CocoSource(str(archive), str(captions)).info()
    with pytest.raises(SourceError, match=r"neither a folder(?!.*cut)"):
        CocoSource(str(captions), str(captions)).info()


@pytest.mark.parametrize(
    "place", ["/nowhere/images", "/nowhere/images.zip", "memory://nowhere", "memory://no/where.zip"]
)
def test_an_images_location_that_does_not_exist_is_source_missing(place: str, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no images at"):
        CocoSource(place, str(write(tmp_path, ["1.bmp"]))).info()


def test_an_error_of_a_library_for_addresses_is_one_sentence(tmp_path: Path) -> None:
    """It is no subclass of OSError."""
    with pytest.raises(SourceError, match=r"images at hf://datasets/x \(images\) cannot be opened: Invalid HF URI"):
        CocoSource("hf://datasets/x", str(write(tmp_path, ["1.bmp"]))).info()


def test_a_web_server_that_does_not_answer_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(SourceError, match="cannot be read: Cannot connect") as caught:
        CocoSource(str(tmp_path), "http://127.0.0.1:9/captions.json").info()
    assert not isinstance(caught.value, SourceMissing)


def test_an_unknown_kind_of_address_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nonsense://x"):
        CocoSource("nonsense://x", str(write(tmp_path, ["1.bmp"]))).info()
    with pytest.raises(SourceError, match="nonsense://x"):
        CocoSource(str(tmp_path), "nonsense://x").info()


# ---- paths -------------------------------------------------------------------------------------------------------

UNSAFE = [
    "../outside.bmp",
    "a/../../outside.bmp",
    "a/..",
    "..",
    "/etc/hostname",
    "//server/share/x.bmp",
    "C:/x.bmp",
    "c:x.bmp",
    "C:\\x.bmp",
    "\\\\server\\share",
    "..\\outside.bmp",
    "a\\b.bmp",
    "a\0.bmp",
    "file:///etc/hostname",
    "http://127.0.0.1/x",
    "zip://x::y",
]


@pytest.mark.parametrize("name", UNSAFE, ids=repr)
def test_unsafe_paths_are_never_opened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outside.bmp").write_bytes(PICTURE)
    source = source_of(tmp_path, ["1.bmp", name])
    assert rows_of(source)[1].reason == Reason.UNSAFE_PATH
    monkeypatch.setattr(Pictures, "open", lambda self: pytest.fail(OUTSIDE))
    assert reason(source, named(name)) == Reason.UNSAFE_PATH


@pytest.mark.parametrize(
    "name", ["..bmp", "a..b/c.bmp", "...", "ab:c.bmp", "~/x.bmp", "with space.bmp", "ü.bmp", "a%2Fb.bmp", "ab::c.bmp"]
)
def test_odd_names_are_not_unsafe(name: str, tmp_path: Path) -> None:
    source = source_of(tmp_path, [name])
    path = tmp_path / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURE)
    (row,) = rows_of(source)
    assert (row.reason, source.read(row)) == (None, PICTURE)


def test_links_inside_the_folder_pass_and_links_out_of_it_do_not(tmp_path: Path) -> None:
    source = source_of(tmp_path, ["in.bmp", "out.bmp", "far/secret.bmp", "round.bmp", "real.bmp"])
    root, outside = tmp_path / "images", tmp_path / "images-of-others"
    outside.mkdir()
    (outside / "secret.bmp").write_bytes(PICTURE)
    (root / "real.bmp").write_bytes(PICTURE)
    (root / "in.bmp").symlink_to("real.bmp")
    (root / "out.bmp").symlink_to(outside / "secret.bmp")
    (root / "far").symlink_to(outside)
    (root / "round.bmp").symlink_to("round.bmp")
    rows = rows_of(source)
    assert source.read(rows[0]) == source.read(rows[4]) == PICTURE
    assert [reason(source, row) for row in rows[1:4]] == [
        Reason.UNSAFE_PATH,
        Reason.UNSAFE_PATH,
        Reason.MISSING_FILE,
    ]


def test_a_name_that_is_not_a_file_is_missing(tmp_path: Path) -> None:
    names = ["folder", "folder/", ".", "pipe", "real.bmp/below.bmp", "x" * 5000, "\ud800.bmp", "", None, 7]
    source = source_of(tmp_path, names)
    root = tmp_path / "images"
    (root / "folder").mkdir()
    (root / "real.bmp").write_bytes(PICTURE)
    os.mkfifo(root / "pipe")
    rows = rows_of(source)
    assert [reason(source, row) for row in rows] == [Reason.MISSING_FILE] * len(names)
    assert all(row.file_name.isprintable() for row in rows)


def test_a_row_without_file_name_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, [], [{"image_id": 1, "caption": "x"}], images=[{"id": 1}])
    assert rows_of(CocoSource(str(tmp_path), str(path)))[0].reason == Reason.MISSING_FILE


def test_a_refusal_is_no_property_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path, ["1.bmp"])
    (tmp_path / "images" / "1.bmp").write_bytes(PICTURE)
    row = rows_of(source)[0]

    def refuse(self: Path, mode: str) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)  # a file mode does not stop root from reading
    with pytest.raises(PermissionError, match="Permission denied"):
        source.read(row)


def test_other_errors_of_disk_and_network_propagate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path, ["1.bmp"])
    (tmp_path / "images" / "1.bmp").write_bytes(PICTURE)
    row = rows_of(source)[0]

    def fail(self: Path, mode: str) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match="Input/output"):
        source.read(row)


# ---- captions and ids --------------------------------------------------------------------------------------------


def test_blank_captions_are_counted_but_not_kept(tmp_path: Path) -> None:
    blank: list[dict[str, Any]] = [{"image_id": 1, "caption": c} for c in ("", " \t\n\u3000", None, 7, ["x"], "\ud83d")]
    kept = [{"image_id": 1, "caption": c} for c in (" kept  as it is\n", "z", "a", "a")]
    source = source_of(tmp_path, ["1.bmp", "2.bmp"], [*blank, *kept, {"image_id": 1}, {"image_id": 5, "caption": ""}])
    info, rows = source.info(), rows_of(source)
    assert rows[0].captions == (" kept  as it is\n", "z", "a", "a")
    assert (info.captions, info.blank_captions, info.orphan_captions, info.slots) == (4, 7, 1, 4)
    assert info.caption_characters == len(" kept  as it is\n") + 3
    assert (rows[1].captions, rows[1].reason) == ((), Reason.NO_CAPTION)


def test_the_second_image_of_an_id_is_rejected_and_the_first_keeps_the_captions(tmp_path: Path) -> None:
    path = write(tmp_path, ["1.bmp"], images=[{"id": 1, "file_name": n} for n in ("1.bmp", "2.bmp", "../3.bmp")])
    source = CocoSource(str(tmp_path), str(path))
    assert [row.reason for row in rows_of(source)] == [None, Reason.DUPLICATE_ID, Reason.DUPLICATE_ID]
    assert [len(row.captions) for row in rows_of(source)] == [1, 0, 0]


def test_digits_in_quotes_are_integers(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [],
        [{"image_id": 17, "caption": "x"}, {"image_id": "-5", "caption": "y"}],
        images=[{"id": "000017", "file_name": "1.bmp"}, {"id": -5, "file_name": "2.bmp"}],
    )
    assert [(row.image_id, row.captions) for row in rows_of(CocoSource(str(tmp_path), str(path)))] == [
        (17, ("x",)),
        (-5, ("y",)),
    ]


@pytest.mark.parametrize("value", [True, 1.0, None, "one", "1.0", "", 2**63, [1], "٣"], ids=repr)
def test_other_ids_are_errors_that_name_the_entry(value: Any, tmp_path: Path) -> None:
    images_ = [{"id": 1, "file_name": "1.bmp"}, {"id": value, "file_name": "2.bmp"}]
    with pytest.raises(SourceError, match=r"In .*captions\.json, `id` of entry 1 of `images` is .*integer"):
        CocoSource(str(tmp_path), str(write(tmp_path, [], images=images_))).info()
    with pytest.raises(SourceError, match="`image_id` of entry 0 of `annotations`"):
        source_of(tmp_path, ["1.bmp"], [{"image_id": value, "caption": "x"}]).info()


BROKEN: dict[str, tuple[bytes, str]] = {
    "list": (b"[]", "not a COCO caption file"),
    "number": (b"7", "not a COCO caption file"),
    "other object": (b'{"a": 1}', "not a COCO caption file"),
    "no annotations": (b'{"images": []}', "not a COCO caption file"),
    "images not a list": (b'{"images": {}, "annotations": []}', "not a COCO caption file"),
    "no images": (b'{"images": [], "annotations": []}', "lists no images"),
    "entries not objects": (b'{"images": [1], "annotations": []}', "entry 0 of `images`"),
    "entry a list of four": (b'{"images": [[1, 2, 3, 4]], "annotations": []}', "entry 0 of `images`"),
    "instances": (
        b'{"images": [{"id": 1, "file_name": "x"}], "annotations": [{"image_id": 1, "category_id": 2}]}',
        "instances file",
    ),
    "cut short": (b'{"images": [{"id": 1, "fi', r"ends early \(was it cut\?\), and it is not complete and valid JSON"),
    "empty": (b"", "not complete and valid JSON"),
    "latin-1": ('{"images": "ü"}'.encode("latin-1"), "not UTF-8"),
    "nested": (b"[" * 100_000, "not complete and valid JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_not_a_caption_file_is_refused_with_what_is_expected(case: str, tmp_path: Path) -> None:
    content, sentence = BROKEN[case]
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=sentence) as caught:
        CocoSource(str(tmp_path), str(path)).info()
    assert "captions.json" in str(caught.value)
    assert "must be a JSON object with `images`" in str(caught.value)


def test_a_file_that_is_not_compressed_as_its_name_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.json.gz"
    path.write_bytes(b"{}")
    with pytest.raises(SourceError, match="cannot be unpacked"):
        CocoSource(str(tmp_path), str(path)).info()


def test_missing_captions_and_a_folder_as_captions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="no caption file at"):
        CocoSource(str(tmp_path), str(tmp_path / "none.json")).info()
    with pytest.raises(SourceError, match="cannot be read"):
        CocoSource(str(tmp_path), str(tmp_path)).info()


def test_the_caption_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, opened = source_of(tmp_path, ["1.bmp"]), []
    real = addresses.read_bytes
    monkeypatch.setattr(addresses, "read_bytes", lambda *args: opened.append(args) or real(*args))
    source.info(), source.rows(0, 1), source.info()
    assert len(opened) == 1


def test_an_edited_caption_file_has_another_identity(tmp_path: Path) -> None:
    before = source_of(tmp_path, ["1.bmp"]).info().content
    path = tmp_path / "captions.json"
    path.write_text(path.read_text().replace("caption 1", "caption I"))
    assert CocoSource(str(tmp_path / "images"), str(path)).info().content != before


def test_moving_the_data_keeps_the_identity(tmp_path: Path) -> None:
    before = source_of(tmp_path, ["1.bmp"]).info()
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "images", moved / "images")
    shutil.copy(tmp_path / "captions.json", moved)
    assert CocoSource(str(moved / "images"), str(moved / "captions.json")).info() == before


def test_rows_beyond_the_end_are_left_out_and_negative_ones_are_errors(tmp_path: Path) -> None:
    source = source_of(tmp_path, ["1.bmp", "2.bmp"])
    assert [row.index for row in source.rows(1, 99)] == [1]
    with pytest.raises(IndexError):
        source.rows(-1, 1)


def test_a_server_that_cannot_be_reached_is_not_taken_for_a_missing_caption_file() -> None:
    with pytest.raises(SourceError, match=r"cannot be read: .*[Cc]onnect") as error:
        CocoSource("http://127.0.0.1:9/images", "http://127.0.0.1:9/captions.json").info()
    assert not isinstance(error.value, SourceMissing)
