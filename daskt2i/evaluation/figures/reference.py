"""The real pictures to compare with: a place, read by the same sources as an encode; or a file of their statistics.

Covers: which source reads a place, a folder of pictures without captions, the images of a run folder, prompts from
captions, whether a file fits the models.
Does not cover: computing features (`worker`), what is in a file (`statistics`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskt2i.addresses import absolute, expanded, is_address, read_file
from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings
from daskt2i.encode.saved_workflow import settings_of, strangers
from daskt2i.errors import ConfigError, SourceError
from daskt2i.evaluation.figures.extractors import FeatureModel
from daskt2i.evaluation.figures.statistics import StatisticsFile, from_bytes
from daskt2i.facts.selection import open_source, reading_component
from daskt2i.protocols import Source
from daskt2i.sources.files.opening import Pictures
from daskt2i.sources.folder import PICTURES
from daskt2i.sources.names import class_of, guessed
from daskt2i.store.run_folder import MARKER, WORKFLOW, RunFolder
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
        dataset: section of a workflow as JSON, if the pictures are the rows that it chooses; "" for all of a place.
        folder: the run folder of that section.
    """

    component: str
    images: str
    side: int
    dataset: str = ""
    folder: RunFolder | None = None

    def open(self) -> Source:
        """The source, on the driver: it lists the rows."""
        if self.dataset:
            return open_source(DatasetSettings.model_validate_json(self.dataset), self.folder, keep=False)
        return self.reader()

    def reader(self) -> Source:
        """The source, on a worker: it reads the pictures of rows."""
        if not self.component:
            return PlainPictures(self.images)
        return Component.model_validate(json.loads(self.component)).build(Source, "evaluate.reference")

    def made_of(self, info: SourceInfo, models: Sequence[FeatureModel]) -> dict[str, Any]:
        """What statistics of these pictures depend on."""
        where = {} if info.where is None else {"where": info.where}
        return {
            "source": {"class": json.loads(self.component)["class"] if self.component else "pictures", **info.content},
            "label": info.label,
            "rows": info.rows,
            "crop": "centre",
            "side": self.side,
            "models": {model.kind: model.digest for model in models},
            **where,
        }


def real_pictures(
    reference: str | None, captions: str | None, own: DatasetSettings, folder: RunFolder, side: int
) -> RealPictures | StatisticsFile:
    """The pictures of a place or of another run folder, or the statistics of a file.

    Args:
        reference, captions: as in the settings. None: the source of the run.
        own, folder: the section and the run folder of the run.

    Raises:
        ConfigError: nothing reads the place, the file is damaged, or the settings of a run folder are not used.
        SourceError: the place cannot be looked at.
    """
    if reference is None:
        return _rows_of(own, folder, side)
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
    if (other := RunFolder(place)).exists(MARKER) or other.exists(WORKFLOW):
        return _of_run(other, side)
    if not is_address(place) and not Path(place).exists():
        raise SourceError(
            f"There is nothing at {reference} to compare with. Nothing was drawn; give a place of pictures, a run "
            "folder, or a file of statistics (reference)."
        )
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


def _rows_of(dataset: DatasetSettings, folder: RunFolder, side: int) -> RealPictures:
    """The rows that a section chooses, with `dataset.where`; each once, whatever its shape."""
    image = dataset.image.model_copy(update={"buckets": None})
    plain = dataset.model_copy(update={"source": dataset.source.absolute(), "image": image})
    if plain.where is None and plain.part is None and plain.column is None:
        return RealPictures(_plain(plain.source), "", side)
    return RealPictures(_plain(reading_component(plain)), "", side, plain.model_dump_json(by_alias=True), folder)


def _of_run(folder: RunFolder, side: int) -> RealPictures:
    """The images that a run folder was encoded from.

    Raises:
        ConfigError: its settings are missing, or name what is not used on the word of a folder.
        SourceError: its images are not where they were.
    """
    settings = settings_of(folder)
    strange = [] if settings is None else strangers(settings, folder)
    if settings is None or strange:
        why = f"its settings name {', '.join(strange)}" if strange else "it has no settings that can be read"
        raise ConfigError(
            f"The run folder {folder} cannot be compared with: {why}. Nothing was drawn. Give the place of its images, "
            "or the file reports/reference-….safetensors of an evaluation that compared with them (reference)."
        )
    found = _rows_of(settings.dataset, folder, side)
    try:
        found.open().info()
    except SourceError as error:
        raise SourceError(
            f"A run folder has no pictures to compare with, only latents, and the images that {folder} was encoded "
            f"from cannot be read: {error} Nothing was drawn. Give the place where they are now (reference)."
        ) from error
    return found


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
