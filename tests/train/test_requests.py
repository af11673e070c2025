"""Requests to a training that runs: pictures now, an early end. Every rank acts at the same step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import CHILD_PATH
from rank_modules.fitting import STEPS, Drawing, fit, fit_with, losses

from daskt2i.launch.launcher import LocalRankSpawner, launch
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.upkeep import requests
from daskt2i.train.upkeep.requests import PICTURES, STOP, Requests, forget_stop, place_of, request


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The events of a rank, which looks for requests at every step."""
    events: list[dict[str, Any]] = []
    monkeypatch.setattr("daskt2i.launch.rank.tell", lambda kind, **fields: events.append({"kind": kind, **fields}))
    monkeypatch.setattr(requests, "LOCAL_SECONDS", 0.0)
    return events


class Asking(Drawing):
    """One that is asked for something while it computes a step."""

    def __init__(self, folder: Path, asks: dict[int, str]) -> None:
        super().__init__()
        self.place, self.asks, self.steps = RunFolder(folder), asks, 0

    def loss(self, model: Any, batch: Any) -> Any:
        if model.training:
            self.steps += 1
            if what := self.asks.get(self.steps):
                request(self.place, what)
        return super().loss(model, batch)


def test_a_sheet_is_drawn_at_the_step_that_was_asked_for_and_changes_no_loss(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    fit(tmp_path / "calm")
    told.clear()
    fit(tmp_path / "asked", Asking(tmp_path / "asked", {5: PICTURES}), grid_every=8)
    assert [event["step"] for event in told if event["kind"] == "sheet"] == [0, 5, 8]
    assert not RunFolder(tmp_path / "asked").exists(place_of(PICTURES))
    assert losses(tmp_path / "asked") == losses(tmp_path / "calm")


def test_a_training_that_is_asked_to_stop_writes_its_model_and_goes_on_as_if_it_had_not(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    fit_with(tmp_path / "calm")
    told.clear()
    folder = tmp_path / "asked"
    fit_with(folder, Asking(folder, {5: STOP}))
    newest = Checkpoints(RunFolder(folder)).newest()
    assert newest is not None
    assert newest.step == 5
    assert (folder / "weights").exists()
    assert [event["step"] for event in told if event["kind"] == "done"] == [5]
    assert any("stopped at step 5 of 12" in event.get("text", "") for event in told)
    assert not RunFolder(folder).exists(place_of(STOP))
    fit_with(folder)
    assert losses(folder) == losses(tmp_path / "calm")
    assert (folder / "weights").read_bytes() == (tmp_path / "calm" / "weights").read_bytes()


def test_a_killed_training_keeps_the_request_until_it_is_carried_out(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    class Failing(Asking):
        def finish(self, model: Any, folder: RunFolder) -> dict[str, Any]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, Failing(tmp_path, {5: STOP}))
    assert RunFolder(tmp_path).exists(place_of(STOP))
    forget_stop(RunFolder(tmp_path), "train")  # what the driver does when it starts again
    fit(tmp_path)
    assert len(losses(tmp_path)) == STEPS


def test_only_rank_0_looks_and_at_most_once_in_its_time(tmp_path: Path) -> None:
    folder, now = RunFolder(tmp_path), [0.0]
    first, other = (Requests(folder, "train", looks, lambda: now[0]) for looks in (True, False))
    request(folder, PICTURES)
    request(folder, STOP)
    assert requests.names(first.look()) == {PICTURES, STOP}
    first.done(STOP)
    assert requests.names(first.look()) == frozenset()  # within the second
    now[0] = 1.5
    assert requests.names(first.look()) == {PICTURES}
    assert other.look() == 0
    other.done(PICTURES)
    assert folder.exists(place_of(PICTURES))


@pytest.mark.slow  # by default, tests above: what rank 0 sees goes to all ranks in the sum of their figures
def test_two_ranks_stop_at_the_same_step(tmp_path: Path) -> None:
    """A request is there before the first step: both ranks end after it, and none waits for the other."""
    request(RunFolder(tmp_path), STOP)
    job = {"folder": str(tmp_path), "batch": 8, "die_at": 0, "settings": {"steps": 40}, "launch": {}}
    env = {"PYTHONPATH": CHILD_PATH}
    gone = launch("rank_modules.fitting", job, LocalRankSpawner(2), 2, 1, lambda event: None, env=env)
    assert gone.attempts == 1
    assert len(losses(tmp_path)) == 1
