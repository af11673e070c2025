"""Which training a checkpoint belongs to, and which settings may change when a training continues from it.

    plan = continuing(checkpoint.step, checkpoint.about, identity)
    plan.differs        # what decides the curve and is different; then the checkpoint is refused
    plan.changes        # what changed on the way, and at which step; it is kept with checkpoints and the model

Two lists. **Identity**: everything in the identity except `MAY_CHANGE` decides the curve, and must be equal.
**Permission**: `MAY_CHANGE` (the schedule of the rate, what is done about spikes, which average the model gets) may
change from the step of the checkpoint on. `launch:` and `run:` are not in the identity at all.

A changed schedule that gives each finished step the rate that it had changes nothing: the training is the same as one
that had this schedule from its begin, to the bit. So it leaves no record. Any other change is recorded.

Covers: making and comparing identities, the record of changes, the label of a model, notes.
Does not cover: the rate of a step (`optimisation.schedule`), reading checkpoints (`checkpoint`), the loop (`loop`),
whether a model is finished (`store.artifacts.finished`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daskt2i.config.renamed import with_old_names
from daskt2i.config.settings import OptimiserSettings, TrainSettings, completed
from daskt2i.config.workflow_file import differences, fingerprint
from daskt2i.errors import ConfigError, FingerprintMismatch, StoreError
from daskt2i.formatting import many
from daskt2i.loader.dataset import SAMPLED, SAMPLES
from daskt2i.model.denoisers.unet import pools_text
from daskt2i.model.pipeline import POOLED, WITHOUT_PADDING
from daskt2i.model.pretrained.pipeline_folder import find, tuning_identity
from daskt2i.store.artifacts.finished import CHANGES, IDENTITY, STEP
from daskt2i.store.layout import padding_is_text
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.optimisation.schedule import RATE_SETTINGS, rate, rate_of

RECORDED = (*RATE_SETTINGS, "on_spike", "spike_factor")
"""Those of `MAY_CHANGE` that change the steps after the checkpoint: the rate by step, and what is done about a spike.
"""

MAY_CHANGE = (*RECORDED, "export_ema")
"""Settings of `train:` and `vae:` that may change when a training continues from a checkpoint. `export_ema` changes no
step, so it leaves no record, and it may change after the last one."""

_SECTIONS = ("train", "vae")


def plain(model: Any) -> dict[str, Any]:
    """Settings as JSON values, for identities and jobs."""
    found: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True))
    return found


_V_WEIGHT = "v_weight"
_OLDER = {
    POOLED: "counted the padding of captions as part of the pooled prompt",
    _V_WEIGHT: "weighted the loss of v by min(SNR + 1, gamma) / (SNR + 1)",
}
"""Keys of an identity that older versions did not write, and what those did instead."""


_OPTIONAL = (
    *("where", "view", "caption_weights", "times", "pretrained"),
    *("schedule", "decay", "decay_shape", "on_spike", "spike_factor", "emas", "export_ema"),
)
"""Settings of `train:` and `vae:` that stand in an identity only if they are not the default. So the fingerprint of a
training that does not use them is that of an older version."""


def curve_settings(settings: OptimiserSettings) -> dict[str, Any]:
    """The settings of a training as they stand in its identity."""
    usual = plain(type(settings).model_validate({}))
    return {name: value for name, value in plain(settings).items() if name not in _OPTIONAL or value != usual[name]}


def identity_of(settings: TrainSettings, stored: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the loss curve of a denoiser: its settings, the store, and what follows from both.

    Args:
        settings: with what follows from their pipeline (`following`).
        stored: the result of `about_store`.
    """
    train = curve_settings(settings)
    if settings.pretrained is not None:
        del train["model"]  # that of the pipeline, whose weights tell it
        train["pretrained"] = tuning_identity(find(settings.pretrained))
    found = {"store": stored["fingerprint"], "train": train, SAMPLES: dict(SAMPLED)}
    if (
        settings.model.class_path is None
        and not padding_is_text(stored)
        and pools_text(settings.model.config, settings.model.preset)
    ):
        found[POOLED] = WITHOUT_PADDING
    if settings.objective == "v" and settings.snr_gamma is not None:
        found[_V_WEIGHT] = "min(SNR, gamma) / (SNR + 1)"
    return found


