"""What is asked for, checked before a worker starts: which figures, with which models, of how many pictures.

Covers: whether each figure has its model, whether torchmetrics is there, whether the pictures are enough.
Does not cover: reading models (`extractors`), the pictures to compare with (`reference`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from daskt2i.config.training.drawing import EvaluateSettings
from daskt2i.errors import ConfigError
from daskt2i.evaluation.figures.distances import NEIGHBOURS
from daskt2i.evaluation.figures.extractors import FeatureModel, look
from daskt2i.formatting import many

OF_PICTURES = ("fid", "kid", "precision")
"""Figures of Inception's features, or of those of another image encoder."""

OF_CLIP = ("cmmd", "clip")
"""Figures of CLIP's features."""

BY_LIBRARY = ("fid", "kid")
"""Figures that torchmetrics computes."""


@dataclass(frozen=True, slots=True)
class FigureRequest:
    """The figures to measure.

    Attributes:
        metrics: names of figures, without `judge`.
        models: the models that make their features.
        samples: number of drawn pictures.
    """

    metrics: tuple[str, ...]
    models: tuple[FeatureModel, ...]
    samples: int

    @property
    def compares(self) -> bool:
        """Whether pictures are compared with other pictures, and not only with their prompts."""
        return any(metric != "clip" for metric in self.metrics)

    def model_of(self, metric: str) -> FeatureModel:
        """The model whose features a figure is of."""
        return next(model for model in self.models if (model.kind == "clip") == (metric in OF_CLIP))


def figure_request(settings: EvaluateSettings, prompts: Sequence[str] | None = None) -> FigureRequest:
    """Check the settings, and look at the models.

    Args:
        prompts: given by the user; with the judge each is drawn with `seeds`, as for the judge alone.

    Raises:
        ConfigError: torchmetrics is not installed, a figure has no model, or the pictures are too few.
        ModelMissing, ModelError: a model is not here, or makes no features of pictures.
    """
    metrics = tuple(dict.fromkeys(metric for metric in settings.metrics if metric != "judge"))
    _require_library(metrics)
    each = len(prompts) if prompts and "judge" in settings.metrics else settings.prompts
    samples = settings.samples or each * settings.seeds
    found = [look(model) for model in settings.weights]
    wanted = []
    for names, kinds, what in (
        (OF_PICTURES, ("inception", "vision"), "FID's Inception or of another image encoder"),
        (OF_CLIP, ("clip",), "a CLIP model with both towers"),
    ):
        asked = [metric for metric in metrics if metric in names]
        if not asked:
            continue
        models = [model for model in found if model.kind in kinds]
        if len(models) != 1:
            count = f"{many(len(models), 'such model')} {'was' if len(models) == 1 else 'were'}"
            raise ConfigError(
                f"The figures {', '.join(asked)} need the weights of {what}, but {count} given. Nothing was drawn. "
                "Give the folder or the hub id of one (weights)."
            )
        wanted += models
    request = FigureRequest(metrics, tuple(wanted), samples)
    require_enough(request, samples, "drawn", settings.few_samples)
    return request


def require_enough(request: FigureRequest, count: int, what: str, few: bool) -> None:
    """Refuse figures that mean nothing with so few pictures.

    Args:
        count: number of pictures; what: `drawn`, or `real`.
        few: `evaluate.few_samples`.

    Raises:
        ConfigError
    """
    if request.compares and count <= NEIGHBOURS:
        raise ConfigError(
            f"There {'is' if count == 1 else 'are'} only {many(count, f'{what} picture')}, and two sets of pictures "
            f"cannot be compared with fewer than {NEIGHBOURS + 1}. Nothing was drawn; take more (samples, reference)."
        )
    if "fid" not in request.metrics or few:
        return
    features = request.model_of("fid").features
    if count <= features:
        raise ConfigError(
            f"FID means nothing with {many(count, f'{what} picture')}: it compares the covariance of {features:,} "
            f"features, which needs at least {features + 1:,}, and papers take 30,000 or more. Nothing was drawn. Take "
            "more pictures (samples), measure kid, which has no such bias, or set evaluate.few_samples=true."
        )


def _require_library(metrics: tuple[str, ...]) -> None:
    needed = [metric for metric in metrics if metric in BY_LIBRARY]
    if needed and importlib.util.find_spec("torchmetrics") is None:
        raise ConfigError(
            f"The figures {', '.join(needed)} need the package torchmetrics, which is not installed. Nothing was "
            "drawn. Install it (pip install 'daskt2i[evaluate]'), or leave these figures out (metrics)."
        )
