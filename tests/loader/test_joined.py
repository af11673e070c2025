"""Stores with views and with parts, read as one: buckets, resolutions, mirrored latents, appended and removed rows."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.shaped import CHUNK, MIRRORED, bucketed, of_resolutions
from builders.workflows import component, fake_settings, finish, with_parts
from torch.utils.data import DataLoader

from daskt2i import Run, open_store, torch_dataset
from daskt2i.errors import ConfigError, FingerprintMismatch, StoreError
from daskt2i.loader.batch_arrays import Batch
from daskt2i.loader.dataset import LatentDataset
from daskt2i.loader.joined.bucket_mix import BucketMix
from daskt2i.loader.joined.joined_reader import Choice, open_reader
from daskt2i.loader.sample_order import key_of
from daskt2i.sources.fake import FakeSource, bitmap, colour
from daskt2i.store.parts.rows_file import RowsFile, write_rows
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

SIZES = {(64, 32): 13, (48, 48): 22, (32, 64): 3}
"""Buckets: width and height, and number of rows. Their last chunks are short."""

OFFSETS = (0, 16, 40)
ROWS = {(4, 4, 8): range(13), (4, 6, 6): range(16, 38), (4, 8, 4): range(40, 43)}
"""Latent shape -> rows: in (channels, height, width), heights come first."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three buckets that tests must not change."""
    return bucketed(tmp_path_factory.mktemp("buckets") / "run", SIZES)


def data(out: Path, number: int = 0, world: int = 1, **changes: Any) -> LatentDataset:
    settings: dict[str, Any] = {"seed": 0, "batch": 6, "heldout": 4, "window": 2, "posterior": "mean", **changes}
    return LatentDataset(RunFolder(out), rank=number, world=world, **settings)


def take(dataset: LatentDataset, count: int, position: int = 0) -> list[Batch]:
    try:
        return list(itertools.islice(dataset.batches(position), count))
    finally:
        dataset.close()


def numbers(dataset: LatentDataset, batch: Batch) -> list[int]:
    """What the latents hold: the number of the row, or 500 more."""
    reader = dataset._reader
    zero = reader.final(np.zeros((1, *batch.latents.shape[1:]), np.float32))[0]
    one = reader.final(np.ones((1, *batch.latents.shape[1:]), np.float32))[0]
    found = (batch.latents - zero) / (one - zero)
    assert np.ptp(found.reshape(len(found), -1), axis=1).max() < 0.1
    return [round(float(value)) for value in found[:, 0, 0, 0]]


# --- buckets ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_full_and_of_one_bucket_and_has_its_own_latents(store: Path) -> None:
    dataset = data(store)
    for batch in take(dataset, 30):
        assert len(batch) == 6
        assert set(batch.rows.tolist()) <= set(ROWS[batch.latents.shape[1:]])
        assert batch.noise.shape == batch.latents.shape
        assert numbers(dataset, batch) == batch.rows.tolist()


