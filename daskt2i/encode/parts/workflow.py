"""The workflow of a part: that of the first store, with the source of the new rows.

Covers: precision and engine that the first store has; refusing other encoders and settings.
Does not cover: which rows the part has (`new_rows`), where it lies (`store.parts.places`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import differences
from daskt2i.encode.prepare import identity
from daskt2i.encode.saved_workflow import read_settings, strangers
from daskt2i.errors import ConfigError, FingerprintMismatch, StoreMissing
from daskt2i.protocols import ChoosesEngine, ImageEncoder, TextEncoder
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import Member
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import SourceInfo

_NO_SOURCE = SourceInfo(0, 0, 0, 0, 0, 0, {}, "")
_OF_ROWS = ("source", "where")
"""What two stores whose rows belong together may differ in."""


def part_workflow(workflow: Workflow, folder: RunFolder) -> Workflow:
    """A workflow whose arrays fit those of the store in a run folder.

    Args:
        workflow: names the source of the new rows, with absolute paths.
        folder: the run folder of the first store.

    Raises:
        StoreMissing: there is no store.
        FingerprintMismatch: encoders, images or chunks differ from those of the store.
    """
    about = about_store(ZarrStore(folder))
    if about is None:
        raise StoreMissing(
            f"There is no latent store in {folder}, so there are no rows to change. Nothing was started; run encode "
            "first."
        )
    first = about["identity"]
    whole = workflow.model_copy(update={"scenes": None, "dataset": _pinned(workflow, first)})
    dataset = whole.dataset
    image: ImageEncoder = dataset.encoders.image.build(ImageEncoder, "dataset.encoders.image")
    text: TextEncoder = dataset.encoders.text.build(TextEncoder, "dataset.encoders.text")
    wanted = identity(dataset, _NO_SOURCE, image.info(dataset.image.resolution), text.info(), dataset.precision)
    if differ := differences(_of_arrays(first), _of_arrays(wanted)):
        raise FingerprintMismatch(
            f"New rows must be encoded as the store in {folder} was, and these settings differ: {'; '.join(differ)}. "
            "Nothing was changed; go back to the settings of the store, or encode into another run folder (out)."
        )
    return whole


def member_workflow(workflow: Workflow, store: Member) -> Workflow:
    """The workflow of the user, with the rows of one of the stores of the run folder.

    Raises:
        ConfigError: the settings of a part cannot be read, or name a class or an address that the user did not name.
    """
    if not store.name:
        return workflow
    own = read_settings(store.folder)
    named = {*strangers(workflow, store.folder)}
    if strange := [one for one in strangers(own, store.folder) if one not in named]:
        raise ConfigError(
            f"The settings in {store.folder} name {', '.join(strange)}, which is not part of daskt2i's sources, "
            "encoders and plain addresses. Nothing was run; if you trust it, give the workflow file with this source "
            "yourself (workflow)."
        )
    rows = {name: getattr(own.dataset, name) for name in ("source", "where", "part")}
    return workflow.model_copy(update={"scenes": None, "dataset": workflow.dataset.model_copy(update=rows)})


def _pinned(workflow: Workflow, first: Mapping[str, Any]) -> Any:
    """The data settings, with the precision and the engine that the first worker chose for the first store."""
    dataset = workflow.dataset
    update: dict[str, Any] = {"column": None, "part": None}
    if dataset.precision == "auto":
        update["precision"] = first["precision"]
    image = dataset.encoders.image
    built: ImageEncoder = image.build(ImageEncoder, "dataset.encoders.image")
    if isinstance(built, ChoosesEngine) and image.arguments.get("engine", "auto") == "auto":
        engine = first["encoders"]["image"].get("engine", "torch")
        image = image.model_copy(update={"engine": engine})
        update["encoders"] = dataset.encoders.model_copy(update={"image": image})
    return dataset.model_copy(update=update)


def _of_arrays(identity_of: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the arrays of a row, with torch named where no engine is."""
    encoders = identity_of["encoders"]
    named = {**encoders, "image": {"engine": "torch", **encoders["image"]}}
    return {**{key: value for key, value in identity_of.items() if key not in _OF_ROWS}, "encoders": named}
