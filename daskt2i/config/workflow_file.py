"""Reads workflow files, applies `dask.config` and `--set`, and computes the fingerprint of settings.

Covers: reading a workflow into typed models (`settings`), the order of the layers of settings, the fingerprint of a
store.
Does not cover: strict YAML (`documents`), what the settings do (the room that uses a setting), cluster files
(`deploy.connect`).

Settings below `dataset:` change stored arrays and are fingerprinted. Settings below `run:` may change on resume.
The layers, the last one wins: `daskt2i/config/defaults.yaml` < the user's `dask.config` (section `daskt2i:`, files or
environment variables such as `DASK_DASKT2I__RUN__RETRIES=5`) < the workflow file < `--set section.key=value`.
"""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import dask.config
from pydantic import BaseModel, ValidationError

from daskt2i import addresses, documents, redact
from daskt2i.addresses import expanded
from daskt2i.config.changes import SCENES_SOURCE, Changes
from daskt2i.config.renamed import with_new_names
from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError

LAYOUT = 1
"""Version of the store's layout: names, dimensions, shard shape. A new version makes old stores unreadable."""

_PACKAGE = Path(__file__).parents[1]


def load_defaults() -> None:
    """Put the shipped defaults under `daskt2i:` in `dask.config`. The user's own values keep priority.

    Dask keeps every mapping of defaults and merges all of them each time, so it gets ours once.
    """
    if _shipped_defaults() in dask.config.defaults:
        dask.config.update(dask.config.config, _defaults(), priority="old")  # what was taken out comes back
    else:
        dask.config.update_defaults(_defaults())


def _defaults() -> dict[str, Any]:
    return copy.deepcopy(_shipped_defaults())  # `dask.config` keeps what it is given


@functools.cache
def _shipped_defaults() -> dict[str, Any]:
    """Read once: a command asks for them ten times, and reading takes 5 ms."""
    found: dict[str, Any] = documents.read_yaml(Path(__file__).with_name("defaults.yaml").read_bytes())
    return found


