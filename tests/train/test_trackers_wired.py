"""`launch.trackers` through a training: each step once and in order, in one run of the tracker, also after a stop."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from builders.runs import tiny_workflow

from daskt2i.config.settings import LaunchSettings, TrainSettings
from daskt2i.errors import Interrupted
from daskt2i.events import Event, Note
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message
from daskt2i.launch.supervisor import RankSpec
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.driver import train
from daskt2i.train.loop import fit

WANDB = '''
"""A package of a tracker that writes down what it gets."""
import json, os

class Settings:
    def __init__(self, **given): pass

class Image:
    def __init__(self, image, caption): pass

class Run:
    def __init__(self, id): self.id = id
    def log(self, figures, step): self.write(step=step, names=sorted(figures))
    def finish(self): self.write(finished=True)
    def write(self, **what):
        with open(os.environ["WRITTEN_DOWN"], "a") as file:
            file.write(json.dumps({"id": self.id, **what}) + "\\n")

def init(id, config, **given):
    run = Run(id)
    run.write(steps=config["train"]["steps"])
    return run
'''


@pytest.fixture
def written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the package, which is installed for this test."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WRITTEN_DOWN", str(tmp_path / "tracker.jsonl"))
    yield tmp_path / "tracker.jsonl"
    sys.modules.pop("wandb", None)


class Stopping(Denoiser):
    """One whose process is stopped while it computes a step."""

    def __init__(self, job: DenoiserJob, stops: int) -> None:
        super().__init__(job)
        self._left = stops

    def loss(self, model: Any, batch: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt
        return super().loss(model, batch)


class StoppingSpawner(LocalRankSpawner):
    """Its rank is this process, and is stopped in a step; 0 for never."""

    def __init__(self, stops: int) -> None:
        super().__init__(1)
        self._stops = stops

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        job = DenoiserJob(**spec.job)
        settings, ways = TrainSettings.model_validate(job.train), LaunchSettings.model_validate(job.launch)
        made = fit(Stopping(job, self._stops), settings, ways, RunFolder(job.folder), job.identity)
        assert self._put is not None
        for event in ({"kind": "rendezvous", "port": 0}, {"kind": "alive"}, {"kind": "done", **made}):
            self._put(Message(launch, spec.rank, event))
        self._put(Message(launch, spec.rank, Ended("finished")))


@pytest.mark.slow  # by default, tests/train/test_trackers.py writes to each tracker
@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_training_that_was_stopped_goes_on_in_the_run_of_its_tracker(
    place: str, demo_run: Path, tmp_path: Path, written_down: Path
) -> None:
    folder = RunFolder(tmp_path / "run" if place == "local" else f"memory://{uuid4().hex}")
    for name in ("latents.zarr", "receipts"):
        fsspec.filesystem("file" if place == "local" else "memory").put(
            str(demo_run / name) + "/", folder.address(name) + "/", recursive=True
        )
    workflow = tiny_workflow("train.steps=5", "launch.checkpoint_every=2", "launch.trackers=[wandb]")
    workflow = workflow.model_copy(update={"scenes": None})  # they can be drawn on this machine alone
    heard: list[Event] = []
    with pytest.raises(Interrupted, match="checkpoint of step 2 is kept"):
        train(workflow, folder, StoppingSpawner(4), 1, 1, heard.append)
    train(workflow, folder, StoppingSpawner(0), 1, 1, heard.append)
    lines = [json.loads(line) for line in written_down.read_text().splitlines()]
    assert [line["step"] for line in lines if "step" in line] == [1, 2, 3, 4, 5]
    assert all({"loss", "rate"} <= set(line["names"]) for line in lines if "step" in line)
    assert "heldout_loss" in lines[-2]["names"]
    assert len({line["id"] for line in lines}) == 1
    assert [line["steps"] for line in lines if "steps" in line] == [5, 5], "opened twice, with the settings"
    assert sum("finished" in line for line in lines) == 2
    assert [one.text for one in heard if isinstance(one, Note) and "tracker" in one.text] == []
