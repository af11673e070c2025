"""The conformance suite for sources.

    from daskt2i.testing.source import SourceSuite

    class TestMySource(SourceSuite):
        @pytest.fixture
        def source(self):
            return MySource(...)

Covers: the rules of `protocols.Source` for any data set. If the constructor takes an address, also override `untouched`
with a source at an address without data.
Does not cover: which rows your data should give. It needs pytest.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from daskt2i.errors import RowRejected, SourceError
from daskt2i.protocols import IndexedSource, Source
from daskt2i.types import Row

MAX_PICKLE = 64 * 1024
"""Largest pickle of a source, 64 KiB, also after reading: each task holds one."""


class SourceSuite:
    """Subclass it and give a `source` fixture. A few rows (3 to some hundreds) are enough."""

    @pytest.fixture
    def source(self) -> Source:
        """A new object of the source under test."""
        raise NotImplementedError("give a `source` fixture")

    @pytest.fixture
    def untouched(self) -> Source:
        """A source without data. Making it works; using it fails."""
        pytest.skip("no `untouched` fixture")

    def test_is_a_source(self, source: Source) -> None:
        assert isinstance(source, Source)

    def test_constructor_reads_nothing(self, untouched: Source) -> None:
        pickle.loads(pickle.dumps(untouched))
        with pytest.raises(SourceError):
            untouched.info()

    def test_info_agrees_with_the_rows(self, source: Source) -> None:
        info, rows = source.info(), everything(source)
        assert info.rows == len(rows) > 0
        assert info.captions == sum(len(row.captions) for row in rows)
        assert info.caption_characters == sum(len(caption) for row in rows for caption in row.captions)
        assert info.slots == max(len(row.captions) for row in rows)
        assert min(info.orphan_captions, info.blank_captions) >= 0
        assert info.label
        assert "\n" not in info.label

    def test_info_is_the_same_each_time_and_in_a_copy(self, source: Source) -> None:
        info, copy = source.info(), pickle.loads(pickle.dumps(source))
        assert info == source.info() == copy.info()

    def test_content_is_json(self, source: Source) -> None:
        content = dict(source.info().content)
        assert content
        assert json.loads(json.dumps(content, allow_nan=False)) == content

    def test_row_index_is_its_position(self, source: Source) -> None:
        assert [row.index for row in everything(source)] == list(range(source.info().rows))

    def test_slices_equal_the_whole(self, source: Source) -> None:
        rows = everything(source)
        size = max(1, len(rows) // 3)
        parts = [list(source.rows(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
        assert [row for part in parts for row in part] == rows
        assert list(source.rows(len(rows) - 1, len(rows))) == rows[-1:]
        assert list(source.rows(0, 0)) == []

    def test_rows_are_the_same_in_a_copy(self, source: Source) -> None:
        assert everything(pickle.loads(pickle.dumps(source))) == everything(source)

    def test_captions_are_text_and_not_blank(self, source: Source) -> None:
        for row in everything(source):
            assert isinstance(row.captions, tuple)
            assert all(isinstance(caption, str) and caption.strip() for caption in row.captions), row
            assert row.captions or row.reason is not None, f"row {row.index} has neither caption nor reason"

    def test_no_two_good_rows_share_an_id(self, source: Source) -> None:
        ids = [row.image_id for row in everything(source) if row.reason is None]
        assert all(type(number) is int and -(2**63) <= number < 2**63 for number in ids)
        assert len(ids) == len(set(ids))

    def test_rows_survive_pickling(self, source: Source) -> None:
        rows = everything(source)
        assert pickle.loads(pickle.dumps(rows)) == rows

    def test_pickle_is_small_whatever_was_read(self, source: Source) -> None:
        outcomes(source, everything(source))
        source.info()
        assert len(pickle.dumps(source)) <= MAX_PICKLE

    def test_good_rows_give_bytes_or_a_reason(self, source: Source) -> None:
        rows = everything(source)
        results = outcomes(source, rows)
        good = [result for row, result in zip(rows, results, strict=True) if row.reason is None]
        assert any(isinstance(result, bytes) and result for result in good), "not one row could be read"

    def test_reading_twice_gives_the_same(self, source: Source) -> None:
        rows = everything(source)
        assert outcomes(source, rows) == outcomes(source, rows)

    def test_a_copy_reads_the_same_bytes_with_no_info_asked(self, source: Source) -> None:
        rows = everything(source)
        assert outcomes(pickle.loads(pickle.dumps(source)), rows) == outcomes(source, rows)

    def test_reading_from_eight_threads_equals_reading_one_by_one(self, source: Source) -> None:
        rows = everything(source) * 3
        shared = pickle.loads(pickle.dumps(source))  # in a new copy, all threads do the first read at the same time
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda row: outcome(shared, row), rows))
        assert together == outcomes(source, rows)

    def test_a_kept_index_gives_the_same_rows_and_a_plan_writes_none(self, source: Source) -> None:
        if not isinstance(source, IndexedSource):
            pytest.skip("it keeps no index")
        rows, folder = everything(source), MemoryFolder()
        for write in (False, True, True, False):
            copy = pickle.loads(pickle.dumps(source))
            before = dict(folder.objects)
            copy.keep_index(folder, write)
            assert list(copy.rows(0, len(rows))) == rows
            assert folder.objects == before or (write and not before)
        assert folder.objects
        assert all(name.startswith("index/") for name in folder.objects)


class MemoryFolder:
    """A `protocols.IndexFolder` in memory.

    Attributes:
        objects: name -> content.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """The whole object."""
        try:
            return self.objects[name]
        except KeyError:
            raise FileNotFoundError(name) from None

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        self.objects[name] = bytes(data)

    def list(self, prefix: str = "") -> list[str]:
        """Names of all objects below a folder."""
        return sorted(name for name in self.objects if name.startswith(f"{prefix}/"))


def everything(source: Source) -> list[Row]:
    """All rows of a source."""
    return list(source.rows(0, source.info().rows))


def outcome(source: Source, row: Row) -> bytes | str:
    """The bytes of a row, or the reason of its rejection. Any other error fails the test."""
    try:
        return source.read(row)
    except RowRejected as error:
        return str(error.reason)


def outcomes(source: Source, rows: Sequence[Row]) -> list[bytes | str]:
    """The `outcome` of each row in order."""
    return [outcome(source, row) for row in rows]
