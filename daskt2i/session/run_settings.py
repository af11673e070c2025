"""Which settings a run folder is worked on with: a workflow that somebody names, or those that the folder keeps.

Covers: where the run folder is, its own settings as the default, changes to them, what differs from a workflow that was
named, classes that are not ours.
Does not cover: workflow files (`config.workflow_file`), the file in the run folder (`encode.saved_workflow`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskt2i.config.changes import Changes
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import changed, dask_settings, differences, load_defaults, load_workflow
from daskt2i.encode.saved_workflow import read_settings, with_source, without_secrets
from daskt2i.errors import ConfigError, Daskt2iError, StoreMissing
from daskt2i.store.run_folder import STORE, WORKFLOW, RunFolder

USUAL = "demo"
"""The workflow where none is named."""

OURS = "daskt2i."
"""Classes and clusters that a run folder's own settings may name. It may be somebody else's folder: it runs no code."""

_NAMED = 6
_SECTIONS = ("dataset", "scenes", "train", "vae")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What a run folder is worked on with.

    Attributes:
        workflow: resolved.
        folder: the run folder.
        trusted: somebody named the workflow, so it may name any class; else it is the folder's own.
        differs: a sentence that says how the workflow differs from the settings that the folder keeps, or "".
    """

    workflow: Workflow
    folder: RunFolder
    trusted: bool
    differs: str = ""


def run_settings(
    workflow: str | Path | Workflow | None = None,
    out: str | Path | None = None,
    *,
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Find out what to work on.

    Args:
        workflow: a shipped name, a YAML file, or one that is resolved; None: the settings that the run folder keeps,
            and `demo` where it keeps none.
        out: the run folder; None: this folder if it is one, else `runs/` and the name of the workflow.
        images, captions, where, settings: changes, as in `config.changes`.

    Raises:
        ConfigError: a setting is wrong, or the folder's own settings cannot be read.
    """
    changes = Changes({} if settings is None else settings, images, captions, where)
    if workflow is None:
        place = out or ("." if _is_run_folder(Path()) else f"runs/{USUAL}")
        options = _storage_options(changes.settings)
        own = _own_settings(RunFolder(place, options))
        if own is not None:
            found = changed(own, changes, f"of {place}")
            return RunSettings(found, RunFolder(place, found.run.storage_options), trusted=False)
        workflow = USUAL
    if isinstance(workflow, Workflow):
        found = changed(workflow, changes, workflow.name)
    else:
        found = load_workflow(str(workflow), changes.settings, images=images, captions=captions, where=where)
    folder = RunFolder(out or f"runs/{found.name}", found.run.storage_options)
    return RunSettings(found, folder, trusted=True, differs=_compared(found, folder))


def own_settings(path: str | Path, storage_options: Mapping[str, Any] | None = None) -> RunSettings:
    """The settings that a run folder keeps.

    Raises:
        StoreMissing: there is no run folder.
        ConfigError: its settings cannot be read.
    """
    folder = RunFolder(path, storage_options)
    own = _own_settings(folder)
    if own is None:
        what = "is not a run folder: it keeps no settings" if folder.exists("") else "is not there"
        raise StoreMissing(f"{folder} {what}. Nothing was made; daskt2i.Run(workflow, out=...).encode() makes one.")
    run = own.run.model_copy(update={"storage_options": dict(storage_options)}) if storage_options else own.run
    return RunSettings(own.model_copy(update={"run": run}), folder, trusted=False)


def refuse_strangers(found: RunSettings) -> None:
    """Refuse to run classes that only the run folder names.

    Raises:
        ConfigError: its settings name a class that is not ours.
    """
    dataset = found.workflow.dataset
    named = [part.class_path for part in (dataset.source, dataset.encoders.image, dataset.encoders.text)]
    strange = [path for path in named if not path.startswith(OURS)]
    if strange and not found.trusted:
        raise ConfigError(
            f"The settings that {found.folder} keeps name {', '.join(strange)}, which is not part of daskt2i. Nothing "
            "was run; name the workflow file (workflow) if you trust it."
        )


def scheduler_of(found: RunSettings) -> str:
    """`run.scheduler` of the settings.

    Raises:
        ConfigError: only the run folder names it, and it is a cluster file, which may start anything.
    """
    scheduler = found.workflow.run.scheduler
    if not found.trusted and scheduler.partition(":")[0].endswith((".yaml", ".yml")):
        raise ConfigError(
            f"The settings that {found.folder} keeps name the cluster file {scheduler}, which is not part of daskt2i. "
            "Nothing was run; name it yourself (scheduler) if you trust it."
        )
    return scheduler


def _own_settings(folder: RunFolder) -> Workflow | None:
    """The settings of a run folder; None where it keeps none."""
    try:
        return read_settings(folder)
    except FileNotFoundError:
        return None


def _is_run_folder(path: Path) -> bool:
    return (path / WORKFLOW).is_file() and (path / STORE).is_dir()


def _storage_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The credentials that are asked for, before a workflow is read."""
    load_defaults()
    data: dict[str, Any] = {"run": {"storage_options": dask_settings("run")[0].get("storage_options") or {}}}
    Changes({key: value for key, value in settings.items() if key.startswith("run.storage_options")}).apply(data, "")
    return dict(data["run"]["storage_options"])


def _compared(workflow: Workflow, folder: RunFolder) -> str:
    """A sentence that says how a workflow differs from the settings that its run folder keeps."""
    try:
        own = _own_settings(folder)
        if own is None:
            return ""
        wanted = without_secrets(with_source(workflow, folder, draw=False))
    except Daskt2iError:  # told where it matters
        return ""
    differ = differences(_compared_sections(own), _compared_sections(wanted), "")
    if not differ:
        return ""
    more = f" (and {len(differ) - _NAMED} more)" if len(differ) > _NAMED else ""
    return (
        f"{folder} was made with other settings than this workflow has: {'; '.join(differ[:_NAMED])}{more}. To go "
        "on with the settings of the folder, name the folder (out) and no workflow."
    )


def _compared_sections(workflow: Workflow) -> dict[str, Any]:
    data = json.loads(workflow.model_dump_json(by_alias=True))
    return {name: data[name] for name in _SECTIONS if data.get(name) is not None}
