"""The held-out loss by noise level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rank_modules.fitting import Toy, fit

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.figures.by_time import BINS, LossByTime
from daskt2i.train.metrics import read_metrics


class Binned(Toy):
    """One whose held-out loss is known by time; only one bin has rows."""

    def heldout(self, model: Any) -> Any:
        total, count, _ = super().heldout(model)
        found = LossByTime()
        found.add(torch.full((4,), 250.0), torch.arange(4.0))
        return total, count, found.sums()


def test_losses_are_counted_by_the_time_of_their_row() -> None:
    found = LossByTime()
    found.add(torch.tensor([0.0, 99.9, 100.0, 999.0, 1000.0]), torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    sums = found.sums()
    assert len(sums) == BINS
    assert sums["loss_t0"] == pytest.approx((3.0, 2))
    assert sums["loss_t1"] == (3.0, 1)
    assert sums["loss_t9"] == (9.0, 2)
    assert sums["loss_t5"] == (0.0, 0)


def test_figures_are_means_over_the_rows_of_a_bin_and_a_bin_without_rows_has_none(tmp_path: Path) -> None:
    fit(tmp_path, Binned())
    last = [line for line in read_metrics(RunFolder(tmp_path)) if "heldout_loss" in line][-1]
    assert last["heldout_loss_t2"] == pytest.approx(1.5)
    assert set(last) == {"step", "heldout_loss", "heldout_loss_t2"}
