"""Sizes, crops and pooled text of the rows of a batch, for models that are told them (SDXL's micro-conditioning).

Covers: the values of a batch; SDXL's six numbers of each.
Does not cover: which models take them (`model.denoisers`), the crops themselves (`images`).

SDXL (Podell et al. 2023, arXiv:2307.01952, 2.2) is told how large the source picture was, where it was cropped, and how
large the picture is. So it learns from small and cropped pictures, and is asked for large and centred ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.memory.loaded_rows import Group
from daskt2i.loader.sample_order import Sample, Whole
from daskt2i.loader.shards import CROP_BOX, POOLED, SOURCE_SIZE

Pixels = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sized:
    """What a model is told of b samples besides their captions.

    Attributes:
        sizes: `int32[b, 2]`, width and height of the upright source picture, pixels.
        crops: `int32[b, 4]`, left, top, right and bottom of the crop in it. Of a mirrored sample they are those in the
            mirrored source picture.
        targets: `int32[b, 2]`, height and width of the picture after crop and resize, pixels.
        pooled: `float16[b, feature]`, pooled state of the chosen caption, or of the empty prompt.
    """

    sizes: Pixels
    crops: Pixels
    targets: Pixels
    pooled: npt.NDArray[np.float16]

    def __getitem__(self, part: slice) -> Sized:
        return Sized(self.sizes[part], self.crops[part], self.targets[part], self.pooled[part])

    def time_ids(self) -> npt.NDArray[np.float32]:
        """`float32[b, 6]` as SDXL takes them: height and width of the source, top and left of the crop in pixels of the
        picture after resize, height and width of the picture."""
        scale = self.targets[:, 1] / (self.crops[:, 2] - self.crops[:, 0])
        corner = self.crops[:, [1, 0]] * scale[:, None]
        return np.concatenate([self.sizes[:, ::-1], corner.round(), self.targets], axis=1).astype(np.float32)


def sized_of(reader: AnyReader, samples: Sequence[Sample], groups: Sequence[Group], slots: Whole) -> Sized:
    """The values of a batch.

    Args:
        slots: index of the caption of each sample in its row; -1 for the empty prompt.
    """
    count = len(samples)
    sizes, crops = np.empty((count, 2), np.int32), np.empty((count, 4), np.int32)
    pooled = np.empty((count, reader.pooled), np.float16)
    for rows, indexes, places in groups:
        sizes[places], box = rows.extra[SOURCE_SIZE][indexes], rows.extra[CROP_BOX][indexes]
        if rows.mirrored is not None:
            flipped = rows.mirrored[indexes]
            width = rows.extra[SOURCE_SIZE][indexes, 0]
            left, right = box[:, 0].copy(), box[:, 2].copy()
            box[:, 0] = np.where(flipped, width - right, left)
            box[:, 2] = np.where(flipped, width - left, right)
        crops[places] = box
        pooled[places] = rows.extra[POOLED][indexes, np.maximum(slots[places], 0)]
    pooled[slots < 0] = reader.empty_pooled
    targets = np.broadcast_to(np.array(reader.pixels_of(samples[0][1]), np.int32), (count, 2))
    return Sized(sizes, crops, targets, pooled)
