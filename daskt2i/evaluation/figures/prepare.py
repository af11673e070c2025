"""What the figures need, looked at before work begins: models, pictures to compare with, and what workers have.

Covers: whether the pictures are enough and fit, and which hosts lack a model of features.
Does not cover: which figure needs which model (`request`), the place of real pictures (`reference`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from daskt2i.config.settings import Workflow
from daskt2i.errors import ModelError, WorkerWithoutFiles
from daskt2i.evaluation.figures.extractors import FeatureModel, look
from daskt2i.evaluation.figures.reference import RealPictures, real_pictures, require_fit
from daskt2i.evaluation.figures.request import FigureRequest, figure_request, require_enough
from daskt2i.evaluation.figures.statistics import StatisticsFile
from daskt2i.hosts.check import LOOK_SECONDS
from daskt2i.hosts.sight import here
from daskt2i.protocols import AsksWorkers, Executor
from daskt2i.store.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was asked for, and what it is compared with.

    Attributes:
        real: None if no figure compares pictures.
    """

    request: FigureRequest
    real: RealPictures | StatisticsFile | None


def prepare(
    workflow: Workflow, folder: RunFolder, prompts: Sequence[str] | None = None, own_rows: int | None = None
) -> Prepared:
    """Look at the models and at the pictures to compare with. Reads no weights and no picture.

    Args:
        prompts: as for `evaluate`.
        own_rows: number of the run's own images, if they are not encoded yet; None to look.

    Raises:
        ConfigError: a figure lacks something, or the pictures are too few.
        ModelMissing, ModelError: a model of features is missing.
        SourceError: the place of the pictures to compare with cannot be looked at.
    """
    wanted, side = workflow.evaluate, workflow.dataset.image.side
    request = figure_request(wanted, prompts)
    if not request.compares:
        return Prepared(request, None)
    if wanted.reference is None and own_rows is not None:
        require_enough(request, own_rows, "real", wanted.few_samples)
        return Prepared(request, None)
    real = real_pictures(wanted.reference, wanted.reference_captions, workflow.dataset, folder, side)
    if isinstance(real, RealPictures):
        require_enough(request, real.open().info().rows, "real", wanted.few_samples)
    else:
        comparing = [request.model_of(metric) for metric in request.metrics if metric != "clip"]
        require_fit(real, comparing, side, any(metric not in ("fid", "clip") for metric in request.metrics))
    return Prepared(request, real)


def require_models(executor: Executor, models: Sequence[FeatureModel]) -> None:
    """Refuse workers on hosts that lack a model of features. An executor on this machine has none to ask.

    Raises:
        WorkerWithoutFiles: the message names the hosts.
    """
    if not isinstance(executor, AsksWorkers):
        return
    answers = executor.ask(partial(_lacks, tuple(models)), LOOK_SECONDS).values()
    lacking: dict[str, set[str]] = {}
    for worker, names in answers:
        for name in names:
            lacking.setdefault(name, set()).add(worker.rpartition(":")[0])
    if lacking:
        said = "; ".join(f"{', '.join(sorted(hosts))}: {name}" for name, hosts in sorted(lacking.items()))
        raise WorkerWithoutFiles(
            f"Models that make features of pictures are not on all hosts, or have other weights there ({said}). "
            "Nothing was drawn. Put the weights of the driver under the same path there, or give a folder that all "
            "hosts share (weights)."
        )


def _lacks(models: tuple[FeatureModel, ...]) -> tuple[str, list[str]]:
    """On a worker: `host:pid`, and the models that it lacks or has with other weights."""
    lacking = []
    for model in models:
        try:
            if look(model.model).digest == model.digest:
                continue
        except ModelError:
            pass
        lacking.append(model.model)
    return here(), lacking
