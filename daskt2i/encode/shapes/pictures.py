"""Encoding the pictures of a batch, and decoding them back, view by view.

Covers: the pixels of a view, also mirrored ones; the arrays of all views of a batch under their names in the store.
Does not cover: reading pictures (`read_ahead`), smaller batches when memory runs out (`model_cache`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.encode import gates
from daskt2i.encode.shapes.arrays import view_arrays
from daskt2i.encode.shapes.views import Shapes
from daskt2i.protocols import ImageEncoder
from daskt2i.store.views import View
from daskt2i.types import EncoderInfo, Pixels, Record

Arrays = Mapping[str, npt.NDArray[Any]]


def pixels_of(records: Iterable[Record], view: View) -> Pixels:
    """The pictures of a view, `uint8[n, height, width, 3]`. A mirrored one is mirrored before it is encoded."""
    shape = (view.height, view.width)
    found = np.stack([_in_size(record, shape) for record in records])
    return np.ascontiguousarray(found[:, :, ::-1]) if view.flipped else found


def _in_size(record: Record, shape: tuple[int, int]) -> Pixels:
    return next(one for one in (record.pixels, *record.more) if one.shape[:2] == shape)


def encode_views(
    info: EncoderInfo,
    shapes: Shapes,
    chunk: int,
    records: list[Record],
    encode: Callable[[Pixels], Arrays],
) -> dict[str, npt.NDArray[Any]]:
    """Arrays of the store for a batch, of all views of its chunk.

    Args:
        info: of the encoder, for a square.
        encode: the encoder.

    Raises:
        ModelError: the encoder made other arrays than it promised.
    """
    found = dict[str, npt.NDArray[Any]]()
    for view in shapes.of_chunk(chunk) if info.arrays else ():
        made, specs = encode(pixels_of(records, view)), view_arrays(info, shapes, view)
        promised = [replace(spec, name=name) for name, spec in specs.items()]
        gates.require_promised(promised, made, len(records), "The image encoder")
        found |= {specs[name].name: array for name, array in made.items()}
    return found


def decode_views(
    encoder: ImageEncoder,
    info: EncoderInfo,
    shapes: Shapes,
    chunk: int,
    records: Mapping[int, Record],
    made: Arrays,
) -> list[tuple[str, Pixels, Pixels]]:
    """Rows of a chunk, decoded: for each view a name for messages, the pictures, and what their arrays decode to.

    Nothing for an encoder that cannot decode.

    Args:
        records: row -> the record of its picture.
        made: these rows of the arrays of the store, as the encoder made them.
    """
    found = []
    for view in shapes.of_chunk(chunk):
        specs = view_arrays(info, shapes, view)
        decoded = encoder.decode({name: made[spec.name] for name, spec in specs.items() if spec.name in made})
        if decoded is not None:
            name = f" of the view {view.name}" if shapes.named else ""
            found.append((name, pixels_of(records.values(), view), decoded))
    return found


def psnr_of_views(
    encoder: ImageEncoder,
    info: EncoderInfo,
    shapes: Shapes,
    chunk: int,
    records: Mapping[int, Record],
    made: Arrays,
    minimum: float,
) -> tuple[float, ...]:
    """dB of the decoded rows of a chunk, of all its views. Arguments as in `decode_views`, errors of `require_psnr`."""
    rows = ", ".join(map(str, records))
    return tuple(
        value
        for view, original, decoded in decode_views(encoder, info, shapes, chunk, records, made)
        for value in gates.require_psnr(original, decoded, minimum, f"chunk {chunk} (rows {rows}{view})")
    )