def dask_settings(name: Literal["run", "launch"]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A section of `daskt2i:` in `dask.config`, over the shipped defaults. Call `load_defaults` first.

    Returns:
        the settings under their new names, and a note for each old name that the user's files or environment hold.

    Raises:
        ConfigError: the section is not a mapping, or a setting has different values under its old and its new name.
    """
    defaults = _defaults()["daskt2i"][name]
    section = _section(dask.config.get(f"daskt2i.{name}"), "dask.config", name)
    # Dask treats `all-missing` and `all_missing` as one key, but only if it knows the key.
    section = {key.replace("-", "_") if isinstance(key, str) else key: value for key, value in section.items()}
    # A value that equals the default may come from the defaults: the user may have set the old name to another value.
    given = {key: value for key, value in section.items() if key not in defaults or value != defaults[key]}
    renamed, notes = with_new_names({name: given}, "dask.config")
    return {**defaults, **renamed[name]}, notes


def shipped(folder: Literal["workflows", "clusters"]) -> Path:
    """The folder of the shipped workflow or cluster files, in an installed package or in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def find_file(name: str, folder: Literal["workflows", "clusters"]) -> Path:
    """A YAML file by path, or by the name of a shipped one.

    Raises:
        ConfigError: there is no such file; the message lists the shipped names.
    """
    if name.endswith((".yaml", ".yml")):
        path = _local(str(expanded(name, "workflow" if folder == "workflows" else "scheduler")))
        if path is not None:
            return path
        raise ConfigError(
            f"There is no file {name}. Give the path of a YAML file, or one of: {_names(folder)}.{_near(name, folder)}"
        )
    path = shipped(folder) / f"{name}.yaml"
    if Path(name).name == name and _local(str(path)) is not None:
        return path
    without = "serial, multiprocessing, joblib, tcp://host:port, " if folder == "clusters" else ""
    raise ConfigError(
        f"There is no {folder[:-1]} named {name!r}. Give one of {without}{_names(folder)}, or the path of a YAML file."
        f"{_near(name, folder)}"
    )


def _local(name: str) -> Path | None:
    """The path of a file on this machine that can be read from start to end, or None: a pipe counts, a folder not."""
    try:
        path = Path(addresses.absolute(name))
        return path if path.exists() and not path.is_dir() else None
    except (OSError, ValueError):  # a name that is too long, or has a NUL character
        return None


def _near(name: str, folder: Literal["workflows", "clusters"]) -> str:
    """What the user may have meant by a wrong name, or ""."""
    try:
        path = Path(addresses.absolute(name))
        if path.is_dir() and folder == "workflows":
            return f" {name} is a folder; give a run folder as the run folder (out), or to daskt2i.open_run."
        if path.is_file():
            return f" The name of such a file ends in .yaml, and {name} does not."
    except (OSError, ValueError):
        return ""
    stems = {one.stem.lower(): one.stem for one in shipped(folder).glob("*.yaml")}
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    near = difflib.get_close_matches(stem.lower(), list(stems), 1, 0.7)
    return f" Did you mean {stems[near[0]]}?" if near else ""


def _names(folder: Literal["workflows", "clusters"]) -> str:
    return ", ".join(sorted(p.stem for p in shipped(folder).glob("*.yaml")))


def read_yaml(path: Path, such_as: str = "`name:` and `dataset:`") -> dict[str, Any]:
    """A YAML file that holds one mapping.

    Args:
        such_as: keys of such a file, for the message.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        data = documents.read_yaml(path.read_bytes())
    except (OSError, documents.BadDocument) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold settings at its top level, such as {such_as}.")
    return data


def load_workflow(
    name: str | Path = "demo",
    settings: Mapping[str, Any] | None = None,
    *,
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    source: str | None = None,
) -> Workflow:
    """All settings of a workflow, with defaults, `dask.config` and changes applied.

    Args:
        name: a shipped workflow, or the path of a YAML file.
        settings: changes by dotted key: `{"train.steps": 100}`.
        images, captions: a folder, zip or address of images, and their captions.
        where: an expression; keeps the rows for which it is true.
        source: the class path of the source that reads them. None: `CocoSource`, which needs both.

    Raises:
        ConfigError: a setting is wrong. The message names it and says what is accepted.
    """
    load_defaults()
    path = find_file(str(name), "workflows")
    # Each layer gets the new names before the layers are merged, so that the last one wins under either name.
    data, notes = with_new_names({"name": path.stem, **read_yaml(path)}, str(path))
    sections: tuple[Literal["run", "launch"], ...] = ("run", "launch")
    for section in sections:
        below, old = dask_settings(section)
        data[section] = {**below, **_section(data.get(section), str(path), section)}
        notes += old
    changes = Changes(settings or {}, images, captions, where, source)
    notes += changes.apply(data, str(path))
    return parse_workflow(data, str(path) if changes.none else f"{path} with these settings").with_notes(notes)


def changed(workflow: Workflow, changes: Changes, origin: str) -> Workflow:
    """A workflow with changes applied; the same workflow if there are none.

    Args:
        origin: where the workflow comes from, for messages.

    Raises:
        ConfigError: a change is wrong.
    """
    if changes.none:
        return workflow
    data = documents.read_yaml(workflow.to_yaml())
    notes = changes.apply(data, origin)
    return parse_workflow(data, f"{origin} with these settings").with_notes((*workflow.notes, *notes))


def _section(data: Any, where: str, name: str = "run") -> dict[str, Any]:
    """A copy of a mapping, so that a change to it does not change dask.config."""
    if not isinstance(data, Mapping | None):
        raise ConfigError(
            f"`{name}:` of {where} is {documents.shown(data)}, but it must hold settings, such as `run: {{batch: 4}}`."
        )
    return copy.deepcopy(dict(data or {}))


def parse_workflow(data: Mapping[str, Any], where: str) -> Workflow:
    """A workflow from plain data. `where` says in messages where the data come from. Old names in them become notes.

    Raises:
        ConfigError: a setting is missing, unknown or of the wrong kind.
    """
    data, notes = with_new_names(data, where)
    if "launch" not in data:  # a run folder of an older version has no such section
        data["launch"] = dask_settings("launch")[0]
    dataset = data.get("dataset")
    if isinstance(data.get("scenes"), dict) and isinstance(dataset, dict) and "source" not in dataset:
        data = {**data, "dataset": {"source": {"class": SCENES_SOURCE, **data["scenes"]}, **dataset}}
    try:
        workflow = Workflow.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(dict.fromkeys(_problem(e) for e in error.errors()))
        raise ConfigError(f"The workflow {where} is not valid: {problems}.") from error
    dataset = workflow.dataset
    for setting, component in [
        ("dataset.source", dataset.source),
        ("dataset.encoders.image", dataset.encoders.image),
        ("dataset.encoders.text", dataset.encoders.text),
    ]:
        for name, value in component.arguments.items():
            _require_plain(value, f"{setting}.{name}", where)
    return workflow.with_notes(notes) if notes else workflow


def _require_plain(value: Any, setting: str, where: str) -> None:
    """Arguments go into the fingerprint and into the store as JSON. YAML also has dates and binaries, JSON has not."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"The workflow {where} is not valid: {setting} is {documents.shown(value)}, which JSON cannot hold; "
            "put it in quotes."
        ) from error


