"""The training stages on the driver: what must hold before ranks are started, and what is told when they are done.

Covers: whether the store can be trained on, whose checkpoints lie in the run folder, how many ranks, the job that they
are sent, the summary; for the denoiser and for an autoencoder.
Does not cover: what a rank does (`denoiser_rank`, `autoencoder_rank`), starting ranks (`launch`), sampling (`sample`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daskt2i.config.settings import LaunchSettings, OptimiserSettings, Workflow, completed
from daskt2i.config.workflow_file import differences
from daskt2i.encode.saved_workflow import settings_of, with_source, without_secrets
from daskt2i.encode.verify import verify
from daskt2i.errors import FingerprintMismatch, Interrupted, StoreError, StoreMissing
from daskt2i.events import Listener, ignore, stage_events
from daskt2i.facts.selection import open_source
from daskt2i.launch.launcher import launch
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.model.pipeline import about as pipeline_about
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.store import lock
from daskt2i.store.run_folder import WORKFLOW, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.autoencoder_rank import PREFIX as VAE_PREFIX
from daskt2i.train.autoencoder_rank import AutoencoderJob as VaeJob
from daskt2i.train.checkpoint import CHECKPOINTS, Checkpoints
from daskt2i.train.denoiser_rank import DenoiserJob as TrainJob
from daskt2i.train.metrics import read_metrics

LAST_STEPS = 50
"""Steps over which the loss in the summary is averaged: that of one step says little."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a training ended.

    Attributes:
        steps: optimiser steps in all.
        loss: mean of the last `LAST_STEPS` steps.
        heldout_loss: of the moving average at the end, None where no rows were held out.
        samples_per_second: over all ranks, without the first step; None where nothing was left to do.
        ranks, attempts: of this command; 0 where nothing was left to do.
        seconds: of this command.
        made: where the result lies.
        more: further figures by name.
        notes: sentences for the user.
    """

    steps: int
    loss: float | None
    heldout_loss: float | None
    samples_per_second: float | None
    ranks: int
    attempts: int
    seconds: float
    made: str
    more: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_json(self, name: str = "pipeline") -> dict[str, Any]:
        """The object that `--json` prints; `name` is that of what was made."""
        found = {key: getattr(self, key) for key in ("steps", "loss", "heldout_loss", "samples_per_second")}
        return {**found, "ranks": self.ranks, "attempts": self.attempts, **self.more, name: self.made}


def check_store(folder: RunFolder, listener: Listener = ignore) -> dict[str, Any]:
    """The attributes of a store that can be trained on.

    Args:
        listener: told how many chunks are checked.

    Raises:
        StoreMissing: there is none.
        StoreError: chunks are open or damaged, or the encoders were never trained.
    """
    attributes = ZarrStore(folder).attributes()
    if attributes is None:
        raise StoreMissing(f"There is no latent store in {folder}, so there is nothing to train on. Run encode first.")
    stored: dict[str, Any] = attributes["daskt2i"]
    if stored["random_weights"]:
        raise StoreError(
            f"The store in {folder} was encoded with random weights, which is for speed tests; what is trained on it "
            "draws noise. Encode with pretrained encoders into another folder."
        )
    verdict = verify(folder, None, listener)
    if not verdict.ok:
        first = verdict.shared or verdict.problems[min(verdict.problems)]
        more = f" (and {len(verdict.problems) - 1} more)" if len(verdict.problems) > 1 else ""
        raise StoreError(
            f"The store in {folder} cannot be trained on yet: {first}{more}. Run encode again: it does what is open, "
            "repairs what is damaged, and leaves the rest alone."
        )
    return stored


def train(
    workflow: Workflow,
    folder: RunFolder,
    spawner: RankSpawner,
    ranks: int,
    threads: int,
    listener: Listener = ignore,
) -> TrainResult:
    """Train the denoiser on a run folder's store, from its newest checkpoint on; nothing if it is done.

    Args:
        workflow: its sections `train`, `launch` and `dataset.encoders` count.
        spawner: where ranks run.
        listener: told how many chunks are checked, then what the ranks tell.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        StoreBusy: another command works on the run folder.
        StoreMissing, StoreError: the store cannot be trained on.
        FingerprintMismatch: the checkpoints that are there belong to other settings or another store.
        Daskt2iError: whatever ended the training; checkpoints stand.
    """
    with _stage("train", workflow.train, folder, listener), lock.hold(folder, "train"):
        stored = check_store(folder, listener)
        workflow = with_source(workflow, folder, draw=False)  # ranks may stand in another folder
        encoders = workflow.dataset.encoders
        _same_encoders(workflow, stored, folder)
        settings, ways = workflow.train, workflow.launch
        identity = {"store": stored["fingerprint"], "train": _plain(settings)}
        done = _checkpoint(folder, CHECKPOINTS, identity)
        if done == settings.steps and completed(pipeline_about(folder).get("identity", {})) == completed(identity):
            return _ended(folder, settings.steps, "train", {}, 0, 0, 0.0, folder.address("pipeline"))
        _keep_settings(workflow, folder)
        job = TrainJob(
            folder=folder.root,
            storage_options=folder.storage_options or None,
            train=_plain(settings),
            launch=_plain(ways),
            identity=identity,
            cache_bytes=ways.cache_bytes(),
            vae=_plain(encoders.image),
            text=_plain(encoders.text),
            sample=_plain(workflow.sample),
            batch=settings.batch,
        )
        gone = launch(
            "daskt2i.train.denoiser_rank", dataclasses.asdict(job), spawner, ranks, threads, listener, **_ways(ways)
        )
        last = gone.last["done"].fields if "done" in gone.last else {}
        return _ended(
            folder, settings.steps, "train", last, gone.ranks, gone.attempts, gone.seconds, str(last.get("pipeline"))
        )


def train_vae(
    workflow: Workflow, folder: RunFolder, spawner: RankSpawner, ranks: int, threads: int, listener: Listener = ignore
) -> TrainResult:
    """Train or fine-tune an autoencoder on a source's images; nothing if it is done. As `train`."""
    with _stage(VAE_PREFIX, workflow.vae, folder, listener), lock.hold(folder, VAE_PREFIX):
        workflow = with_source(workflow, folder, draw=False)
        settings, ways, source = workflow.vae, workflow.launch, workflow.dataset.source
        info = open_source(workflow.dataset, folder).info()
        identity = {
            "source": {**source.identity(), **info.content},
            **({} if info.where is None else {"where": dict(info.where)}),
            "image": _plain(workflow.dataset.image),
            "vae": _plain(settings),
        }
        done = _checkpoint(folder, f"{VAE_PREFIX}/checkpoints", identity)
        if done == settings.steps and folder.exists("vae/config.json"):
            return _ended(folder, settings.steps, VAE_PREFIX, {}, 0, 0, 0.0, folder.address("vae"))
        job = VaeJob(
            folder=folder.root,
            storage_options=folder.storage_options or None,
            source=_plain(source),
            image=_plain(workflow.dataset.image),
            vae=_plain(settings),
            launch=_plain(ways),
            identity=identity,
            cache_bytes=ways.cache_bytes(),
            batch=settings.batch,
            dataset=None if workflow.dataset.where is None else _plain(workflow.dataset),
        )
        gone = launch(
            "daskt2i.train.autoencoder_rank", dataclasses.asdict(job), spawner, ranks, threads, listener, **_ways(ways)
        )
        last = gone.last["done"].fields if "done" in gone.last else {}
        return _ended(
            folder, settings.steps, VAE_PREFIX, last, gone.ranks, gone.attempts, gone.seconds, str(last.get("vae"))
        )


