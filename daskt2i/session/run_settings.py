"""The settings for a run folder: those of a workflow that the user names, or those that the folder keeps.

Covers: finding the run folder, its own settings as the default, changes to them, comparing them with a named workflow,
refusing classes from outside daskt2i.
Does not cover: workflow files (`config.workflow_file`), the file in the run folder (`encode.saved_workflow`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from daskt2i.config.changes import Changes, by_dotted_key
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import changed, dask_settings, differences, load_defaults, load_workflow
from daskt2i.encode.saved_workflow import read_settings, strangers, with_source, without_secrets
from daskt2i.errors import ConfigError, Daskt2iError, StoreMissing
from daskt2i.session.data.choice import choose_source
from daskt2i.store.dataset import nearest_run
from daskt2i.store.ownership import refuse_foreign
from daskt2i.store.run_folder import EVENTS, LOCK, MARKER, REPORTS, STORE, WORKFLOW, RunFolder

USUAL = "demo"
"""The default workflow."""

_OWN_SCHEDULERS = ("serial", "multiprocessing", "joblib", "local")
"""Schedulers that a run folder's own settings may name. A cluster file could start anything, and an address could lead
anywhere."""

_NO_DATA = {MARKER, WORKFLOW, LOCK, EVENTS, REPORTS, "scenes"}
"""What `insights`, or an encode that was stopped at once, leaves: nothing that other settings do not fit."""

_NAMED = 6
_SECTIONS = ("dataset", "scenes", "train", "vae")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """The settings and the address of a run folder.

    Attributes:
        workflow: the settings, with all defaults filled in.
        folder: the run folder.
        trusted: whether the user named the workflow. Only then may it name what `strangers` finds.
        differs: a sentence about how the workflow differs from the settings that the folder keeps, or "".
        own: if the user named no workflow, the settings that the folder keeps, without the changes of the user.
        named: dotted keys of the changes that the user gave. What a user names is trusted.
    """

    workflow: Workflow
    folder: RunFolder
    trusted: bool
    differs: str = ""
    own: Workflow | None = None
    named: frozenset[str] = frozenset()


def run_settings(
    workflow: str | Path | Workflow | None = None,
    out: str | Path | None = None,
    *,
    source: str | None = None,
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunSettings:
    """Find the run folder and its settings.

    Args:
        workflow: a shipped name, a YAML file, or a `Workflow`. None: the settings that the run folder keeps, or `demo`
            if it keeps none.
        out: the run folder. None: `runs/` and the name of the workflow. If `workflow` is None too, and the current
            folder is a run folder: the current folder.
        source: the name or the class path of the source that reads images and captions. None: it is guessed.
        images, captions, where, settings: changes, as in `config.changes`.

    Raises:
        ConfigError: a setting is wrong, or the folder's own settings cannot be read.
        StoreError: the folder holds something, and daskt2i did not make it. Nothing in it was read or changed.
    """
    settings = {} if settings is None else settings
    named = frozenset(key for key, _ in by_dotted_key(settings))
    chosen, notes = choose_source(images, captions, source, settings)
    changes = Changes(settings, images, captions, where, chosen)
    if workflow is None:
        place = out if out is not None else ("." if _is_run_folder(Path()) else f"runs/{USUAL}")
        options = _storage_options(changes.settings)
        here = RunFolder(place, options)
        refuse_foreign(here)
        own = _own_settings(here)
        if own is not None:
            found = changed(own, changes, f"of {place}")
            found = found.with_notes((*found.notes, *notes))
            folder = RunFolder(place, found.run.storage_options)
            return RunSettings(found, folder, trusted=False, own=own, named=named)
        workflow = USUAL
    if isinstance(workflow, Workflow):
        found = changed(workflow, changes, workflow.name)
    else:
        given = {"images": images, "captions": captions, "where": where, "source": chosen}
        found = load_workflow(workflow, changes.settings, **given)
    found = found.with_notes((*found.notes, *notes))
    folder = RunFolder(_usual_place(found.name) if out is None else out, found.run.storage_options)
    refuse_foreign(folder)
    return RunSettings(found, folder, trusted=True, differs=_compared(found, folder), named=named)


def with_changes(given: RunSettings, settings: Mapping[str, Any]) -> RunSettings:
    """The settings of a run with changes, for another run on the same workers. It has notes about the changes only.

    Raises:
        ConfigError: a setting is wrong, or the scheduler would change.
    """
    found = changed(given.workflow, Changes(settings), given.workflow.name)
    if found.run.scheduler != given.workflow.run.scheduler:
        raise ConfigError(
            "A run with other settings works on the same workers, so run.scheduler cannot change. Nothing was started; "
            "make a new run with daskt2i.Run, and give it a scheduler (scheduler)."
        )
    notes = [note for note in found.notes if note not in given.workflow.notes]
    folder = RunFolder(given.folder.root, found.run.storage_options)
    return replace(given, workflow=found.with_notes(notes), folder=folder, differs="")


def own_settings(path: str | Path, storage_options: Mapping[str, Any] | None = None) -> RunSettings:
    """The settings that a run folder keeps.

    Raises:
        StoreMissing: there is no run folder.
        StoreError: the folder holds something, and daskt2i did not make it.
        ConfigError: the settings of the folder cannot be read.
    """
    folder = RunFolder(path, storage_options)
    refuse_foreign(folder)
    own = _own_settings(folder)
    if own is None:
        what = "is not a run folder, because it has no settings" if folder.exists("") else "does not exist"
        raise StoreMissing(
            f"{folder} {what}. Nothing was written; daskt2i.Run(workflow, out=...).encode() makes a run folder."
            f"{nearest_run(folder)}"
        )
    run = own.run.model_copy(update={"storage_options": dict(storage_options)}) if storage_options else own.run
    return RunSettings(own.model_copy(update={"run": run}), folder, trusted=False, own=own)


def refuse_strangers(found: RunSettings) -> None:
    """Refuse classes, addresses and links that only the run folder names; see `encode.saved_workflow.strangers`.

    Raises:
        ConfigError: the folder names such a part.
    """
    if found.trusted:
        return
    strange = strangers(found.workflow, found.folder)
    if strange and found.own is not None:  # the others come from the changes of the user
        own = strangers(found.own, found.folder)
        strange = [part for part in strange if part in own]
    if strange:
        raise ConfigError(
            f"The settings in {found.folder} name {', '.join(strange)}, which is not part of daskt2i's sources, "
            "encoders and plain addresses. Nothing was run; if you trust it, give the workflow file yourself "
            "(workflow)."
        )


def scheduler_of(found: RunSettings) -> str:
    """`run.scheduler` of the settings.

    Raises:
        ConfigError: only the run folder names it, and it is a cluster file or the address of a cluster.
    """
    scheduler = found.workflow.run.scheduler
    named = found.trusted or "run.scheduler" in found.named
    if not named and scheduler.partition(":")[0] not in _OWN_SCHEDULERS:
        raise ConfigError(
            f"The settings in {found.folder} name the scheduler {scheduler}, which is not on this machine or not part "
            "of daskt2i. Nothing was run; if you trust it, give it yourself (scheduler)."
        )
    return scheduler


def _usual_place(name: str) -> str:
    """The run folder of a workflow, where none is given.

    Raises:
        ConfigError: no folder below `runs` can have this name.
    """
    if any(not part.strip() or part in (".", "..") for part in name.split("/")):
        raise ConfigError(
            f"The workflow is named {name!r}, and no folder below runs can have this name. Nothing was started; give "
            "another name, or a run folder (out)."
        )
    return f"runs/{name}"


def _own_settings(folder: RunFolder) -> Workflow | None:
    """The settings that a run folder keeps, or None."""
    try:
        return read_settings(folder)
    except FileNotFoundError:
        return None


def _is_run_folder(path: Path) -> bool:
    """Whether it is a run folder with something in it. A folder that cannot be looked into is none."""
    try:
        made = (path / STORE).is_dir() or (path / MARKER).is_file()  # an encode that stopped early made no store yet
        return made and (path / WORKFLOW).is_file() and refuse_foreign(RunFolder(path))
    except (OSError, Daskt2iError):
        return False


def _storage_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The credentials that are asked for, before a workflow is read."""
    load_defaults()
    data: dict[str, Any] = {"run": {"storage_options": dask_settings("run")[0].get("storage_options") or {}}}
    named = {key: value for key, value in by_dotted_key(settings) if key.startswith("run.storage_options")}
    Changes(named).apply(data, "")
    found = data["run"]["storage_options"]
    return dict(found) if isinstance(found, Mapping) else {}  # a wrong value is refused with all other settings


def _compared(workflow: Workflow, folder: RunFolder) -> str:
    """A sentence about how a workflow differs from the settings that its run folder keeps, or ""."""
    try:
        own = _own_settings(folder)
        if own is None or not set(folder.entries() or ()) - _NO_DATA:
            return ""
        wanted = without_secrets(with_source(workflow, folder, draw=False))
    except Daskt2iError:  # the stage that needs these settings raises the error
        return ""
    differ = differences(_compared_sections(own), _compared_sections(wanted), "")
    if not differ:
        return ""
    more = f" (and {len(differ) - _NAMED} more)" if len(differ) > _NAMED else ""
    return (
        f"{folder} was made with other settings than this workflow has: {'; '.join(differ[:_NAMED])}{more}. To use the "
        "settings of the folder, give the run folder (out) and no workflow."
    )


def _compared_sections(workflow: Workflow) -> dict[str, Any]:
    data = json.loads(workflow.model_dump_json(by_alias=True))
    return {name: data[name] for name in _SECTIONS if data.get(name) is not None}
