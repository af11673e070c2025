"""Append, remove and replace: which rows a store has, and that nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.coco import settings as coco_settings
from builders.coco import write_coco
from builders.shapes import BUCKETS, shaped, write_photographs
from builders.workflows import IMAGE, TEXT, fake_settings, finish

import daskt2i
from daskt2i.config.component import Component
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.errors import ConfigError, FingerprintMismatch, SourceError, StoreBusy, StoreError, StoreMissing
from daskt2i.events import ChunkDone, Event, Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.sources.fake import FakeSource
from daskt2i.store.parts.rows_file import read_rows
from daskt2i.store.publishing import lock
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row, SourceInfo


class Rows(FakeSource):
    """Rows of the fake with these numbers, in this order; `shade` changes the pictures, `broken` cannot be decoded."""

    def __init__(self, numbers: list[int], shade: int = 0, broken: tuple[int, ...] = ()) -> None:
        super().__init__(1 << 16)
        self._numbers, self._shade, self._cut = numbers, shade, frozenset(broken)

    def info(self) -> SourceInfo:
        return SourceInfo(len(self._numbers), 2, 2 * len(self._numbers), 100, 0, 0, {"numbers": self._numbers}, "rows")

    def rows(self, start: int, stop: int) -> list[Row]:
        plain = [self._row(number) for number in self._numbers[start:stop]]
        return [Row(start + place, one.image_id, one.file_name, one.captions) for place, one in enumerate(plain)]

    def read(self, row: Row) -> bytes:
        data = super().read(self._row(row.image_id - 1 + self._shade))
        return data[:60] if row.image_id - 1 in self._cut else data


def source(numbers: Any, **more: Any) -> dict[str, Any]:
    return {"class": f"{__name__}.Rows", "numbers": [*numbers], **more}


def of(out: Path, numbers: Any = range(20), told: list[Event] | None = None, **how: Any) -> daskt2i.Run:
    """A run whose source has these rows of the fake."""
    settings = fake_settings(**how)
    dataset = settings.dataset.model_copy(update={"source": Component.model_validate(source(numbers))})
    workflow = settings.model_copy(update={"dataset": dataset})
    return daskt2i.Run(workflow, out, scheduler="serial", progress=False if told is None else told.append)


def there(out: Path) -> list[int]:
    """Numbers of the rows that a reader sees, sorted."""
    store = daskt2i.open_store(out)
    return sorted((store.image_id.values[store.valid.values] - 1).tolist())


def bits(out: Path) -> dict[str, str]:
    """Hashes of all files of the first store."""
    files = [*out.glob("latents.zarr/**/*"), *out.glob("receipts/*"), out / "manifest.parquet", out / "workflow.yaml"]
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of rows 0 to 19 in 3 chunks. Do not change it."""
    out = tmp_path_factory.mktemp("first") / "run"
    with of(out) as run:
        run.encode().raise_for_failed()
    return out


