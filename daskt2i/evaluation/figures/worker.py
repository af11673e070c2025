"""On a worker: draw a part of the pictures, or read a part of the real ones, and return their features.

Covers: the models of a process, one part at a time. Pictures stay here, but for the first ones, which the sheet shows.
Does not cover: drawing (`sample.worker`), the models (`extractors`), who gets which part (`driver`).
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass

import numpy as np

from daskt2i.errors import Reason, RowRejected
from daskt2i.evaluation.figures.extractors import Extractor, FeatureModel
from daskt2i.evaluation.figures.parts import Arrays
from daskt2i.evaluation.figures.reference import RealPictures
from daskt2i.images.read import Limits, read
from daskt2i.sample.image_grid import file_name, png
from daskt2i.sample.painter import SampleRequest
from daskt2i.sample.worker import SampleJob, draw_part
from daskt2i.types import Pixels, Row

DrawPart = tuple[int, tuple[SampleRequest, ...]]
RealPart = tuple[int, tuple[Row, ...]]

PICTURES, TEXTS = "pictures", "texts"
"""Names of arrays beside the features: the first pictures, and features of their prompts."""


@dataclass(frozen=True, slots=True)
class FigureJob:
    """What each worker needs besides its part.

    Attributes:
        models: they make the features.
        texts: whether features of the prompts are needed too.
        device, threads: as in `SampleJob`.
        shown: this many pictures are returned.
        kept: the folder of pictures in the run folder; "" to keep none.
    """

    models: tuple[FeatureModel, ...]
    texts: bool
    device: str
    threads: int
    shown: int = 0
    kept: str = ""


_turn = threading.Lock()


@functools.lru_cache(maxsize=4)
def _loaded(model: FeatureModel, device: str, threads: int) -> Extractor:
    return Extractor(model, device, threads)


def _extractors(job: FigureJob) -> list[Extractor]:
    """The models of this process; each is loaded once."""
    from daskt2i.machine.precision import check_device, default_device

    device = default_device() if job.device == "auto" else check_device(job.device)
    with _turn:
        return [_loaded(model, device, job.threads) for model in job.models]


def features_of_drawn(job: FigureJob, sample: SampleJob, part: DrawPart) -> Arrays:
    """Draw a part. Returns features by kind of the model, and those of the prompts."""
    start, requests = part
    drawn = draw_part(sample, part)
    pixels = [picture.pixels for picture in drawn]
    if job.kept:
        look = (sample.settings.steps, sample.settings.guidance, sample.settings.sampler)
        for number, one in enumerate(requests):
            name = file_name(start + number, one.prompt, one.seed, *look)
            sample.folder.write(f"{job.kept}/{name}", png(pixels[number], {"Prompt": one.prompt, "Seed": one.seed}))
    found = _features(job, pixels)
    if job.texts:
        clip = next(one for one in _extractors(job) if one.found.kind == "clip")
        found[TEXTS] = clip.texts([request.prompt for request in requests])
    if start < job.shown:
        found[PICTURES] = np.stack(pixels[: job.shown - start])
    return found


def features_of_real(job: FigureJob, real: RealPictures, limits: Limits, part: RealPart) -> Arrays:
    """Read a part of the real pictures. A picture that cannot be read is left out."""
    source, pixels = _source(real), []
    for row in part[1]:
        if row.reason not in (None, Reason.NO_CAPTION):
            continue
        try:
            pixels.append(read(source.read(row), real.side, limits).pixels)
        except RowRejected:
            continue
    return _features(job, pixels)


@functools.lru_cache(maxsize=2)
def _source(real: RealPictures):  # type: ignore[no-untyped-def]
    return real.reader()


def _features(job: FigureJob, pixels: list[Pixels]) -> Arrays:
    return {one.found.kind: one.pictures(pixels) for one in _extractors(job)}
