"""What `daskt2i.torch_dataset` tells a user to do works."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.advice import told
from builders.workflows import component, fake_settings, with_parts
from loader.test_dataset import CHUNK, REJECTED, ROWS, edit, encoded
from loader.test_torch_dataset import ACCEPTED, rows_of
from torch.utils.data import DataLoader

from daskt2i import Run, torch_dataset
from daskt2i.errors import StoreMissing


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


def test_a_column_that_is_not_there_is_named_with_those_that_are(store: Path) -> None:
    with told("loader/own_trainer/columns.py:wanted_columns ConfigError") as found:
        torch_dataset(store, 4, columns=["pixels"])
    assert "'pixels'" in str(found.value)
    assert "latents, text_states" in str(found.value)
    with told("loader/own_trainer/columns.py:wanted_columns ConfigError"):
        torch_dataset(store, 4, columns=[])
    assert torch_dataset(store, 4, columns=["latents", "text_states", "caption"])


def test_ranks_that_do_not_fit_are_refused(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with told("loader/own_trainer/ranks.py:rank_and_world ConfigError"):
        torch_dataset(store, 4, rank=1)
    with told("loader/own_trainer/ranks.py:rank_and_world ConfigError"):
        torch_dataset(store, 4, rank=2, world_size=2)
    assert torch_dataset(store, 4, rank=1, world_size=2)
    monkeypatch.setenv("RANK", "one")
    with told("loader/own_trainer/ranks.py:_found ConfigError"):
        torch_dataset(store, 4)
    assert torch_dataset(store, 4, rank=0, world_size=1)
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.__init__ ConfigError"):
        torch_dataset(store, 1, rank=0, world_size=40)
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.__init__ ConfigError"):
        torch_dataset(store, 40, rank=0, world_size=1, drop_last=True)
    assert len(torch_dataset(store, 40, rank=0, world_size=1)) == 1


def test_an_unfinished_store_says_how_many_rows_it_has_and_is_read_if_asked(own: Path) -> None:
    (own / "receipts" / "chunk-0000002.json").unlink()
    with told("loader/own_trainer/selection.py:readable_rows StoreError") as found:
        torch_dataset(own, 4)
    assert "not finished: 35 rows of 44" in str(found.value)
    dataset = torch_dataset(own, 4, unfinished=True)
    assert sorted(itertools.chain(*rows_of(list(dataset)))) == [row for row in ACCEPTED if row // 4 != 2]
    dataset.close()


def test_random_weights_wrong_choices_and_an_empty_selection_are_refused(own: Path, tmp_path: Path) -> None:
    wrong: Any = "second"
    with told("loader/own_trainer/selection.py:select ConfigError"):
        torch_dataset(own, 4, captions=wrong)
    with told("loader/own_trainer/selection.py:select ConfigError"):
        torch_dataset(own, 4, where="words > 1000")
    assert torch_dataset(own, 4, captions="first", where="words > 1")
    with pytest.raises(StoreMissing, match="Run encode"):
        torch_dataset(tmp_path / "none", 4)
    edit(own, lambda about: about.update(random_weights=True))
    with told("loader/own_trainer/selection.py:select StoreError"):
        torch_dataset(own, 4)


def test_a_number_and_a_saved_state_are_taken_where_something_else_is_refused(store: Path) -> None:
    single = torch_dataset(store)
    for wrong in ("a", 1.5, None):
        with told("loader/own_trainer/map_style.py:LatentRows._samples UnknownArgument"):
            single[wrong]  # type: ignore[index]
    assert single[np.int64(0)].keys() == single[0].keys()
    dataset = torch_dataset(store, 4)
    good = dataset.state_dict()
    for wrong in (None, {}, "state", {**good, "position": "a"}, {**good, "position": -1}, {"order": good["order"]}):
        with told("loader/own_trainer/torch_dataset.py:LatentBatches.load_state_dict ConfigError"):
            dataset.load_state_dict(wrong)  # type: ignore[arg-type]
    dataset.load_state_dict(good)


def test_a_state_of_another_seed_is_refused_and_worker_processes_ask_for_the_batch(store: Path) -> None:
    dataset, other = torch_dataset(store, 4), torch_dataset(store, 4, seed=1)
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.load_state_dict FingerprintMismatch"):
        dataset.load_state_dict(other.state_dict())
    stored = torch_dataset(store, 4, shuffle=False)
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.load_state_dict FingerprintMismatch"):
        dataset.load_state_dict(stored.state_dict())
    dataset.load_state_dict(torch_dataset(store, 2).state_dict())
    loader = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
    batch = next(iter(loader))
    with told("loader/own_trainer/torch_dataset.py:LatentBatches.state_dict ConfigError"):
        dataset.state_dict()
    assert dataset.state_dict(after=batch)["position"] == 4


def test_facts_that_the_store_does_not_have_come_from_the_table_of_insights(own: Path) -> None:
    with told("facts/stored.py:facts_of_images ConfigError"):
        torch_dataset(own, 4, where="bytes > 0")
    settings = fake_settings(rows=ROWS, rows_per_chunk=CHUNK, resolution=32)
    varied = component("loader.test_dataset.Varied", rows=ROWS, captions=4, unreadable=sorted(REJECTED))
    with Run(with_parts(settings, source=varied), own, scheduler="serial", progress=False) as run:
        run.insights(tokens=False)
    dataset = torch_dataset(own, 4, where="bytes > 0")
    assert dataset.rows == len(ACCEPTED)


def test_a_fact_needs_arrays_that_the_store_has(own: Path) -> None:
    path = own / "latents.zarr" / "zarr.json"
    node = json.loads(path.read_text())
    del node["attributes"]["layout"]["arrays"]["source_size"]
    path.write_text(json.dumps(node))
    with told("facts/stored.py:StoredWhere.__init__ ConfigError"):
        torch_dataset(own, 4, where="width > 0")
    assert torch_dataset(own, 4, where="words > 0")