@pytest.fixture
def encoded(first: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def test_append_encodes_the_new_rows_alone_and_the_store_stays_bit_for_bit(encoded: Path) -> None:
    """The source got rows before, between and after the others."""
    before, told = bits(encoded), list[Event]()
    numbers = [100, *range(10), 101, 102, *range(10, 20), *range(103, 110)]
    with of(encoded, numbers, told) as run:
        result = run.append()
        manifest = run.manifest
    assert (result.new, result.known, result.accepted, result.rows) == (10, 20, 10, 30)
    assert [event.receipt.chunk for event in told if isinstance(event, ChunkDone)] == [0, 1], "two chunks of eight rows"
    assert bits(encoded) == before
    assert there(encoded) == [*range(20), *range(100, 110)]
    assert manifest.image_id.tolist() == [n + 1 for n in (*range(20), *range(100, 110))]
    assert manifest.row.tolist() == [*range(20), *range(24, 34)]


def test_a_row_of_a_part_has_the_arrays_that_an_encode_of_everything_gives(encoded: Path, tmp_path: Path) -> None:
    with of(encoded, range(30)) as run:
        run.append()
    with of(tmp_path / "whole", range(30)) as run:
        run.encode()
    parts, whole = daskt2i.open_store(encoded), daskt2i.open_store(tmp_path / "whole")
    kept = parts.valid.values
    assert np.flatnonzero(~kept).tolist() == [20, 21, 22, 23], "the numbers after a short chunk belong to no row"
    for name in ("latent_mean", "text_states", "caption", "crop_box", "image_id"):
        assert np.array_equal(parts[name].values[kept], whole[name].values), name
    assert np.isnan(parts.latent_mean.values[~kept]).all()
    assert np.array_equal(parts.empty_text_states.values, whole.empty_text_states.values)


def test_a_change_of_rows_reads_no_array_of_the_store(encoded: Path) -> None:
    """The shards are away while it works."""
    shards = [path for path in encoded.glob("latents.zarr/*/c.*") if path.is_file()]
    assert len(shards) > 30
    for path in shards:
        path.rename(path.with_name(f"away-{path.name}"))
    with of(encoded, range(30)) as run:
        assert run.append().accepted == 10
        assert run.replace([3]).accepted == 1
        assert run.remove([5]).removed == 1
    for path in shards:
        path.with_name(f"away-{path.name}").rename(path)
    assert there(encoded) == [n for n in range(30) if n != 4]


def test_encode_goes_on_with_the_rows_of_the_store_after_its_source_has_grown(encoded: Path) -> None:
    numbers = [100, *range(20), *range(101, 110)]
    with of(encoded, numbers) as run:
        run.append()
        before = bits(encoded)
        again = run.encode()
        assert (again.skipped, again.done) == (3, 0)
        (encoded / "receipts" / "chunk-0000001.json").unlink()
        again = run.encode()
        assert (again.skipped, again.done) == (2, 1)
    after = bits(encoded)
    assert {name for name in before if before[name] != after[name]} <= {"workflow.yaml", "receipts/chunk-0000001.json"}
    assert there(encoded) == [*range(20), *range(100, 110)]


def test_append_of_a_source_that_has_not_grown_says_so_and_does_nothing(encoded: Path) -> None:
    with of(encoded) as run:
        result = run.append()
    assert (result.new, result.known) == (0, 20)
    assert "none: the store has all rows of the source" in str(result)
    assert not (encoded / "parts").exists()
    assert not (encoded / "rows.json").exists()


def test_a_plan_of_a_change_writes_nothing(encoded: Path) -> None:
    files = sorted(encoded.rglob("*"))
    with of(encoded, range(30)) as run:
        assert run.append(dry_run=True).new == 10
        assert run.remove([3, 99], dry_run=True).removed == 1
        assert run.replace([3, 4, 99], dry_run=True).to_json()["new"] == 2
    assert sorted(encoded.rglob("*")) == files


def test_a_second_append_continues_after_the_first(encoded: Path) -> None:
    for rows in (22, 40):
        with of(encoded, range(rows)) as run:
            run.append().raise_for_failed()
    assert there(encoded) == [*range(40)]
    assert read_rows(RunFolder(encoded)).parts == ("0001", "0002")


def test_removed_rows_are_gone_for_readers_and_no_array_is_written(encoded: Path) -> None:
    before = bits(encoded)
    with of(encoded) as run:
        result = run.remove([4, "00000007.bmp", 4, 99, "no.jpg"])
        assert (result.named, result.removed, result.unknown) == (4, 2, ("99", "no.jpg"))
        again = run.remove(["4"])
        assert (again.removed, again.gone) == (0, 1)
        manifest = run.manifest
    assert bits(encoded) == before
    assert there(encoded) == [n for n in range(20) if n not in (3, 7)]
    assert manifest.status[[2, 3, 7]].tolist() == ["accepted", "removed", "removed"]


def test_rows_are_removed_by_an_expression_in_all_parts(encoded: Path) -> None:
    with of(encoded, range(30)) as run:
        run.append()
        assert run.remove(where="image_id > 15 and image_id < 25").removed == 9
    assert there(encoded) == [*range(15), *range(24, 30)]


def test_a_removed_row_does_not_come_back_by_append_but_by_replace(encoded: Path) -> None:
    with of(encoded) as run:
        run.remove([4])
        assert run.append().new == 0
        assert run.replace([4]).accepted == 1
    assert there(encoded) == [*range(20)]


def test_replaced_rows_have_the_new_picture_and_the_others_stay_bit_for_bit(encoded: Path) -> None:
    before, old = bits(encoded), daskt2i.open_store(encoded).latent_mean.values
    with of(encoded) as run, run.with_settings({"dataset.source": source(range(20), shade=7)}) as other:
        result = other.replace([3, "00000005.bmp", 99])
    assert (result.new, result.removed, result.unknown) == (2, 2, ("99",))
    assert bits(encoded) == before
    store = daskt2i.open_store(encoded)
    assert store.image_id.values[24:].tolist() == [3, 6]
    assert np.flatnonzero(~store.valid.values).tolist() == [2, 5, 20, 21, 22, 23]
    assert np.array_equal(store.latent_mean.values[:20], old)
    assert not np.array_equal(store.latent_mean.values[24], old[2])


def test_a_row_whose_new_picture_is_rejected_stays_as_it_was(encoded: Path) -> None:
    with of(encoded) as run, run.with_settings({"dataset.source": source(range(20), broken=[5])}) as other:
        result = other.replace([3, 6])
    assert (result.accepted, dict(result.rejected), result.removed, result.kept) == (1, {"unreadable-image": 1}, 1, 1)
    assert there(encoded) == [*range(20)]
    assert np.flatnonzero(~daskt2i.open_store(encoded).valid.values[:20]).tolist() == [2]


def test_what_was_rejected_is_known_and_replace_tries_it_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with of(out) as run, run.with_settings({"dataset.source": source(range(20), broken=[5])}) as first:
        first.encode()
    with of(out) as run:
        assert run.append().new == 0
        assert run.replace([6]).accepted == 1
    assert there(out) == [*range(20)]


def test_rows_that_where_leaves_out_are_not_appended(tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco")
    with daskt2i.Run(coco_settings(coco, "people"), tmp_path / "run", scheduler="serial", progress=False) as run:
        first = run.encode()
        assert first.left_out
        assert run.append().new == 0


def test_a_stopped_append_goes_on_also_if_the_source_grew_again(encoded: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, ChunkDone):
            raise Stop

    with of(encoded, range(40)) as run:
        run._listener = stop
        with pytest.raises(Stop):
            run.append()
    assert there(encoded) == [*range(20)]
    told: list[Event] = []
    with of(encoded, [200, *range(40)], told) as run, pytest.raises(StoreError, match="was stopped before it ended"):
        run.append()
    with of(encoded, range(40), told) as run:
        result = run.append().raise_for_failed()
    assert result.encoded is not None
    assert (result.encoded.skipped, result.encoded.done) == (1, 2)
    assert there(encoded) == [*range(40)]


def test_two_changes_at_once_are_one_sentence_that_names_the_first(encoded: Path) -> None:
    with lock.hold(RunFolder(encoded), "append"), of(encoded, range(30)) as run:
        for change in (run.append, lambda: run.remove([3]), lambda: run.replace([3])):
            with pytest.raises(StoreBusy, match=r"in use by append .*wait until that process ends"):
                change()
    assert there(encoded) == [*range(20)]


@pytest.mark.parametrize(
    "settings",
    [{"dataset.image.resolution": 64}, {"dataset.rows_per_chunk": 4}, {"dataset.encoders.text.features": 8}],
    ids=["resolution", "rows in a chunk", "encoder"],
)
def test_other_encoders_or_settings_than_those_of_the_store_are_refused(settings: Any, encoded: Path) -> None:
    with of(encoded, range(30)) as run, pytest.raises(FingerprintMismatch, match="New rows must be encoded as the"):
        run.with_settings(settings).append()
    assert not (encoded / "parts").exists()


def test_without_a_whole_store_there_is_nothing_to_change(tmp_path: Path) -> None:
    with of(tmp_path / "none") as run, pytest.raises(StoreMissing, match="run encode first"):
        run.append()
    with of(tmp_path / "part") as run:
        encode(prepare(run.workflow, tmp_path / "part"), SerialExecutor())
        (tmp_path / "part" / "manifest.parquet").unlink()
        for change in (run.append, lambda: run.remove([3]), lambda: run.replace([3])):
            with pytest.raises(StoreMissing, match="run encode to its end first"):
                change()


def test_failed_chunks_and_too_few_rows_leave_the_rows_of_before(encoded: Path) -> None:
    with of(encoded, range(30)) as run:
        with run.with_settings({"dataset.source": source(range(30), broken=list(range(20, 30)))}) as broken:
            result = broken.append()
            with pytest.raises(SourceError, match=r"Not one of 10 rows was accepted.*rows of before"):
                result.raise_for_failed()
        assert there(encoded) == [*range(20)]
        with run.with_settings(
            {"dataset.source": source(range(30), broken=list(range(20, 30))), "run.min_accepted": 0}
        ) as few:
            few.append().raise_for_failed()
    assert read_rows(RunFolder(encoded)).parts == ("0001",)


def test_the_list_of_before_undoes_a_change(encoded: Path) -> None:
    with of(encoded, range(30)) as run:
        run.append()
        (encoded / "rows.json").write_bytes((encoded / "rows.before.json").read_bytes())
        assert there(encoded) == [*range(20)]
        again = run.append()
        assert (again.encoded.skipped, again.encoded.done) == (2, 0), "it is shown again, and not encoded again"
    assert there(encoded) == [*range(30)]


def test_rows_with_more_captions_than_the_store_has_are_taken(tmp_path: Path) -> None:
    out = tmp_path / "run"
    finish(fake_settings(rows=5), out)
    with daskt2i.Run(fake_settings(rows=9, source={"captions": 3}), out, scheduler="serial", progress=False) as run:
        run.append()
    store = daskt2i.open_store(out)
    assert store.caption.shape == (12, 3)
    assert [str(text) for text in store.caption.values[0]][2] == ""
    assert all(store.caption.values[8])


def test_a_column_is_added_to_all_parts_also_after_the_source_has_grown(encoded: Path) -> None:
    numbers = [100, *range(20), *range(101, 110)]
    with of(encoded, numbers) as run:
        run.append()
        before = bits(encoded)
        added = run.add("words", TEXT, arguments={"features": 4})
        assert (added.rows, added.accepted, added.done) == (30, 30, 5)
        assert run.add("words", TEXT, arguments={"features": 4}).skipped == 5
    assert bits(encoded) == before
    store = daskt2i.open_store(encoded)
    assert np.array_equal(store.words_valid.values, store.valid.values)
    assert np.array_equal(store.words_text_mask.values, store.text_mask.values)


def test_an_append_after_a_column_leaves_its_rows_out_of_the_column_until_add_runs_again(
    encoded: Path, tmp_path: Path
) -> None:
    with of(encoded) as run:
        run.add("words", TEXT, arguments={"features": 4})
    with of(encoded, range(30)) as run:
        run.append()
        store = run.store
        assert (store.words_valid.values.sum(), store.valid.values.sum()) == (20, 30)
        with pytest.raises(StoreError, match=r"do not both have .*run add again with the same column"):
            run.export(tmp_path / "none", "parquet")
        with pytest.raises(
            ConfigError, match=rf"run add for this column on the run folder {re.escape(str(encoded))}\.$"
        ):
            daskt2i.torch_dataset(encoded, batch_size=4, columns=["latents", "words_text_mask"])
        assert run.add("words", TEXT, arguments={"features": 4}).done == 2
        assert run.store.words_valid.values.sum() == 30
        assert run.export(tmp_path / "all", "parquet").rows == 30


def test_an_export_has_the_rows_of_all_parts_without_removed_ones(encoded: Path, tmp_path: Path) -> None:
    with of(encoded, range(30)) as run:
        run.append()
        run.remove([1, 21])
        run.export(tmp_path / "all", "parquet")
        run.export(tmp_path / "some", "parquet", where="image_id > 18")
    table, some = (pq.read_table([*(tmp_path / name).glob("data/*.parquet")]) for name in ("all", "some"))
    assert table["image_id"].to_pylist() == [*range(2, 21), *range(22, 31)]
    assert table["row"].to_pylist() == [*range(1, 20), *range(25, 34)]
    assert some["image_id"].to_pylist() == [19, 20, *range(22, 31)]


def test_status_counts_all_parts_and_what_was_removed(encoded: Path) -> None:
    with of(encoded, range(30)) as run:
        with run.with_settings({"dataset.source": source(range(30), broken=[25])}) as broken:
            broken.append()
        run.remove([1, 2, 26])
        found = run.status()
    assert (found.rows, found.rows_done, found.accepted, found.removed) == (30, 30, 27, 3)
    assert (found.chunks, found.done, found.complete) == (5, 5, True)
    assert dict(found.rejected) == {}, "the rejected row was removed"
    assert found.to_json()["parts"] == {"0001": 10}
    assert "30 of 30: 27 accepted, 0 rejected, 3 removed" in str(found)
    assert "0001: 10 rows" in str(found)


def test_rows_are_appended_to_a_store_of_several_buckets(tmp_path: Path) -> None:
    photographs, out = write_photographs(tmp_path / "photographs"), tmp_path / "run"
    listed = photographs / "captions.json"
    whole = json.loads(listed.read_text())
    listed.write_text(json.dumps({**whole, "images": whole["images"][::2]}))
    workflow, told = shaped(photographs, {"buckets": BUCKETS}), list[Event]()
    with daskt2i.Run(workflow, out, scheduler="serial", progress=told.append) as run:
        first = run.encode().raise_for_failed()
        assert any("fewer rows than one training batch" in str(one) for one in told)
        listed.write_text(json.dumps(whole))
        told.clear()
        result = run.append()
        assert not any("fewer rows than one training batch" in str(one) for one in told), "a part is not trained alone"
        assert (first.accepted, result.known, result.accepted, result.rows) == (5, 5, 5, 10)
        assert run.verify().ok, str(run.verify())
        store = run.store
        there = store.image_id.values[store.valid.values]
        assert sorted(there.tolist()) == sorted(one["id"] for one in whole["images"])
        numbers = dict(zip(store.image_id.values.tolist(), store.row.values.tolist(), strict=True))
        assert sorted(numbers.values()) == sorted(run.manifest.row), "each row has its number, and no other is there"
        gone = [int(there[0]), int(there[-1])]  # one of the first store and one of the part
        assert run.remove(gone).rows == 8
        store = run.store
        assert sorted(store.image_id.values[store.valid.values].tolist()) == sorted(set(there.tolist()) - set(gone))
        assert dict(zip(store.image_id.values.tolist(), store.row.values.tolist(), strict=True)) == numbers
        assert run.replace([int(there[1])]).rows == 8  # the new part has one of the buckets
        store, expected = run.store, {}
        for name in (name for name in map(str, store.data_vars) if name.startswith("latent_mean_")):
            filled = ~np.isnan(store[name].values[store.valid.values]).any((1, 2, 3))
            expected[name.removeprefix("latent_mean_")] = int(filled.sum())
        assert sum(expected.values()) == 8
        for view in filter(expected.get, expected):
            assert len(daskt2i.torch_dataset(out, view=view)) == expected[view], view


def test_a_column_of_a_store_in_buckets_whose_source_has_grown_has_these_buckets(tmp_path: Path) -> None:
    photographs, out = write_photographs(tmp_path / "photographs"), tmp_path / "run"
    listed = photographs / "captions.json"
    whole = json.loads(listed.read_text())
    listed.write_text(json.dumps({**whole, "images": whole["images"][::2]}))
    with daskt2i.Run(shaped(photographs, {"buckets": BUCKETS}), out, scheduler="serial", progress=False) as run:
        run.encode().raise_for_failed()
        listed.write_text(json.dumps(whole))
        run.append().raise_for_failed()
        assert run.encode().skipped == len(list(out.glob("receipts/*")))  # encode goes on too
        result = run.add("again", IMAGE).raise_for_failed()
        assert result.accepted == 10
        store = run.store
        assert store.again_valid.values.tolist() == store.valid.values.tolist()
        names = [name for name in store.data_vars if str(name).startswith("again_latent")]
        assert len(names) >= 2, str(store)
        for name in names:
            np.testing.assert_array_equal(store[name].values, store[str(name).removeprefix("again_")].values)


def test_after_a_picture_was_replaced_in_place_the_store_is_in_order_and_encode_goes_on(tmp_path: Path) -> None:
    photographs, out = write_photographs(tmp_path / "photographs"), tmp_path / "run"
    with daskt2i.Run(shaped(photographs, {"resolution": 32}), out, scheduler="serial", progress=False) as run:
        run.encode().raise_for_failed()
        for old, new in (("000", "004"), ("007", "006")):
            shutil.copy(photographs / f"images/{new}.png", photographs / f"images/{old}.png")
        with pytest.raises(FingerprintMismatch, match=r"000\.png, 007\.png"):
            run.encode()
        assert run.replace([100]).removed == 1
        with pytest.raises(FingerprintMismatch, match=r"from: 007\.png"):
            run.encode()
        assert run.replace(["007.png"]).removed == 1
        assert run.verify().ok, str(run.verify())
        assert run.encode().done == 0


def test_a_report_and_suggestions_have_the_rows_of_all_parts(encoded: Path) -> None:
    with of(encoded, range(30)) as run:
        run.append()
        report = run.report().to_json()["encode"]
        assert (report["rows"], report["rows_done"], report["accepted"]) == (30, 30, 30)
        assert report["rows_before"] == 10, "the time of the encode is that of its own rows"
        assert run.report().unknown == (), "an append is no encode that went on"
        manifest = run.manifest
        last, removed = (str(run.store.caption.values[row, 0]) for row in (manifest.row.iloc[-1], 2))
        assert last in [one.text for one in run.suggest(last)]
        assert removed in [one.text for one in run.suggest(removed)]
        run.remove([3])
        told, there = run.report(), run.status()
        assert [told.to_json()["encode"][name] for name in ("accepted", "removed")] == [there.accepted, 1] == [29, 1]
        assert "30: 29 accepted, 0 rejected, 1 removed" in str(told)
        assert removed not in [one.text for one in run.suggest(removed)]


def test_verify_checks_all_parts_and_names_the_one_that_is_damaged(encoded: Path) -> None:
    """The source has grown between the rows of the store, which is no exchange of images."""
    numbers = [100, *range(20), *range(101, 110)]
    with of(encoded, numbers) as run:
        run.append()
        found = run.verify()
        assert found.ok, str(found)
        assert (found.rows, found.chunks, len(found.psnr)) == (30, 5, 5)
        shard = next(encoded.glob("parts/0001/latents.zarr/text_states/c.1*"))
        shard.write_bytes(shard.read_bytes()[:-1])
        found = run.verify()
    assert list(found.problems) == [4]
    assert found.problems[4].startswith("parts/0001: chunk 1: text_states/c.1")
    assert f"encode again in {encoded}/parts/0001 (out): it repairs damaged chunks" in str(found)
    place = encoded / "parts/0001"
    with daskt2i.Run(place / "workflow.yaml", place, scheduler="serial", progress=False) as part:
        assert part.encode().done == 1
    with of(encoded, numbers) as run:
        assert run.verify().ok


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([], "No image id and no file name was given"),
        ("nowhere.txt", "cannot be read"),
        (42, r"ids is 42, not a list or a file.* give a list: \[42\]"),
    ],
    ids=["none", "no file", "no list"],
)
def test_a_wrong_list_of_ids_is_one_sentence(ids: Any, words: str, encoded: Path) -> None:
    with of(encoded) as run, pytest.raises(ConfigError, match=words):
        run.remove(ids)


def test_replace_of_names_that_nobody_has_says_so(encoded: Path) -> None:
    with of(encoded) as run:
        assert "none of these names" in str(run.replace(["nobody.jpg"]))
        assert "has all rows" in str(run.append())


def test_an_image_id_under_another_name_is_told(encoded: Path) -> None:
    told: list[Event] = []
    with of(encoded, range(22), told) as run:
        run.append()
    assert not [event for event in told if isinstance(event, Note) and "another file name" in event.text]
