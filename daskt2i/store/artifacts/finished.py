"""The one place that says whether a trained model is finished, missing, damaged or of another training.

    found = look(folder, PIPELINE_FOLDER, identity)
    found.state                 # State.FINISHED
    found.why                   # "" or a clause, such as "unet/config.json is missing"

`train`, `train-vae`, `sample`, `evaluate`, `run` and `status` ask it. The label `daskt2i.json` of a model folder
decides: it is written last, and holds the identity of the training and size and SHA-256 of each file. Folders of older
versions have no sizes; then the structure of the files decides. An autoencoder of an older version has no label at all;
then its tensors must be those of the newest checkpoint.

Covers: models in a run folder, and how far their trainings have come.
Does not cover: chunks of an encode (`receipts`, `status`), which settings may change (`train.resume`), writing a model
folder (`publish`).
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from daskt2i.config.settings import completed
from daskt2i.config.workflow_file import differences
from daskt2i.errors import StoreError
from daskt2i.store.artifacts import checkpoint_labels, structure
from daskt2i.store.artifacts.checkpoint_labels import CheckpointLabel
from daskt2i.store.run_folder import PIPELINE, TRAIN, RunFolder

LABEL = "daskt2i.json"
"""The file of a model folder that is written last: whose it is, and what belongs to it."""

ALONE = "denoiser_alone"
"""Key of a label: why there are no encoders, and so no index, beside the denoiser."""

FILES, IDENTITY, CHANGES, STEP = "files", "identity", "changes", "step"

EXPORT = "export_ema"
"""Setting of a training that decides which of its averages the model is."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder of a trained model in a run folder.

    Attributes:
        name: of the folder.
        training: folder of the training, with checkpoints and figures.
        index: a JSON file that the folder must have, unless its label says `ALONE`.
        has_parts: whether the index names folders.
        weights: safetensors files that it must have.
    """

    name: str
    training: str
    index: str
    has_parts: bool
    weights: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> str:
        """Folder of the checkpoints."""
        return f"{self.training}/checkpoints"


PIPELINE_FOLDER = ModelFolder(PIPELINE, TRAIN, "model_index.json", has_parts=True)
LORA_FOLDER = ModelFolder("lora", TRAIN, LABEL, False, ("pytorch_lora_weights.safetensors",))
VAE_FOLDER = ModelFolder("vae", "train-vae", "config.json", False, ("diffusion_pytorch_model.safetensors",))


class State(enum.StrEnum):
    """What a model folder is."""

    FINISHED = "finished"
    MISSING = "missing"
    DAMAGED = "damaged"
    OTHER = "of another training"


@dataclass(frozen=True, slots=True)
class Found:
    """A model folder.

    Attributes:
        why: what is missing, damaged or different, one clause; "" if it is finished.
        label: the content of its label; empty if it has none.
        checked: how the files were checked if no sizes are known, one clause; else "".
    """

    state: State
    why: str = ""
    label: Mapping[str, Any] = field(default_factory=dict)
    checked: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.state is State.FINISHED

    @property
    def alone(self) -> str | None:
        """Why the denoiser has no encoders beside it, so that it cannot draw; None if it has."""
        why = self.label.get(ALONE)
        return None if why is None else str(why)


def look(
    folder: RunFolder,
    model: ModelFolder,
    identity: Mapping[str, Any] | None = None,
    changes: Sequence[Mapping[str, Any]] | None = None,
    *,
    hashes: bool = True,
) -> Found:
    """Look at a model folder.

    Args:
        identity: of the training that it must be of; None accepts any.
        changes: the changed settings that this training had on its way; None accepts any.
        hashes: whether to read and hash all files. Otherwise only sizes are compared.

    Raises:
        StoreError: it cannot be read for want of a permission.
    """
    try:
        label = _label(folder, model)
    except ValueError:
        return Found(State.DAMAGED, f"{LABEL} is not a JSON object")
    except StoreError as error:
        if isinstance(error.__cause__, NotADirectoryError | IsADirectoryError):
            return Found(State.DAMAGED, "something else has its name")
        raise
    if not label and not folder.exists(f"{model.name}/{model.index}"):
        return Found(State.MISSING, "there is none")
    checked, why = "", _difference(label, identity, changes)
    if why is None:  # no label tells whose it is
        checked, why = "", _not_of_checkpoint(folder, model)
    if why:
        return Found(State.OTHER, why, label)
    if FILES in label:
        why = _damage(folder, model, label, hashes)
    else:
        checked = f"{model.name}/ is of an older version, which kept no sizes: only the form of its files was checked"
        why = _old_damage(folder, model, label)
    return Found(State.DAMAGED, why, label) if why else Found(State.FINISHED, "", label, checked)


def _label(folder: RunFolder, model: ModelFolder) -> dict[str, Any]:
    """The label; empty if there is none.

    Raises:
        ValueError: it is damaged.
    """
    try:
        found = json.loads(folder.read(f"{model.name}/{LABEL}"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _difference(
    label: Mapping[str, Any], identity: Mapping[str, Any] | None, changes: Sequence[Mapping[str, Any]] | None
) -> str | None:
    """How the training of a label differs, or ""; None if the label does not tell."""
    if identity is None:
        return ""
    given = label.get(IDENTITY)
    if not isinstance(given, Mapping):
        return None
    differ = differences(completed(given), completed(identity), "")
    if changes is not None and list(label.get(CHANGES, [])) != list(changes):
        differ.append("its settings changed at other steps")
    return "; ".join(differ)


def _not_of_checkpoint(folder: RunFolder, model: ModelFolder) -> str:
    """Why the weights of a folder without a label are not those of the newest checkpoint, or ""."""
    newest = checkpoint_labels.newest(folder, model.checkpoints)
    if newest is None or not model.weights or not folder.is_local:
        return f"it has no {LABEL}, which would tell"
    tensors = folder.local_path(f"{checkpoint_labels.stem(model.checkpoints, newest.step)}.safetensors")
    try:
        known = structure.tensor_hashes(tensors)
        mine = [structure.tensor_hashes(folder.local_path(f"{model.name}/{name}")) for name in model.weights]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it has no {LABEL}, and its weights cannot be compared ({error})"
    if all(one <= known for one in mine):
        return ""
    return f"it has no {LABEL}, and its weights are not those of the checkpoint of step {newest.step}"


def _damage(folder: RunFolder, model: ModelFolder, label: Mapping[str, Any], hashes: bool) -> str:
    """The first file that is not as the label says."""
    files = label[FILES]
    if not isinstance(files, Mapping) or not all(isinstance(one, Mapping) for one in files.values()):
        return f"{LABEL} has no list of files"
    if model.index not in files and ALONE not in label:
        return f"{LABEL} does not list {model.index}"
    for name, said in files.items():
        try:
            size = folder.size(f"{model.name}/{name}")
        except StoreError:  # the label names something outside of the folder
            return f"{LABEL} names {name!r}"
        if size is None:
            return f"{name} is missing"
        if size != said.get("size"):
            return f"{name} has {size:,} bytes instead of {said.get('size')}"
    for name, said in files.items() if hashes else ():
        if folder.sha256(f"{model.name}/{name}") != said.get("sha256"):
            return f"the bytes of {name} have changed"
    return ""


def _old_damage(folder: RunFolder, model: ModelFolder, label: Mapping[str, Any]) -> str:
    if ALONE not in label and not folder.exists(f"{model.name}/{model.index}"):
        return f"{model.index} is missing"
    if not folder.is_local:
        absent = [name for name in model.weights if not folder.exists(f"{model.name}/{name}")]
        return f"{absent[0]} is missing" if absent else ""
    index = model.index if model.has_parts else ""
    return structure.problem(folder.local_path(model.name), index, model.weights)


_NOT_YET = "it is written after the last step"


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How far a training in a run folder has come.

    Attributes:
        training: `train` or `train-vae`.
        step: of the newest checkpoint that can be used, or else of the model.
        steps: the last step of the training; None if unknown.
        model: the model folder, compared with that checkpoint, and with a training that runs.
        running: whether a training runs whose model is not written yet.
        checkpoint: whether `step` is that of a checkpoint.
        live: step of the training that runs; None if it is not known.
    """

    training: str
    step: int
    steps: int | None
    model: Found
    running: bool = False
    checkpoint: bool = False
    live: int | None = None

    @property
    def said(self) -> str:
        """One line for a person."""
        of = "" if self.steps is None else f" of {self.steps:,}"
        saved = f"checkpoint at step {self.step:,}"
        step = f"{saved}{of}" if self.checkpoint and not self.model.finished else f"step {self.step:,}{of}"
        if self.live is not None and self.live > self.step:
            step = f"step {self.live:,}{of}, {saved if self.checkpoint else 'no checkpoint yet'}"
        why = f" ({self.model.why})" if self.model.why else ""
        if not self.running:
            return f"{step}; {self.model.state}{why}"
        state = "still the one before" if self.model.state is State.OTHER else self.model.state
        return f"{step}; a training runs; the model is {state}{why}"

    def to_json(self) -> dict[str, Any]:
        """A value of `status --json`."""
        found: dict[str, Any] = {"step": self.step, "steps": self.steps, "model": str(self.model.state)}
        more = {"why": self.model.why} if self.model.why else {}
        live = {"live_step": self.live} if self.live is not None and self.live > self.step else {}
        return {**found, **more, **({"running": True} if self.running else {}), **live}


