"""A small run folder with everything in it: scenes, latents by the demo encoders, a pipeline trained for moments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from builders.workflows import child_environment, load_workflow
from daskt2i.config.settings import LaunchSettings, TrainSettings, VaeSettings, Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.events import Event, LaunchEvent, Listener, ignore
from daskt2i.executors.serial import SerialExecutor
from daskt2i.launch.placement import WorkerNode
from daskt2i.launch.rank import rank
from daskt2i.launch.rank_spawners import Ended, LocalRankSpawner, Message
from daskt2i.launch.supervisor import RankSpec
from daskt2i.store.artifacts.finished import VAE_FOLDER
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.autoencoder_rank import Autoencoder, AutoencoderJob
from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
from daskt2i.train.driver import TrainResult, train
from daskt2i.train.loop import fit

TINY = (
    "scenes.rows=20",
    "dataset.rows_per_chunk=8",
    "dataset.precision=fp32",
    "run.device=cpu",
    "run.gate_rows=0",
    "train.steps=3",
    "train.batch=4",
    "train.validation=4",
    "train.warmup=0",
    "train.learning_rate=0.02",  # a model begins by saying nothing, and three steps must teach it to
    "train.ema=0",
    "train.model.config={block_out_channels: [16, 32, 32]}",
    "launch.device=cpu",
    "launch.precision=fp32",
    "launch.checkpoint_every=2",
    "sample.steps=3",
    "sample.batch=4",
)
"""`--set` of the run."""


def tiny_workflow(*more: str) -> Workflow:
    """The demo, made small."""
    return load_workflow("demo", [*TINY, *more])


def encoded(out: Path, *more: str) -> Workflow:
    """Encode a tiny demo in this process."""
    workflow = tiny_workflow(*more)
    summary = encode(prepare(workflow, out), SerialExecutor())
    assert not summary.failed
    return workflow


def of_launch(listener: Callable[[LaunchEvent], object]) -> Listener:
    """A listener that hands on what a launch tells, and nothing else."""

    def hear(event: Event) -> None:
        if isinstance(event, LaunchEvent):
            listener(event)

    return hear


def trained(
    workflow: Workflow, out: Path, listener: Callable[[LaunchEvent], object] = lambda event: None, ranks: int = 1
) -> TrainResult:
    """Train it with ranks that are children of this process. The listener gets what the launch tells."""
    return train(workflow, RunFolder(out), LocalRankSpawner(ranks), ranks, 1, of_launch(listener))


class HereSpawner(LocalRankSpawner):
    """Its one rank of the denoiser is this process: a new process imports for four seconds."""

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        job = DenoiserJob(**spec.job)
        train, ways = TrainSettings.model_validate(job.train), LaunchSettings.model_validate(job.launch)
        made = fit(Denoiser(job), train, ways, RunFolder(job.folder), job.identity)
        assert self._put is not None
        for event in ({"kind": "rendezvous", "port": 0}, {"kind": "alive"}, {"kind": "done", **made}):
            self._put(Message(launch, spec.rank, event))
        self._put(Message(launch, spec.rank, Ended("finished")))


class HereVaeSpawner(LocalRankSpawner):
    """The same for the autoencoder."""

    def start(self, node: WorkerNode, spec: RankSpec, launch: str) -> None:
        job = AutoencoderJob(**spec.job)
        vae, ways = VaeSettings.model_validate(job.vae), LaunchSettings.model_validate(job.launch)
        task = Autoencoder(job, rank())
        made = fit(task, vae, ways, RunFolder(job.folder), job.identity, VAE_FOLDER.training)
        assert self._put is not None
        for event in ({"kind": "rendezvous", "port": 0}, {"kind": "alive"}, {"kind": "done", **made}):
            self._put(Message(launch, spec.rank, event))
        self._put(Message(launch, spec.rank, Ended("finished")))


def trained_here(workflow: Workflow, out: Path, listener: Listener = ignore) -> TrainResult:
    """Train it in this process."""
    return train(workflow, RunFolder(out), HereSpawner(1), 1, 1, listener)


SETS = [word for text in TINY for word in ("--set", text)]
"""`TINY` as words of a command."""


def run_by_command(place: Path) -> None:
    """`run` on one Dask worker in a process of its own. What it prints goes into files beside its folder."""
    command = [sys.executable, "-m", "daskt2i.workflow", "run", "-s", "local:1", "-o", str(place / "run"), "--json"]
    done = subprocess.run([*command, *SETS], capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr
    (place / "out.json").write_text(done.stdout, encoding="utf-8")
    (place / "err.txt").write_text(done.stderr, encoding="utf-8")


def arrays(out: Path | str) -> dict[str, Any]:
    """Every array of a run's store, by name."""
    group = zarr.open_group(ZarrStore(RunFolder(out)).address, mode="r")
    return {name: np.asarray(array[...]) for name, array in group.arrays()}


def assert_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
