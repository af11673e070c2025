"""A rank or the driver is killed in a training of each class, while pictures are asked for, and with skipped steps.

The same command goes on, to the bits of a training that nobody disturbed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.denoisers import TRANSFORMERS
from builders.runs import encoded, tiny_workflow, trained
from builders.waiting import wait_for
from builders.workflows import child_environment

from daskt2i.config.settings import Workflow
from daskt2i.events import LaunchEvent
from daskt2i.store.run_folder import PIPELINE, RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.metrics import read_metrics
from daskt2i.train.upkeep.requests import PICTURES, STOP, place_of, request
from train.test_plain_step import MODELS, PIXART, UVIT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CLASSES: Mapping[str, Mapping[str, Any]] = {
    PIXART: MODELS[PIXART],
    UVIT: MODELS[UVIT],
    **{name: {"class": f"diffusers.{name}", "config": config} for name, config in TRANSFORMERS.items()},
}
EIGHT = (
    *("train.steps=8", "train.ema=0.9", "train.emas=[0.5]", "train.learning_rate=0.002", "launch.threads=1"),
    *("launch.checkpoint_every=2", "launch.validation_every=4"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoded run folder. Tests copy it."""
    out = tmp_path_factory.mktemp("store") / "run"
    encoded(out)
    return out


def of_class(name: str, *more: str) -> Workflow:
    workflow = tiny_workflow(*EIGHT, *more)
    model = type(workflow.train.model).model_validate(CLASSES[name])
    return workflow.model_copy(update={"train": workflow.train.model_copy(update={"model": model})})


def copied(store: Path, place: Path) -> Path:
    return Path(shutil.copytree(store, place))


def left(out: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """What a training leaves: its figures, and all tensors of its last step."""
    found = Checkpoints(RunFolder(out)).newest()
    assert found is not None
    return read_metrics(RunFolder(out)), dict(found.tensors)


def assert_same(one: Path, other: Path) -> None:
    (mine, weights), (theirs, wanted) = left(one), left(other)
    assert mine == theirs
    assert weights.keys() == wanted.keys()
    assert [name for name in weights if not torch.equal(weights[name], wanted[name])] == []


def killing(rank: int, kind: str, step: int, before: Callable[[], object] = lambda: None) -> Any:
    """A listener that kills a rank of the first attempt at an event of a step, and a list of the killed."""
    pids: dict[int, int] = {}
    dead: list[int] = []

    def hear(event: LaunchEvent) -> None:
        if event.attempt != 1:
            return
        if event.kind == "alive":
            pids[event.rank or 0] = event["pid"]
        if event.kind == kind and event["step"] >= step and not dead:
            before()
            dead.append(pids[rank])
            os.kill(pids[rank], signal.SIGKILL)

    return hear, dead


@pytest.mark.parametrize("name", CLASSES)
def test_a_killed_rank_and_a_killed_driver_change_no_training_of_any_class(
    name: str, store: Path, tmp_path: Path
) -> None:
    calm, rank, driver = (copied(store, tmp_path / place) for place in ("calm", "rank", "driver"))
    workflow = of_class(name)
    trained(workflow, calm)
    hear, dead = killing(0, "checkpoint", 4)
    assert trained(workflow, rank, hear).attempts == 2
    assert dead
    assert_same(rank, calm)

    file = tmp_path / "workflow.yaml"
    file.write_text(workflow.to_yaml())
    command = [sys.executable, "-m", "daskt2i.workflow", "train", "-s", "serial", "-w", str(file), "-o", str(driver)]
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, env=child_environment(), stdout=silent, stderr=silent)
    wait_for(lambda: Checkpoints(RunFolder(driver)).newest(tensors=False) or process.poll() is not None, 120)
    process.kill()
    process.wait()
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(driver, calm)
    assert (driver / PIPELINE / "daskt2i.json").is_file()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_request_that_a_killed_rank_left_is_carried_out_once(rank: int, store: Path, tmp_path: Path) -> None:
    """Pictures are asked for when the rank dies, an end after it: both are done by the next attempt, and none stays."""
    out = copied(store, tmp_path / "run")
    folder = RunFolder(out)
    hear, dead = killing(rank, "checkpoint", 2, lambda: request(folder, PICTURES))
    sheets: list[int] = []
    notes: list[str] = []

    def watch(event: LaunchEvent) -> None:
        hear(event)
        if event.kind == "sheet" and event.attempt == 2:
            sheets.append(event["step"])
            request(folder, STOP)
        if event.kind == "note" and "stopped at step" in event["text"]:
            notes.append(event["text"])

    workflow = of_class(UVIT, "train.steps=200", "sample.prompts=[a red circle]", "launch.checkpoint_every=2")
    assert trained(workflow, out, watch, ranks=2).attempts == 2
    assert dead
    assert len(sheets) == 1
    assert (out / "train" / "sheets" / f"step-{sheets[0]:07d}.png").is_file()
    assert len(notes) == 1
    assert not any(folder.exists(place_of(what)) for what in (PICTURES, STOP))


def test_steps_that_are_skipped_as_spikes_are_skipped_again_after_a_kill(store: Path, tmp_path: Path) -> None:
    calm, killed = copied(store, tmp_path / "calm"), copied(store, tmp_path / "killed")
    workflow = of_class(UVIT, "train.steps=40", "train.on_spike=skip", "train.spike_factor=1.2")
    assert trained(workflow, calm, ranks=2).more["spikes"] >= 2
    hear, dead = killing(1, "checkpoint", 30)
    assert trained(workflow, killed, hear, ranks=2).attempts == 2
    assert dead
    assert_same(killed, calm)
