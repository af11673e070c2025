"""Training samples of a latent store: every row once per epoch, equal for any number of ranks and after any resume."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.workflows import component, fake_settings, finish, with_parts

from daskt2i import open_store
from daskt2i.encoders.fake import STD, FakeImageEncoder, FakeTextEncoder
from daskt2i.errors import ConfigError, StoreError, StoreMissing
from daskt2i.loader.batch_arrays import Batch
from daskt2i.loader.dataset import LatentDataset
from daskt2i.loader.sample_order import Purpose, RandomStreams, ShardSampler, key_of
from daskt2i.loader.shards import Reader
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import ArraySpec, EncoderInfo, Row

ROWS, CHUNK, HELDOUT = 44, 4, 5
REJECTED = {6, 17, 18, 19, 16}  # a whole chunk is among them


class Varied(FakeSource):
    """Rows with one to four captions of three or more words."""

    def _row(self, index: int) -> Row:
        row = super()._row(index)
        captions = tuple(" ".join([f"picture {index}.{n}", *["more"] * (index % 11)]) for n in range(1 + index % 4))
        return Row(row.index, row.image_id, row.file_name, captions)


class Plain(FakeImageEncoder):
    """Latents without a posterior, as from AutoencoderTiny."""

    def info(self, resolution: int) -> EncoderInfo:
        info = super().info(resolution)
        return EncoderInfo(info.arrays[:1], "none", {**info.attributes, "class": "AutoencoderTiny"}, False, 0, 1)

    def encode(self, items: Any, batch: int) -> dict[str, Any]:
        return {"latent_mean": super().encode(items, batch)["latent_mean"]}


LARGE = 1e5
"""In float16 it is infinite."""


def _wide(info: EncoderInfo, name: str, dtype: str) -> EncoderInfo:
    return replace(info, arrays=tuple(replace(one, dtype=dtype) if one.name == name else one for one in info.arrays))


class WideText(FakeTextEncoder):
    """Its states are large numbers of this dtype."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def info(self) -> EncoderInfo:
        return _wide(super().info(), "text_states", self.dtype)

    def encode(self, items: Any, batch: int) -> dict[str, Any]:
        made = super().encode(items, batch)
        return {**made, "text_states": made["text_states"].astype(self.dtype) * np.dtype(self.dtype).type(LARGE)}


class WideLatents(FakeImageEncoder):
    """Its means are float32 numbers that float16 does not have, and its std is float16."""

    def info(self, resolution: int) -> EncoderInfo:
        return _wide(super().info(resolution), "latent_mean", "float32")

    def encode(self, items: Any, batch: int) -> dict[str, Any]:
        made = super().encode(items, batch)
        return {**made, "latent_mean": made["latent_mean"].astype(np.float32) * np.float32(1.0001)}


def encoded(out: Path, rows: int = ROWS, **parts: Any) -> Path:
    """A finished run folder of 44 rows in 11 chunks; 5 rows are rejected."""
    settings = fake_settings(rows=rows, rows_per_chunk=CHUNK, resolution=32)
    source = component("loader.test_dataset.Varied", rows=rows, captions=4, unreadable=sorted(REJECTED))
    summary = finish(with_parts(settings, source=source, **parts), out)
    assert summary.accepted == rows - sum(row < rows for row in REJECTED)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("dataset") / "run")


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """A store that a test may change."""
    return Path(shutil.copytree(store, tmp_path / "run"))


