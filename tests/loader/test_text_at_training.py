"""A store with captions alone: training encodes the captions that it draws."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders.workflows import fake_settings, finish

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.config.store_settings import StoreSettings
from daskt2i.encode.prepare import prepare
from daskt2i.encode.verify import verify
from daskt2i.encoders.fake import FakeTextEncoder
from daskt2i.errors import ConfigError
from daskt2i.loader.batch_arrays import Batch
from daskt2i.loader.dataset import LatentDataset
from daskt2i.loader.forms.caption_states import CaptionStates, file_of
from daskt2i.loader.forms.state_file import StateFile
from daskt2i.loader.own_trainer.torch_dataset import torch_dataset
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Runtime


def workflow(text: str) -> Workflow:
    given = fake_settings(rows=20, rows_per_chunk=8, source={"captions": 3})
    dataset = given.dataset.model_copy(update={"store": StoreSettings.model_validate({"text": text})})
    return given.model_copy(update={"dataset": dataset})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run folder with text states (`exact`), and one with captions alone (`training`)."""
    folder = tmp_path_factory.mktemp("texts")
    for name in ("exact", "training"):
        finish(workflow(name), folder / name).raise_for_failed()
    return {name: folder / name for name in ("exact", "training")}


class Counting(FakeTextEncoder):
    """Notes what it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[str] = []

    def encode(self, items: Sequence[str], batch: int) -> dict[str, npt.NDArray[Any]]:
        self.encoded += items
        return super().encode(items, batch)


def states_of(place: Path, kept: StateFile | None = None) -> tuple[CaptionStates, Counting]:
    encoder, about = Counting(), about_store(ZarrStore(RunFolder(place)))
    assert about is not None
    return CaptionStates(encoder, about, lambda: Runtime("cpu", "fp32", 1), kept), encoder


def batches(place: Path, encoder: CaptionStates | None = None, stop: int = 48, **how: Any) -> list[Batch]:
    data = LatentDataset(RunFolder(place), seed=3, batch=4, window=2, heldout=2, dropout=0.3, encoder=encoder, **how)
    try:
        return [*data.heldout_batches(2), *data.batches(0, stop)]
    finally:
        data.close()


@pytest.mark.parametrize("cache", [2**29, 9_000], ids=["all in memory", "a small cache"])
def test_batches_are_those_of_a_store_with_text_states(places: dict[str, Path], cache: int) -> None:
    encoder, _ = states_of(places["training"])
    mine, theirs = batches(places["training"], encoder, cache_bytes=cache), batches(places["exact"], cache_bytes=cache)
    assert any((batch.slots == -1).any() for batch in theirs), "no caption was dropped"
    for ours, exact in zip(mine, theirs, strict=True):
        for name in Batch.__dataclass_fields__:
            assert np.array_equal(getattr(ours, name), getattr(exact, name)), name


def test_ranks_draw_the_same_samples_together(places: dict[str, Path]) -> None:
    whole = batches(places["training"], states_of(places["training"])[0])
    ranks = [batches(places["training"], states_of(places["training"])[0], rank=rank, world=2) for rank in range(2)]
    drawn = [sorted(zip(one.rows.tolist(), one.slots.tolist(), strict=True)) for one in whole[1:]]
    pairs = zip(ranks[0][1:], ranks[1][1:], strict=True)
    both = [[pair for one in two for pair in zip(one.rows.tolist(), one.slots.tolist(), strict=True)] for two in pairs]
    assert [sorted(pairs) for pairs in both] == drawn


def test_the_store_has_no_text_arrays_and_the_encode_loads_no_text_model(places: dict[str, Path]) -> None:
    store = daskt2i.open_store(places["training"])
    assert not [name for name in store.variables if "text" in str(name)]
    plan = prepare(workflow("training"), places["training"])
    assert "training encodes the captions" in plan.view().text()
    assert plan.requirements.text_disk < prepare(workflow("exact"), places["exact"]).requirements.text_disk / 4
    assert verify(RunFolder(places["training"]), workflow("training"), trusted=True).ok


def test_only_drawn_captions_are_encoded_and_each_once_for_all_trainings(
    places: dict[str, Path], tmp_path: Path
) -> None:
    small = {"cache_bytes": 9_000, "stop": 8}
    file = StateFile(tmp_path / "states.sqlite", 2**20, pytest.fail)
    encoder, counting = states_of(places["training"], file)
    first = batches(places["training"], encoder, **small)
    assert len(counting.encoded) == len(set(counting.encoded))
    assert len(counting.encoded) < 60, "all captions of all rows were encoded for two batches"
    encoder.close()
    again, silent = states_of(places["training"], StateFile(tmp_path / "states.sqlite", 2**20, pytest.fail))
    for ours, before in zip(batches(places["training"], again, **small), first, strict=True):
        assert np.array_equal(ours.text_states, before.text_states)
    assert silent.encoded == []
    assert silent.loads == 0, "the model was loaded for nothing"


def test_a_full_file_keeps_what_came_first(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "a" / "states.sqlite", 10, pytest.fail)
    file.put({b"1": b"aaaa", b"2": b"bbbb"})
    file.put({b"3": b"cccc", b"4": b"d"})
    assert file.get([b"1", b"2", b"3"]) == {b"1": b"aaaa", b"2": b"bbbb"}


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    one, other = (StateFile(tmp_path / "states.sqlite", 100, pytest.fail) for _ in range(2))
    one.put({b"1": b"a"})
    other.put({b"2": b"b"})
    assert one.get([b"1", b"2"]) == other.get([b"1", b"2"]) == {b"1": b"a", b"2": b"b"}


def test_a_damaged_value_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "states.sqlite"
    file = StateFile(path, 100, pytest.fail)
    file.put({b"1": b"aaaa", b"2": b"bbbb"})
    with sqlite3.connect(path) as base:
        base.execute("UPDATE states SET value = ? WHERE key = ?", (b"aaab", b"1"))
    assert file.get([b"1", b"2"]) == {b"2": b"bbbb"}


def test_a_file_that_cannot_be_used_is_told_once_and_states_are_kept_after_it_is_removed(
    places: dict[str, Path], tmp_path: Path
) -> None:
    path, told = tmp_path / "states.sqlite", []
    path.write_bytes(b"this is no database, but a text that is long enough for SQLite to look at" * 20)
    encoder, counting = states_of(places["training"], StateFile(path, 2**20, told.append))
    assert encoder.states(["a red circle"])
    assert encoder.states(["a red circle"])
    assert counting.encoded == ["a red circle"] * 2
    (sentence,) = told
    assert "encoded again in each epoch" in sentence
    assert "remove this file, and train again" in sentence
    path.unlink()
    for count in (1, 1):
        encoder, counting = states_of(places["training"], StateFile(path, 2**20, pytest.fail))
        encoder.states(["a red circle"])
        encoder.states(["a red circle"])
        encoder.close()
        assert len(counting.encoded) <= count
    assert counting.encoded == []


def test_another_encoder_or_precision_has_another_file(places: dict[str, Path]) -> None:
    about = about_store(ZarrStore(RunFolder(places["training"])))
    assert about is not None
    identity = about["identity"]
    other = {"identity": {**identity, "precision": "bf16"}}
    text = {**identity["encoders"]["text"], "weights": "sha256:other"}
    third = {"identity": {**identity, "encoders": {**identity["encoders"], "text": text}}}
    assert len({file_of(about), file_of(other), file_of(third)}) == 3


def test_a_trainer_of_others_gets_latents_and_captions_and_no_text_states(places: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"There is no column 'text_states' in this store.* choose from latents,"):
        torch_dataset(places["training"], 4, columns=["latents", "text_states"])
    (first, *_) = torch_dataset(places["training"], 4, columns=["latents", "caption"], shuffle=False)
    (exact, *_) = torch_dataset(places["exact"], 4, columns=["latents", "caption"], shuffle=False)
    assert first["caption"] == exact["caption"]
    assert np.array_equal(first["latents"], exact["latents"])
    assert "text_states" not in next(iter(torch_dataset(places["training"], 4)))
