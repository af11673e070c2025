"""A class by its dotted path, with the arguments of its constructor: how a workflow names sources and encoders.

Covers: importing it, calling it, checking that it fits its seam, and which of its arguments decide bytes.
Does not cover: the seams themselves (`protocols`), the settings around it (`settings`).
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from daskt2i.errors import ConfigError

LOCATIONS = frozenset({"model", "subfolder", "tokenizer", "revision", "images", "captions", "storage_options"})
"""Arguments of a component that say where something lies, not what it is: content hashes stand for them."""


MOVED = {
    "daskt2i.selection.SelectedSource": "daskt2i.facts.selection.SelectedSource",
    "daskt2i.autoencoder.Given": "daskt2i.model.autoencoder.PretrainedAutoencoder",
    "daskt2i.bench.rows.BenchRows": "daskt2i.bench.encode.rows.BenchRows",
}
"""Class paths of before the rooms, and where these classes are now. A file may name either.

A store's fingerprint holds the path as it was written, so a file with the old one still fits its store. Paths of
sources and encoders never change.
"""


class Component(BaseModel):
    """A class by its dotted path, with the arguments of its constructor beside it.

    In YAML: `{class: daskt2i.encoders.vae.VaeEncoder, model: stabilityai/sd-vae-ft-mse}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    class_path: str = Field(alias="class")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor is called with."""
        return dict(self.model_extra or {})

    def build(self, protocol: type, setting: str) -> Any:
        """Import the class, call it, and check that it fits the seam.

        Args:
            protocol: a runtime-checkable protocol of `daskt2i.protocols`.
            setting: where the component stands in the workflow, for the message.

        Raises:
            ConfigError: no such class, arguments that it does not take, or methods that it lacks.
        """
        factory = self._factory(setting)
        try:
            built = factory(**self.arguments)
        except TypeError as error:
            raise ConfigError(f"{setting} ({self.class_path}) does not take these settings: {error}.") from error
        if unfit := [name for name in _methods_of(protocol) if not _fits(built, protocol, name)]:
            raise ConfigError(
                f"{setting}.class names {self.class_path}, which is no {protocol.__name__}: it lacks "
                f"{', '.join(sorted(unfit))}, or takes other arguments. See daskt2i.protocols.{protocol.__name__}."
            )
        return built

    def _factory(self, setting: str) -> Any:
        module_name, _, name = MOVED.get(self.class_path, self.class_path).rpartition(".")
        if not module_name:
            raise ConfigError(
                f"{setting}.class is {self.class_path!r}; give a dotted path such as package.module.Class."
            )
        try:
            return getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, TypeError) as error:  # TypeError: a path that begins with a dot
            raise ConfigError(
                f"{setting}.class names {self.class_path}, which cannot be imported ({error}). "
                "Check the spelling, and that the package is installed where the workers run."
            ) from error

    def identity(self) -> dict[str, Any]:
        """Class and arguments, defaults filled in, without those that only say where something lies.

        Which ones those are a class may say itself, in an attribute `locations`.
        """
        factory = self._factory("component")
        try:
            signature = inspect.signature(factory)
        except ValueError:  # of a built-in, which tells nothing
            signature = inspect.Signature()
        defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
        locations = getattr(factory, "locations", LOCATIONS)
        found = {k: v for k, v in {**defaults, **self.arguments}.items() if k not in locations}
        return {"class": self.class_path} | json.loads(json.dumps(found, default=str))

    def absolute(self) -> Component:
        """The same, with relative paths of this folder made absolute: workers may stand in another one."""
        arguments = dict(self.arguments)
        for key, value in arguments.items():
            if key in LOCATIONS and isinstance(value, str) and "://" not in value and Path(value).expanduser().exists():
                arguments[key] = str(Path(value).expanduser().absolute())
        return Component.model_validate({"class": self.class_path, **arguments})


def _methods_of(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]


def _fits(built: object, protocol: type, name: str) -> bool:
    """Whether a method is there and can be called as the protocol says: an image encoder is no text encoder."""
    method = getattr(built, name, None)
    if not callable(method):
        return False
    try:
        signature = inspect.signature(method)
    except ValueError:  # of a built-in, which tells nothing
        return True
    wanted = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
    try:
        signature.bind(*wanted)
    except TypeError:
        return False
    return True