def progress(folder: RunFolder, model: ModelFolder, goal: int | None = None) -> TrainingProgress | None:
    """How far a training has come, by sizes alone; None if there is no checkpoint, no model and no running training.

    Args:
        goal: the last step of the training that runs now; None if none runs.
    """
    found = _progress(folder, model)
    if goal is None or (found is not None and found.step > goal):  # such a training ends at once, with an error
        return found
    if found is None:
        live = _live(folder, model)
        return TrainingProgress(model.training, 0, goal, Found(State.MISSING, _NOT_YET), running=True, live=live)
    made = found.model
    if made.finished and found.step < goal:
        made = Found(State.OTHER, f"it is of step {found.step}", made.label)
    runs = not made.finished
    live = _live(folder, model) if runs else None
    return TrainingProgress(model.training, found.step, goal, made, runs, found.checkpoint, live)


def _progress(folder: RunFolder, model: ModelFolder) -> TrainingProgress | None:
    newest = checkpoint_labels.newest(folder, model.checkpoints)
    found = look(folder, model, hashes=False)
    if newest is None:
        if found.state is State.MISSING:
            return None
        return TrainingProgress(model.training, _step(found.label), _steps(found.label.get(IDENTITY)), found)
    identity = newest.about.get(IDENTITY)
    steps = _steps(identity)
    if found.state is State.MISSING:
        found = Found(State.MISSING, _unfinished(newest, steps))
    elif found.finished and isinstance(identity, Mapping):
        why = _difference(_exported_as(identity, found.label), identity, None)
        if why is None:
            why = _not_of_checkpoint(folder, model)
        elif not why and STEP in found.label and _step(found.label) < newest.step:
            why = f"it is of step {_step(found.label)}"
        found = Found(State.OTHER, why, found.label) if why else found
    return TrainingProgress(model.training, newest.step, steps, found, checkpoint=True)


