"""`train.caption_weights`: how often each caption slot is drawn, on any ranks, after a stop, and in `torch_dataset`."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from daskt2i import torch_dataset
from daskt2i.config.settings import TrainSettings
from daskt2i.loader.sample_order import RandomStreams, key_of
from daskt2i.train.resume import continuing, identity_of
from loader.test_dataset import data, encoded, epochs, samples, take

WEIGHTS = (1.0, 0.0, 3.0, 4.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 rows, of which row r has 1 + r % 4 captions."""
    return encoded(tmp_path_factory.mktemp("weights") / "run")


def test_slots_come_as_often_as_their_weights_say_and_fewer_captions_share_the_rest(store: Path) -> None:
    found = epochs(data(store, batch=17, dropout=0.0, weights=WEIGHTS), 24)
    for row in found[0]:
        mine = WEIGHTS[: 1 + row % 4]
        counts = np.bincount([epoch[row] for epoch in found], minlength=len(mine))
        np.testing.assert_allclose(counts, 24 * np.array(mine) / sum(mine), atol=2)
        assert counts.sum() == 24
        assert len(mine) < 2 or counts[1] == 0
    orders = {tuple(epoch[row] for epoch in found) for row in found[0] if row % 4 == 3}
    assert len(orders) > 4  # rows do not take their captions in step


def test_the_points_of_a_row_are_spread_over_its_slots() -> None:
    streams = RandomStreams(key_of(0))
    for row in range(20):
        drawn = [streams.slot(epoch, row, 5, (1, 1, 1, 1, 4)) for epoch in range(800)]
        np.testing.assert_allclose(np.bincount(drawn), [100, 100, 100, 100, 400], atol=4)
    assert {streams.slot(0, row, 3, (0, 0, 1)) for row in range(100)} == {2}


def test_ranks_and_a_resumed_training_draw_the_same_captions_with_weights(store: Path) -> None:
    one = samples(take(data(store, weights=WEIGHTS), 8))
    assert one != samples(take(data(store), 8))
    shares = [samples(take(data(store, n, 2, weights=WEIGHTS, cache_bytes=12_000), 8)) for n in range(2)]
    assert [sorted(itertools.chain(*step)) for step in zip(*shares, strict=True)] == one
    assert samples(take(data(store, weights=WEIGHTS), 3, 5 * 6)) == one[5:]


@pytest.mark.parametrize("how", ["in memory", "small cache", "files", "single rows"])
def test_a_trainer_of_others_gets_the_captions_of_our_own(store: Path, tmp_path: Path, how: str) -> None:
    ours = {}
    for batch in take(data(store, heldout=0, dropout=0.0, weights=WEIGHTS), 6):
        ours |= dict(zip(batch.rows.tolist(), batch.slots.tolist(), strict=True))
    data_set = torch_dataset(
        store,
        None if how == "single rows" else 6,
        caption_weights=WEIGHTS,
        cache_bytes=12_000 if how == "small cache" else None,
        cache_folder=tmp_path if how == "files" else None,
    )
    theirs = {}
    for batch in DataLoader(data_set, batch_size=6 if how == "single rows" else None):
        theirs |= dict(zip(batch["row"].tolist(), batch["caption_index"].tolist(), strict=True))
    assert {row: theirs[row] for row in ours} == ours


def test_cached_files_serve_other_weights_too(store: Path, tmp_path: Path) -> None:
    for weights in (None, WEIGHTS):
        with_files = torch_dataset(store, 6, caption_weights=weights, cache_folder=tmp_path)
        list(with_files)
        with_files.close()
    assert len(list(tmp_path.glob("daskt2i-*[0-9a-f]"))) == 1


def test_a_training_does_not_go_on_with_other_weights_and_without_them_it_is_that_of_before() -> None:
    stored = {"fingerprint": "f", "identity": {"encoders": {"text": {}}}, "text_encoder": {"pad": "length"}}
    none, some = (identity_of(TrainSettings(caption_weights=one), stored) for one in (None, (1.0, 2.0)))
    assert "caption_weights" not in none["train"]
    assert continuing(3, {"identity": some}, some).differs == ()
    assert continuing(3, {"identity": none}, some).differs
    assert continuing(3, {"identity": some}, none).differs