def _problem(error: Any) -> str:
    # If a setting takes a number or "auto", pydantic reports one error for each of the two.
    branches = ("int", "constrained-int", "literal['auto']")
    loc = [part for part in error["loc"] if part not in branches]
    setting = ".".join(str(part) for part in loc)
    secret = any(redact.is_secret_setting(part) for part in loc)
    given = redact.HIDDEN if secret else documents.shown(error["input"])
    if error["type"] == "value_error" and not secret:
        # The message of `plain_values` begins with " is" or ".", that of the check of a whole section with a word.
        problem = str(error["ctx"]["error"])
        return f"{setting}: {problem}" if problem[:1].isalpha() else f"{setting}{problem}"
    if len(loc) < len(error["loc"]):
        return f"{setting}: should be a whole number from 1, or auto (given: {given})"
    if error["type"] == "extra_forbidden":
        return f"there is no setting {setting}{_nearest(loc)}"
    if error["type"] == "missing":
        return f"{setting} is missing"
    return f"{setting}: {error['msg'][:1].lower()}{error['msg'][1:]} (given: {given})"


def _nearest(loc: Sequence[Any]) -> str:
    """`" (did you mean dataset.rows_per_chunk?)"`; "" if no setting of that section has a similar name."""
    model: Any = Workflow
    for part in loc[:-1]:
        field = model.model_fields.get(part)
        kinds = [field.annotation, *get_args(field.annotation)] if field is not None else []
        model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if model is None:
            return ""
    near = difflib.get_close_matches(str(loc[-1]), list(model.model_fields), 1)
    return f" (did you mean {'.'.join(map(str, [*loc[:-1], near[0]]))}?)" if near else ""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], section: str = "dataset.") -> list[str]:
    """The differences of two identities, one clause each: `"dataset.image.resolution: 64 there, 96 now"`.

    Secrets do not count: stores of older versions hold them, and they may change.
    """
    left, right = dict(_flatten(redact.without_secrets(stored))), dict(_flatten(redact.without_secrets(wanted)))
    return [
        f"{section}{key}: {_shown(left.get(key))} there, {_shown(right.get(key))} now"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, sort_keys=True, ensure_ascii=False)


def _shown(value: str | None) -> str:
    """JSON text for a person: a word loses its quotes; text that looks like a number keeps them."""
    if value is None:
        return "nothing"
    word = value[1:-1]
    plain = value.startswith('"') and word.replace("_", "").replace(":", "").replace(".", "").isalnum()
    return word if plain and not word.replace(".", "").isdecimal() else value