@contextmanager
def _stage(name: str, settings: OptimiserSettings, folder: RunFolder, listener: Listener) -> Iterator[None]:
    """The begin and the end of a training for whoever listens, and Ctrl-C as a sentence."""
    with stage_events(name, settings.steps, listener, settings.batch):
        try:
            yield
        except KeyboardInterrupt:
            newest = Checkpoints(folder, f"{name}/checkpoints").newest(tensors=False)
            stands = f"The checkpoint of step {newest.step:,} stands" if newest else "There is no checkpoint yet"
            raise Interrupted(f"Stopped; no rank is left running. {stands}, and the same command goes on.") from None


def _plain(model: Any) -> dict[str, Any]:
    """Settings as JSON values, as they go into identities and jobs."""
    found: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True))
    return found


def _ways(ways: LaunchSettings) -> dict[str, Any]:
    return {"attempts": ways.attempts, "gpus": ways.device != "cpu"}


def _same_encoders(workflow: Workflow, stored: Mapping[str, Any], folder: RunFolder) -> None:
    """The pipeline gets the workflow's encoders, so they must be those that made the latents."""
    encoders, resolution = workflow.dataset.encoders, workflow.dataset.image.resolution
    image: ImageEncoder = encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = encoders.text.build(TextEncoder, "dataset.encoders.text")
    mine = {
        "image": {**encoders.image.identity(), "weights": image.info(resolution).weights},
        "text": {**encoders.text.identity(), "weights": text.info().weights},
    }
    if differ := differences(stored["identity"]["encoders"], mine, "dataset.encoders."):
        raise FingerprintMismatch(
            f"The store in {folder} was made with other encoders than this workflow names: {'; '.join(differ)}. "
            "Nothing was started; give the --workflow and settings that it was encoded with."
        )


def _checkpoint(folder: RunFolder, name: str, identity: Mapping[str, Any]) -> int:
    """Step of the newest checkpoint, 0 without one.

    Raises:
        FingerprintMismatch: it belongs to another training.
    """
    newest = Checkpoints(folder, name).newest(tensors=False)
    if newest is None:
        return 0
    if differ := differences(completed(newest.about["identity"]), completed(identity), ""):
        raise FingerprintMismatch(
            f"The checkpoints in {folder.address(name)} belong to another training: {'; '.join(differ)}. They were not "
            "touched. Go back to those settings, or remove that folder, or train in another run folder (--out)."
        )
    return newest.step


def _ended(
    folder: RunFolder,
    steps: int,
    prefix: str,
    last: Mapping[str, Any],
    ranks: int,
    attempts: int,
    seconds: float,
    made: str,
) -> TrainResult:
    lines = read_metrics(folder, prefix)
    losses = [line["loss"] for line in lines if "loss" in line][-LAST_STEPS:]
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    own = ("kind", "rank", "attempt", "step", "samples_per_second", "pipeline", "vae", "note")
    return TrainResult(
        steps=steps,
        loss=round(sum(losses) / len(losses), 6) if losses else None,
        heldout_loss=round(heldout[-1], 6) if heldout else None,
        samples_per_second=last.get("samples_per_second"),
        ranks=ranks,
        attempts=attempts,
        seconds=seconds,
        made=made,
        more={key: value for key, value in last.items() if key not in own},
        notes=tuple([last["note"]] if last.get("note") else []),
    )


def _keep_settings(workflow: Workflow, folder: RunFolder) -> None:
    """`workflow.yaml` of the run folder: what it was encoded with, and what it is trained with now."""
    stored = settings_of(folder)
    if stored is not None:
        workflow = workflow.model_copy(update={"name": stored.name, "dataset": stored.dataset, "run": stored.run})
    folder.write(WORKFLOW, without_secrets(workflow).to_yaml().encode())
