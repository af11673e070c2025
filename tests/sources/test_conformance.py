"""The conformance suite on every source, and tests of the fake source."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from builders.tables import STRUCT, numbered, odd_rows, write_arrow, write_parquet
from builders.tars import two_tars

from daskt2i.errors import Reason, RowRejected
from daskt2i.images import read as images
from daskt2i.protocols import Source
from daskt2i.sources.coco import CocoSource
from daskt2i.sources.fake import FakeSource, bitmap, colour
from daskt2i.sources.folder import FolderSource
from daskt2i.sources.hf import HfSource
from daskt2i.sources.karpathy import KarpathySource
from daskt2i.sources.parquet import ParquetSource
from daskt2i.sources.table import CsvSource, JsonlSource
from daskt2i.sources.webdataset import WebDatasetSource
from daskt2i.testing.source import SourceSuite

FILES = {f"sub/{n}.bmp": bitmap(33 + n, 32, colour(n)) for n in range(7)}


def captions_file(folder: Path) -> Path:
    """Seven good images, one missing, one unsafe, one without caption, one listed twice; an orphan and a blank."""
    names = [*FILES, "gone.bmp", "../climb.bmp", "sub/0.bmp", "sub/1.bmp"]
    ids = [*range(10), 0]
    annotations: list[dict[str, Any]] = [{"image_id": n, "caption": f"number {n}"} for n in (*range(9), *range(4))]
    annotations += [{"image_id": 999, "caption": "orphan"}, {"image_id": 1, "caption": " "}]
    path = folder / "captions.json"
    entries = [{"id": n, "file_name": name} for n, name in zip(ids, names, strict=True)]
    path.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return path


LISTED = [
    {"file_name": name, "caption": said}
    for name, said in [
        *((name, f"number {name}") for name in FILES),
        ("sub/0.bmp", "again"),
        ("gone.bmp", "gone"),
        ("../climb.bmp", "unsafe"),
        ("sub/blank.bmp", " "),
    ]
]
"""Seven good images, one of them with two captions; one missing, one unsafe, one without a caption."""


def with_texts() -> dict[str, bytes]:
    """The images with captions beside them: one has two, one has none, and one text has no image."""
    texts = {f"sub/{n}.txt": f"number {n}\n".encode() for n in range(6)}
    return {**FILES, **texts, "sub/0.txt": b"one\n\nanother", "orphan.txt": b"nobody"}


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


class TestFake(SourceSuite):
    @pytest.fixture
    def source(self) -> Source:
        return FakeSource(rows=30, missing=[3], unreadable={5, 29}, uncaptioned=[0, 7])


class TestCocoFolder(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        for name, data in FILES.items():
            (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "images" / name).write_bytes(data)
        return CocoSource(str(tmp_path / "images"), str(captions_file(tmp_path)))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return CocoSource(str(tmp_path / "nowhere"), str(tmp_path / "nowhere.json"))


class TestCocoZip(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in FILES.items():
                archive.writestr(f"train/{name}", data)
        return CocoSource(str(tmp_path / "images.zip"), str(captions_file(tmp_path)))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return CocoSource(str(tmp_path / "nowhere.zip"), str(tmp_path / "nowhere.json"))


class TestCocoAddress(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Source]:
        memory = fsspec.filesystem("memory")
        memory.pipe({f"/conformance/{name}": data for name, data in FILES.items()})
        memory.pipe("/conformance.json", captions_file(tmp_path).read_bytes())
        yield CocoSource("memory://conformance", "memory://conformance.json")
        memory.rm("/conformance", recursive=True)
        memory.rm("/conformance.json")

    @pytest.fixture
    def untouched(self) -> Source:
        return CocoSource("memory://nowhere", "memory://nowhere.json")


class TestCocoMini(SourceSuite):
    @pytest.fixture
    def source(self, coco_mini: Path) -> Source:
        return CocoSource(str(coco_mini / "images"), str(coco_mini / "captions.json"))


class TestHostile(SourceSuite):
    @pytest.fixture
    def source(self, hostile: Path) -> Source:
        return CocoSource(str(hostile / "images"), str(hostile / "captions.json"))


class TestTars(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return WebDatasetSource(str(two_tars(tmp_path / "tars")))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return WebDatasetSource(str(tmp_path / "nowhere"))


class TestTarsAtAnAddress(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[Source]:
        memory = fsspec.filesystem("memory")
        for path in two_tars(tmp_path).glob("*.tar"):
            memory.pipe(f"/conformance-tars/{path.name}", path.read_bytes())
        yield WebDatasetSource("memory://conformance-tars/{00000..00001}.tar")
        memory.rm("/conformance-tars", recursive=True)

    @pytest.fixture
    def untouched(self) -> Source:
        return WebDatasetSource("memory://nowhere/*.tar")


class TestParquet(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        write_parquet(tmp_path / "set" / "0.parquet", odd_rows(STRUCT))
        write_parquet(tmp_path / "set" / "1.parquet", numbered(range(9)))
        return ParquetSource(str(tmp_path / "set"))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return ParquetSource(str(tmp_path / "nowhere"))


class TestHf(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        write_arrow(tmp_path / "set" / "data-00000-of-00002.arrow", odd_rows(STRUCT))
        write_arrow(tmp_path / "set" / "data-00001-of-00002.arrow", numbered(range(9)))
        return HfSource(str(tmp_path / "set"))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return HfSource(str(tmp_path / "nowhere"))


class TestFolder(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        write_files(tmp_path, with_texts())
        return FolderSource(str(tmp_path))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return FolderSource(str(tmp_path / "nowhere"))


class TestFolderZip(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            for name, data in with_texts().items():
                archive.writestr(name, data)
        return FolderSource(str(tmp_path / "images.zip"))


class TestFolderAddress(SourceSuite):
    @pytest.fixture
    def source(self) -> Iterator[Source]:
        memory = fsspec.filesystem("memory")
        memory.pipe({f"/folder-conformance/{name}": data for name, data in with_texts().items()})
        yield FolderSource("memory://folder-conformance")
        memory.rm("/folder-conformance", recursive=True)

    @pytest.fixture
    def untouched(self) -> Source:
        return FolderSource("memory://nowhere")


class TestFolderMetadata(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        write_files(tmp_path, {**FILES, "metadata.jsonl": json_lines(LISTED)})
        return FolderSource(str(tmp_path))


class TestJsonl(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        write_files(tmp_path, {**FILES, "list.jsonl": json_lines(LISTED)})
        return JsonlSource(str(tmp_path / "list.jsonl"))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return JsonlSource(str(tmp_path / "nowhere.jsonl"))


class TestCsv(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        lines = [f"{row['file_name']},{row['caption']}" for row in LISTED]
        write_files(tmp_path, {**FILES, "list.csv": "\n".join(["file_name,caption", *lines]).encode()})
        return CsvSource(str(tmp_path), str(tmp_path / "list.csv"))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return CsvSource(str(tmp_path), str(tmp_path / "nowhere.csv"))


class TestKarpathy(SourceSuite):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        entries = [
            {"filepath": "sub", "filename": f"{n}.bmp", "split": "val", "sentences": [{"raw": f"number {n}"}] * (n % 3)}
            for n in range(9)
        ]
        write_files(tmp_path, {**FILES, "dataset.json": json.dumps({"images": entries}).encode()})
        return KarpathySource(str(tmp_path), str(tmp_path / "dataset.json"))

    @pytest.fixture
    def untouched(self, tmp_path: Path) -> Source:
        return KarpathySource(str(tmp_path), str(tmp_path / "nowhere.json"))


class TestScenes(SourceSuite):
    @pytest.fixture
    def source(self) -> Source:
        try:
            scenes = importlib.import_module("daskt2i.sources.scenes")
        except ModuleNotFoundError as error:
            pytest.skip(f"no scenes here: {error}")
        return scenes.ScenesSource(rows=9, seed=1)


def test_fake_images_have_the_colour_of_their_row() -> None:
    source = FakeSource(rows=300)
    for row in source.rows(250, 300):
        picture = images.read(source.read(row), 32, images.Limits())
        assert (picture.pixels == colour(row.index)).all()
        assert picture.source_size == (48, 40)
    assert len({colour(index) for index in range(100_000)}) == 100_000


def test_fake_rows_fail_as_asked() -> None:
    source = FakeSource(rows=4, missing=[1], unreadable=[2], uncaptioned=[3])
    rows = source.rows(0, 4)
    assert [row.reason for row in rows] == [None, None, None, Reason.NO_CAPTION]
    with pytest.raises(RowRejected, match="missing-file"):
        source.read(rows[1])
    with pytest.raises(RowRejected, match="unreadable-image"):
        images.read(source.read(rows[2]), 32, images.Limits())


@pytest.mark.parametrize(
    "fault",
    ["index", "blank", "duplicate", "counts", "changing", "pickle"],
)
def test_the_suite_notices_a_faulty_source(fault: str) -> None:
    """A suite that passes with every source proves nothing."""
    suite, source = SourceSuite(), FaultySource(fault)
    check = {
        "index": suite.test_row_index_is_its_position,
        "blank": suite.test_captions_are_text_and_not_blank,
        "duplicate": suite.test_no_two_good_rows_share_an_id,
        "counts": suite.test_info_agrees_with_the_rows,
        "changing": suite.test_reading_twice_gives_the_same,
        "pickle": suite.test_pickle_is_small_whatever_was_read,
    }[fault]
    with pytest.raises(AssertionError):
        check(source)


class FaultySource(FakeSource):
    """A fake with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(rows=5)
        self.fault = fault
        self.reads = 0
        self.memory: list[bytes] = []

    def rows(self, start: int, stop: int) -> Any:
        import dataclasses

        changes: dict[str, Any] = {
            "index": {"index": 3},
            "blank": {"captions": (" ", "x")},
            "duplicate": {"image_id": 1},
            "counts": {"captions": ("x",)},
        }.get(self.fault, {})
        return [dataclasses.replace(row, **changes) for row in super().rows(start, stop)]

    def read(self, row: Any) -> bytes:
        self.reads += 1
        data = super().read(row)
        if self.fault == "pickle":
            self.memory.append(data * 10)
        return data + bytes([self.reads]) if self.fault == "changing" else data
