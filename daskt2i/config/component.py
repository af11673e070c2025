"""A source or encoder as a workflow names it: the dotted path of a class, with the arguments of its constructor.

Covers: importing the class, calling it, checking its methods against a protocol, and which of its arguments change
stored arrays.
Does not cover: the protocols (`protocols`), the settings around it (`settings`).
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from daskt2i import addresses, redact
from daskt2i.errors import ConfigError

LOCATIONS = frozenset({"model", "subfolder", "tokenizer", "revision", "images", "captions", "storage_options"})
"""Arguments that say where data are, not what they are. The fingerprint holds hashes of the content instead."""


SHIPPED = frozenset(
    {
        "daskt2i.encoders.fake.FakeImageEncoder",
        "daskt2i.encoders.fake.FakeTextEncoder",
        "daskt2i.encoders.features.vision.VisionEncoder",
        "daskt2i.encoders.joint.text.JointTextEncoder",
        "daskt2i.encoders.nothing.NoImageEncoder",
        "daskt2i.encoders.nothing.NoTextEncoder",
        "daskt2i.encoders.text.TextEncoder",
        "daskt2i.encoders.vae.VaeEncoder",
        "daskt2i.sources.coco.CocoSource",
        "daskt2i.sources.fake.FakeSource",
        "daskt2i.sources.folder.FolderSource",
        "daskt2i.sources.hf.HfSource",
        "daskt2i.sources.karpathy.KarpathySource",
        "daskt2i.sources.parquet.ParquetSource",
        "daskt2i.sources.scenes.ScenesSource",
        "daskt2i.sources.table.CsvSource",
        "daskt2i.sources.table.JsonlSource",
        "daskt2i.sources.webdataset.WebDatasetSource",
    }
)
"""Classes that a run folder's own settings may name. Any other callable, also one of ours, could run code."""

MOVED = {
    "daskt2i.selection.SelectedSource": "daskt2i.facts.selection.SelectedSource",
    "daskt2i.autoencoder.Given": "daskt2i.model.autoencoder.PretrainedAutoencoder",
    "daskt2i.bench.rows.BenchRows": "daskt2i.bench.encode.rows.BenchRows",
}
"""Old class path -> new class path. A file may name either.

A store's fingerprint holds the path as the user wrote it, so a file with an old path still fits its store. Paths of
shipped sources and encoders never change.
"""


class Component(BaseModel):
    """A class by its dotted path, with the arguments of its constructor beside it.

    In YAML: `{class: daskt2i.encoders.vae.VaeEncoder, model: stabilityai/sd-vae-ft-mse}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, populate_by_name=True)
    class_path: str = Field(alias="class")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` shows: logs of Dask print it, so it holds no secrets."""
        yield from redact.without_secrets({"class_path": self.class_path, **self.arguments}).items()

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(self.model_extra or {})

    def build(self, protocol: type, setting: str) -> Any:
        """Import the class, call it, and check that it has the methods of the protocol.

        Args:
            protocol: a runtime-checkable protocol of `daskt2i.protocols`.
            setting: the setting that names the component, for messages.

        Raises:
            ConfigError: there is no such class, it does not take the arguments, or it lacks methods.
        """
        if lost := [name for name, value in self.arguments.items() if redact.has_hidden(value)]:
            raise ConfigError(
                f"{setting}.{lost[0]} stands in these settings without its secret, because a run folder keeps none. "
                f"Nothing was started; give {setting}.{lost[0]} again (settings), or the whole workflow (workflow)."
            )
        factory = self._factory(setting)
        try:
            built = factory(**self.arguments)
        except TypeError as error:
            raise ConfigError(
                f"{setting} ({self.class_path}) does not take these settings: {error}. Nothing was started; give "
                f"{setting} the arguments that this class takes."
            ) from error
        if unfit := [name for name in _methods_of(protocol) if not _fits(built, protocol, name)]:
            raise ConfigError(
                f"{setting}.class names {self.class_path}, which does not fit {protocol.__name__}: these methods are "
                f"missing or take other arguments: {', '.join(sorted(unfit))}. "
                f"See daskt2i.protocols.{protocol.__name__}."
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
        """Class and arguments with their defaults, for the fingerprint.

        Arguments that only say where data are (`LOCATIONS`) are left out. A class may name its own such arguments in an
        attribute `locations`. Secrets are left out too, because the identity is written into the store. So a changed
        secret does not change it.

        A class that got a new argument names, in an attribute `same_arrays`, the values with which the arrays are as
        before. Such a value is left out too, so the fingerprints of older stores stay as they are.
        """
        factory = self._factory("component")
        try:
            signature = inspect.signature(factory)
        except ValueError:  # a built-in class has no signature
            signature = inspect.Signature()
        defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not p.empty}
        locations = getattr(factory, "locations", LOCATIONS)
        same = getattr(factory, "same_arrays", {})
        given = {**defaults, **self.arguments}
        found = {k: v for k, v in given.items() if k not in locations and v not in same.get(k, ())}
        plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return {"class": self.class_path} | redact.without_secrets(plain)

    def absolute(self) -> Component:
        """A copy with absolute paths instead of relative ones: workers may have another working directory."""
        arguments = dict(self.arguments)
        for key, value in arguments.items():
            if key in LOCATIONS and isinstance(value, str) and (path := _existing(value)) is not None:
                arguments[key] = path
        return Component.model_validate({"class": self.class_path, **arguments})


def _existing(text: str) -> str | None:
    """The absolute path of something on this machine; None for an address, the name of a model, or other text."""
    try:
        place = addresses.absolute(text)
        return place if not addresses.is_address(place) and os.path.lexists(place) and Path(place).exists() else None
    except (OSError, ValueError):
        return None


def _methods_of(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]


def _fits(built: object, protocol: type, name: str) -> bool:
    """Whether the object has the method and takes the arguments of the protocol.

    The names alone do not suffice: an image encoder has all method names of a text encoder.
    """
    method = getattr(built, name, None)
    if not callable(method):
        return False
    try:
        signature = inspect.signature(method)
    except ValueError:  # a built-in method has no signature
        return True
    wanted = list(inspect.signature(getattr(protocol, name)).parameters)[1:]
    try:
        signature.bind(*wanted)
    except TypeError:
        return False
    return True
