"""An estimate beside what came true.

Covers: time, bytes and cost of an encode: forecast, so far, and at the end as it looks now.
Does not cover: how they are forecast (`estimate`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import Figure, shown
from daskt2i.formatting import duration, off_words, size

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState


class Estimate(Figure):
    """A table: forecast, so far, at the end as it looks now."""

    def __init__(self) -> None:
        self.root = frame.text()

    def update(self, state: RunState) -> None:
        so_far = state.estimate_so_far()
        if so_far["seconds"] is None:
            frame.say(self.root, frame.empty("No encode has run yet. Its time, bytes and cost are compared here."))
            return
        forecast = state.estimate
        rows = [
            (
                "time of this encode",
                _words(forecast.get("seconds"), duration),
                _words(so_far["seconds"], duration),
                _words(so_far["seconds_in_all"], duration),
                _off(forecast.get("seconds"), so_far["seconds_in_all"]),
            ),
            (
                "bytes of the whole store",
                _words(forecast.get("bytes"), size),
                _words(so_far["bytes"], size),
                _words(so_far["bytes_in_all"], size),
                _off(forecast.get("bytes"), so_far["bytes_in_all"]),
            ),
        ]
        currency = shown(forecast.get("currency", ""), 12)
        for name, price in (forecast.get("per_hour") or {}).items():
            costs = [price * (seconds or 0.0) / 3600 for seconds in (so_far["seconds"], so_far["seconds_in_all"])]
            predicted = (forecast.get("prices") or {}).get(name)
            rows.append(
                (
                    f"cost, {shown(name, 40)}",
                    "–" if predicted is None else f"{predicted:,.2f} {currency}",
                    f"{costs[0]:,.2f} {currency}",
                    f"{costs[1]:,.2f} {currency}" if so_far["seconds_in_all"] else "–",
                    _off(predicted, costs[1] if so_far["seconds_in_all"] else None),
                )
            )
        head = ["", "forecast", "so far", "at the end, as it looks now", "the forecast is"]
        lines = [list(row) for row in rows]
        title = f"Estimate and truth: {frame.percent(so_far['share'] or 0.0, 1)} of this encode is done"
        if state.stages.get("encode") != "running":
            head, title = ["", "forecast", "truth", "the forecast was"], "Estimate and truth"
            lines = [[one[0], one[1], one[2] if one[3] == "–" else one[3], one[4]] for one in lines]
        hint = ""
        if not forecast:
            hint = frame.empty(
                "There is no forecast. Run <code>estimate</code> before <code>encode</code> to have one."
            )
        frame.say(self.root, f"<h3>{title}</h3>{frame.table(head, lines, numbers=(1, 2, 3, 4))}{hint}")


def _words(value: object, write: object) -> str:
    return write(float(value)) if isinstance(value, int | float) and callable(write) else "–"


def _off(forecast: object, truth: object) -> str:
    if not isinstance(forecast, int | float) or not isinstance(truth, int | float) or not forecast:
        return "–"
    return off_words(forecast, truth)
