"""Settings: workflow files, `--set`, `dask.config`, and what of them decides bytes.

Covers: reading a workflow (YAML, loaded safely) into typed models, the order in which settings win, components named
by class path, the fingerprint of a store.
Does not cover: what the settings do (`plan`, `worker`), cluster files (`cluster`).

What and how are apart. `dataset:` decides bytes and is fingerprinted; `run:` is free to change when a run is resumed.
The order, last wins: `daskt2i/defaults.yaml` < the user's `dask.config` (section `daskt2i:`, files or environment
variables such as `DASK_DASKT2I__RUN__RETRIES=5`) < the workflow file < `--set section.key=value`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import dask.config
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daskt2i.errors import ConfigError

LAYOUT = 1
"""Version of the store's layout: names, dimensions, shard shape. A change makes old stores unreadable, so rarely."""

LOCATIONS = frozenset({"model", "subfolder", "tokenizer", "revision", "images", "captions", "storage_options"})
"""Arguments of a component that say where something lies, not what it is: content hashes stand for them."""

SCENES_SOURCE = "daskt2i.sources.scenes.ScenesSource"
"""The source of a workflow that draws its own data."""

_PACKAGE = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


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
        module_name, _, name = self.class_path.rpartition(".")
        if not module_name:
            raise ConfigError(
                f"{setting}.class is {self.class_path!r}; give a dotted path such as package.module.Class."
            )
        try:
            factory = getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{setting}.class names {self.class_path}, which cannot be imported ({error}). "
                "Check the spelling, and that the package is installed where the workers run."
            ) from error
        try:
            built = factory(**self.arguments)
        except TypeError as error:
            raise ConfigError(f"{setting} ({self.class_path}) does not take these settings: {error}.") from error
        if not isinstance(built, protocol):
            lacking = sorted(n for n in _methods_of(protocol) if not callable(getattr(built, n, None)))
            raise ConfigError(
                f"{setting}.class names {self.class_path}, which is no {protocol.__name__}: it lacks "
                f"{', '.join(lacking)}. See daskt2i.protocols.{protocol.__name__}."
            )
        return built

    def identity(self) -> dict[str, Any]:
        """Class and arguments without those that only say where something lies."""
        return {"class": self.class_path} | {k: v for k, v in self.arguments.items() if k not in LOCATIONS}


def _methods_of(protocol: type) -> list[str]:
    return [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]


class ImageSettings(_Strict):
    """How pictures are read.

    Attributes:
        resolution: side of the square that is encoded, pixels.
        min_side: shorter side, in source pixels, below which an image is rejected.
        max_pixels: width x height above which an image is rejected unread.
    """

    resolution: int = Field(256, ge=8, le=8192)
    min_side: int = Field(32, ge=1)
    max_pixels: int = Field(178_956_970, ge=1)


class EncoderSettings(_Strict):
    """One image encoder and one text encoder."""

    image: Component
    text: Component


class DatasetSettings(_Strict):
    """What is encoded: everything here decides bytes and is fingerprinted."""

    source: Component
    image: ImageSettings = ImageSettings()  # type: ignore[call-arg]
    encoders: EncoderSettings
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    rows_per_chunk: int = Field(256, ge=1, le=65536)


class RunSettings(_Strict):
    """How it is encoded: free to change on resume. Defaults and their reasons: `daskt2i/defaults.yaml`."""

    scheduler: str
    device: str
    workers: int | Literal["auto"]
    threads: int | Literal["auto"]
    batch: int | Literal["auto"]
    text_batch: int = Field(ge=1)
    readers: int = Field(ge=1)
    retries: int = Field(ge=0)
    gate_rows: int = Field(ge=0)
    min_psnr: float
    recheck: Literal["auto", "hash", "size"]
    check_disk: bool
    storage_options: dict[str, Any] | None


class SceneSettings(_Strict):
    """Draw a data set into the run folder before it is encoded (the demo's data)."""

    rows: int = Field(ge=1)
    seed: int = 0


class Workflow(_Strict):
    """A workflow file, resolved."""

    name: str
    scenes: SceneSettings | None = None
    dataset: DatasetSettings
    run: RunSettings

    def to_yaml(self) -> str:
        """The settings as a workflow file that gives them again."""
        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True, exclude_none=True), sort_keys=False)


