"""The workflow of a column: that of the store, with one encoder in the place of both.

Covers: names of encoders for columns, whether a class encodes pictures or captions, the settings of the column.
Does not cover: where the column lies (`store.columns.places`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from daskt2i.config.component import Component
from daskt2i.config.settings import EncoderSettings, Workflow
from daskt2i.encode.saved_workflow import with_source
from daskt2i.errors import ConfigError
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.store.layout import EMPTY_PREFIX, about_store, checked_layout, row_arrays
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

ENCODERS: Mapping[str, str] = {
    "vae": "daskt2i.encoders.vae.VaeEncoder",
    "text": "daskt2i.encoders.text.TextEncoder",
}
"""Short names of encoders that take the argument `model`."""

_NO_IMAGES = Component.model_validate({"class": "daskt2i.encoders.nothing.NoImageEncoder"})
_NO_TEXTS = Component.model_validate({"class": "daskt2i.encoders.nothing.NoTextEncoder"})
_SETTING = "encoder"


def column_workflow(
    workflow: Workflow, folder: RunFolder, name: str, encoder: str, arguments: Mapping[str, Any]
) -> Workflow:
    """The workflow that encodes a column.

    Args:
        workflow: of the store.
        folder: the run folder of the store.
        name: of the column.
        encoder: a name of `ENCODERS`, or the dotted path of a class with the methods of an image encoder or of a text
            encoder.
        arguments: of its constructor.

    Raises:
        ConfigError: there is no such encoder, or the column has the name of an array or a dimension of the store.
    """
    if name in _taken(folder):
        raise ConfigError(
            f"A column cannot be named {name}, because the store has an array or a dimension of this name. Nothing was "
            "started; give another name (column)."
        )
    component = Component.model_validate({"class": ENCODERS.get(encoder, encoder), **arguments}).absolute()
    if "." not in component.class_path:
        raise ConfigError(
            f"There is no encoder named {encoder}. Nothing was started; give {', '.join(ENCODERS)}, or the dotted path "
            "of a class such as package.module.Class (encoder)."
        )
    whole = with_source(workflow, folder, draw=False)
    encoders = EncoderSettings(image=component, text=_NO_TEXTS)
    if _is_text(component):
        encoders = EncoderSettings(image=_NO_IMAGES, text=component)
    store = whole.dataset.store.model_copy(update={"packed": False})  # a column is read row by row
    if store.text == "training":  # a column is there to be stored
        store = store.model_copy(update={"text": "exact"})
    dataset = whole.dataset.model_copy(update={"encoders": encoders, "column": name, "store": store})
    return whole.model_copy(update={"name": f"{workflow.name}, column {name}", "scenes": None, "dataset": dataset})


def _taken(folder: RunFolder) -> set[str]:
    """Names in the Dataset of a store: a column of such a name would hide what is there."""
    every = {"row", "slot", *(spec.name for spec in row_arrays(1))}
    store = ZarrStore(folder)
    if about_store(store) is None:
        return every
    arrays = checked_layout(store)["arrays"]
    empty = {f"{EMPTY_PREFIX}{name}" for name in arrays}
    return every.union(arrays, empty, *(one["dims"] for one in arrays.values()))


def _is_text(component: Component) -> bool:
    """Whether a class encodes captions.

    Raises:
        ConfigError: it encodes neither pictures nor captions.
    """
    try:
        component.build(ImageEncoder, _SETTING)
        return False
    except ConfigError as error:
        try:
            component.build(TextEncoder, _SETTING)
            return True
        except ConfigError:
            raise error from None
