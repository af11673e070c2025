"""Images that go away, or are exchanged, while they are read. No image is called missing or unreadable for it."""

from __future__ import annotations

import errno
import http.server
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import pytest

from daskt2i.errors import Reason, RowRejected
from daskt2i.faults.kinds import Kind, kind_of
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import bitmap

NAMES = ["a/1.bmp", "a/2.bmp", "b/3.bmp", "a/never.bmp"]
PICTURES = {name: bitmap(20, 20, (place, 2, 3)) for place, name in enumerate(NAMES[:3])}


def source_of(tmp_path: Path, images: str) -> CocoSource:
    captions = tmp_path / "captions.json"
    document = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(NAMES)],
        "annotations": [{"id": n, "image_id": n, "caption": "x"} for n in range(len(NAMES))],
    }
    captions.write_text(json.dumps(document))
    return CocoSource(images, str(captions))


def fill(folder: Path) -> Path:
    for name, data in PICTURES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, pictures: dict[str, bytes] = PICTURES) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in pictures.items():
            archive.writestr(name, data)
    return path


def in_folder(tmp_path: Path) -> tuple[CocoSource, Callable[[], object], Callable[[], object]]:
    images = fill(tmp_path / "images")
    away = tmp_path / "away"
    return source_of(tmp_path, str(images)), lambda: images.rename(away), lambda: away.rename(images)


def in_part_of_folder(tmp_path: Path) -> tuple[CocoSource, Callable[[], object], Callable[[], object]]:
    images = fill(tmp_path / "images")
    part, away = images / "a", tmp_path / "away"
    return source_of(tmp_path, str(images)), lambda: part.rename(away), lambda: away.rename(part)


def in_zip(tmp_path: Path) -> tuple[CocoSource, Callable[[], object], Callable[[], object]]:
    images = pack(tmp_path / "images.zip")
    away = tmp_path / "away"
    return source_of(tmp_path, str(images)), lambda: images.rename(away), lambda: away.rename(images)


def at_address(tmp_path: Path) -> tuple[CocoSource, Callable[[], object], Callable[[], object]]:
    files = fsspec.filesystem("memory")
    here, away = f"/{tmp_path.name}/images", f"/{tmp_path.name}/away"
    for name, data in PICTURES.items():
        files.pipe_file(f"{here}/{name}", data)

    def move(source: str, target: str) -> None:
        files.mv(source, target, recursive=True)

    return source_of(tmp_path, f"memory:/{here}"), lambda: move(here, away), lambda: move(away, here)


PLACES = [in_folder, in_part_of_folder, in_zip, at_address]


@pytest.mark.parametrize("place", PLACES)
def test_images_whose_place_went_away_are_not_missing_and_come_back(
    place: Callable[[Path], tuple[CocoSource, Callable[[], object], Callable[[], object]]], tmp_path: Path
) -> None:
    source, go_away, come_back = place(tmp_path)
    first, second, _, never = source.rows(0, 4)
    assert source.read(first) == PICTURES["a/1.bmp"]
    go_away()
    for row in (second, first) if place is in_zip else (second, never, first):  # an archive says what it lacks
        with pytest.raises(OSError, match="not there now") as raised:
            source.read(row)
        assert (raised.value.errno, kind_of(raised.value)) == (errno.ESTALE, Kind.DEVICE)
    come_back()
    assert source.read(second) == PICTURES["a/2.bmp"]
    with pytest.raises(RowRejected) as missing:
        source.read(never)
    assert missing.value.reason is Reason.MISSING_FILE


def test_another_folder_in_the_place_of_the_images_is_not_taken_for_missing_files(tmp_path: Path) -> None:
    source, go_away, _ = in_folder(tmp_path)
    first, second, _, _ = source.rows(0, 4)
    source.read(first)
    go_away()
    (tmp_path / "images" / "a").mkdir(parents=True)
    (tmp_path / "images" / "a" / "other.bmp").write_bytes(b"x")
    with pytest.raises(OSError, match="not there now"):
        source.read(second)


def test_one_removed_file_is_missing_while_the_others_are_there(tmp_path: Path) -> None:
    source = source_of(tmp_path, str(fill(tmp_path / "images")))
    first, second, third, _ = source.rows(0, 4)
    source.read(first)
    (tmp_path / "images" / "a" / "2.bmp").unlink()
    with pytest.raises(RowRejected, match="missing-file"):
        source.read(second)
    (tmp_path / "images" / "b" / "3.bmp").unlink()  # the only file of its folder, and none of it was read before
    with pytest.raises(RowRejected, match="missing-file"):
        source.read(third)


def test_an_empty_folder_is_a_mount_point_without_its_mount(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source = source_of(tmp_path, str(images))
    with pytest.raises(OSError, match="not there now"):
        source.read(source.rows(0, 1)[0])


def test_a_folder_that_loses_its_mount_before_the_first_read_is_noticed(tmp_path: Path) -> None:
    images = fill(tmp_path / "images")
    source = source_of(tmp_path, str(images))
    source.info()
    images.rename(tmp_path / "away")
    images.mkdir()
    with pytest.raises(OSError, match="not there now"):
        source.read(source.rows(0, 1)[0])


def test_an_archive_exchanged_while_it_is_read_makes_no_image_unreadable(tmp_path: Path) -> None:
    images = pack(tmp_path / "images.zip")
    source = source_of(tmp_path, str(images))
    first, second, _, _ = source.rows(0, 4)
    source.read(first)
    pack(images, {name: data[::-1] * 2 for name, data in PICTURES.items()})
    with pytest.raises(OSError, match="another archive") as raised:
        source.read(second)
    assert kind_of(raised.value) is Kind.DEVICE


def test_a_damaged_archive_that_nobody_exchanged_has_unreadable_images(tmp_path: Path) -> None:
    images = pack(tmp_path / "images.zip")
    data = bytearray(images.read_bytes())
    data[data.index(PICTURES["a/2.bmp"]) + 60] ^= 1
    images.write_bytes(data)
    source = source_of(tmp_path, str(images))
    with pytest.raises(RowRejected, match="wrong length or checksum"):
        source.read(source.rows(1, 2)[0])


def test_a_folder_named_like_an_image_has_no_stamp(tmp_path: Path) -> None:
    source = source_of(tmp_path, str(fill(tmp_path / "images")))
    (tmp_path / "images" / "a" / "never.bmp").mkdir()
    assert [bool(stamp) for stamp in source.stamps(source.rows(0, 4)) or ()] == [True, True, True, False]


@contextmanager
def served(folder: Path, pages: set[str]) -> Iterator[str]:
    """The address of a web server. It answers with a page, and status 200, for the files in `pages`."""

    class Server(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in pages:
                body = b"\n<!DOCTYPE HTML><title>Log in</title>"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            else:
                super().do_GET()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_a_page_for_people_in_place_of_all_images_is_a_refusal_and_in_place_of_one_image_it_is_a_bad_image(
    tmp_path: Path,
) -> None:
    pages: set[str] = set()
    with served(fill(tmp_path / "images"), pages) as address:
        source = source_of(tmp_path, address)
        first, second, _, _ = source.rows(0, 4)
        source.read(first)
        pages.add("/a/2.bmp")
        assert source.read(second).lstrip().startswith(b"<!DOCTYPE")
        pages.add("/a/1.bmp")
        with pytest.raises(PermissionError, match="log-in") as raised:
            source.read(second)
        assert kind_of(raised.value) is Kind.ACCESS
        pages.clear()
        assert source.read(second) == PICTURES["a/2.bmp"]