def load_defaults() -> None:
    """Put our defaults under `daskt2i:` in `dask.config`, below whatever the user has set."""
    defaults = yaml.safe_load((_PACKAGE / "defaults.yaml").read_text(encoding="utf-8"))
    dask.config.update_defaults(defaults)


def shipped(folder: Literal["workflows", "clusters"]) -> Path:
    """The folder of workflow or cluster files: inside an installed package, or at the top of a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def find_file(name: str, folder: Literal["workflows", "clusters"]) -> Path:
    """A YAML file by path, or by the name of a shipped one.

    Raises:
        ConfigError: neither; the message lists the shipped names.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if path.is_file():
            return path
        raise ConfigError(f"There is no file {name}. Give the path of a YAML file, or one of: {_names(folder)}.")
    path = shipped(folder) / f"{name}.yaml"
    if Path(name).name == name and path.is_file():
        return path
    raise ConfigError(f"There is no {folder[:-1]} named {name!r}. Shipped are: {_names(folder)}; or give a .yaml file.")


def _names(folder: Literal["workflows", "clusters"]) -> str:
    return ", ".join(sorted(p.stem for p in shipped(folder).glob("*.yaml")))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Raises:
        ConfigError: unreadable, not YAML, or not a mapping.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no mapping at its top; a workflow starts with `name:` and `dataset:`.")
    return data


def load_workflow(
    name: str = "demo", sets: Sequence[str] = (), images: str | None = None, captions: str | None = None
) -> Workflow:
    """Resolve a workflow.

    Args:
        name: a shipped workflow, or the path of a YAML file.
        sets: `section.key=value` texts; the values are YAML.
        images, captions: put a `CocoSource` over these into the workflow; both or neither.

    Raises:
        ConfigError: with the setting's name and what would be accepted.
    """
    load_defaults()
    path = find_file(name, "workflows")
    data: dict[str, Any] = {"name": path.stem, **read_yaml(path)}
    data["run"] = {**dask.config.get("daskt2i.run"), **(data.get("run") or {})}
    if (images is None) != (captions is None):
        raise ConfigError("--images and --captions belong together; give both.")
    if images is not None:
        data.pop("scenes", None)
        coco = {"class": "daskt2i.sources.coco.CocoSource", "images": images, "captions": captions}
        data.setdefault("dataset", {})["source"] = coco
    for text in sets:
        _set(data, text)
    return parse_workflow(data, str(path))


def parse_workflow(data: Mapping[str, Any], where: str) -> Workflow:
    """A workflow from plain data; `where` names its origin in messages.

    Raises:
        ConfigError: a setting is missing, unknown or of the wrong kind.
    """
    dataset = data.get("dataset")
    if data.get("scenes") is not None and isinstance(dataset, dict) and "source" not in dataset:
        data = {**data, "dataset": {"source": {"class": SCENES_SOURCE, **data["scenes"]}, **dataset}}
    try:
        return Workflow.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(_problem(e) for e in error.errors())
        raise ConfigError(f"The workflow {where} is not valid: {problems}.") from error


def _problem(error: Any) -> str:
    setting = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"there is no setting {setting}"
    if error["type"] == "missing":
        return f"{setting} is missing"
    return f"{setting}: {error['msg'][:1].lower()}{error['msg'][1:]} (given: {error['input']!r})"


def _set(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or (len(parts) < 2 and parts != ["name"]) or not all(parts):
        raise ConfigError(f"--set {text!r} is not of the form section.key=value, e.g. --set run.batch=4.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML.") from error
    node = data
    for part in parts[:-1]:
        child = node.get(part)
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {text!r}: {part} holds a single value, so nothing can be set inside it.")
        node = child
    node[parts[-1]] = parsed


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of what decides bytes, over its canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two identities, one clause each: `"dataset.image.resolution: 64 there, 96 now"`."""
    left, right = dict(_flatten(stored)), dict(_flatten(wanted))
    absent = "nothing"
    return [
        f"dataset.{key}: {left.get(key, absent)} there, {right.get(key, absent)} now"
        for key in sorted(left.keys() | right.keys())
        if left.get(key, absent) != right.get(key, absent)
    ]


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if not isinstance(value, str) else value
