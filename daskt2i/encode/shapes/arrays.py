"""The arrays of an image encoder for pictures of any size.

Covers: names, dimensions and lengths of the arrays of a view; refusing encoders whose arrays do not grow with the
picture; the largest memory of a picture.
Does not cover: the arrays of a square, which the encoder tells (`protocols.ImageEncoder.info`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from daskt2i.config.image_settings import ImageSettings
from daskt2i.encode.shapes.views import Shapes
from daskt2i.errors import ConfigError
from daskt2i.protocols import ImageEncoder
from daskt2i.store.views import View, view_name
from daskt2i.types import ArraySpec, EncoderInfo

_AXES = {"y": 1, "x": 0}
"""Dimensions that grow with the picture -> their side in a size (width, height)."""


def square_info(encoder: ImageEncoder, settings: ImageSettings) -> EncoderInfo:
    """The info of an encoder for the largest square that the settings make.

    Raises:
        ConfigError, ModelMissing: of the encoder. For a side that is not `resolution` it names the right setting.
    """
    try:
        return encoder.info(settings.side)
    except ConfigError as error:
        if settings.buckets is None and settings.resolutions is None:
            raise
        which = "resolutions" if settings.buckets is None else "buckets"
        raise ConfigError(
            f"dataset.image.{which} makes squares of {settings.side} pixels, which the encoder refuses: {error}"
        ) from error


def view_arrays(info: EncoderInfo, shapes: Shapes, view: View) -> dict[str, ArraySpec]:
    """Array of the encoder -> array of the store, for one view.

    Args:
        info: of the encoder, for a square of `shapes.side` pixels.
    """
    if not shapes.named:
        return {one.name: one for one in info.arrays}
    place = view_name(view.size)
    return {
        one.name: replace(
            one,
            name=view.array(one.name),
            dims=tuple(f"{dim}_{place}" if dim in _AXES else dim for dim in one.dims),
            shape=_grown(one, shapes.side, view),
            description=f"{one.description}{'; of the mirrored picture' if view.flipped else ''}",
        )
        for one in info.arrays
    }


def _grown(spec: ArraySpec, side: int, view: View) -> tuple[int, ...]:
    return tuple(
        length * view.size[_AXES[dim]] // side if dim in _AXES else length
        for dim, length in zip(spec.dims, spec.shape, strict=True)
    )


def info_for(info: EncoderInfo, shapes: Shapes, views: Iterable[View]) -> EncoderInfo:
    """The info of an encoder for these views: their arrays, and the memory of the largest picture."""
    views = list(views)
    found = [spec for view in views for spec in view_arrays(info, shapes, view).values()]
    largest = max((view.width * view.height for view in views), default=0) / shapes.side**2
    grow = max(1.0, largest**2)  # attention takes memory for each pair of places

    def grown(needs: tuple[int, int]) -> tuple[int, int]:
        return needs[0], int(needs[1] * grow)

    weight_bytes, item_bytes = grown((info.weight_bytes, info.item_bytes))
    engines = {name: grown(needs) for name, needs in info.engines.items()}
    return replace(info, arrays=tuple(found), weight_bytes=weight_bytes, item_bytes=item_bytes, engines=engines)


def info_of_chunk(info: EncoderInfo, shapes: Shapes, chunk: int) -> EncoderInfo:
    """The info of an encoder for the views of a chunk."""
    return info_for(info, shapes, shapes.of_chunk(chunk))


def names_in(info: EncoderInfo, shapes: Shapes, chunk: int) -> list[str]:
    """Names of the arrays of a chunk in the store."""
    return [one.name for one in info_of_chunk(info, shapes, chunk).arrays]


def mean_share(info: EncoderInfo, shapes: Shapes) -> float:
    """Mean size of the arrays of a row, as a share of those of the largest row; 1 if all rows have one size."""
    views = shapes.views
    every = sum(one.row_bytes * view.rows for view in views for one in view_arrays(info, shapes, view).values())
    largest = sum(one.row_bytes for one in info_of_chunk(info, shapes, shapes.heaviest()).arrays)
    rows = sum({view.first_chunk: view.rows for view in views}.values())
    return every / (largest * rows) if largest else 1.0


def require_growing(encoder: ImageEncoder, info: EncoderInfo, shapes: Shapes) -> None:
    """Refuse an encoder that cannot encode pictures of all views.

    Raises:
        ConfigError: its arrays do not grow with the picture, or a side is not a multiple of its reduction.
    """
    if not shapes.named or not info.arrays:
        return
    square = [spec for spec in info.arrays if not {"y", "x"} <= set(spec.dims)]
    if any(view.width != view.height for view in shapes.views) and (square or _is_fixed(encoder, info, shapes.side)):
        name = square[0].name if square else info.arrays[0].name
        raise ConfigError(
            f"The image encoder makes {name} of one size from any picture, so it cannot encode buckets. Nothing was "
            "started; take an encoder of latents, or a store without dataset.image.buckets in another run folder (out)."
        )
    for spec in info.arrays:
        for view in shapes.views:
            for dim, length in zip(spec.dims, spec.shape, strict=True):
                if dim in _AXES and length * view.size[_AXES[dim]] % shapes.side:
                    raise ConfigError(
                        f"The image encoder reduces each side {shapes.side // length} times, and a picture of "
                        f"{view.width} x {view.height} pixels cannot be reduced so. Nothing was started; make "
                        "dataset.image.buckets.step, or each of dataset.image.resolutions, a multiple of "
                        f"{shapes.side // length}."
                    )


def _is_fixed(encoder: ImageEncoder, info: EncoderInfo, side: int) -> bool:
    """Whether arrays of a picture of twice the side have the same shapes."""
    return [one.shape for one in encoder.info(2 * side).arrays] == [one.shape for one in info.arrays]
