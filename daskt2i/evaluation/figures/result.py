"""The figures of `evaluate`, with what they were measured on.

Covers: the values, JSON, rows of a table.
Does not cover: computing them (`driver`, `distances`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: `fid`, `kid`, `cmmd`, `clip_score`, `precision` or `recall`.
        value: the figure; smaller is better for the first three.
        interval: where it lies with 95 %, as far as that is known; None for FID and CMMD.
    """

    name: str
    value: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        text = f"{self.value:.4g}"
        return text if self.interval is None else f"{text} ({self.interval[0]:.4g} to {self.interval[1]:.4g})"


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of one evaluation.

    Attributes:
        figures: in the order in which they were asked for.
        drawn, real: number of pictures on each side; real is 0 if nothing was compared.
        reference: what the real pictures are, for a person.
        models: kind -> name and digest of the model that made the features.
        published: figure -> name -> value, to compare with.
        statistics: address of the file of the statistics; it can be given as the reference; "" if there is none.
    """

    figures: tuple[Figure, ...]
    drawn: int
    real: int = 0
    reference: str = ""
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    statistics: str = ""

    def to_json(self) -> dict[str, Any]:
        """Figures by name, their intervals, and what they were measured on."""
        found: dict[str, Any] = {figure.name: figure.value for figure in self.figures}
        return {
            **found,
            "figure_intervals": {one.name: list(one.interval) for one in self.figures if one.interval is not None},
            "drawn": self.drawn,
            "real": self.real,
            "reference": self.reference,
            "statistics": self.statistics,
            "feature_models": {kind: dict(about) for kind, about in self.models.items()},
            "published": {name: dict(values) for name, values in self.published.items()},
        }

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, with the published ones beside."""
        found = []
        for figure in self.figures:
            others = self.published.get(figure.name, {})
            beside = ", ".join(f"{name} {value:g}" for name, value in others.items())
            found.append((figure.name, f"{figure}{f'; published: {beside}' if beside else ''}"))
        found.append(
            ("pictures", f"{self.drawn:,} drawn, {self.real:,} real" if self.real else f"{self.drawn:,} drawn")
        )
        if self.reference:
            found.append(("compared with", self.reference))
        found += [(f"{kind} features", about["model"]) for kind, about in self.models.items()]
        return found
