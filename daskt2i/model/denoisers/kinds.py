"""The kind of denoiser that `train.model.class` names.

Covers: the kinds that daskt2i has, and a class of the user's own that follows the protocol.
Does not cover: the protocol (`denoiser`), what each kind does (a module each).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from daskt2i.config.training.denoiser import OWN_DENOISERS, ModelSettings
from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import DenoiserKind
from daskt2i.model.denoisers.lumina2 import Lumina2
from daskt2i.model.denoisers.pixart import PixArt
from daskt2i.model.denoisers.prx import PRX
from daskt2i.model.denoisers.sana import Sana
from daskt2i.model.denoisers.sd3 import SD3
from daskt2i.model.denoisers.unet import SizedUNet, UNet, takes_sizes
from daskt2i.model.denoisers.uvit import UViTKind

_ALL: tuple[DenoiserKind, ...] = (UNet(), PixArt(), UViTKind(), SD3(), Lumina2(), Sana(), PRX())

KINDS: Mapping[str, DenoiserKind] = {kind.class_path: kind for kind in _ALL}
"""The kinds that daskt2i has, by the class path that a workflow names."""


_SIZED = SizedUNet()


def kind_with(class_path: str, config: Mapping[str, Any], preset: str | None = None) -> DenoiserKind:
    """The kind of one of `KINDS` with a config: SDXL's U-Net has the class of others, and another pipeline.

    Args:
        config: arguments of the class, which override the preset.
    """
    return _SIZED if class_path == UNet.class_path and takes_sizes(config, preset) else KINDS[class_path]


def kind_of(model: ModelSettings | str | None) -> DenoiserKind:
    """The kind of a class path; without one that of the U-Net.

    Args:
        model: the settings of the denoiser, or `train.model.class`: one of `KINDS`, or the dotted path of a class of
            the user's that has the methods of `DenoiserKind` and whose constructor takes no arguments.

    Raises:
        ConfigError: there is no such class, or it lacks methods.
    """
    class_path = (model.class_path if isinstance(model, ModelSettings) else model) or UNet.class_path
    if class_path in KINDS:
        return (
            kind_with(class_path, model.config, model.preset) if isinstance(model, ModelSettings) else KINDS[class_path]
        )
    module, _, name = class_path.rpartition(".")
    try:
        found = (
            None
            if not module or class_path.startswith(OWN_DENOISERS)
            else getattr(importlib.import_module(module), name)()
        )
    except (ImportError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"train.model.class names {class_path}, which cannot be imported and called without arguments ({error}). "
            "Nothing was started. Check the spelling, and that the package is installed where the ranks run."
        ) from error
    if not isinstance(found, DenoiserKind):
        raise ConfigError(
            f"train.model.class is {class_path}, which daskt2i cannot train. Nothing was started. It can be "
            f"{', '.join(KINDS)}, or the dotted path of a class that has the methods of "
            "daskt2i.model.denoisers.denoiser.DenoiserKind."
        )
    return found


def class_of(kind: DenoiserKind) -> Any:
    """The class of one of `KINDS`, to load its weights."""
    module, _, name = kind.class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)