@dataclass(frozen=True, slots=True)
class Continuing:
    """How a training continues from a checkpoint.

    Attributes:
        step: of the checkpoint.
        differs: differences that are not permitted, one clause each.
        changes: all changes so far, oldest first: `{"step": 300, "learning_rate": [0.001, 0.0001]}`, before and after.
        new: settings that change now, before and after, whether they are recorded or not.
        rates: rate of the next step without and with the change.
    """

    step: int
    differs: tuple[str, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    new: Mapping[str, list[Any]] | None = None
    rates: tuple[float, float] | None = None

    @property
    def note(self) -> str:
        """A sentence about what changes now, or ""."""
        if not self.new:
            return ""
        said = ", ".join(f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in self.new.items())
        if not self.changes or self.changes[-1][STEP] != self.step:
            return (
                f"The training continues from step {self.step:,} with {said}. The finished steps had the rates of this "
                "schedule too, so the curve is that of one training."
            )
        before, after = self.rates or (0.0, 0.0)
        return (
            f"The training continues from step {self.step:,} with {said}. The learning rate of the next step is "
            f"{after:.3g}; without the change it would be {before:.3g}. The change is kept with the figures and with "
            "the model."
        )


def continuing(step: int, about: Mapping[str, Any], identity: Mapping[str, Any]) -> Continuing:
    """Compare a checkpoint with the training that would continue from it.

    Args:
        step, about: of the checkpoint.
        identity: of the training.
    """
    stored, wanted = completed(about.get(IDENTITY, {})), completed(identity)
    old, new = _schedule(stored), _schedule(wanted)
    differs = differences(_fixed(stored), _fixed(wanted), "")
    if differs:
        return Continuing(step, tuple(differs))
    history = tuple(one for one in about.get(CHANGES, ()) if isinstance(one, Mapping))
    changed = {name: [old[name], new[name]] for name in RECORDED if name in old and old[name] != new[name]}
    if not changed:
        return Continuing(step, (), history)
    # An identity of another trainer may lack a part of the schedule; then its rates are unknown.
    if all(name in new for name in RATE_SETTINGS):
        rates = (rate_of(old, step), rate_of(new, step))
        same = set(changed) <= set(RATE_SETTINGS)
        if same and all(rate_of(_in_force(old, history, one), one) == rate_of(new, one) for one in range(step)):
            return Continuing(step, (), (), changed, rates)
    else:
        rates = None
    if set(changed) != {"steps"} and step >= new.get("steps", math.inf):  # no step is left that could follow them
        return Continuing(step, tuple(differences(stored, wanted, "")))
    return Continuing(step, (), (*history, {STEP: step, **changed}), changed, rates)


def refuse_older(about: Mapping[str, Any], identity: Mapping[str, Any], place: str) -> None:
    """Refuse a checkpoint of an older version whose mathematics differ from those of this training.

    Args:
        about: of the checkpoint.
        place: address of the checkpoints.

    Raises:
        FingerprintMismatch: they differ.
    """
    found = about.get(IDENTITY, {})
    older = [did for key, did in _OLDER.items() if key in identity and key not in found]
    same = {key: value for key, value in identity.items() if key not in _OLDER or key in found}
    # With other settings it is another training, of this version perhaps: flow has no weight of v.
    if older and not differences(_fixed(completed(found)), _fixed(completed(same)), ""):
        raise FingerprintMismatch(
            f"The checkpoints in {place} are of an older version, which {' and '.join(older)}, so this training cannot "
            "go on from them. They were not touched, and a pipeline that they made still draws. Remove this folder, or "
            "encode and train in another run folder (out)."
        )


def check(found: Continuing, steps: int, place: str, out: str) -> None:
    """Refuse a checkpoint that this training cannot continue from.

    Args:
        steps: the last step of this training.
        place: address of the checkpoints; `out` of the run folder.

    Raises:
        FingerprintMismatch: it belongs to another training.
        ConfigError: it is of a later step.
    """
    if found.differs:
        raise FingerprintMismatch(
            f"The checkpoints in {place} belong to another training: {'; '.join(found.differs)}. They were not "
            "touched. Go back to its settings, remove this folder, or encode and train in another run folder (out)."
        )
    if found.step > steps:
        raise ConfigError(
            f"The checkpoint in {place} has {many(found.step, 'step')}, but this training would end after {steps:,} "
            "(steps). "
            "Nothing was changed. To go on with the settings of the folder, call "
            f'daskt2i.open_run("{out}").train(), or give only the run folder (out). Set steps to {found.step} or more '
            "to train longer, or encode and train in another run folder (out)."
        )


def refuse_all_poisoned(checkpoints: Checkpoints) -> None:
    """Refuse to begin anew beside checkpoints that are all poisoned. Call it if there is none to continue from.

    Raises:
        StoreError: all checkpoints are poisoned.
    """
    if steps := checkpoints.poisoned():
        which = f"step{'s' * (len(steps) > 1)} {', '.join(str(step) for step in sorted(steps))}"
        raise StoreError(
            f"No checkpoint in {checkpoints.folder.address(checkpoints.name)} can be continued from: the weights of "
            f"{which} are not finite, or give a loss that is not. They were not removed. Remove this folder, and train "
            "with a lower learning_rate or a longer warmup."
        )


def label(identity: Mapping[str, Any], step: int, changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a trained model says of its training. Its fingerprint differs if settings changed on the way."""
    marked: dict[str, Any] = {**with_old_names(identity), **({CHANGES: list(changes)} if changes else {})}
    said = {"identity": dict(identity), "fingerprint": fingerprint(marked), "step": step}
    return {**said, "changes": list(changes)} if changes else said


def warmup_note(settings: OptimiserSettings, section: str) -> str:
    """A sentence if the rate never reaches its peak, or ""."""
    if settings.warmup <= settings.steps:
        return ""
    last = rate(settings, settings.steps - 1)
    return (
        f"The warm-up of {many(settings.warmup, 'step')} is longer than the training of {settings.steps:,}: the "
        "rate only "
        f"rises to {last:.3g}, {last / settings.learning_rate:.1%} of the learning_rate {settings.learning_rate:g}. "
        f"Set {section}.warmup lower, or {section}.steps higher, to reach it."
    )


def _section(identity: Mapping[str, Any]) -> str | None:
    return next((name for name in _SECTIONS if isinstance(identity.get(name), Mapping)), None)


def _schedule(identity: Mapping[str, Any]) -> dict[str, Any]:
    name = _section(identity)
    return {} if name is None else {key: identity[name][key] for key in RECORDED if key in identity[name]}


def _fixed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an identity that must be equal."""
    name = _section(identity)
    if name is None:
        return dict(identity)
    return {**identity, name: {key: value for key, value in identity[name].items() if key not in MAY_CHANGE}}


def _in_force(schedule: Mapping[str, Any], history: Sequence[Mapping[str, Any]], step: int) -> dict[str, Any]:
    """The schedule that gave the rate of a step: the last one, with later changes taken back."""
    found = dict(schedule)
    for change in reversed(history):
        if step < change[STEP]:
            found |= {name: change[name][0] for name in RECORDED if name in change}
    return found


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def check_changes(changes: Mapping[str, Any], checkpoints: Checkpoints) -> None:
    """Check settings that are to change when a training goes on, before a worker starts.

    Args:
        changes: by dotted key, as `--resume-with` and `Run.train(resume_with=...)` give them.
        checkpoints: of this training.

    Raises:
        ConfigError: one of them may not change, or there is no training to go on with.
    """
    other = sorted(str(key) for key in changes if not _may_change(str(key)))
    if other:
        raise ConfigError(
            f"{', '.join(other)} cannot change when a training goes on, because the finished steps had another value. "
            f"Nothing was started. What may change: {', '.join(MAY_CHANGE)} (train. or vae.), and all settings of "
            "launch. For others, train in another run folder (out)."
        )
    if checkpoints.newest(tensors=False) is None:
        raise ConfigError(
            f"There is no checkpoint in {checkpoints.folder.address(checkpoints.name)}, so no training goes on with "
            "other settings. Nothing was started. Train first, or give the settings of a new training with --set."
        )


def _may_change(key: str) -> bool:
    section, _, name = key.partition(".")
    return section == "launch" or (section in _SECTIONS and name in MAY_CHANGE)
