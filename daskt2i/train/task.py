"""What the training loop needs of a trainer: a model with its data and loss.

Covers: the protocol `TrainTask` and its optional parts, cutting a batch into parts, seeds.
Does not cover: the loop (`loop`), our trainers (`denoiser_rank`, `autoencoder_rank`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    from torch import Tensor, nn


class TrainTask(Protocol):
    """A model with its data and loss. Each rank makes its own object."""

    def build(self, device: str) -> nn.Module:
        """The model to train, on the device, the same on every rank."""

    def batches(self, position: int) -> Iterator[Any]:
        """This rank's part of each batch, from a stream position on, without end. A batch has a length and slices."""

    def loss(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss over this rank's part, and figures to log. `model` is the result of `build`, perhaps wrapped."""

    def heldout(self, model: nn.Module) -> tuple[float, int, Mapping[str, float | tuple[float, int]]]:
        """For this rank's share of the held-out rows: sum of losses, number of rows, sums of other figures.

        A figure of some rows only is a pair: its sum, and their number. Every rank gives the same names.
        """

    def finish(self, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
        """On rank 0, at the end: write the result, and return its figures."""

    def close(self) -> None:
        """Close threads and files."""


@runtime_checkable
class DrawsPictures(Protocol):
    """An optional part of a `TrainTask`: draw pictures every `launch.grid_every` steps."""

    def sheet(self, model: nn.Module, step: int, folder: RunFolder) -> str | None:
        """On rank 0, with the moving average: write a picture, and return its name inside the run folder.

        Meanwhile the other ranks wait, for `process_group.GROUP_TIMEOUT` at most. After the last step the driver draws.
        """


@runtime_checkable
class KeepsLabel(Protocol):
    """An optional part of a `TrainTask`: what its result says of the training.

    Attributes:
        label: `resume.label`, set before `finish`.
    """

    label: Mapping[str, Any]


def cut(batch: Any, count: int) -> list[tuple[Any, float]]:
    """Cut a rank's batch into at most `count` parts of almost equal size, each with its share of the samples."""
    edges = np.linspace(0, len(batch), min(count, len(batch)) + 1).round().astype(int)
    return [(batch[a:b], (b - a) / len(batch)) for a, b in itertools.pairwise(edges)]


def seed_of(*parts: int) -> int:
    """A seed of 63 bits from these numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1
