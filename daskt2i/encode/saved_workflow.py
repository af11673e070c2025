"""The settings that a run folder keeps: with absolute paths, without secrets.

Covers: absolute paths, scenes as a COCO folder, reading `workflow.yaml` of a run folder, what is not used when only
that file names it (`strangers`).
Does not cover: workflow files of users (`config.workflow_file`), the plan (`prepare`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i import documents, redact
from daskt2i.addresses import is_address
from daskt2i.config.changes import SCENES, SCENES_SOURCE
from daskt2i.config.component import SHIPPED, Component
from daskt2i.config.renamed import with_new_names
from daskt2i.config.settings import Workflow
from daskt2i.config.training.denoiser import OWN_DENOISERS
from daskt2i.config.workflow_file import dask_settings, load_defaults, parse_workflow
from daskt2i.errors import ConfigError, StoreBusy
from daskt2i.protocols import Source
from daskt2i.store.ownership import claim
from daskt2i.store.publishing import lock
from daskt2i.store.publishing.links import outward_links
from daskt2i.store.run_folder import WORKFLOW, RunFolder

_PROTOCOLS = {"file", "local", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory"}
_PROTOCOLS |= {"zip", "tar", "hdfs", "webhdfs", "oci"}
"""Addresses that only read bytes. fsspec has others that do more: `dask://` takes objects from a scheduler, and
`reference://` fills in templates of the file that it reads."""


def with_source(workflow: Workflow, folder: RunFolder, draw: bool) -> Workflow:
    """The workflow with absolute paths, and with its scenes as a COCO folder in the run folder.

    Args:
        draw: draw the scenes if they are not there yet; if False, their source draws each scene when it is read.
    """
    workflow = _absolute(workflow)
    if workflow.scenes is not None and workflow.dataset.source.class_path == SCENES_SOURCE:
        workflow = _with_scenes(workflow, folder, draw)
    return workflow


def without_secrets(workflow: Workflow) -> Workflow:
    """The workflow without storage options, and with `***` for passwords, tokens and signatures in other settings.

    They must not be written beside the data. A component whose arguments hold `***` is not built.
    """
    run = workflow.run.model_copy(update={"storage_options": None})
    source = Component.model_validate(
        {"class": workflow.dataset.source.class_path}
        | {k: v for k, v in workflow.dataset.source.arguments.items() if k != "storage_options"}
    )
    found = workflow.model_copy(update={"run": run, "dataset": workflow.dataset.model_copy(update={"source": source})})
    data = found.model_dump(mode="json", by_alias=True)
    shown = redact.without_secrets(data)
    return found if shown == data else Workflow.model_validate(shown).with_notes(workflow.notes)


def keep_first_settings(workflow: Workflow, folder: RunFolder) -> None:
    """Write the settings into a run folder that keeps none yet. If another process works there, it writes its own."""
    if folder.exists(WORKFLOW):
        return
    claim(folder)
    with contextlib.suppress(StoreBusy), lock.hold(folder, "keep settings"):
        _keep_first(with_source(workflow, folder, draw=False), folder)


def _keep_first(workflow: Workflow, folder: RunFolder) -> None:
    if not folder.exists(WORKFLOW):
        folder.write(WORKFLOW, without_secrets(workflow).to_yaml().encode())


def settings_of(folder: RunFolder) -> Workflow | None:
    """The settings that a run folder was last encoded with, or None if they are missing or not readable."""
    try:
        return read_settings(folder)
    except (FileNotFoundError, ConfigError):
        return None


def read_settings(folder: RunFolder) -> Workflow:
    """The settings that a run folder was last encoded with.

    Old names are read without a note: an earlier version wrote them, not the user. A run folder keeps no credentials,
    so `run.storage_options` comes from `dask.config`.

    Raises:
        FileNotFoundError: the folder has no settings.
        ConfigError: they cannot be read, for example because another version of daskt2i wrote them.
    """
    load_defaults()
    address = folder.address(WORKFLOW)
    try:
        data, _ = with_new_names(documents.read_yaml(folder.read(WORKFLOW)), address)
        kept = {name: value for name, value in (data.get("run") or {}).items() if name != "storage_options"}
        data["run"] = {**dask_settings("run")[0], **kept}
        source = (data.get("dataset") or {}).get("source")
        if isinstance(source, dict):  # an `env:` name of a stranger would send a secret of this user away
            source.pop("storage_options", None)
        return parse_workflow(data, address).with_notes(())
    # ConfigError and BadDocument are ValueErrors.
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        said = " ".join(str(error).split()).rstrip(".") + "."
        raise ConfigError(
            f"The settings of the run folder {folder} cannot be read: {said} Another version of daskt2i may have "
            "written them. Nothing was changed. Name a workflow (workflow) to use its settings."
        ) from error


def strangers(workflow: Workflow, folder: RunFolder) -> list[str]:
    """The parts of a folder's own settings that are not used on its word alone, for a person. Empty if there are none.

    Somebody else may have written the folder. So its settings may name the classes of `SHIPPED`, paths, and addresses
    that only read bytes; and its links may not lead out. What the user names is trusted.

    Args:
        workflow: the settings that the folder keeps.
    """
    dataset = workflow.dataset
    parts = (dataset.source, dataset.encoders.image, dataset.encoders.text)
    named_classes = [part.class_path for part in parts]
    denoiser = workflow.train.model.class_path
    if denoiser is not None and not denoiser.startswith(OWN_DENOISERS):
        named_classes.append(denoiser)
    found = [path for path in named_classes if path not in SHIPPED]
    data = workflow.model_dump(mode="json", by_alias=True)
    named = [data[key] for key in ("dataset", "vae", "evaluate")]
    found += [f"the address {text}" for text in _texts(named) if not _only_reads(text)]
    found += [f"{name}, a link that leads out of the folder" for name in outward_links(folder)]
    return list(dict.fromkeys(found))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = [one for key, one in value.items() if key != "where"]
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _only_reads(text: str) -> bool:
    """Whether all parts of an address (`zip://a::s3://b`) have known protocols. A path (`run::1/images`) has none."""
    if not is_address(text):
        return True
    *outer, last = text.split("::")
    kinds = [part.partition("://")[0] for part in outer]
    kinds += [last.partition("://")[0]] if "://" in last else []
    return all(kind.lower() in _PROTOCOLS for kind in kinds)


def _absolute(workflow: Workflow) -> Workflow:
    """The workflow with absolute paths."""
    dataset = workflow.dataset
    encoders = dataset.encoders.model_copy(
        update={"image": dataset.encoders.image.absolute(), "text": dataset.encoders.text.absolute()}
    )
    changed = dataset.model_copy(update={"source": dataset.source.absolute(), "encoders": encoders})
    return workflow.model_copy(update={"dataset": changed})


def _with_scenes(workflow: Workflow, folder: RunFolder, draw: bool) -> Workflow:
    """The workflow with its scenes as a COCO folder; without `draw`, a source that draws them if they are missing."""
    from daskt2i.sources.scenes import write_scenes

    assert workflow.scenes is not None
    scenes = workflow.scenes
    if not folder.is_local:
        raise ConfigError(
            f"Scenes are drawn into a folder on this machine, but {folder} is remote. Nothing was started. Use a local "
            "run folder (out), or your own images (images, captions)."
        )
    place = folder.local_path(SCENES)
    if draw:
        claim(folder)
        with lock.hold(folder, "draw scenes"):
            _keep_first(workflow, folder)  # the folder alone continues a run that is stopped while it draws
            write_scenes(place, scenes.rows, scenes.seed, scenes.shapes)
    captions = place / "captions.json"
    arguments = {"images": str(place / "images"), "captions": str(captions)}
    source = Component.model_validate({"class": "daskt2i.sources.coco.CocoSource", **arguments})
    if not draw and (not captions.is_file() or source.build(Source, "scenes").info().rows != scenes.rows):
        return workflow  # its source draws each row when it is read, which is enough to count rows
    return workflow.model_copy(update={"dataset": workflow.dataset.model_copy(update={"source": source})})
