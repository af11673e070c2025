"""Fitting a transformer to a store: a preset, the user's changes, and what the store decides.

Covers: merging the three, sides that patches must divide, fresh weights by a seed.
Does not cover: what each class needs (its own module), the U-Net (`unet`, whose messages are older).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions, DenoiserKind

if TYPE_CHECKING:
    from torch import nn


def fitted(
    presets: tuple[str | None, Mapping[str, Mapping[str, Any]]],
    changes: Mapping[str, Any],
    needed: Mapping[str, Any],
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments of a class.

    Args:
        presets: the name of the preset, or None, and all presets of the class.
        changes: `train.model.config`; keys that start with `_`, as in a config.json, are left out.
        needed: arguments that the store decides. The changes may not contradict them. A number of 0 is not known.
        given: arguments that follow from the store. They replace those of a config.json, which was for other data.

    Raises:
        ConfigError: there is no such preset, or the changes contradict the store.
    """
    name, known = presets
    if name is not None and name not in known:
        raise ConfigError(
            f"train.model.preset is {name!r}; for this train.model.class it can be {', '.join(known)}, or null with a "
            "whole train.model.config. Nothing was started."
        )
    mine = {key: value for key, value in changes.items() if not key.startswith("_")}
    needed = {key: value for key, value in needed.items() if value}
    if wrong := [key for key, value in needed.items() if mine.get(key) not in (None, value)]:
        raise ConfigError(
            f"train.model.config sets {', '.join(f'{key}={mine[key]}' for key in wrong)}, but the store needs "
            f"{', '.join(f'{key}={needed[key]}' for key in wrong)}. Nothing was started; remove {', '.join(wrong)} "
            "from train.model.config."
        )
    return {**(known[name] if name else {}), **mine, **given, **needed}


def require_patches(patch: int, shapes: tuple[tuple[int, int, int], ...]) -> None:
    """Refuse latents that cannot be cut into whole patches.

    Raises:
        ConfigError: a side is not a multiple of the patch size.
    """
    for _, height, width in shapes:
        if height % patch or width % patch:
            raise ConfigError(
                f"The denoiser cuts latents into patches of {patch} x {patch}, but latents are {height} x {width}. "
                "Nothing was started; set train.model.config.patch_size to a number that divides both sides, or use "
                "other sizes of pictures (dataset.image)."
            )


def fresh(kind: Any, config: Mapping[str, Any], seed: int) -> Any:
    """A model with fresh weights, ready to train. The same seed gives the same weights.

    Args:
        kind: the class.

    Raises:
        ConfigError: the class rejects the config.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            return kind(**config).train()
        except (TypeError, ValueError, KeyError, NotImplementedError, RuntimeError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{kind.__name__} rejects train.model.config: {error}. Nothing was trained; change it there."
            ) from error


def built(kind: DenoiserKind, config: Mapping[str, Any], seed: int, zeros: Sequence[str]) -> nn.Module:
    """A model of diffusers with fresh weights that predicts zero, after one sample has gone through it.

    Blocks that begin as identities train better (DiT, Peebles and Xie 2022, arXiv:2212.09748, 3.2); diffusers does not
    begin so. The sample shows arguments that do not fit together, which some classes accept.

    Args:
        kind: of the model; `class_path` names a class of diffusers.
        zeros: ends of the names of layers that begin at zero.

    Raises:
        ConfigError: diffusers rejects the config.
    """
    import diffusers
    from torch.nn.init import zeros_

    name = kind.class_path.rpartition(".")[2]
    model: nn.Module = fresh(getattr(diffusers, name), config, seed)
    try:
        _try(kind, model, config)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot work with train.model.config: {error}. Nothing was trained; change it there."
        ) from error
    for layer in (layer for key, layer in model.named_modules() if key.endswith(tuple(zeros))):
        for values in layer.parameters():
            zeros_(values)
    return model


_WIDTHS = ("joint_attention_dim", "cap_feat_dim", "caption_channels", "context_in_dim")
"""What classes call the length of a text state."""


def _try(kind: DenoiserKind, model: Any, config: Mapping[str, Any]) -> None:
    import torch

    side = 2 * model.config.patch_size
    states = torch.zeros(1, 2, next(config[name] for name in _WIDTHS if name in config))
    pooled = torch.zeros(1, config.get("pooled_projection_dim", 1))
    given = Conditions(states, torch.ones(1, 2, dtype=torch.bool), pooled)
    inputs = torch.zeros(1, config["in_channels"], side, side)
    with torch.no_grad():
        made = kind.predict(model, inputs, torch.zeros(1), given)
    if made.shape != inputs.shape:
        raise ValueError(f"latents of {tuple(inputs.shape)} become {tuple(made.shape)}")
