"""Ranks that encode captions themselves train as on a store with text states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import daskt2i


@pytest.mark.slow
def test_two_ranks_that_encode_captions_have_the_losses_of_a_store_with_text_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    losses = {}
    for text in ("exact", "training"):
        settings = {
            "dataset.store.text": text,
            "dataset.precision": "fp32",
            "scenes.rows": 40,
            "train.steps": 4,
            "train.batch": 8,
            "train.validation": 8,
            "launch.precision": "fp32",
            "launch.grid_every": 0,
        }
        with daskt2i.Run("demo", tmp_path / text, settings=settings, scheduler="local:2", progress=False) as run:
            run.encode().raise_for_failed()
            if text == "training":
                assert "for the text encoder" in run.plan("train").view().text()
            done = run.train()
            assert done.ranks == 2
            losses[text] = [*run.metrics["loss"], done.heldout_loss]
    assert np.allclose(losses["training"], losses["exact"], rtol=1e-3)
    (kept,) = (tmp_path / "cache" / "daskt2i" / "captions").glob("*.sqlite")
    assert kept.stat().st_size > 10_000
