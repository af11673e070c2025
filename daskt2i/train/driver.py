"""The training stages on the driver, for the denoiser and for an autoencoder: checks, jobs of the ranks, the result.

Covers: checking the store, checking that existing checkpoints belong to this training, the job for the ranks, the
result.
Does not cover: the work of a rank (`denoiser_rank`, `autoencoder_rank`), starting ranks (`launch`), drawing (`sample`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from daskt2i.config.settings import DatasetSettings, OptimiserSettings, Workflow
from daskt2i.encode.parts.verify import verify_all
from daskt2i.encode.saved_workflow import settings_of, with_source, without_secrets
from daskt2i.errors import Interrupted, StoreError, StoreMissing
from daskt2i.events import Event, LaunchEvent, Listener, Note, ignore, stage_events
from daskt2i.facts.selection import open_source
from daskt2i.formatting import duration, many
from daskt2i.hosts.model_files import encoder_infos, offer_within
from daskt2i.launch.launcher import LaunchResult
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.loader.dataset import SAMPLES
from daskt2i.model.own_encoders import cannot_draw, require_same_encoders
from daskt2i.model.pretrained.pipeline_folder import following
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, STEP, VAE_FOLDER, Found, ModelFolder, State, look
from daskt2i.store.layout import about_store
from daskt2i.store.ownership import claim, refuse_foreign
from daskt2i.store.publishing import lock
from daskt2i.store.run_folder import TRAIN, WORKFLOW, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.autoencoder_rank import PREFIX as VAE_PREFIX
from daskt2i.train.autoencoder_rank import AutoencoderJob as VaeJob
from daskt2i.train.autoencoder_rank import locate_given
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.denoiser_rank import DenoiserJob as TrainJob
from daskt2i.train.metrics import LAST_STEPS, loss_curves, mean_loss, read_metrics
from daskt2i.train.resume import (
    Continuing,
    check,
    continuing,
    curve_settings,
    identity_of,
    plain,
    refuse_all_poisoned,
    refuse_older,
    warmup_note,
)
from daskt2i.train.samples import as_begun, check_sizes, notes_before, refuse_other_rows
from daskt2i.train.upkeep.launching import launch_training
from daskt2i.train.upkeep.requests import forget_stop
from daskt2i.train.upkeep.tuning_checks import check_tuning, kept_with_pipeline, models_to_send
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class TrainResult(Viewed):
    """The result of a training.

    Attributes:
        steps: number of finished optimiser steps.
        loss: mean of the last `LAST_STEPS` steps.
        heldout_loss: held-out loss of the moving average at the end; None without validation rows.
        samples_per_second: over all ranks, without the first step; None if nothing was left to do.
        ranks, attempts: of this call; 0 if nothing was left to do.
        seconds: wall time of this call.
        made: address of the diffusers pipeline, or of the autoencoder.
        kind: `pipeline` or `vae`.
        more: further figures by name.
        notes: sentences for the user.
        curve: (step, loss), `heldout_curve`: (step, held-out loss), reduced to a few hundred points.
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
    kind: str = "pipeline"
    curve: tuple[tuple[int, float], ...] = ()
    heldout_curve: tuple[tuple[int, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The object that `train --json` and `train-vae --json` print."""
        found = {key: getattr(self, key) for key in ("steps", "loss", "heldout_loss", "samples_per_second")}
        return {**found, "ranks": self.ranks, "attempts": self.attempts, **self.more, self.kind: self.made}

    def view(self) -> View:
        """Steps, loss, speed and the address of the model; in a notebook also the loss curve."""
        last = many(min(LAST_STEPS, self.steps), "step")
        loss = "unknown" if self.loss is None else f"{self.loss:.4f} (mean loss of the last {last})"
        loss += f", held-out loss {self.heldout_loss:.4f}" if self.heldout_loss is not None else ""
        rows = [("steps", f"{self.steps:,}"), ("loss", loss)]
        if self.ranks:
            again = f", {self.attempts} attempts" * (self.attempts > 1)
            ranks = f"{self.ranks} rank{'s' * (self.ranks != 1)}{again}"
            speed = f"{self.samples_per_second:.1f} samples/s" if self.samples_per_second else "done at once"
            rows.append(("speed", f"{speed} ({ranks}); {duration(self.seconds)} with the start"))
        else:
            rows.append(("speed", "nothing was left to do"))
        figures = ((name, value) for name, value in self.more.items() if isinstance(value, int | float))
        rows += [(name.replace("_", " "), f"{value:,}") for name, value in figures]
        rows.append(("made", self.made))
        rows += [("note", note) for note in self.notes]
        label = "loss by step" + ", held-out loss (thick)" * (len(self.heldout_curve) > 1)
        return View("Trained", tuple(rows), curves=(self.curve, self.heldout_curve), curves_label=label)


def check_store(folder: RunFolder, listener: Listener = ignore) -> dict[str, Any]:
    """Check that a store can be trained on, and return its attributes.

    It compares receipts and sizes. The ranks hash each shard before they use it (`upkeep.checked_store`).

    Args:
        listener: gets the number of checked chunks.

    Raises:
        StoreMissing: there is no store.
        StoreError: chunks are open or damaged, or the encoders had random weights.
    """
    stored = about_store(ZarrStore(folder))
    if stored is None:
        raise StoreMissing(f"There is no latent store in {folder}, so there is nothing to train on. Encode first.")
    if stored["random_weights"]:
        raise StoreError(
            f"The store in {folder} was encoded with random weights, which are for speed tests. A model that is "
            "trained on it draws only noise. Encode with pretrained encoders into another run folder (out)."
        )
    verify_all(folder, None, listener, deep=False).raise_for_problems()
    return stored


def trained_steps(workflow: Workflow, folder: RunFolder) -> int:
    """The step of the newest checkpoint; 0 if there is none.

    Raises:
        FingerprintMismatch: the checkpoints belong to other settings or another store.
        ConfigError: they are of a later step than the last one of the workflow.
        StoreError: all checkpoints are poisoned.
    """
    stored = about_store(ZarrStore(folder))
    if stored is None:
        return 0
    identity = as_begun(identity_of(following(workflow.train), stored), folder)
    refuse_other_rows(folder, identity)
    return _checkpoint(folder, PIPELINE_FOLDER, identity, workflow.train.steps).step


def train(
    workflow: Workflow,
    folder: RunFolder,
    spawner: RankSpawner,
    ranks: int,
    threads: int,
    listener: Listener = ignore,
) -> TrainResult:
    """Train the denoiser on a run folder's store, from the newest checkpoint. Does nothing if training is finished.

    Args:
        workflow: only its sections `train`, `launch`, `sample` and `dataset.encoders` are used.
        spawner: starts the ranks.
        listener: gets the number of checked chunks, then the events of the ranks.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        StoreBusy: another process works on the run folder.
        StoreMissing, StoreError: the store cannot be trained on.
        FingerprintMismatch: the existing checkpoints belong to other settings or another store.
        Daskt2iError: another error ended the training; checkpoints are kept.
    """
    refuse_foreign(folder)
    with (
        _stage("train", workflow.train, folder, listener),
        lock.hold(folder, TRAIN, lambda text: listener(Note(text)), workflow.train.steps),
    ):
        stored = check_store(folder, listener)
        workflow = with_source(workflow, folder, draw=False)  # ranks may run in another folder
        encoders = workflow.dataset.encoders
        require_same_encoders(workflow.dataset, stored, folder)
        _say_what_is_not_drawn(workflow.dataset, listener)
        settings, ways = following(workflow.train), workflow.launch
        workflow = kept_with_pipeline(workflow, settings)
        identity = as_begun(identity_of(settings, stored), folder)
        refuse_other_rows(folder, identity)
        if done := _done(folder, PIPELINE_FOLDER, identity, settings, listener):
            return done
        check_tuning(settings, workflow.dataset, folder, stored, listener)
        check_sizes(settings, folder)
        claim(folder)
        for text in notes_before(folder, settings, SAMPLES not in identity, ranks, ways.cache_bytes()):
            listener(Note(text))
        job = TrainJob(
            folder=folder.root,
            storage_options=folder.storage_options or None,
            train=plain(settings),
            launch=plain(ways),
            identity=identity,
            cache_bytes=ways.cache_bytes(),
            vae=plain(encoders.image),
            text=plain(encoders.text),
            sample=plain(workflow.sample),
            batch=settings.batch,
            dataset=plain(workflow.dataset),
        )

        def keeping(event: Event) -> None:
            # Not before: settings that cannot start a training must not become those of the folder.
            if isinstance(event, LaunchEvent) and event.kind in ("started", "done"):
                _keep_settings(workflow, folder)
            listener(event)

        find = models_to_send(encoder_infos(encoders, workflow.dataset.image.side), settings)
        send = partial(offer_within, workflow.run.send_bytes(), find, folder, listener)
        gone = launch_training("denoiser_rank", job, spawner, ranks, threads, keeping, ways, folder, send)
        return _launched(folder, settings, "train", gone, "pipeline")


_BY_ROW = (
    "The rows for validation are chosen by row. Images are not compared before the training, so an image that is in "
    "the data twice may be on both sides, and its held-out loss looks better than that of a new image."
)
"""To compare images, `train-vae` would have to read all of them first, which takes as long as an epoch of reading."""


def train_vae(
    workflow: Workflow, folder: RunFolder, spawner: RankSpawner, ranks: int, threads: int, listener: Listener = ignore
) -> TrainResult:
    """Train or fine-tune an autoencoder on a source's images. Does nothing if it is finished. See `train`."""
    claim(folder)
    with (
        _stage(VAE_PREFIX, workflow.vae, folder, listener),
        lock.hold(folder, VAE_PREFIX, lambda text: listener(Note(text)), workflow.vae.steps),
    ):
        workflow = with_source(workflow, folder, draw=False)
        # An autoencoder fits on every device that trains one, and it measures itself whole.
        settings, ways, source = workflow.vae, workflow.launch.unsharded(), workflow.dataset.source
        info = open_source(workflow.dataset, folder).info()
        identity = {
            "source": {**source.identity(), **info.content},
            **({} if info.where is None else {"where": dict(info.where)}),
            "image": plain(workflow.dataset.image),
            "vae": curve_settings(settings),
        }
        if done := _done(folder, VAE_FOLDER, identity, settings, listener):
            return done
        if settings.validation and Checkpoints(folder, f"{VAE_PREFIX}/checkpoints").newest(tensors=False) is None:
            listener(Note(_BY_ROW))
        job = VaeJob(
            folder=folder.root,
            storage_options=folder.storage_options or None,
            source=plain(source),
            image=plain(workflow.dataset.image),
            vae=plain(settings),
            launch=plain(ways),
            identity=identity,
            cache_bytes=ways.cache_bytes(),
            batch=settings.batch,
            dataset=None if workflow.dataset.where is None else plain(workflow.dataset),
        )
        find = partial(locate_given, settings.model, workflow.dataset.image.resolution)
        send = partial(offer_within, workflow.run.send_bytes(), find, folder, listener)
        gone = launch_training("autoencoder_rank", job, spawner, ranks, threads, listener, ways, folder, send)
        return _launched(folder, settings, VAE_PREFIX, gone, "vae")


@contextmanager
def _stage(name: str, settings: OptimiserSettings, folder: RunFolder, listener: Listener) -> Iterator[None]:
    """Send the start and the end of a training to the listener, and turn Ctrl-C into an error with a sentence."""
    forget_stop(folder, name)
    with stage_events(name, settings.steps, listener, settings.batch):
        try:
            yield
        except Interrupted:  # it says why the training stopped, such as at the end of its walltime
            raise
        except KeyboardInterrupt:
            newest = Checkpoints(folder, f"{name}/checkpoints").newest(tensors=False)
            stands = f"The checkpoint of step {newest.step:,} is kept" if newest else "There is no checkpoint yet"
            raise Interrupted(f"Stopped, and no rank is left running. {stands}. Train again to continue.") from None


def _say_what_is_not_drawn(dataset: DatasetSettings, listener: Listener) -> None:
    if why := cannot_draw(dataset):
        listener(Note(f"The trained model will not draw pictures: {why}. The training itself does not need them."))


def _done(
    folder: RunFolder,
    model: ModelFolder,
    identity: Mapping[str, Any],
    settings: OptimiserSettings,
    listener: Listener,
) -> TrainResult | None:
    """The result if this training is finished, and its model is whole. Else None, and the user reads what is special.

    Raises:
        FingerprintMismatch, ConfigError, StoreError: see `_checkpoint`.
    """
    plan = _checkpoint(folder, model, identity, settings.steps)
    found = look(folder, model, identity, plan.changes if plan.step else None)
    # Older labels have no step: they were written after the last one. Without a label only the checkpoint tells.
    at = found.label.get(STEP, settings.steps) if found.label else plan.step
    if found.finished and at == settings.steps:
        notes = [f"{found.checked}."] if found.checked else []
        if not plan.step:
            notes.append(
                f"There are no checkpoints, but {model.name}/ is the result of this training, so nothing was trained. "
                f"Remove {folder.address(model.name)} to train from the start."
            )
        return _ended(folder, settings.steps, model.training, {}, 0, 0, 0.0, folder.address(model.name), notes)
    if plan.step == settings.steps:
        listener(Note(_written_again(model, found, plan.step)))
    elif note := warmup_note(settings, "vae" if model is VAE_FOLDER else "train"):
        listener(Note(note))
    return None


def _written_again(model: ModelFolder, found: Found, step: int) -> str:
    what = f"{model.name}/ is {found.state}"
    why = "" if found.state is State.MISSING else f": {found.why}"
    return f"{what}{why}. It is written again from the checkpoint of step {step:,}, and nothing is trained."


def _checkpoint(folder: RunFolder, model: ModelFolder, identity: Mapping[str, Any], steps: int) -> Continuing:
    """How this training continues from the newest checkpoint; from step 0 if there is none.

    Raises:
        FingerprintMismatch: the checkpoint belongs to another training.
        ConfigError: it is of a later step than `steps`.
        StoreError: all checkpoints are poisoned.
    """
    checkpoints = Checkpoints(folder, model.checkpoints)
    newest = checkpoints.newest(tensors=False)
    if newest is None:
        refuse_all_poisoned(checkpoints)
        return Continuing(0)
    refuse_older(newest.about, identity, folder.address(model.checkpoints))
    plan = continuing(newest.step, newest.about, identity)
    check(plan, steps, folder.address(model.checkpoints), folder.root)
    return plan


def _launched(
    folder: RunFolder, settings: OptimiserSettings, prefix: str, gone: LaunchResult, kind: str
) -> TrainResult:
    last = gone.last["done"].fields if "done" in gone.last else {}
    at = int(last.get(STEP, settings.steps))
    return _ended(folder, at, prefix, last, gone.ranks, gone.attempts, gone.seconds, str(last.get(kind)))


def _ended(
    folder: RunFolder,
    steps: int,
    prefix: str,
    last: Mapping[str, Any],
    ranks: int,
    attempts: int,
    seconds: float,
    made: str,
    notes: Sequence[str] = (),
) -> TrainResult:
    lines = read_metrics(folder, prefix)
    curve, heldout_curve = loss_curves(lines)
    loss = mean_loss(lines)
    heldout = [line["heldout_loss"] for line in lines if "heldout_loss" in line]
    own = ("kind", "rank", "attempt", "step", "samples_per_second", "pipeline", "vae", "note")
    return TrainResult(
        steps=steps,
        loss=None if loss is None else round(loss, 6),
        heldout_loss=round(heldout[-1], 6) if heldout else None,
        samples_per_second=last.get("samples_per_second"),
        ranks=ranks,
        attempts=attempts,
        seconds=seconds,
        made=made,
        more={key: value for key, value in last.items() if key not in own},
        notes=(*notes, *([last["note"]] if last.get("note") else [])),
        kind="vae" if prefix == VAE_PREFIX else "pipeline",
        curve=curve,
        heldout_curve=heldout_curve,
    )


def _keep_settings(workflow: Workflow, folder: RunFolder) -> None:
    """Write `workflow.yaml` of the run folder: the settings of the encode, and the settings of this training."""
    stored = settings_of(folder)
    if stored is not None:
        workflow = workflow.model_copy(update={"name": stored.name, "dataset": stored.dataset, "run": stored.run})
    folder.write(WORKFLOW, without_secrets(workflow).to_yaml().encode())