def test_rows_of_all_buckets_come_about_equally_often(store: Path) -> None:
    dataset = data(store, heldout=0)
    seen = Counter(int(row) for batch in take(dataset, 38 * 6 // 6 * 3) for row in batch.rows)
    assert set(seen) == {row for rows in ROWS.values() for row in rows}
    # After r rounds no row is a batch ahead of r or behind it: 114 batches are 18 rounds.
    assert all(16 <= count <= 20 for count in seen.values())


@pytest.mark.parametrize("cache_bytes", [2**29, 4_000])
def test_any_number_of_ranks_draws_the_samples_of_one_and_goes_on_after_a_stop(store: Path, cache_bytes: int) -> None:
    whole = take(data(store, cache_bytes=cache_bytes), 12)
    for world in (2, 3):
        ranks = [take(data(store, number, world, cache_bytes=cache_bytes), 12) for number in range(world)]
        for step, one in zip(zip(*ranks, strict=True), whole, strict=True):
            assert {part.latents.shape[1:] for part in step} == {one.latents.shape[1:]}
            rows = [int(row) for part in step for row in part.rows]
            order = np.argsort(rows)
            np.testing.assert_array_equal(np.array(rows)[order], np.sort(one.rows))
            noise = np.concatenate([part.noise for part in step])
            np.testing.assert_array_equal(noise[order], one.noise[np.argsort(one.rows)])
    for start in (1, 5, 11):
        again = take(data(store, cache_bytes=cache_bytes), 12 - start, start * 6)
        for left, right in zip(again, whole[start:], strict=True):
            np.testing.assert_array_equal(left.rows, right.rows)
            np.testing.assert_array_equal(left.noise, right.noise)


def test_held_out_rows_come_in_batches_of_one_bucket_and_never_train(store: Path) -> None:
    dataset = data(store, heldout=9)
    held = list(dataset.heldout_batches(4))
    assert sorted(int(row) for batch in held for row in batch.rows) == dataset.heldout.tolist()
    assert len({batch.latents.shape for batch in held}) > 1
    for batch in held:
        assert set(batch.rows.tolist()) <= set(ROWS[batch.latents.shape[1:]])
        assert numbers(dataset, batch) == batch.rows.tolist()
    assert dataset.least_heldout(4) == min(map(len, held))
    trained = {int(row) for batch in take(dataset, 40) for row in batch.rows}
    assert trained.isdisjoint(dataset.heldout.tolist())


def test_all_buckets_share_the_threads_and_the_memory_of_one_stream(store: Path) -> None:
    before = {thread.ident for thread in threading.enumerate()}
    dataset = data(store, cache_bytes=30_000, threads=2)
    stream = dataset.batches(0)
    for _ in range(12):
        next(stream)
    mine = [one for one in threading.enumerate() if one.ident not in before and one.name.startswith("daskt2i-")]
    assert len(mine) <= 4
    stream.close()
    dataset.close()


def test_one_bucket_can_be_trained_alone(store: Path) -> None:
    for batch in take(data(store, view="48x48", heldout=2), 8):
        assert set(batch.rows.tolist()) <= set(ROWS[4, 6, 6])


@pytest.mark.parametrize("sizes", [[13, 22, 3], [1, 100], [5, 5, 5, 5], [2, 1]])
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_a_mix_gives_the_promised_batches_in_each_round(sizes: list[int], batch: int) -> None:
    edges = np.cumsum([0, *sizes]) * 10
    buckets = [np.arange(first, first + size) for first, size in zip(edges, sizes, strict=False)]
    mix = BucketMix(buckets, CHUNK, 2, key_of(0), batch)
    taken: list[list[tuple[int, int]]] = [[] for _ in sizes]
    for number in range(mix.begin(9)):
        samples = mix.samples(number * batch, batch)
        (bucket,) = {int(np.searchsorted(edges, row, side="right")) - 1 for _, row in samples}
        taken[bucket] += samples
        assert mix.begin(mix.round_of(number)) <= number < mix.begin(mix.round_of(number) + 1)
        first, last = mix.window(number * batch)
        assert first <= number * batch < last
    for samples, size in zip(taken, sizes, strict=True):
        assert len(samples) == 9 * size // batch * batch
        for epoch in range(len(samples) // size):  # the stream of a bucket has each row once an epoch
            assert len({row for one, row in samples if one == epoch}) == size


def test_the_order_of_buckets_depends_on_seed_and_round() -> None:
    buckets = [np.arange(40), np.arange(100, 160)]

    def order(seed: int, round_: int) -> list[bool]:
        mix = BucketMix(buckets, CHUNK, 2, key_of(seed), 4)
        return [mix.samples(n * 4, 4)[0][1] >= 100 for n in range(mix.begin(round_), mix.begin(round_ + 1))]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, 1)
    assert sum(order(0, 0)) == sum(order(1, 3)) == 15


# --- resolutions and mirrored latents ---------------------------------------------------------------------------------


def test_of_several_resolutions_the_first_is_read_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    out = of_resolutions(tmp_path / "run", [(32, 32), (64, 64)], 10)
    for view, shape in ((None, (4, 4, 4)), ("64x64", (4, 8, 8))):
        dataset = data(out, view=view, heldout=2)
        assert dataset.latent_shapes == (shape,)
        assert {batch.latents.shape[1:] for batch in take(dataset, 4)} == {shape}
    with pytest.raises(ConfigError, match="its views are 32x32, 64x64"):
        data(out, view="16x16")


@pytest.mark.parametrize("cache_bytes", [2**29, 4_000])
def test_half_of_the_samples_are_mirrored_by_seed_epoch_and_row_alone(tmp_path: Path, cache_bytes: int) -> None:
    out = bucketed(tmp_path / "run", SIZES, mirrored=True)
    dataset = data(out, cache_bytes=cache_bytes)
    held = [numbers(dataset, batch) for batch in dataset.heldout_batches(4)]
    assert max(itertools.chain(*held)) < MIRRORED
    found = [numbers(dataset, batch) for batch in take(dataset, 40)]
    rows = [batch.rows.tolist() for batch in take(data(out, cache_bytes=cache_bytes), 40)]
    flipped = [[value - row for value, row in zip(*pair, strict=True)] for pair in zip(found, rows, strict=True)]
    every = list(itertools.chain(*flipped))
    assert set(every) == {0, MIRRORED}
    assert 0.35 < sum(every) / MIRRORED / len(every) < 0.65
    ranks = [data(out, number, 2, cache_bytes=cache_bytes) for number in range(2)]
    shares = [[numbers(rank, batch) for batch in take(rank, 40)] for rank in ranks]
    assert [sorted([*one, *other]) for one, other in zip(*shares, strict=True)] == [sorted(one) for one in found]


def test_mirrored_latents_are_not_read_if_they_are_not_wanted(tmp_path: Path) -> None:
    out = bucketed(tmp_path / "run", SIZES, mirrored=True)
    for array in (out / "latents.zarr").glob("*_flipped"):
        shutil.rmtree(array)
    reader = open_reader(RunFolder(out), 0, sample=False, choice=Choice(mirror=False))
    (rows,) = reader.read([[(0, row) for row in range(4)]])
    assert rows.mean[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


# --- parts ------------------------------------------------------------------------------------------------------------


class Later(FakeSource):
    """The rows of a fake source from a row on, as the rows that came later."""

    def __init__(self, rows: int, first: int, captions: int = 2) -> None:
        super().__init__(rows, captions)
        self._first = first

    def _row(self, index: int) -> Row:
        return replace(super()._row(index + self._first), index=index)

    def read(self, row: Row) -> bytes:
        return bitmap(self._width, self._height, colour(row.index + self._first))


def of_rows(out: Path, first: int, rows: int, captions: int = 2) -> Path:
    source = component(f"{__name__}.Later", rows=rows, first=first, captions=captions)
    workflow = with_parts(fake_settings(rows=rows, rows_per_chunk=CHUNK, resolution=32), source=source)
    assert finish(workflow, out).accepted == rows
    return out


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 14 rows with two parts of 7 and 5 rows, the last with three captions a row instead of two. One row of
    the first store and one of the first part are removed."""
    out = of_rows(tmp_path_factory.mktemp("parts") / "run", 0, 14)
    of_rows(out / "parts" / "0001", 14, 7)
    of_rows(out / "parts" / "0002", 21, 5, captions=3)
    write_rows(RunFolder(out), RowsFile(("0001", "0002"), {"": ((2, 3),), "0001": ((0, 1),)}))
    return out


KEPT = [*range(2), *range(3, 14), *range(17, 23), *range(24, 29)]
"""The numbers of the rows that are there: each store begins at a multiple of four."""


def image_ids(rows: list[int]) -> list[int]:
    """What `Later` gives the rows of these numbers."""
    return [row + 1 if row < 16 else row - 16 + 15 if row < 24 else row - 24 + 22 for row in rows]


def test_rows_of_all_stores_are_there_and_removed_ones_are_not(grown: Path) -> None:
    reader = open_reader(RunFolder(grown), 0, sample=False)
    assert reader.accepted().tolist() == KEPT
    assert reader.grid.filled == 14 + 7 + 5
    dataset = data(grown, heldout=0)
    assert sorted({int(row) for batch in take(dataset, 8) for row in batch.rows}) == KEPT


def test_each_row_has_the_latents_and_captions_of_its_own_store(grown: Path, tmp_path: Path) -> None:
    """Those of the same picture in a store that was encoded at once."""
    whole = torch_dataset(of_rows(tmp_path / "whole", 0, 26), 4, posterior="mean", captions="first", shuffle=False)
    wanted = {int(one): batch for batch in whole for one in batch["image_id"]}
    found = torch_dataset(grown, 4, posterior="mean", captions="first", shuffle=False, columns=None)
    seen = []
    for batch in found:
        for place, image in enumerate(batch["image_id"].tolist()):
            other = wanted[image]
            there = other["image_id"].tolist().index(image)
            assert torch.equal(batch["latents"][place], other["latents"][there])
            width = int(batch["text_mask"][place].sum())
            assert torch.equal(batch["text_states"][place, :width], other["text_states"][there, :width])
            seen.append(image)
    assert seen == image_ids(KEPT)
    whole.close()
    found.close()


def test_stores_with_other_numbers_of_captions_are_read_together(grown: Path) -> None:
    found = torch_dataset(grown, 8, captions="all", columns=["text_states", "caption"], shuffle=False)
    counts = [int(mask.any(-1).sum()) for batch in found for mask in batch["text_mask"]]
    assert counts == [3 if row >= 24 else 2 for row in KEPT]
    drawn = torch_dataset(grown, 8, columns=["caption"])
    slots = {int(slot) for _ in range(3) for batch in drawn for slot in batch["caption_index"]}
    assert slots == {0, 1, 2}
    found.close()
    drawn.close()


@pytest.mark.parametrize("cache_bytes", [2**29, 3_000])
def test_ranks_together_draw_the_samples_of_one_rank_from_all_stores(grown: Path, cache_bytes: int) -> None:
    whole = take(data(grown, cache_bytes=cache_bytes), 9)
    ranks = [take(data(grown, number, 2, cache_bytes=cache_bytes), 9) for number in range(2)]
    for one, other, both in zip(*ranks, whole, strict=True):
        assert sorted([*one.rows.tolist(), *other.rows.tolist()]) == sorted(both.rows.tolist())
    again = take(data(grown, cache_bytes=cache_bytes), 4, 5 * 6)
    for left, right in zip(again, whole[5:], strict=True):
        np.testing.assert_array_equal(left.latents, right.latents)
        np.testing.assert_array_equal(left.slots, right.slots)


def test_single_rows_and_decoded_files_are_those_of_batches(grown: Path, tmp_path: Path) -> None:
    batches = torch_dataset(grown, 30, shuffle=False, columns=["latents", "image_id"])
    kept = torch_dataset(grown, 30, shuffle=False, columns=["latents", "image_id"], cache_folder=tmp_path)
    single = torch_dataset(grown, columns=["latents", "image_id"])
    (one,), (other,) = list(batches), list(kept)
    assert torch.equal(one["latents"], other["latents"])
    assert torch.equal(one["latents"], torch.stack([single[place]["latents"] for place in range(len(single))]))
    assert [int(single[place]["row"]) for place in range(len(single))] == KEPT
    batches.close()
    kept.close()


def test_rows_are_chosen_over_all_stores(grown: Path) -> None:
    found = torch_dataset(grown, 30, shuffle=False, where="image_id % 2 == 0")
    assert found._selection.rows.tolist() == [  # type: ignore[union-attr]
        row for row, image in zip(KEPT, image_ids(KEPT), strict=True) if image % 2 == 0
    ]


def test_equal_captions_of_two_stores_are_one_group(grown: Path, tmp_path: Path) -> None:
    """The second part repeats rows of the first store, so it must not be held out while those train."""
    out = of_rows(tmp_path / "run", 0, 8)
    of_rows(out / "parts" / "0001", 4, 4)
    write_rows(RunFolder(out), RowsFile(("0001",)))
    for seed in range(4):
        split = data(out, seed=seed, heldout=4).split
        held = {row if row < 8 else row - 4 for row in split.heldout.tolist()}
        assert held.isdisjoint(row if row < 8 else row - 4 for row in split.training.tolist())


def test_a_part_with_other_arrays_is_refused(tmp_path: Path) -> None:
    out = of_rows(tmp_path / "run", 0, 8)
    finish(fake_settings(rows=4, rows_per_chunk=CHUNK, resolution=32, text={"features": 8}), out / "parts" / "0001")
    write_rows(RunFolder(out), RowsFile(("0001",)))
    with pytest.raises(StoreError, match=r"The part 0001 of .* has other arrays than the first store"):
        open_reader(RunFolder(out), 0, sample=False)


# --- torch_dataset ----------------------------------------------------------------------------------------------------


def content(batches: list[Any]) -> list[list[tuple[int, bytes]]]:
    """For each batch, rows and their latents."""
    return [
        sorted((row, one.numpy().tobytes()) for row, one in zip(batch["row"].tolist(), batch["latents"], strict=True))
        for batch in batches
    ]


def test_batches_for_other_trainers_have_one_size_each_for_any_ranks_and_worker_processes(store: Path) -> None:
    one = torch_dataset(store, 6, mirror=False)
    whole = [content(list(one)) for _ in range(3)]
    assert [len(epoch) for epoch in whole] == [5, 7, 6]  # 13, 22 and 3 rows in batches of 6
    for world in (2, 3):
        ranks = [torch_dataset(store, 6 // world, rank=number, world_size=world) for number in range(world)]
        for epoch in whole:
            assert {len(rank) for rank in ranks} == {len(epoch)}
            shares = [content(list(rank)) for rank in ranks]
            assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == epoch
        for rank in ranks:
            rank.close()
    loader = DataLoader(torch_dataset(store, 6), batch_size=None, num_workers=2, multiprocessing_context="forkserver")
    assert content(list(loader)) == whole[0]
    one.close()


def test_a_state_in_the_middle_of_a_round_goes_on_there(store: Path) -> None:
    dataset = torch_dataset(store, 6)
    first = list(dataset)
    again = torch_dataset(store, 6)
    again.load_state_dict(dataset.state_dict(after=first[1]))
    assert again.epoch == 0
    assert content(list(again)) == content(first[2:])
    again.set_epoch(2)
    dataset.set_epoch(2)
    assert content(list(again)) == content(list(dataset))
    other = torch_dataset(store, 3)
    with pytest.raises(FingerprintMismatch):  # its batches begin elsewhere
        other.load_state_dict(dataset.state_dict(after=first[1]))
    dataset.close()
    again.close()


def test_one_size_alone_has_each_row_once_an_epoch(store: Path) -> None:
    dataset = torch_dataset(store, 6, view="64x32")
    assert sorted(int(row) for batch in dataset for row in batch["row"]) == list(range(13))
    dataset.close()


def test_single_rows_have_the_latent_of_their_own_size(store: Path) -> None:
    rows = torch_dataset(store, posterior="mean")
    found = {tuple(rows[place]["latents"].shape): int(rows[place]["row"]) for place in (0, 20, 37)}
    assert found == {(4, 4, 8): 0, (4, 6, 6): 23, (4, 8, 4): 42}


# --- columns of parts -------------------------------------------------------------------------------------------------


def test_rows_of_a_store_without_a_column_are_not_kept_and_cannot_be_read_with_it(tmp_path: Path) -> None:
    out = of_rows(tmp_path / "run", 0, 8)
    of_rows(out / "parts" / "0001", 8, 4)

    def add(place: Path, first: int, rows: int) -> None:
        source = component(f"{__name__}.Later", rows=rows, first=first)
        workflow = with_parts(fake_settings(rows=rows, rows_per_chunk=CHUNK, resolution=32), source=source)
        with Run(workflow, place, scheduler="serial", progress=False) as run:
            assert not run.add("bright", "encode.test_columns.Brightness").failed

    add(out, 0, 8)
    write_rows(RunFolder(out), RowsFile(("0001",)))  # from now on `add` would encode the part too
    found = torch_dataset(out, 12, shuffle=False, where="bright >= 0")
    assert found._selection.rows.tolist() == list(range(8))  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"parts.0001.* has no bright"):
        torch_dataset(out, 4, columns=["bright"])
    add(out / "parts" / "0001", 8, 4)
    (batch,) = torch_dataset(out, 12, shuffle=False, columns=["bright"], where="bright >= 0")
    np.testing.assert_array_equal(batch["bright"].numpy(), open_store(out).bright.values)
