"""What sources of large files, and their index, tell a user to do works."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from builders.advice import covers, told
from builders.tables import STRUCT, numbered, picture, table, write_arrow, write_parquet
from builders.tars import sample, two_tars, write_tar

from daskt2i.errors import SourceError
from daskt2i.sources.hf import HfSource
from daskt2i.sources.index.found import Found, Tally
from daskt2i.sources.index.places import MOST_NAMES, Container
from daskt2i.sources.parquet import ParquetSource
from daskt2i.sources.webdataset import WebDatasetSource
from daskt2i.store.run_folder import RunFolder


def rows(place: Path | str) -> int:
    return WebDatasetSource(str(place)).info().rows


def notes(place: Path) -> str:
    return " ".join(WebDatasetSource(str(place)).info().notes)


def test_each_kind_of_place_that_is_named_is_read(tmp_path: Path) -> None:
    place = two_tars(tmp_path / "set", rows=2)
    (tmp_path / "empty").mkdir()
    with told("sources/index/places.py:Place._paths SourceMissing"):
        rows(tmp_path / "empty")
    with told("sources/index/places.py:Place._nothing SourceMissing"):
        rows(tmp_path / "nothing.tar")
    with told("sources/index/places.py:Place._in_braces SourceError"):
        rows(place / f"{{0..{MOST_NAMES}}}.tar")
    memory = fsspec.filesystem("memory")
    for path in place.iterdir():
        memory.pipe_file(f"/{tmp_path.name}/{path.name}", path.read_bytes())
    for good in (
        place,
        place / "00000.tar",
        place / "*0.tar",
        place / "{00000..00001}.tar",
        f"memory://{tmp_path.name}",
    ):
        assert rows(good) >= 2


def test_a_place_that_cannot_be_listed_is_read_with_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    class Locked(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "locked-tars"

        def __init__(self, key: str = "", **rest: object) -> None:
            super().__init__(**rest)
            self.key = key

        def info(self, path: str, **rest: object) -> dict[str, object]:
            if self.key != "right":
                raise RuntimeError("no credentials")
            raise FileNotFoundError(path)

    fsspec.register_implementation("locked-tars", Locked, clobber=True)
    with told("sources/index/places.py:Place.containers SourceError"):
        rows("locked-tars://x")
    with pytest.raises(SourceError, match="There is nothing"):
        WebDatasetSource("locked-tars://x", storage_options={"key": "right"}).info()


def test_a_compressed_tar_is_read_after_gunzip(tmp_path: Path) -> None:
    raw = write_tar(tmp_path / "in" / "x.tar", sample("a", 1, "a")).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(raw))
    with told("sources/webdataset.py:_compressed SourceError"):
        rows(tmp_path / "x.tar.gz")
    (tmp_path / "x.tar").write_bytes(gzip.decompress((tmp_path / "x.tar.gz").read_bytes()))
    assert rows(tmp_path / "x.tar") == 1


def test_a_file_that_is_no_tar_is_removed_or_written_again(tmp_path: Path) -> None:
    place = two_tars(tmp_path / "set", rows=2)
    (place / "00002.tar").write_bytes(b"<html>" * 1000)
    with told("sources/webdataset.py:_Members.read SourceError"):
        rows(place)
    (place / "00002.tar").unlink()
    assert rows(place) == 7
    write_tar(place / "00002.tar", sample("a", 1, "a"))
    assert rows(place) == 8


def test_a_tar_that_was_cut_or_joined_is_whole_when_it_is_written_as_the_note_says(tmp_path: Path) -> None:
    covers("sources/webdataset.py:_Members._note_cut Note")
    covers("sources/webdataset.py:_Members._look_at_the_end Note")  # no end mark
    covers("sources/webdataset.py:_Members._look_at_the_end Note")  # joined
    members = [one for n in range(3) for one in sample(str(n), n, f"n {n}")]
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as archive:
        third = archive.getmember("2.bmp").offset
    cut = tmp_path / "x.tar"
    cut.write_bytes(whole[: third + 700])
    assert "write the tar again" in notes(cut)
    cut.write_bytes(whole[:third])
    assert "write it again if images are missing" in notes(cut)
    write_tar(cut, members)
    assert notes(cut) == ""
    assert rows(cut) == 3
    joined = tmp_path / "joined.tar"
    other = write_tar(tmp_path / "in" / "other.tar", sample("b", 9, "x" * 30_000))
    joined.write_bytes(whole + other.read_bytes())
    assert "--concatenate" in notes(joined)
    assert rows(joined) == 3
    shutil.copy(tmp_path / "whole.tar", joined)
    with tarfile.open(other) as source, tarfile.open(joined, "a") as archive:  # what `tar --concatenate` does
        for member in source:
            archive.addfile(member, source.extractfile(member))
    assert rows(joined) == 4


def test_a_file_that_cannot_be_read_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = two_tars(tmp_path / "set", rows=2)
    source = WebDatasetSource(str(place))
    scan = source._scan

    def broken(container: Container, tally: Tally) -> Iterator[Found]:
        if container.name == "00001.tar":
            raise OSError(5, "Input/output error")
        return scan(container, tally)

    monkeypatch.setattr(source._rows, "_scan", broken)
    with told("sources/index/build.py:_line SourceError"):
        source.info()
    (place / "00001.tar").unlink()
    assert source.info().rows == 2


def test_a_tar_that_changes_while_it_is_read_or_later_is_indexed_by_the_next_command(tmp_path: Path) -> None:
    place = two_tars(tmp_path / "set", rows=2)
    source = WebDatasetSource(str(place))
    scan = source._scan

    def writing(container: Container, tally: Tally) -> Iterator[Found]:
        yield from scan(container, tally)
        if container.name == "00000.tar":
            write_tar(place / "00000.tar", sample("a", 1, "a"))

    source._rows._scan = writing
    with told("sources/index/build.py:_line SourceError"):
        source.info()
    source = WebDatasetSource(str(place))
    source.keep_index(RunFolder(tmp_path / "run"), True)
    assert source.info().rows == 6
    write_tar(place / "00000.tar", [*sample("a", 1, "a"), *sample("b", 2, "b")])
    with told("sources/index/row_index.py:RowIndex._require_same SourceError"):
        source.rows(0, 1)
    source = WebDatasetSource(str(place))
    source.keep_index(RunFolder(tmp_path / "run"), True)
    assert source.info().rows == 7
    for path in (tmp_path / "run" / "index").glob("rows-*"):
        path.unlink()
    with told("sources/index/shelf.py:Shelf.table SourceError"):
        source.rows(0, 1)
    again = WebDatasetSource(str(place))
    again.keep_index(RunFolder(tmp_path / "run"), True)
    assert len(again.rows(0, 7)) == 7


def test_the_column_that_is_named_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.table({"pixels": [picture(1)], "words": ["a"], "image": [3], "caption": [4], "key": [0.5]}))
    with told("sources/index/columns.py:columns_of SourceError"):
        ParquetSource(str(path), image_column="pixel").info()
    with told("sources/index/columns.py:_image SourceError"):
        ParquetSource(str(path)).info()
    with told("sources/index/columns.py:columns_of SourceError"):
        ParquetSource(str(path), image_column="pixels").info()
    with told("sources/index/columns.py:columns_of SourceError"):
        ParquetSource(str(path), image_column="pixels", caption_column="words", id_column="key").info()
    assert ParquetSource(str(path), image_column="pixels", caption_column="words").info().rows == 1
    write_parquet(path, pa.table({"pixels": [picture(1)], "words": ["a"]}))
    with told("sources/index/columns.py:_image SourceError"):
        ParquetSource(str(path)).info()
    with told("sources/index/columns.py:columns_of SourceError"):
        ParquetSource(str(path), image_column="pixels").info()


def test_what_img2dataset_wrote_is_read_in_place_of_its_table(tmp_path: Path) -> None:
    links = {"url": ["https://x/1.jpg"], "caption": ["a"], "key": ["000000000"]}
    write_parquet(tmp_path / "00000.parquet", pa.table(links))
    with told("sources/listed/web_addresses.py:lists_web_addresses SourceError"):
        ParquetSource(str(tmp_path)).info()
    write_tar(tmp_path / "00000.tar", [("000000000.jpg", picture(1)), ("000000000.txt", b"a")])
    assert rows(tmp_path) == 1
    write_parquet(tmp_path / "images" / "00000.parquet", pa.table({**links, "jpg": [picture(1)]}))
    assert ParquetSource(str(tmp_path / "images")).info().rows == 1


def test_a_damaged_parquet_file_is_removed_or_written_again(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", numbered(range(3)))
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with told("sources/parquet.py:ParquetSource._scan SourceError"):
        ParquetSource(str(tmp_path)).info()
    (tmp_path / "b.parquet").unlink()
    assert ParquetSource(str(tmp_path)).info().rows == 3
    write_parquet(tmp_path / "b.parquet", numbered(range(2)))
    assert ParquetSource(str(tmp_path)).info().rows == 5


def test_an_hf_data_set_that_cannot_be_read_is_saved_as_the_message_says(tmp_path: Path) -> None:
    place, file = tmp_path / "set", tmp_path / "set" / "data-00000-of-00001.arrow"
    with told("sources/hf.py:HfSource.__init__ ConfigError"):
        HfSource()
    write_arrow(file, numbered(range(2)), compression="zstd")
    with told("sources/hf.py:_spans SourceError"):
        HfSource(str(place)).info()
    write_arrow(file, table([{"bytes": None, "path": "a.jpg"}], ["a"], STRUCT))
    with told("sources/hf.py:_paths SourceError"):
        HfSource(str(place)).info()
    file.write_bytes(write_arrow(tmp_path / "whole.arrow", numbered(range(9))).read_bytes()[:5000])
    with told("sources/hf.py:_rows SourceError"):
        HfSource(str(place)).info()
    write_arrow(file, numbered(range(2)))
    (place / "state.json").write_text(json.dumps({"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with told("sources/hf.py:_Split._require_no_choice SourceError"):
        HfSource(str(place)).info()
    (place / "state.json").write_text("{}")
    assert HfSource(str(place)).info().rows == 2
    with told("sources/hf.py:_Split.containers SourceError"):
        HfSource(str(place), split="train").info()


def test_a_data_set_of_the_hub_that_is_not_here_is_read_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoHub:
        @staticmethod
        def load_dataset_builder(name: str, config: str | None) -> None:
            raise ConnectionError("the hub cannot be reached")

    monkeypatch.setitem(sys.modules, "datasets", NoHub)
    with told("sources/hf.py:_in_the_cache SourceError"):
        HfSource(name="org/set").info()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with told("sources/hf.py:_in_the_cache ConfigError"):
        HfSource(name="org/set").info()
    write_arrow(tmp_path / "x.arrow", numbered(range(2)))
    assert HfSource(str(tmp_path)).info().rows == 2
