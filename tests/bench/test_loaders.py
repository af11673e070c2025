"""`bench loaders`: every loader reads the same rows and does the same work; the report compares them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daskt2i.bench.loaders import peer
from daskt2i.bench.loaders.driver import Runner, _cells, _plots, bench_loaders
from daskt2i.bench.loaders.rows import bytes_of, shape_of, write
from daskt2i.bench.peers.environments import python_for
from daskt2i.errors import ExecutorError


@pytest.mark.parametrize("text", ["compact", "full"])
def test_all_loaders_read_the_same_rows(text: str, tmp_path: Path) -> None:
    write(tmp_path, shape_of(text, 128))
    rows = peer.Rows(str(tmp_path / "rows"))
    ours = list(peer.Ours(rows, str(tmp_path / "daskt2i"), 1 << 30).batches(0))
    mapped = list(peer.Ours(rows, str(tmp_path / "daskt2i"), 1, str(tmp_path / "decoded")).batches(0))
    theirs = list(peer.MemoryMapped(rows, "").batches(0))
    assert len(ours) == len(theirs) == 2
    for batch, same, (latents, states, mask) in zip(ours, mapped, theirs, strict=True):
        assert batch["latents"].shape == latents.shape == (64, 4, 32, 32)
        assert states.shape[2] == batch["text_states"].shape[2] == 768
        assert mask.shape == states.shape[:2]
        assert all(batch[name].equal(same[name]) for name in ("latents", "text_states", "text_mask", "row"))
    said = {_text(batch["text_states"], batch["text_mask"], place) for batch in ours for place in range(64)}
    if text == "compact":
        assert said == {_text(states, mask, place) for _, states, mask in theirs for place in range(64)}
    packed = rows.packed(5)
    np.testing.assert_array_equal(peer.unpacked(packed)[2], rows[5][2])
    assert 0 < bytes_of(tmp_path, "daskt2i") < bytes_of(tmp_path, "numpy")


def _text(states: Any, mask: Any, place: int) -> bytes:
    found: bytes = states[place][mask[place]].numpy().tobytes()
    return found


def test_the_report_compares_with_the_best_peer_and_with_numpy() -> None:
    def runner(name: str, *rates: float, windows: float | None = None, origin: str | None = None) -> Runner:
        process = subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found = Runner("compact", name, process, 100, 5, windows, origin, 50.0, 1000)
        found.rates, found.busy_rates = list(rates), [rate / 2 for rate in rates]
        found.close()
        return found

    cells = list(
        _cells(
            [
                runner("numpy", 100, 300, 200),
                runner("litdata", 90),
                runner("webdataset", 120),
                runner("daskt2i", 60, windows=1.0, origin="store"),
                runner("daskt2i", 30, windows=0.5, origin="store"),
                runner("daskt2i", 240, origin="memory"),
            ],
            1000.0,
        )
    )
    last = cells[-1].values
    assert (last["origin"], last["of_best"], last["of_numpy"]) == ("memory", 2.0, 1.2)
    assert (last["bytes_rate"], last["first_rate"]) == (240_000, 50.0)
    assert cells[3].values["busy_of_best"] == 0.5
    plots = {plot.name: plot for plot in _plots(cells)}
    assert plots["rate-compact"].categories[-2:] == ("daskt2i, store", "daskt2i, memory")
    assert plots["rate-by-cache"].curves[0].y == (60.0, 30.0)


@pytest.mark.slow  # an environment and three processes that import torch
def test_a_peer_that_cannot_be_installed_is_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_CONFIG_FILE", "/dev/null"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    with pytest.raises(ExecutorError, match=r"^webdataset could not be installed .* The other loaders were\.$"):
        python_for("webdataset", "webdataset", tmp_path / "environments", "loaders")
    report = bench_loaders(
        ["compact"], ["daskt2i", "numpy", "webdataset"], shares=[0.5], repeats=1, rows=128, place=str(tmp_path)
    )
    rates = {(cell.values["loader"], cell.values.get("windows")): cell.values.get("rate") for cell in report.cells}
    assert rates["webdataset", None] is None
    assert all(rates[key] for key in (("numpy", None), ("daskt2i", None), ("daskt2i", 0.5)))
