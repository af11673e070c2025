"""Encoders that make nothing: the other half of a column, which has an image encoder or a text encoder.

Covers: an image encoder without arrays, for which no picture is read, and a text encoder without arrays.
Does not cover: columns (`encode.columns`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from daskt2i.types import EncoderInfo, Pixels, Runtime

_NOTHING = EncoderInfo(
    arrays=(), weights="none", attributes={"class": "nothing"}, random_weights=False, weight_bytes=0, item_bytes=0
)


class NoImageEncoder:
    """Makes no arrays from pictures. A worker then reads none."""

    def info(self, resolution: int) -> EncoderInfo:
        """No arrays."""
        return _NOTHING

    def load(self, runtime: Runtime) -> None:
        """Load nothing."""

    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        """No arrays."""
        return {}

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """None: there is nothing to decode."""
        return


class NoTextEncoder:
    """Makes no arrays from captions."""

    def info(self) -> EncoderInfo:
        """No arrays."""
        return _NOTHING

    def load(self, runtime: Runtime) -> None:
        """Load nothing."""

    def encode(self, items: Sequence[str], batch: int) -> dict[str, npt.NDArray[Any]]:
        """No arrays."""
        return {}
