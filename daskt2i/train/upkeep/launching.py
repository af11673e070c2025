"""Launching the ranks of a training: what the settings say, and what `status` shows while a rank stands still.

Covers: the arguments of `launch` that come from `launch:`; writing and removing the object that `status` reads.
Does not cover: attempts (`launch.launcher`), who stands still (`launch.vitals.standstill`), how it looks (`display`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable
from typing import Any

from daskt2i.config.settings import DatasetSettings, LaunchSettings, TrainSettings
from daskt2i.errors import ModelMissing
from daskt2i.events import LaunchEvent, Listener
from daskt2i.hosts.sight import visible
from daskt2i.launch.launcher import LaunchResult, launch
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.store.run_folder import STANDSTILL, TRAIN, RunFolder
from daskt2i.train.trackers.follow import Trackers, require_packages
from daskt2i.train.upkeep.rank_memory import encoder_bytes, rank_bytes

_SEEN = {"denoiser_rank": f"{TRAIN}/seen", "autoencoder_rank": "train-vae/seen"}
"""Module of the ranks -> an object of the run folder that each rank must see; the modules name it too."""

_SETTINGS = ("dataset", "source", "image", "train", "vae", "launch", "sample")
"""Fields of a job that a tracker gets as the settings of its run."""


def launch_training(
    name: str,
    job: Any,
    spawner: RankSpawner,
    ranks: int,
    threads: int,
    listener: Listener,
    ways: LaunchSettings,
    folder: RunFolder,
    send: Callable[[], str] = lambda: "no models are needed",
) -> LaunchResult:
    """Run a module of this room as the ranks of a training. Other arguments and errors as in `launch`.

    If the host of rank 0 lacks a model of the encoders, the models are offered to it, and the ranks start again.

    Args:
        name: the module: `denoiser_rank` or `autoencoder_rank`.
        job: its job, a data class with a `nonce`.
        folder: the run folder, which this process holds.
        send: offers the models in the run folder. Returns "", or why not.

    Raises:
        ModelMissing: the host of rank 0 lacks a model, and it was not sent.
        ConfigError: the package of a tracker is not installed.
    """
    require_packages(ways.trackers)
    module, given = f"daskt2i.train.{name}", dataclasses.asdict(job)
    train = TrainSettings.model_validate(given["train"]) if "train" in given else None
    settings = {section: given[section] for section in _SETTINGS if given.get(section) is not None}
    trackers = Trackers(ways.trackers, folder, _SEEN[name].partition("/")[0], settings, listener)
    shown = _ForStatus(folder, trackers.hear)
    encoder = encoder_bytes(DatasetSettings.model_validate(given["dataset"])) if given.get("dataset") else 0

    def start(nonce: str) -> LaunchResult:
        return launch(
            module,
            {**given, "nonce": nonce},
            spawner,
            ranks,
            threads,
            shown.hear,
            ways.max_restarts + 1,  # the first attempt is not a restart
            gpus=ways.device != "cpu",
            stall_seconds=ways.stall_minutes * 60,
            walltime_seconds=ways.walltime_minutes * 60,
            rank_bytes=rank_bytes(train, ways, encoder, ranks=ranks),
        )

    try:
        with visible(folder, _SEEN[name]) as nonce:
            try:
                return start(nonce)
            except ModelMissing as error:
                if why := send():
                    raise ModelMissing(
                        f"{error} The models were not sent there: {why}. Put them under the same path on that host, or "
                        "set run.send_models higher; then train again."
                    ) from error
                return start(nonce)
    finally:
        shown.remove()
        trackers.close()


class _ForStatus:
    """A listener that keeps what stands still in the run folder, and hands every event on."""

    def __init__(self, folder: RunFolder, listener: Listener) -> None:
        self._folder, self._listener, self._written = folder, listener, False
        self.remove(always=True)  # a killed driver may have left one

    def hear(self, event: LaunchEvent) -> None:
        if event.kind == "waiting":
            with contextlib.suppress(Exception):  # the folder may be behind the network that is dead
                self._folder.write(STANDSTILL, json.dumps({"waiting": [event["text"]]}).encode())
                self._written = True
        elif event.kind in ("moving", "failed", "attempt"):
            self.remove()
        self._listener(event)

    def remove(self, always: bool = False) -> None:
        if self._written or always:
            with contextlib.suppress(Exception):
                self._folder.delete(STANDSTILL)
            self._written = False
