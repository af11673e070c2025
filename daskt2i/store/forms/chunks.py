"""The arrays of a chunk, to and from the forms in which they are stored.

Covers: all rows of a chunk in memory.
Does not cover: rows in a store (`made_rows`), the arithmetic (`numbers`, `packed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.store.forms.form import MASK, Form, Forms
from daskt2i.store.forms.numbers import from_bfloat16, from_int8, to_bfloat16, to_int8
from daskt2i.store.forms.packed import lengths_of, pack

Arrays = Mapping[str, npt.NDArray[Any]]


def to_stored(forms: Forms, made: Arrays) -> dict[str, npt.NDArray[Any]]:
    """The arrays that are stored, from those of the encoders and the rows.

    Args:
        made: name -> `[row, ...]`, all rows of a chunk. An exact array stays the same object.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    for name, values in made.items():
        form = forms.get(name)
        if form is None:
            found[name] = values
            continue
        if form.packed:
            lengths = lengths_of(made[MASK], form.whole)
            values, found[form.begin] = pack(values, lengths, made.get("caption"))
        if form.number == "int8":
            values, found[form.scale] = to_int8(values, 1 + form.kept)
        elif form.number == "bfloat16":
            values = to_bfloat16(values)
        found[form.values] = values
    return found


def numbers_of(form: Form, values: npt.NDArray[Any], scale: npt.NDArray[np.float32] | None) -> npt.NDArray[Any]:
    """Stored numbers as the encoder's, in its dtype. Packed ones stay packed.

    Args:
        scale: offset and step of each group; None for a form that has none.
    """
    if form.number == "bfloat16":
        return from_bfloat16(values, form.made.dtype)
    return values if scale is None else from_int8(values, scale, form.made.dtype)


def as_read(forms: Forms, made: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the image encoder as a reader of the store will get them, for checks before they are written."""
    found = dict(made)
    for name, values in made.items():
        if (form := forms.get(name)) is not None:
            stored = to_stored({name: form}, {name: values})
            found[name] = numbers_of(form, stored[form.values], stored.get(form.scale))
    return found
