"""Spikes: steps whose loss or gradient norm is far above those of the steps before.

Covers: finding them with a running median, the sentence about one, counting, what a checkpoint keeps of it.
Does not cover: what is done about one (`step_figures`, `optimisation.train_state`), values that are not finite
(`not_finite`).

A spike stands in the window too. So values that stay high, as after a change of the rate, are no spikes any more once
they fill half of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

WINDOW, LEAST = 100, 20
"""Steps of the median, and the least number of them: the first steps of a training differ too much."""

MOST_NOTES = 5
"""Spikes that are told one by one. Later ones are only counted."""


class SpikeWatch:
    """The last steps of a training. All ranks see the same means, so they find the same spikes.

    Args:
        factor: a spike is more than so many times the median.

    Attributes:
        count: spikes so far.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._last: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in ("loss", "norm")}
        self.count = 0

    def look(self, loss: float, norm: float) -> str:
        """Whether the next step is a spike: a clause that says so, or "". Values that are not finite are left out."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return ""
        found = [
            f"its {name} {value:.3g} is {value / usual:.3g} times the median of the last {len(before)} steps"
            for (name, before), value in zip(self._last.items(), (loss, norm), strict=True)
            if len(before) >= LEAST and value > self._factor * (usual := median(before)) > 0
        ]
        self._last["loss"].append(loss)
        self._last["norm"].append(norm)
        self.count += bool(found)
        return " and ".join(found)

    def about(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON values."""
        return {"count": self.count, **{name: list(values) for name, values in self._last.items()}}

    def restore(self, about: Mapping[str, Any]) -> None:
        """Take back the result of `about`. A checkpoint of an older version has none."""
        self.count = int(about.get("count", 0))
        for name, values in self._last.items():
            values.extend(about.get(name, ()))
