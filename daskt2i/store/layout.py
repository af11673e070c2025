"""The arrays of a store: those of the encoders, and those of the rows themselves; and what a store says about itself.

Covers: names, dimensions, dtypes and fill values; the empty arrays of a chunk; checking the attributes of a store.
Does not cover: shards, compression, files (`zarr_store`), arrays in fewer bytes (`forms`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.config.store_settings import StoreSettings
from daskt2i.errors import StoreError
from daskt2i.store.forms.form import Forms, forms_of, kept_arrays, stored_arrays
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Constant, EncoderInfo

EMPTY_PREFIX = "empty_"
"""Prefix of the arrays of the empty prompt. They have no `row` and no `slot` dimension: `empty_text_states`, …"""


def row_arrays(slots: int) -> tuple[ArraySpec, ...]:
    """The arrays of the rows: captions and the origin of the pixels."""
    return (
        ArraySpec("caption", ("slot",), (slots,), "string", "", "captions as in the source; unused slots are empty"),
        ArraySpec("image_id", (), (), "int64", 0, "the source's number for the image"),
        ArraySpec("file_name", (), (), "string", "", "the image below the source's image root"),
        ArraySpec("crop_box", ("edge",), (4,), "int32", 0, "left, top, right, bottom in upright source pixels"),
        ArraySpec("source_size", ("side",), (2,), "int32", 0, "width, height of the upright source image, pixels"),
        ArraySpec("valid", (), (), "bool", False, "True where the row is accepted; all else there is meaningless"),
    )


def text_arrays(text: EncoderInfo, slots: int) -> tuple[ArraySpec, ...]:
    """A text encoder's arrays with `slot` as first dimension."""
    return tuple(
        ArraySpec(a.name, ("slot", *a.dims), (slots, *a.shape), a.dtype, a.fill, a.description) for a in text.arrays
    )


EXACT = StoreSettings()
"""Arrays are stored as the encoders make them."""


def made_arrays(
    image: EncoderInfo, text: EncoderInfo, slots: int, settings: StoreSettings = EXACT
) -> tuple[ArraySpec, ...]:
    """All arrays of a chunk that have a row dimension, as encoders and rows make them.

    Args:
        slots: largest number of captions that a row has.
    """
    return (*kept_arrays(settings, image), *text_arrays(text, slots), *row_arrays(slots))


def store_forms(image: EncoderInfo, text: EncoderInfo, slots: int, settings: StoreSettings) -> Forms:
    """How these arrays are stored, where they are not stored as they are made."""
    whole = text.attributes.get("pad") == "full"
    return forms_of(settings, kept_arrays(settings, image), text_arrays(text, slots), whole)


def stored_text(text: EncoderInfo, settings: StoreSettings) -> EncoderInfo:
    """The info of a text encoder as an encode uses it: without arrays and memory if training makes the states."""
    return replace(text, arrays=(), weight_bytes=0, item_bytes=0) if settings.text == "training" else text


def stored_parts(
    image: EncoderInfo, text: EncoderInfo, slots: int, settings: StoreSettings
) -> tuple[tuple[ArraySpec, ...], tuple[ArraySpec, ...]]:
    """The arrays that are stored of the image encoder, and of the text encoder."""
    forms = store_forms(image, text, slots, settings)
    return stored_arrays(forms, kept_arrays(settings, image)), stored_arrays(forms, text_arrays(text, slots))


def store_arrays(
    image: EncoderInfo, text: EncoderInfo, slots: int, settings: StoreSettings = EXACT
) -> tuple[ArraySpec, ...]:
    """All arrays of a store that have a row dimension."""
    parts = stored_parts(image, text, slots, settings)
    return (*parts[0], *parts[1], *row_arrays(slots))


def empty_prompt(text: EncoderInfo, made: Mapping[str, npt.NDArray[Any]]) -> tuple[Constant, ...]:
    """The text encoder's arrays of the empty prompt, for caption dropout. `made` has no caption dimension."""
    return tuple(
        Constant(EMPTY_PREFIX + a.name, a.dims, made[a.name], f"the empty prompt: {a.description}")
        for a in text.arrays
        if a.dims
    )


def empty_chunk(arrays: Sequence[ArraySpec], rows: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays of `rows` rows that hold only fill values."""
    return {a.name: _filled((rows, *a.shape), a) for a in arrays}


def _filled(shape: tuple[int, ...], spec: ArraySpec) -> npt.NDArray[Any]:
    if spec.dtype == "string":
        return np.full(shape, "", dtype=np.dtypes.StringDType())
    fill = np.nan if spec.fill == "nan" else spec.fill
    return np.full(shape, fill, dtype=spec.dtype)


_ABOUT = {"fingerprint": str, "identity": dict, "random_weights": bool, "image_encoder": dict, "text_encoder": dict}


def about_store(store: ZarrStore) -> dict[str, Any] | None:
    """What `encode` wrote into the attributes of a store about its settings; None if there is no store.

    Raises:
        StoreError: `encode` did not make the store, or its attributes or its layout are damaged.
    """
    try:
        attributes = store.attributes()
    except RecursionError as error:
        raise _damaged(store, ["attributes"]) from error
    if attributes is None:
        return None
    checked_layout(store)
    found = attributes.get("daskt2i")
    given = found if isinstance(found, dict) else {}
    if wrong := [name for name, kind in _ABOUT.items() if not isinstance(given.get(name), kind)]:
        raise _damaged(store, wrong)
    return given


def padding_is_text(about: Mapping[str, Any]) -> bool:
    """Whether captions were padded before they were encoded, so that padding counts as text (`pad: full`).

    Args:
        about: the result of `about_store`.
    """
    pad = about["text_encoder"].get("pad", about["identity"]["encoders"]["text"].get("pad"))
    return bool(pad == "full")


def checked_layout(store: ZarrStore) -> dict[str, Any]:
    """`ZarrStore.layout`, with numbers that can be used.

    Raises:
        StoreMissing: there is no store.
        StoreError: the layout is damaged.
    """
    try:
        layout = store.layout()
    except RecursionError as error:
        raise _damaged(store, ["attributes"]) from error
    wrong = [name for name in ("rows", "rows_per_chunk") if type(layout.get(name)) is not int or layout[name] < 1]
    if not isinstance(layout.get("arrays"), dict):
        wrong.append("arrays")
    if wrong:
        raise _damaged(store, wrong)
    return layout


def _damaged(store: ZarrStore, lacks: Sequence[str]) -> StoreError:
    return StoreError(
        f"The attributes of {store.address} (zarr.json) are damaged, or encode did not make this store: they lack "
        f"{', '.join(lacks)}. Nothing was changed; restore this file, or encode into another run folder (out)."
    )
