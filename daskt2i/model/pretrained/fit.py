"""Whether a store fits a pretrained pipeline: sizes and channels of latents, length of prompts and of their states.

Covers: comparing numbers; one sentence for what does not fit. It imports no torch.
Does not cover: comparing the encoders themselves (`same_encoders`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from daskt2i.config.training.denoiser import TimeSettings
from daskt2i.errors import ConfigError
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline


def require_fits(given: PretrainedPipeline, shapes: Sequence[tuple[int, ...]], text: Mapping[str, Any]) -> None:
    """Refuse a store that a pipeline cannot be tuned on.

    Args:
        shapes: of latents (channels, height, width), all that the store has.
        text: what the store says of its text encoder (`about_store`: `text_encoder`).

    Raises:
        ConfigError: something does not fit.
    """
    channels, *sides = shapes[0]
    wants = int(given.config.get("in_channels", 4))
    if channels != wants:
        raise ConfigError(
            f"The latents of the store have {channels} channels, but {given.name} takes {wants}. Nothing was started; "
            "encode with the VAE of the pipeline (dataset.encoders.image) into another run folder (out)."
        )
    size = given.config.get("sample_size")
    side = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if size and side not in {tuple(shape[1:]) for shape in shapes}:
        raise ConfigError(
            f"The latents of the store are {sides[0]} x {sides[1]}, but {given.name} was trained on "
            f"{side[0]} x {side[1]}. Nothing was started; encode pictures of that size (dataset.image) into another "
            "run folder (out), or give another pipeline (train.pretrained.model)."
        )
    wide = given.config.get(given.kind.features)
    features = int(text.get("features") or 0)
    if isinstance(wide, int) and wide != features:
        raise ConfigError(
            f"The text states of the store have {features} numbers, but {given.name} takes {wide}. Nothing was "
            "started; encode with the text encoder of the pipeline (dataset.encoders.text) into another folder (out)."
        )
    pooled, stored = given.kind.pooled(given.config), int(text.get("pooled_features") or 0)
    if pooled > 0 and pooled != stored:
        has = f"have {stored} numbers" if stored else "are missing"
        raise ConfigError(
            f"The pooled text states of the store {has}, but {given.name} takes {pooled}. Nothing was started; encode "
            "with all text encoders of the pipeline (a JointTextEncoder in dataset.encoders.text) into another folder "
            "(out)."
        )
    length = text.get("max_tokens")
    if given.tokens is not None and length is not None and given.tokens != length:
        raise ConfigError(
            f"The captions of the store have up to {length} tokens, but the tokenizer of {given.name} gives "
            f"{given.tokens}. Nothing was started; encode with dataset.encoders.text.max_tokens={given.tokens} into "
            "another run folder (out)."
        )


def times_note(given: PretrainedPipeline, times: TimeSettings | None) -> str:
    """A sentence if `train.times` has no effect on the tuning, or "".

    Args:
        times: how flow's times are drawn.
    """
    if times is None or given.objective == "flow":
        return ""
    return (
        f"train.times has no effect: {given.name} was trained with {given.objective}, all of whose noise levels are "
        "equally likely. Only flow has times; set train.times=null to hide this note."
    )


def padding_note(given: PretrainedPipeline, masked: bool) -> str:
    """A sentence if the pipeline was trained with other padding than the store has, or "".

    Args:
        masked: whether the store has captions without padding (`pad: length`).
    """
    if masked == given.masked:
        return ""
    if masked:
        return (
            f"{given.name} was trained on padded captions, but those of the store have no padding (pad: length), so "
            "its first steps unlearn the padding, and diffusers alone draws less well with the result than sample. To "
            "avoid it, encode with dataset.encoders.text.pad=full into another run folder (out)."
        )
    return (
        f"{given.name} was trained without padding (pad: length), but the captions of the store are padded, so its "
        "first steps learn the padding. To avoid it, encode with dataset.encoders.text.pad=length into another run "
        "folder (out)."
    )
