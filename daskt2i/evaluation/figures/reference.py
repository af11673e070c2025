"""The real pictures to compare with: a place, read by the same sources as an encode; or a file of their statistics.

Covers: which source reads a place, a folder of pictures without captions, prompts from its captions, whether a file
fits the models.
Does not cover: computing features (`worker`), what is in a file (`statistics`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daskt2i.addresses import absolute, expanded, read_file
from daskt2i.config.component import Component
from daskt2i.errors import ConfigError, SourceError
from daskt2i.evaluation.figures.extractors import FeatureModel
from daskt2i.evaluation.figures.statistics import StatisticsFile, from_bytes
from daskt2i.protocols import Source
from daskt2i.sources.files.opening import Pictures
from daskt2i.sources.folder import PICTURES
from daskt2i.sources.names import class_of, guessed
from daskt2i.types import Row, SourceInfo

FILES = (".safetensors", ".npz")
"""Endings of files of statistics."""


class PlainPictures:
    """All pictures of a folder or a zip, without captions.

    Args:
        images: the place.
    """

    def __init__(self, images: str) -> None:
        self._images, self._pictures = images, Pictures(images, {})

    def _names(self) -> list[str]:
        return [name for name in self._pictures.names() if name.lower()[name.rfind(".") :] in PICTURES]

    def info(self) -> SourceInfo:
        """Number of pictures, and a hash of their names: a picture that was exchanged under its name is not noticed."""
        names = self._names()
        content = {"names_sha256": hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()}
        return SourceInfo(len(names), 1, 0, 0, 0, 0, content, f"{self._images} ({len(names)} pictures)")

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`, in the order of their names."""
        return [Row(index, index, name, ()) for index, name in enumerate(self._names()[start:stop], start)]

    def read(self, row: Row) -> bytes:
        """The bytes of a file."""
        return self._pictures.read(row.file_name)


@dataclass(frozen=True, slots=True)
class RealPictures:
    """Where real pictures are, in plain values for the workers.

    Attributes:
        component: the source as JSON, `class` and arguments; "" for pictures without captions.
        images: the place, if there is no component.
        side: side of the squares that they are cropped and scaled to, pixels.
    """

    component: str
    images: str
    side: int

    def open(self) -> Source:
        """The source."""
        if not self.component:
            return PlainPictures(self.images)
        return Component.model_validate(json.loads(self.component)).build(Source, "evaluate.reference")

    def made_of(self, info: SourceInfo, models: Sequence[FeatureModel]) -> dict[str, Any]:
        """What statistics of these pictures depend on."""
        return {
            "source": {"class": json.loads(self.component)["class"] if self.component else "pictures", **info.content},
            "label": info.label,
            "rows": info.rows,
            "crop": "centre",
            "side": self.side,
            "models": {model.kind: model.digest for model in models},
        }


def real_pictures(
    reference: str | None, captions: str | None, own: Component, side: int
) -> RealPictures | StatisticsFile:
    """The pictures of a place, or the statistics of a file.

    Args:
        reference, captions: as in the settings. None: the source of the run.
        own: the source of the run.

    Raises:
        ConfigError: nothing reads the place, or the file is damaged.
        SourceError: the place cannot be looked at.
    """
    if reference is None:
        return RealPictures(_plain(own.absolute()), "", side)
    if reference.lower().endswith(FILES):
        try:
            data = read_file(expanded(reference, "reference"))
        except OSError as error:
            raise SourceError(
                f"The statistics {reference} cannot be read: {error.strerror}. Nothing was drawn; check the path "
                "(reference)."
            ) from error
        return from_bytes(data, reference)
    place = absolute(reference)
    found = class_of(guessed(place, captions).name)
    given = {"class": found, "images": place} | ({} if captions is None else {"captions": captions})
    component = Component.model_validate(given).absolute()
    try:
        component.build(Source, "evaluate.reference").info()
    except SourceError:
        if captions is None and PlainPictures(place).info().rows:
            return RealPictures("", place, side)  # a folder of pictures alone is enough
        raise
    return RealPictures(_plain(component), "", side)


def _plain(component: Component) -> str:
    return json.dumps({"class": component.class_path, **component.arguments}, sort_keys=True)


def require_fit(file: StatisticsFile, models: Sequence[FeatureModel], side: int, features: bool) -> None:
    """Refuse statistics of other models or other sizes.

    Args:
        features: whether the features themselves are needed, not only mean and covariance.

    Raises:
        ConfigError
    """
    for model in models:
        if model.kind not in file.by_kind:
            raise ConfigError(
                f"The statistics to compare with have no features of {model.model} ({model.kind}). Nothing was drawn. "
                "Give the place of the pictures instead (reference), and the statistics are made once."
            )
        found = file.by_kind[model.kind]
        made_by = file.made_of.get("models", {}).get(model.kind, model.digest)
        if made_by != model.digest or len(found.mean) != model.features:
            raise ConfigError(
                f"The statistics to compare with were made by other weights than {model.model}, and distances between "
                "features of two models mean nothing. Nothing was drawn. Give the same weights (weights), or the place "
                "of the pictures (reference)."
            )
        if features and found.features is None:
            raise ConfigError(
                "The statistics to compare with are only mean and covariance, which is enough for fid alone. Nothing "
                "was drawn. Leave the other figures out (metrics), or give the place of the pictures (reference)."
            )
    if file.made_of.get("side", side) != side:
        raise ConfigError(
            f"The statistics to compare with are of pictures of {file.made_of['side']} pixels, but the model draws "
            f"{side}. Nothing was drawn. Give the place of the pictures instead (reference)."
        )


def captions_of(source: Source, count: int, seed: int) -> list[str]:
    """One caption of each of `count` rows, in random order; of all rows if there are fewer. Empty without captions.

    The protocol of U-ViT (arXiv:2209.12152) and others: prompts are captions of random pictures of the other split.
    """
    rows = source.info().rows
    numbers = random.Random(seed)
    order = sorted(numbers.sample(range(rows), min(count, rows)))
    found = []
    for index in order:
        captions = next(iter(source.rows(index, index + 1))).captions
        if captions:
            found.append(numbers.choice(captions))
    numbers.shuffle(found)
    return found
