"""Which array has which form, and what the store says about it.

Covers: the forms of a store from the settings, the arrays that a form stores, their description as JSON.
Does not cover: values (`numbers`, `packed`, `chunks`).

| form of `latent_mean` | arrays |
|---|---|
| exact | `latent_mean`, as the encoder makes it |
| bfloat16 | `latent_mean`: `uint16`, the bits of bfloat16 |
| int8 | `latent_mean`: `int8`; `latent_mean_scale`: `float32[row, channel, 2]`, offset and step |

Packed text states are in `text_states_packed` and `text_states_begin`, see `packed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from daskt2i.config.store_settings import StoreSettings
from daskt2i.errors import StoreError
from daskt2i.types import ArraySpec, EncoderInfo

STD = "latent_std"
"""The array that `std: false` leaves out, and the beginning of its name for each view."""

STATES, MASK = "text_states", "text_mask"


@dataclass(frozen=True, slots=True)
class Form:
    """How one array is stored.

    Attributes:
        made: the array as the encoder makes it, without the dimension `row`.
        number: `exact`, `bfloat16` or `int8`.
        packed: whether the padding of text is left out.
        whole: whether padding counts as text (`pad: full`).
    """

    made: ArraySpec
    number: str
    packed: bool = False
    whole: bool = False

    @property
    def values(self) -> str:
        """Name of the array that holds the values."""
        return f"{self.made.name}_packed" if self.packed else self.made.name

    @property
    def scale(self) -> str:
        """Name of the array of offsets and steps."""
        return f"{self.made.name}_scale"

    @property
    def begin(self) -> str:
        """Name of the array that says where a caption begins."""
        return f"{self.made.name}_begin"

    @property
    def kept(self) -> int:
        """Dimensions of `values`, without `row`, whose entries have a scale each."""
        dims = self.made.dims
        return 1 if self.packed else len(dims) - (2 if dims[-2:] == ("y", "x") else 1)

    def arrays(self) -> tuple[ArraySpec, ...]:
        """The arrays that are stored."""
        made = self.made
        dims, shape = made.dims, made.shape
        if self.packed:
            slots, tokens, features = shape
            dims, shape = ("place", dims[-1]), (slots * tokens, features)
        dtype, fill = {"bfloat16": ("uint16", 0x7FC0), "int8": ("int8", 0)}.get(self.number, (made.dtype, made.fill))
        told = {"bfloat16": "bits of bfloat16: ", "int8": f"offset and step are in {self.scale}: "}
        about = f"{told.get(self.number, '')}{made.description}"
        if self.packed:
            about = f"tokens of a chunk one after the other, see {self.begin}; {about}"
        found = [ArraySpec(self.values, dims, shape, dtype, fill, about)]
        if self.number == "int8":
            lead = self.kept
            about = f"offset and step: {self.values} is offset + step x number"
            found.append(
                ArraySpec(self.scale, (*dims[:lead], "coefficient"), (*shape[:lead], 2), "float32", "nan", about)
            )
        if self.packed:
            about = f"where a caption begins among the tokens of its chunk in {self.values}"
            found.append(ArraySpec(self.begin, made.dims[:1], made.shape[:1], "int32", 0, about))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """What the store says: the array as it is made, and where its parts are."""
        made, names = self.made, {"values": self.values}
        if self.number == "int8":
            names["scale"] = self.scale
        if self.packed:
            names["begin"] = self.begin
        return {
            "number": self.number,
            "packed": self.packed,
            "whole": self.whole,
            "arrays": names,
            "dims": list(made.dims),
            "shape": list(made.shape),
            "dtype": made.dtype,
            "fill": made.fill,
            "description": made.description,
        }

    @classmethod
    def from_json(cls, name: str, about: Mapping[str, Any]) -> Form:
        """The form that `to_json` wrote."""
        made = ArraySpec(
            name, tuple(about["dims"]), tuple(about["shape"]), about["dtype"], about["fill"], about["description"]
        )
        return cls(made, about["number"], about["packed"], about["whole"])


Forms = Mapping[str, Form]
"""Name of an array as it is made -> its form. Arrays that are not in it are exact."""


def forms_of(settings: StoreSettings, image: Sequence[ArraySpec], text: Sequence[ArraySpec], whole: bool) -> Forms:
    """The forms of a store.

    Args:
        image: arrays of the image encoder that are stored.
        text: arrays of the text encoder that are stored, with the dimension `slot`.
        whole: whether padding counts as text.
    """
    found = {}
    for spec in image:
        if settings.latents != "exact" and spec.dims and _is_float(spec):
            found[spec.name] = Form(spec, settings.latents)
    for spec in text:
        packed = settings.packed and spec.name == STATES
        if (settings.text != "exact" or packed) and len(spec.dims) > 1 and _is_float(spec):
            found[spec.name] = Form(spec, settings.text, packed, whole)
    return found


def stored_arrays(forms: Forms, made: Iterable[ArraySpec]) -> tuple[ArraySpec, ...]:
    """The arrays of a store, from those that its encoders make."""
    return tuple(spec for one in made for spec in (forms[one.name].arrays() if one.name in forms else (one,)))


def kept_arrays(settings: StoreSettings, image: EncoderInfo) -> tuple[ArraySpec, ...]:
    """The arrays of the image encoder that are stored: all, or all but the std."""
    return tuple(spec for spec in image.arrays if settings.std or not spec.name.startswith(STD))


def described(forms: Forms) -> dict[str, Any]:
    """The forms as JSON, for the attribute `daskt2i` of the store: `{"forms": …}`, or nothing if all is exact."""
    return {"forms": {name: form.to_json() for name, form in forms.items()}} if forms else {}


def read_forms(about: Mapping[str, Any], address: str) -> Forms:
    """The forms that a store describes.

    Args:
        about: its attribute `daskt2i`.
        address: of the store, for messages.

    Raises:
        StoreError: the description is damaged.
    """
    try:
        return {name: Form.from_json(name, form) for name, form in about.get("forms", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"The attributes of {address} (zarr.json) do not say how its arrays are stored ({error!r}). Nothing was "
            "changed; restore this file, or encode into another run folder (out)."
        ) from error


def _is_float(spec: ArraySpec) -> bool:
    return spec.dtype != "string" and np.issubdtype(np.dtype(spec.dtype), np.floating)