def edit(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the attributes of a store."""
    path = out / "latents.zarr" / "zarr.json"
    node = json.loads(path.read_text())
    change(node["attributes"]["daskt2i"])
    path.write_text(json.dumps(node))


def data(out: Path, number: int = 0, world: int = 1, **changes: Any) -> LatentDataset:
    settings: dict[str, Any] = {"seed": 0, "batch": 6, "heldout": HELDOUT, "window": 3, **changes}
    return LatentDataset(RunFolder(out), rank=number, world=world, **settings)


def take(dataset: LatentDataset, count: int, position: int = 0) -> list[Batch]:
    try:
        return list(itertools.islice(dataset.batches(position), count))
    finally:
        dataset.close()


def epochs(dataset: LatentDataset, count: int) -> list[dict[int, int]]:
    """For each epoch, row -> slot. The batch must divide the rows."""
    steps, rest = divmod(dataset.rows, len(dataset.part(0)))
    assert rest == 0
    batches = take(dataset, steps * count)
    return [
        {int(r): int(s) for b in batches[e * steps : (e + 1) * steps] for r, s in zip(b.rows, b.slots, strict=True)}
        for e in range(count)
    ]


def samples(batches: list[Batch]) -> list[list[tuple[int, bytes]]]:
    """For each batch, row -> all values that change its loss. Padding is left out: it depends on the other rows."""
    return [sorted((int(one.rows[0]), _bytes(one)) for one in (b[i : i + 1] for i in range(len(b)))) for b in batches]


def _bytes(one: Batch) -> bytes:
    text = one.text_states[one.text_mask]
    numbers = (one.latents, one.noise, one.uniform, one.normal, one.slots, one.text_mask.sum(1))
    return b"".join(array.tobytes() for array in (text, *numbers))


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    yield
    names = ("daskt2i-batches", "daskt2i-shards")
    assert [t.name for t in threading.enumerate() if t.name.startswith(names)] == []


# --- which rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "world"), [(6, 1), (6, 2), (6, 3), (5, 1), (80, 2)])
def test_every_row_comes_once_per_epoch(store: Path, batch: int, world: int) -> None:
    ranks = [data(store, n, world, batch=batch) for n in range(world)]
    rows = ranks[0].rows
    assert rows == ROWS - len(REJECTED) - HELDOUT == 34
    parts = [[d.part(step * batch) for d in ranks] for step in range(4 * rows // batch + 1)]
    assert {len(one) for part in parts for one in part} == {batch // world}
    seen = [sample for part in parts for one in part for sample in one]
    trained = set(range(ROWS)) - REJECTED - set(map(int, ranks[0].heldout))
    for epoch in range(3):
        assert sorted(row for e, row in seen if e == epoch) == sorted(trained)
    for d in ranks:
        d.close()


def test_ranks_together_see_what_one_rank_sees(store: Path) -> None:
    one = samples(take(data(store), 8))
    for world in (2, 3):
        shares = [samples(take(data(store, n, world), 8)) for n in range(world)]
        assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == one
        assert {len(step) for share in shares for step in share} == {6 // world}


@pytest.mark.parametrize("step", [1, 5, 6, 13])
def test_batches_from_a_position_equal_those_of_an_uninterrupted_run(store: Path, step: int) -> None:
    assert samples(take(data(store), 2, step * 6)) == samples(take(data(store), step + 2))[step:]


def test_batches_end_at_a_position_and_nothing_is_read_for_later_ones(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, read, seen = samples(take(data(store), 4)), Reader.read, set[tuple[int, int]]()

    def noting(self: Reader, parts: Sequence[Sequence[tuple[int, int]]]) -> Any:
        seen.update(sample for part in parts for sample in part)
        return read(self, parts)

    monkeypatch.setattr(Reader, "read", noting)
    dataset = data(store, cache_bytes=12_000)
    assert samples(list(dataset.batches(6, 23))) == whole[1:]
    assert seen == {sample for position in (6, 12, 18) for sample in dataset.part(position)}
    assert list(dataset.batches(24, 24)) == []
    dataset.close()


def test_each_seed_and_epoch_has_its_own_order_and_noise(store: Path) -> None:
    first, other = (take(data(store, seed=seed, batch=17), 4) for seed in (0, 1))
    rows = [[r for b in pair for r in b.rows.tolist()] for pair in (first[:2], first[2:], other[:2])]
    assert sorted(rows[0]) == sorted(rows[1])
    assert rows[0][:17] != rows[1][:17]
    assert sorted(rows[0]) != sorted(rows[2])  # the validation rows differ
    of = {(e, int(r)): b.noise[i] for e, b in ((0, first[0]), (1, first[2])) for i, r in enumerate(b.rows)}
    assert len({noise.tobytes() for noise in of.values()}) == len(of)


def test_both_shards_and_rows_come_in_another_order_in_each_epoch() -> None:
    def order(shards: int, epoch: int) -> list[int]:
        rows = np.arange(shards * 8)
        return [row for _, row in ShardSampler(rows, 8, 1, key_of(0)).samples(epoch * len(rows), len(rows))]

    assert sorted(order(1, 0)) == sorted(order(1, 1)) == list(range(8))
    assert order(1, 0) != order(1, 1)
    assert [row // 8 for row in order(8, 0)] != [row // 8 for row in order(8, 1)]


def test_rows_of_an_epoch_are_mixed_inside_windows_of_whole_shards(store: Path) -> None:
    dataset = data(store, heldout=0, batch=1)
    order = [dataset.part(place)[0][1] for place in range(dataset.rows)]
    dataset.close()
    chunks = [row // CHUNK for row in order]
    sizes = {c: sum(x == c for x in chunks) for c in set(chunks)}
    assert 4 not in sizes  # rows 16 to 19 are all rejected
    place = 0
    for number in range(4):
        window = list(dict.fromkeys(chunks[place:]))[: 3 if number < 3 else 1]
        length = sum(sizes[c] for c in window)
        assert set(chunks[place : place + length]) == set(window)
        place += length
    assert place == len(order)
    assert order != sorted(order)
    assert any(a == b for a, b in itertools.pairwise(chunks))
    assert len({tuple(chunks[i : i + 3]) for i in range(9)}) > 3


def test_a_rank_needs_few_shards_of_a_window(store: Path) -> None:
    met = [set[int](), set[int]()]
    for number in range(2):
        dataset = data(store, number, 2, heldout=0, batch=6, window=100)
        met[number] = {row // CHUNK for position in range(0, 36, 6) for _, row in dataset.part(position)}
        dataset.close()
    assert max(map(len, met)) < 10
    assert min(met[0]) < min(met[1])


def test_validation_rows_are_never_trained_on_and_stay_the_same(store: Path) -> None:
    dataset = data(store)
    held = set(map(int, dataset.heldout))
    assert held.isdisjoint(int(r) for b in itertools.islice(dataset.batches(0), 12) for r in b.rows)
    first, second = (list(dataset.heldout_batches(2)) for _ in range(2))
    assert [len(b) for b in first] == [2, 2, 1]
    assert samples(first) == samples(second)
    assert all((b.slots >= 0).all() for b in first)
    dataset.close()
    shares = []
    for number in range(2):
        other = data(store, number, 2, batch=2, dropout=1.0)
        shares.append(samples(list(other.heldout_batches(9))))
        other.close()
    assert [len(part) for share in shares for part in share] == [3, 2]
    assert sorted(itertools.chain(*shares[0], *shares[1])) == list(itertools.chain(*samples(first)))
    assert {row for part in samples(first) for row, _ in part} == held


# --- what is drawn --------------------------------------------------------------------------------------------------


def test_each_caption_of_a_row_comes_once_before_any_is_repeated(store: Path) -> None:
    found = epochs(data(store, batch=17, dropout=0.0), 12)
    for row in found[0]:
        k = 1 + row % 4
        slots = [epoch[row] for epoch in found]
        turns = [tuple(slots[start : start + k]) for start in range(0, 12, k)]
        assert {tuple(sorted(turn)) for turn in turns} == {tuple(range(k))}
    orders = {tuple(epoch[row] for epoch in found[:4]) for row in found[0] if row % 4 == 3}
    assert len(orders) > 2
    again = [tuple(epoch[row] for epoch in found[start : start + 4]) for row in found[0] for start in (0, 4, 8)]
    assert len(set(again[:3])) > 1 or len(set(again[3:6])) > 1


def test_text_states_belong_to_the_slot_and_the_row(store: Path) -> None:
    there = open_store(store)
    states, mask = there.text_states.values, there.text_mask.values
    for batch in take(data(store, dropout=0.0), 8):
        width = batch.text_states.shape[1]
        for i, (row, slot) in enumerate(zip(batch.rows, batch.slots, strict=True)):
            np.testing.assert_array_equal(batch.text_states[i], states[row, slot, :width])
            np.testing.assert_array_equal(batch.text_mask[i], mask[row, slot, :width])
            assert not mask[row, slot, width:].any()


def test_a_share_of_captions_is_dropped_to_the_stored_empty_state(store: Path) -> None:
    there = open_store(store)
    batches = take(data(store, batch=34, dropout=0.25, posterior="mean"), 20)
    dropped = np.concatenate([b.slots for b in batches]) < 0
    assert 0.18 < dropped.mean() < 0.32  # 680 draws: 0.25 plus or minus four times 0.0166
    per_row = {r: [bool(b.slots[list(b.rows).index(r)] < 0) for b in batches] for r in batches[0].rows}
    assert len({tuple(v) for v in per_row.values()}) > 20  # it depends on row and epoch
    for batch in batches[:3]:
        width = batch.text_states.shape[1]
        for i in np.flatnonzero(batch.slots < 0):
            np.testing.assert_array_equal(batch.text_states[i], there.empty_text_states.values[:width])
            np.testing.assert_array_equal(batch.text_mask[i], there.empty_text_mask.values[:width])
    assert there.empty_text_mask.values.sum() == 2


def test_dropout_changes_only_the_text_of_a_sample(store: Path) -> None:
    none, all_ = (take(data(store, dropout=share), 6) for share in (0.0, 1.0))
    for a, b in zip(none, all_, strict=True):
        assert (a.slots >= 0).all()
        assert (b.slots == -1).all()
        for name in ("rows", "latents", "noise", "uniform", "normal"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_noise_and_times_have_the_right_distributions(store: Path) -> None:
    batches = take(data(store, batch=34), 10)
    noise, normal, uniform = (
        np.concatenate([getattr(b, name).ravel() for b in batches]) for name in ("noise", "normal", "uniform")
    )
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert abs(normal.std() - 1) < 0.2
    assert abs(uniform.mean() - 0.5) < 0.08
    assert 0 <= uniform.min() < uniform.max() < 1
    assert len(np.unique(noise)) > 0.99 * len(noise)
    assert {b.latents.dtype for b in batches} == {np.dtype(np.float32)} == {b.noise.dtype for b in batches}
    assert batches[0].text_states.dtype == np.float16
    assert batches[0].text_mask.dtype == np.bool_


def test_one_generator_set_to_a_counter_gives_the_numbers_of_a_new_one() -> None:
    streams = RandomStreams(7)
    streams.at(Purpose.SAMPLE, 1, 2).random(3, np.float32)  # leaves half a word and part of a block unused
    moved = streams.at(Purpose.SAMPLE, 3, 4).random(5, np.float32)
    new = np.random.Generator(np.random.Philox(counter=[0, 4, 3, Purpose.SAMPLE], key=7)).random(5, np.float32)
    np.testing.assert_array_equal(moved, new)


# --- latents --------------------------------------------------------------------------------------------------------


def test_the_posterior_is_drawn_anew_in_each_epoch_or_its_mean_is_taken(store: Path) -> None:
    mean = open_store(store).latent_mean.values.astype(np.float32)
    first, second = take(data(store, batch=34), 2)
    for batch in (first, second):
        drawn = (batch.latents - mean[batch.rows]) / STD
        assert abs(drawn.mean()) < 0.05
        assert abs(drawn.std() - 1) < 0.05
        assert abs(np.corrcoef(drawn.ravel(), batch.noise.ravel())[0, 1]) < 0.05  # independent of the noise
    assert samples([first]) != samples([second])
    (plain,) = take(data(store, batch=34, posterior="mean"), 1)
    np.testing.assert_array_equal(plain.latents, mean[plain.rows])
    np.testing.assert_array_equal(plain.noise, first.noise)


@pytest.mark.parametrize(
    "said",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 0.5, "shift_factor": 0.25},
        {"scaling_factor": 0.5, "latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0]},
        {"latents_mean": [0.5] * 4, "latents_std": [1.0, 2.0, 3.0, 4.0], "shift_factor": 9.0},
    ],
    ids=["scale", "shift", "per-channel", "per-channel-first"],
)
def test_latents_are_scaled_and_shifted_once(said: dict[str, Any], own: Path) -> None:
    edit(own, lambda about: about["image_encoder"].update(said))
    raw = open_store(own).latent_mean.values.astype(np.float64)
    (batch,) = take(data(own, batch=34, posterior="mean"), 1)
    for row, latent in zip(batch.rows, batch.latents, strict=True):
        for c in range(4):
            shift = said["latents_mean"][c] if "latents_mean" in said else said.get("shift_factor", 0.0)
            wanted = (raw[row, c] - shift) * said.get("scaling_factor", 1.0) / said.get("latents_std", [1.0] * 4)[c]
            np.testing.assert_allclose(latent[c], wanted, atol=1e-6)


def test_a_store_without_posterior_gives_its_latents(tmp_path: Path) -> None:
    out = encoded(tmp_path / "run", 8, image=component("loader.test_dataset.Plain"))
    assert "latent_std" not in open_store(out)
    (batch,) = take(data(out, heldout=0), 1)
    np.testing.assert_array_equal(batch.latents, open_store(out).latent_mean.values[batch.rows].astype(np.float32))


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_masked_text_is_trimmed_to_a_multiple_of_eight_tokens(store: Path) -> None:
    dataset = data(store, dropout=0.0, batch=2)
    assert (dataset.masked, dataset.latent_shape, dataset.features) == (True, (4, 4, 4), 16)
    batches = take(dataset, 12)
    for batch in batches:
        longest = max(4 + int(row) % 11 for row in batch.rows)  # start token, two words, more words, end token
        assert batch.text_states.shape[1] == batch.text_mask.shape[1] == -(-longest // 8) * 8
    assert {b.text_states.shape[1] for b in batches} == {8, 16}
    (batch,) = take(data(store, dropout=1.0), 1)
    assert batch.text_states.shape[1] == 8


def test_text_of_full_length_is_kept_whole(own: Path) -> None:
    edit(own, lambda about: about["text_encoder"].update(pad="full"))
    dataset = data(own)
    assert not dataset.masked
    assert {b.text_states.shape[1:] for b in take(dataset, 3)} == {(24, 16)}
    small = data(own, cache_bytes=20_000)
    assert {b.text_states.shape[1:] for b in take(small, 3)} == {(24, 16)}


def test_a_batch_can_be_cut(store: Path) -> None:
    (batch,) = take(data(store), 1)
    part = batch[1:3]
    assert (len(batch), len(part)) == (6, 2)
    np.testing.assert_array_equal(part.latents, batch.latents[1:3])
    np.testing.assert_array_equal(part.slots, batch.slots[1:3])


def test_the_attributes_of_the_store_can_be_read(store: Path) -> None:
    dataset = data(store)
    told = dict(open_store(store).attrs["daskt2i"])
    assert told.pop("layout")["rows"] == ROWS
    assert dataset.attributes == told
    dataset.close()
    dataset.close()


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_bytes", [1, 12_000, 60_000], ids=["nothing", "few-shards", "not-all"])
def test_a_smaller_cache_gives_the_same_samples(store: Path, cache_bytes: int) -> None:
    assert samples(take(data(store, cache_bytes=cache_bytes), 14)) == samples(take(data(store), 14))


def test_a_rank_is_told_when_its_cache_is_smaller_than_a_window(store: Path) -> None:
    small = data(store, cache_bytes=4_000)
    assert small.limit is not None
    found = re.search(r"each shard is read (\d+) times .* launch\.cache to (\d+) MiB, or .* smaller", small.limit)
    assert found is not None
    assert int(found[1]) > 1
    for changes in ({"cache_bytes": int(found[2]) << 20}, {"cache_bytes": 4_000, "window": 1}):
        other = data(store, **changes)
        assert other.limit is None
        other.close()
    small.close()


def test_each_shard_is_decoded_once_an_epoch_if_a_window_fits(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, made = Reader.read, Counter[tuple[int, int]]()

    def counting(self: Reader, parts: Sequence[Sequence[tuple[int, int]]]) -> Any:
        ((epoch, row), *_), *_ = parts
        made[epoch, row // CHUNK] += 1
        return read(self, parts)

    monkeypatch.setattr(Reader, "read", counting)
    dataset = data(store, heldout=0, batch=13, cache_bytes=12_000)
    assert dataset.limit is None
    take(dataset, 6)  # 78 samples: two epochs of 39 rows
    assert {made[epoch, chunk] for epoch in (0, 1) for chunk in range(11) if chunk != 4} == {1}


@pytest.mark.parametrize("purpose", [Purpose.SAMPLE, Purpose.HELDOUT])
def test_a_training_of_an_older_version_keeps_its_numbers_and_its_split(store: Path, purpose: Purpose) -> None:
    dataset = data(store, older=True)
    accepted = np.setdiff1d(np.arange(ROWS), list(REJECTED))
    streams = RandomStreams(key_of(0))
    assert set(dataset.heldout) == set(streams.at(Purpose.SPLIT, 0, 0).permutation(accepted)[:HELDOUT])
    batch = next(dataset.heldout_batches(6) if purpose == Purpose.HELDOUT else dataset.batches(0))
    for i, row in enumerate(batch.rows):
        own = np.random.Generator(np.random.Philox(counter=[0, int(row), 0, purpose], key=key_of(0)))
        assert batch.uniform[i] == own.random(2, np.float32)[0]
        assert batch.normal[i] == own.standard_normal(dtype=np.float32)
        np.testing.assert_array_equal(batch.noise[i], own.standard_normal((4, 4, 4), np.float32))
    dataset.close()


def test_a_store_behind_an_address_gives_the_same_samples(store: Path) -> None:
    import fsspec

    there = fsspec.filesystem("memory")
    there.put(f"{store}/", "/dataset-test/", recursive=True)
    dataset = LatentDataset(RunFolder("memory://dataset-test"), seed=0, batch=6, heldout=HELDOUT, window=3)
    try:
        assert samples(take(dataset, 4)) == samples(take(data(store), 4))
    finally:
        there.rm("/dataset-test", recursive=True)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"There is no latent store in .* Run encode"):
        data(tmp_path)


def test_open_chunks_are_refused(own: Path) -> None:
    (own / "receipts" / "chunk-0000003.json").unlink()
    with pytest.raises(StoreError, match=r"1 of 11 chunks of .* are not done, first chunk 3\. .* run encode again"):
        data(own)


def test_a_receipt_of_another_fingerprint_does_not_count(own: Path) -> None:
    path = own / "receipts" / "chunk-0000000.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["fingerprint"], "other"))
    with pytest.raises(StoreError, match=r"1 of 11 chunks .* first chunk 0"):
        data(own)


def test_random_weights_are_refused_unless_asked_for(own: Path) -> None:
    edit(own, lambda about: about.update(random_weights=True))
    with pytest.raises(StoreError, match=r"random weights.* not changed; encode with trained weights"):
        data(own)
    assert len(take(data(own, allow_random=True), 1)) == 1


def test_a_batch_that_ranks_cannot_share_is_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch is 6, which 4 ranks cannot share .* multiple of 4"):
        data(store, 0, 4)


def test_as_many_validation_rows_as_accepted_rows_are_refused(store: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.validation is 39, but .* has 39 accepted rows"):
        data(store, heldout=39)
    assert len(take(data(store, heldout=38), 1)) == 1


@pytest.mark.parametrize("name", ["latent_mean", "latent_std", "text_states", "text_mask"])
def test_a_missing_shard_is_not_mistaken_for_data(own: Path, name: str) -> None:
    (
        own / "latents.zarr" / name / ("c." + "2" + ".0" * {"text_states": 3}.get(name, 3 if "latent" in name else 2))
    ).unlink()
    for cache_bytes in (2**20, 1):
        with pytest.raises(StoreError, match=r"Chunk 2 of .* a shard is missing.* Run verify .* encode again"):
            take(data(own, heldout=0, cache_bytes=cache_bytes), 10)


def test_a_damaged_shard_is_an_error(own: Path) -> None:
    path = own / "latents.zarr" / "text_states" / "c.2.0.0.0"
    held = bytearray(path.read_bytes())
    held[len(held) // 2 - 8 : len(held) // 2 + 8] = bytes(16)
    path.write_bytes(held)
    with pytest.raises(StoreError, match=r"text_states .* cannot be read .* Run verify .* encode again"):
        take(data(own, heldout=0), 10)


def test_a_missing_shard_of_validation_rows_is_an_error(own: Path) -> None:
    for path in (own / "latents.zarr" / "latent_mean").glob("c.*"):
        path.unlink()
    dataset = data(own)
    with pytest.raises(StoreError, match="a shard is missing"):
        list(dataset.heldout_batches(2))
    dataset.close()


def test_a_missing_empty_prompt_is_an_error(own: Path) -> None:
    (own / "latents.zarr" / "empty_text_states" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=r"The empty prompt's text_states .* run encode again"):
        data(own)


@pytest.mark.parametrize(("dtype", "cache"), [("float32", 0), ("float64", 2**29)], ids=["read again", "in memory"])
def test_numbers_of_wide_encoders_stay_what_they_are(dtype: str, cache: int, tmp_path: Path) -> None:
    parts = {"text": component("loader.test_dataset.WideText", dtype=dtype)}
    out = encoded(tmp_path, 4, **parts, image=component("loader.test_dataset.WideLatents"))
    there = open_store(out)
    (batch,) = take(data(out, batch=3, heldout=1, posterior="mean", dropout=0.0, cache_bytes=cache), 1)
    assert batch.text_states.dtype == np.float32
    for i, (row, slot) in enumerate(zip(batch.rows, batch.slots, strict=True)):
        states = there.text_states.values[row, slot, : batch.text_states.shape[1]].astype(np.float32)
        np.testing.assert_array_equal(batch.text_states[i], states)
        np.testing.assert_array_equal(batch.latents[i], there.latent_mean.values[row])
    assert np.abs(batch.text_states).max() > 65_504


def test_a_store_that_encode_did_not_make_is_refused(tmp_path: Path) -> None:
    from daskt2i.store.zarr_store import ZarrStore

    ZarrStore(RunFolder(tmp_path)).create(4, 2, [ArraySpec("latent_mean", (), (), "float16", "nan")], {})
    with pytest.raises(StoreError, match="was not made by encode"):
        data(tmp_path)
