"""What weights of captions that do not fit tell a user to do works."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.advice import told
from loader.test_dataset import data, encoded

from daskt2i import torch_dataset
from daskt2i.config.settings import TrainSettings
from daskt2i.errors import ConfigError
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.samples import notes_before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 rows, of which row r has 1 + r % 4 captions."""
    return encoded(tmp_path_factory.mktemp("weights") / "run")


def test_weights_that_do_not_fit_a_store_are_refused_and_those_of_the_message_taken(store: Path) -> None:
    with told("loader/caption_weights.py:check_weights ConfigError"):
        torch_dataset(store, 6, caption_weights=(1.0, 2.0))
    for wrong in ((0.0,) * 4, (1.0, -1.0, 1.0, 1.0), (float("inf"), 1.0, 1.0, 1.0)):
        with told("loader/caption_weights.py:check_weights ConfigError"):
            torch_dataset(store, 6, caption_weights=wrong)
    with pytest.raises(ConfigError, match=r"train\.caption_weights has 2 weights \(1, 2\).*4 slots"):
        data(store, weights=(1.0, 2.0))
    assert torch_dataset(store, 6, caption_weights=(1, 1, 1, 1))
    assert torch_dataset(store, 6, caption_weights=None)


def test_rows_that_weights_leave_without_a_caption_are_counted(store: Path) -> None:
    weights = (0.0, 0.0, 1.0, 1.0)
    with told("loader/caption_weights.py:require_captions ConfigError") as error:
        torch_dataset(store, 6, caption_weights=weights)
    assert "leaves out the first 2 slots, and 20 rows of 39 have no captions in later ones" in str(error.value)
    rest = torch_dataset(store, 6, caption_weights=weights, where="captions > 2")
    assert {int(slot) for batch in rest for slot in batch["caption_index"]} == {2, 3}
    rest.close()
    assert torch_dataset(store, 6, caption_weights=(1e-3, *weights[1:]))
    settings = TrainSettings(caption_weights=weights, validation=4)
    with pytest.raises(ConfigError, match=r"train\.caption_weights leaves out the first 2 slots, and 20 rows"):
        list(notes_before(RunFolder(store), settings, False, 1, 2**29))
    list(notes_before(RunFolder(store), settings.model_copy(update={"where": "captions > 2"}), False, 1, 2**29))


def test_weights_need_captions_that_are_drawn(store: Path) -> None:
    with told("loader/own_trainer/selection.py:_check_weights ConfigError"):
        torch_dataset(store, 6, captions="first", caption_weights=(1, 0, 3, 4))
    assert torch_dataset(store, 6, captions="random", caption_weights=(1, 0, 3, 4))
    assert torch_dataset(store, 6, captions="first")
