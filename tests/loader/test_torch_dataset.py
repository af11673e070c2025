"""`daskt2i.torch_dataset`: each row once an epoch, the same for any ranks and worker processes, and after any stop."""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from daskt2i import open_store, torch_dataset
from daskt2i.errors import StoreError
from daskt2i.loader.own_trainer.epochs import Steps
from loader.test_dataset import REJECTED, ROWS, data, encoded, take

ACCEPTED = sorted(set(range(ROWS)) - REJECTED)  # 39 rows


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("torch-dataset") / "run")


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A store that a test may change."""
    return Path(shutil.copytree(store, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _no_rank_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def rows_of(batches: list[Any]) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


def content(batches: list[Any]) -> list[list[tuple[Any, ...]]]:
    """For each batch, what a trainer gets of each row. Padding is left out: it depends on the other rows."""
    return [sorted(_one(batch, place) for place in range(len(batch["row"]))) for batch in batches]


def _one(batch: Any, place: int) -> tuple[Any, ...]:
    text = batch["text_states"][place][batch["text_mask"][place]]
    numbers = (batch["latents"][place], text, batch["caption_index"][place], batch["image_id"][place])
    return (int(batch["row"][place]), *(one.numpy().tobytes() for one in numbers))


# --- which rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "world"), [(7, 1), (64, 1), (4, 3), (19, 2), (2, 19)])
def test_each_accepted_row_comes_once_an_epoch_and_ranks_have_equal_numbers_of_batches(
    store: Path, batch: int, world: int
) -> None:
    how: dict[str, Any] = {"world_size": world, "columns": ["latents"], "cache_bytes": 5_000}
    ranks = [torch_dataset(store, batch, rank=number, **how) for number in range(world)]
    for _ in range(2):
        taken = [list(one) for one in ranks]
        assert {len(one) for one in taken} == {len(ranks[0])}
        assert sorted(itertools.chain(*(row for one in taken for row in rows_of(one)))) == ACCEPTED
        for step in zip(*(rows_of(one) for one in taken), strict=True):
            sizes = [len(rows) for rows in step]
            assert min(sizes) > 0
            assert max(sizes) - min(sizes) <= 1
    for one in ranks:
        one.close()


def test_the_rows_after_the_last_whole_batch_can_be_left_out(store: Path) -> None:
    dataset = torch_dataset(store, 7, drop_last=True)
    first, second = (rows_of(list(dataset)) for _ in range(2))
    assert [len(rows) for rows in first] == [len(rows) for rows in second] == [7] * 5
    assert len(dataset) == 5
    assert set(itertools.chain(*first)) != set(itertools.chain(*second))
    dataset.close()


@pytest.mark.parametrize(
    ("rows", "batch", "world"), [(39, 6, 1), (39, 6, 3), (39, 18, 9), (10, 20, 2), (9, 4, 4), (8, 4, 2)]
)
@pytest.mark.parametrize("drop_last", [False, True])
def test_steps_cover_an_epoch_from_any_position(rows: int, batch: int, world: int, drop_last: bool) -> None:
    steps = Steps(rows, batch, world, drop_last)
    for begin in range(rows, 2 * rows):
        position, taken = begin, 0
        for _ in range(steps.count(begin)):
            assert steps.size(position) >= world
            taken += steps.size(position)
            position = steps.after(position)
        left = 2 * rows - begin
        if steps.count(begin):
            assert position == 2 * rows
            assert left - taken in (range(batch) if drop_last else [0])
        else:
            assert left < (batch if drop_last else world)


def test_ranks_together_take_what_one_rank_takes(store: Path) -> None:
    one = torch_dataset(store, 12)
    whole = content(list(one))
    one.close()
    for world in (2, 3):
        ranks = [torch_dataset(store, 12 // world, rank=number, world_size=world) for number in range(world)]
        shares = [content(list(rank)) for rank in ranks]
        assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == whole
        for rank in ranks:
            rank.close()


@pytest.mark.parametrize("cache_bytes", [None, 20_000])
def test_each_epoch_and_seed_has_its_own_order_and_every_run_has_the_same(store: Path, cache_bytes: int | None) -> None:
    runs = [torch_dataset(store, 6, seed=seed, cache_bytes=cache_bytes) for seed in (0, 0, 1)]
    first, again, other = ([rows_of(list(run)) for _ in range(2)] for run in runs)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]
    for run in runs:
        run.close()


def test_without_shuffle_rows_come_as_they_are_stored(store: Path) -> None:
    dataset = torch_dataset(store, 6, shuffle=False)
    for _ in range(2):
        assert list(itertools.chain(*rows_of(list(dataset)))) == ACCEPTED
    dataset.close()


def test_rank_and_world_size_come_from_the_variables_of_torchrun(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    found, wanted = torch_dataset(store, 6), torch_dataset(store, 6, rank=1, world_size=2)
    assert rows_of(list(found)) == rows_of(list(wanted))
    assert rows_of(list(torch_dataset(store, 6, rank=0, world_size=1)))[0] != rows_of(list(found))[0]


def test_torch_distributed_is_asked_before_the_variables(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore  # a group without other processes

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        found = torch_dataset(store, 6)
    finally:
        dist.destroy_process_group()
    wanted = torch_dataset(store, 6, rank=1, world_size=2)
    assert rows_of(list(found)) == rows_of(list(wanted))
    assert torch_dataset(store, 6, rank=0, world_size=1).rows == found.rows


# --- worker processes and state -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_batches_in_the_same_order(store: Path, workers: int) -> None:
    dataset = torch_dataset(store, 4)
    assert isinstance(dataset, IterableDataset)
    whole = [content(list(dataset)) for _ in range(2)]
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="fork")
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert content(list(loader)) == whole[epoch]
    assert len(loader) == len(whole[0])
    dataset.close()


def test_worker_processes_that_stay_are_told_the_epoch(store: Path) -> None:
    dataset = torch_dataset(store, 4)
    whole = [content(list(dataset)) for _ in range(2)]
    dataset.close()
    loader = DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", persistent_workers=True
    )
    for epoch in (1, 0):
        dataset.set_epoch(1)
        next(iter(loader))  # a look at the first batch leaves nothing behind
        dataset.set_epoch(epoch)
        assert content(list(loader)) == whole[epoch]
    del loader


@pytest.mark.parametrize("stop", [1, 4, 10])
@pytest.mark.parametrize("cache_bytes", [None, 20_000])
def test_a_loaded_state_gives_the_rest_of_the_epoch_and_then_whole_ones(
    store: Path, stop: int, cache_bytes: int | None
) -> None:
    dataset = torch_dataset(store, 4, cache_bytes=cache_bytes)
    list(dataset)
    whole = [content(list(dataset)) for _ in range(2)]
    dataset.set_epoch(1)
    for _ in itertools.islice(dataset, stop):
        pass
    state = dataset.state_dict()
    dataset.close()
    other = torch_dataset(store, 4)
    other.load_state_dict(state)
    assert content(list(other)) == whole[0][stop:] or (stop == len(whole[0]) and other.epoch == 3)
    assert other.epoch == (2 if stop < len(whole[0]) else 3)
    other.set_epoch(2)
    assert content(list(other)) == whole[1]
    other.close()


def test_a_state_is_that_of_another_number_of_ranks_and_workers_too(store: Path) -> None:
    dataset = torch_dataset(store, 12)
    whole = content(list(dataset))
    dataset.set_epoch(0)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    used = next(iter(loader))
    state = dataset.state_dict(after=used)
    ranks = [torch_dataset(store, 6, rank=number, world_size=2) for number in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    shares = [content(list(rank)) for rank in ranks]
    assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == whole[1:]
    for one in (dataset, *ranks):
        one.close()


def test_the_epoch_of_a_loaded_state_may_be_set_without_losing_its_place(store: Path) -> None:
    dataset = torch_dataset(store, 4)
    whole = content(list(dataset))
    dataset.set_epoch(0)
    for batch in itertools.islice(dataset, 3):
        state = dataset.state_dict(after=batch)
    dataset.load_state_dict(state)
    dataset.set_epoch(0)
    assert content(list(dataset)) == whole[3:]
    dataset.set_epoch(0)
    assert content(list(dataset)) == whole
    dataset.close()


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
def test_a_stateful_data_loader_resumes_in_the_middle_of_an_epoch(store: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata").StatefulDataLoader
    dataset = torch_dataset(store, 4)
    whole = content(list(dataset))
    dataset.close()
    for workers in (0, 2):
        how: dict[str, Any] = {"batch_size": None, "num_workers": workers}
        if workers:
            how["multiprocessing_context"] = "fork"
        for stop in (3, 9):
            loader = stateful(torch_dataset(store, 4), **how)
            begun = iter(loader)
            for _ in range(stop):
                next(begun)
            state = loader.state_dict()
            other = stateful(torch_dataset(store, 4), **how)
            other.load_state_dict(state)
            assert content(list(other)) == whole[stop:]


def test_a_copy_in_another_process_gives_the_same(store: Path) -> None:
    dataset = torch_dataset(store, 6)
    whole = content(list(dataset))
    copy = pickle.loads(pickle.dumps(torch_dataset(store, 6)))
    assert content(list(copy)) == whole
    dataset.close()
    copy.close()


# --- what a sample has ----------------------------------------------------------------------------------------------


def test_latents_of_a_seed_epoch_and_row_are_those_of_our_own_trainer(store: Path) -> None:
    trainer = data(store, heldout=0, batch=6, dropout=0.0)
    wanted = {}
    for batch in take(trainer, 6):
        for place, row in enumerate(batch.rows.tolist()):
            wanted[row] = (batch.latents[place].tobytes(), batch.slots[place], batch.text_states[place])
    dataset = torch_dataset(store, 6)
    checked = 0
    for batch in itertools.islice(dataset, 6):
        for place, row in enumerate(batch["row"].tolist()):
            if row in wanted:
                latents, slot, states = wanted[row]
                assert batch["latents"][place].numpy().tobytes() == latents
                assert batch["caption_index"][place] == slot
                width = min(len(states), batch["text_states"].shape[1])
                np.testing.assert_array_equal(batch["text_states"][place, :width].numpy(), states[:width])
                checked += 1
    assert checked > 30
    dataset.close()


def test_the_mean_is_scaled_and_shifted_and_texts_belong_to_their_caption(store: Path) -> None:
    there = open_store(store)
    about = there.attrs["daskt2i"]["image_encoder"]
    mean = (there.latent_mean.values.astype("float32") - about["shift_factor"]) * about["scaling_factor"]
    states, mask, ids = there.text_states.values, there.text_mask.values, there.image_id.values
    dataset = torch_dataset(store, 6, posterior="mean")
    for batch in dataset:
        width = batch["text_mask"].shape[1]
        for place, (row, slot) in enumerate(zip(batch["row"].tolist(), batch["caption_index"].tolist(), strict=True)):
            np.testing.assert_allclose(batch["latents"][place].numpy(), mean[row], rtol=1e-6)
            np.testing.assert_array_equal(batch["text_states"][place].numpy(), states[row, slot, :width])
            np.testing.assert_array_equal(batch["text_mask"][place].numpy(), mask[row, slot, :width])
            assert batch["image_id"][place] == ids[row]
    dataset.close()


@pytest.mark.parametrize("cache_bytes", [None, 20_000])
def test_first_takes_the_first_caption_and_all_gives_every_slot(store: Path, cache_bytes: int | None) -> None:
    there = open_store(store)
    states, mask, captions = there.text_states.values, there.text_mask.values, there.caption.values
    first = torch_dataset(store, 6, captions="first", columns=["text_states", "caption"], cache_bytes=cache_bytes)
    for batch in (*first, *first):
        assert not batch["caption_index"].any()
        for place, row in enumerate(batch["row"].tolist()):
            assert batch["caption"][place] == captions[row].tolist()
            np.testing.assert_array_equal(
                batch["text_states"][place][batch["text_mask"][place]].numpy(), states[row, 0][mask[row, 0]]
            )
    every = torch_dataset(store, 6, captions="all", columns=["text_states"], cache_bytes=cache_bytes)
    for batch in every:
        assert batch["text_states"].shape[:2] == (len(batch["row"]), 4)
        assert "caption_index" not in batch
        width = batch["text_states"].shape[2]
        for place, row in enumerate(batch["row"].tolist()):
            np.testing.assert_array_equal(batch["text_mask"][place].numpy(), mask[row, :, :width])
            for slot in range(1 + row % 4):
                np.testing.assert_array_equal(batch["text_states"][place, slot].numpy(), states[row, slot, :width])
    first.close()
    every.close()


def test_columns_that_are_not_wanted_are_neither_given_nor_read(own: Path) -> None:
    for shard in (own / "latents.zarr" / "text_states").glob("c.*"):
        shard.write_bytes(b"damaged")
    dataset = torch_dataset(own, 6, columns=["latents", "source_size", "file_name"])
    there = open_store(own)
    for batch in dataset:
        assert set(batch) == {"latents", "source_size", "file_name", "row", "caption_index", "position"}
        rows = batch["row"].numpy()
        np.testing.assert_array_equal(batch["source_size"].numpy(), there.source_size.values[rows])
        assert batch["file_name"] == there.file_name.values[rows].tolist()
    dataset.close()


def test_rows_are_chosen_by_facts_of_captions_and_sizes(store: Path) -> None:
    there = open_store(store)
    words = {row: max(len(str(text).split()) for text in there.caption.values[row]) for row in ACCEPTED}
    dataset = torch_dataset(store, 6, where="words > 6 and captions > 1 and width > 0")
    wanted = [row for row in ACCEPTED if words[row] > 6 and row % 4]
    assert 0 < len(wanted) < len(ACCEPTED)
    assert sorted(itertools.chain(*rows_of(list(dataset)))) == wanted
    assert dataset.rows == len(wanted)
    dataset.close()


# --- single rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [None, 1])
def test_single_rows_equal_those_of_batches(store: Path, cache_bytes: int | None) -> None:
    batches = torch_dataset(store, 8, shuffle=False)
    single = torch_dataset(store, cache_bytes=cache_bytes)
    assert len(single) == len(ACCEPTED)
    whole = [one for step in content(list(batches)) for one in step]
    samples = list(DataLoader(single, batch_size=8))
    assert [one for step in content(samples) for one in step] == whole
    one = single[-1]
    assert one["row"] == ACCEPTED[-1]
    assert one["latents"].shape == samples[0]["latents"].shape[1:]
    with pytest.raises(IndexError, match="this data set has 39"):
        single[39]
    single.set_epoch(1)
    assert not torch.equal(single[3]["latents"], samples[0]["latents"][3])
    batches.close()


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_damaged_shard_is_named_and_other_batches_were_good(own: Path) -> None:
    (own / "latents.zarr" / "latent_mean" / "c.7.0.0.0").write_bytes(b"damaged")
    dataset = torch_dataset(own, 4, shuffle=False)
    taken = []
    with pytest.raises(StoreError, match="Run verify"):
        taken.extend(batch["row"].tolist() for batch in dataset)
    assert taken[:4] == [ACCEPTED[first : first + 4] for first in range(0, 16, 4)]
    dataset.close()
    with pytest.raises(StoreError, match="Run verify"):
        torch_dataset(own)[ACCEPTED.index(28)]