def _exported_as(identity: Mapping[str, Any], label: Mapping[str, Any]) -> Mapping[str, Any]:
    """The label, as if its model had the average that a checkpoint names. Another one may be taken after the last step,
    and no checkpoint is written for it.
    """
    given = label.get(IDENTITY)
    if not isinstance(given, Mapping):
        return label
    name = next((one for one in ("train", "vae") if isinstance(given.get(one), Mapping)), None)
    theirs = identity.get(name or "")
    if name is None or not isinstance(theirs, Mapping):
        return label
    section = {key: value for key, value in given[name].items() if key != EXPORT}
    section |= {EXPORT: theirs[EXPORT]} if EXPORT in theirs else {}
    return {**label, IDENTITY: {**given, name: section}}


_TAIL = 65_536
"""Bytes at the end of the figures of a training that hold its newest step."""


def _live(folder: RunFolder, model: ModelFolder) -> int | None:
    """The newest step in the figures of the training that runs; None without one.

    They are read on this machine only, because an object store would send all of them.
    """
    if not folder.is_local:
        return None
    try:
        with folder.local_path(f"{model.training}/metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            return int(json.loads(line)["step"])
    return None


def _unfinished(newest: CheckpointLabel, steps: int | None) -> str:
    at_end = steps is not None and newest.step >= steps
    return "it is written again from the newest checkpoint" if at_end else _NOT_YET


def _step(label: Mapping[str, Any]) -> int:
    found = label.get(STEP)
    return found if isinstance(found, int) else (_steps(label.get(IDENTITY)) or 0)


def _steps(identity: Any) -> int | None:
    """The last step of a training."""
    for name in ("train", "vae"):
        section = identity.get(name) if isinstance(identity, Mapping) else None
        if isinstance(section, Mapping) and isinstance(section.get("steps"), int):
            return int(section["steps"])
    return None
