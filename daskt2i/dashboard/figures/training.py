"""Figures of a training: loss, learning rate, speed, where the time goes, the ranks, the newest pictures.

Covers: a training of the denoiser or of an autoencoder, from step 0 on.
Does not cover: the headline (`encode.Headline`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Figure, Plotted, shown
from daskt2i.dashboard.state.names import HELDOUT_LOSS, TRAIN_PARTS
from daskt2i.dashboard.state.series import Series
from daskt2i.formatting import size

if TYPE_CHECKING:
    from daskt2i.dashboard.run_state import RunState

MOST_RANKS = 40

_NO_TRAINING = "No training has run yet. When <code>train</code> runs, its loss, speed and pictures are shown here."

_COLOURS = {"waiting": ORANGE, "forward": BLUE, "backward": SKY, "exchange": RED, "optimiser": GREEN}


def _columns(series: Series) -> dict[str, list[float]]:
    points = list(series)
    return {"x": [x for x, _ in points], "y": [y for _, y in points]}


class Loss(Plotted):
    """Loss and held-out loss by step."""

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        self.loss, self.heldout = (ColumnDataSource({"x": [], "y": []}) for _ in range(2))
        tips = [("step", "@x{0,0}"), ("loss", "@y{0.0000}")]
        super().__init__(frame.plot("", "step", "loss (no unit)", tips, height=300))
        self.plot.line("x", "y", source=self.loss, color=BLUE, line_width=1.5, legend_label="loss of a step")
        self.plot.line("x", "y", source=self.heldout, color=RED, line_width=2.5, legend_label=HELDOUT_LOSS)
        self.plot.scatter("x", "y", source=self.heldout, color=RED, size=7, marker="square", legend_label=HELDOUT_LOSS)
        frame.legend(self.plot)

    def update(self, state: RunState) -> None:
        if not len(state.loss) and not len(state.heldout):
            started = "The training has begun. Its loss is shown from the first step on."
            self.hide(started if state.training else _NO_TRAINING)
            return
        frame.grow(self.loss, _columns(state.loss))
        frame.grow(self.heldout, _columns(state.heldout))
        self.show(f"Loss of {state.training}" if state.training else "Loss")


class LossByLevel(Plotted):
    """Held-out loss by noise level: of the first validation, of the newest, and of one between."""

    _LOOKS = ((SKY, 1.5), (ORANGE, 1.5), (RED, 2.5))

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        tips = [("noise level", "@level"), ("step", "@step{0,0}"), (HELDOUT_LOSS, "@y{0.0000}")]
        axis = "noise level: 0 is clean, 1,000 is noise alone"
        super().__init__(frame.plot("", axis, f"{HELDOUT_LOSS} (no unit)", tips, height=230, x_range=(0, 1000)))
        self.sources = []
        for colour, width in self._LOOKS:
            self.sources.append(source := ColumnDataSource({name: [] for name in ("x", "y", "level", "step")}))
            self.plot.line("x", "y", source=source, color=colour, line_width=width)
            self.plot.scatter("x", "y", source=source, color=colour, size=3 * width)
        self.plot.y_range.start = 0

    def update(self, state: RunState) -> None:
        points = list(state.by_level)
        if not points:
            self.hide()
            return
        first, between = points[:-1][:1], points[1:-1][len(points) // 2 - 1 :][:1]
        entries = []
        for (colour, _), source, found in zip(self._LOOKS, self.sources, (first, between, points[-1:]), strict=True):
            frame.send(source, _by_level(found))
            entries += [(colour, f"step {step:,.0f}") for step, _ in found]
        self.show("Held-out loss by noise level", frame.key(entries))


def _by_level(points: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, list[Any]]:
    """Columns of the levels of at most one validation, each at the middle of its bin."""
    rows = [
        (100 * level + 50, levels[str(level)], f"{100 * level:,} to {100 * level + 100:,}", step)
        for step, levels in points
        for level in sorted(map(int, levels))
    ]
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    return dict(zip(("x", "y", "level", "step"), map(list, columns), strict=True))


class _Curve(Plotted):
    """One curve by step."""

    title, unit, colour, digits = "", "", BLUE, "0.0"

    def __init__(self) -> None:
        from bokeh.models import ColumnDataSource

        self.source = ColumnDataSource({"x": [], "y": []})
        tips = [("step", "@x{0,0}"), (self.unit, f"@y{{{self.digits}}}")]
        super().__init__(frame.plot("", "step", self.unit, tips, height=190))
        self.plot.line("x", "y", source=self.source, color=self.colour, line_width=2)
        self.plot.y_range.start = 0

    def series(self, state: RunState) -> Series:
        """The curve."""
        raise NotImplementedError

    def words(self, state: RunState) -> str:
        """The title."""
        return self.title

    def update(self, state: RunState) -> None:
        found = self.series(state)
        if not len(found):
            self.hide()
            return
        frame.grow(self.source, _columns(found))
        self.show(self.words(state))


class LearningRate(_Curve):
    """The learning rate by step."""

    title, unit, colour, digits = "Learning rate", "learning rate (no unit)", PURPLE, "0.000000"

    def series(self, state: RunState) -> Series:
        return state.learning_rate


class Speed(_Curve):
    """Samples per second of all ranks together, over the last minute."""

    title, unit, colour = "Samples per second, last minute", "samples/s", GREEN

    def series(self, state: RunState) -> Series:
        return state.speed

    def words(self, state: RunState) -> str:
        if state.ranks < 2 or not state.speed.last:
            return self.title
        return f"{self.title}: {state.speed.last[1] / state.ranks:,.1f} each of {state.ranks:,} ranks"


class Shares(Plotted):
    """Where the time of the ranks goes: the mean of all, and how far they lie apart."""

    def __init__(self) -> None:
        super().__init__(frame.bars("share of the time, %", height=190))
        self.source = self.plot.renderers[0].data_source

    def update(self, state: RunState) -> None:
        ranks = len(state.rank_shares)
        rows = []
        for name, shares in state.mean_shares.items():
            mean, low, high = (100 * share for share in shares)
            apart = f" ({low:.1f} to {high:.1f})" if high - low >= 0.1 else ""
            rows.append((TRAIN_PARTS[name], mean, _COLOURS[name], f"{mean:.1f} %{apart}"))
        if not rows:
            self.hide()
            return
        frame.send_bars(self.plot, self.source, rows)
        self.show(f"Where the time of {'rank 0' if ranks == 1 else f'{ranks:,} ranks'} went since the start")


class Ranks(Figure):
    """What each rank does now."""

    def __init__(self) -> None:
        self.root = frame.text()

    def update(self, state: RunState) -> None:
        if not state.rank_figures:
            why = "Ranks are listed here while they run: step, memory and cores of each."
            frame.say(self.root, frame.empty(why) if state.training else "")
            return
        ranks = sorted(state.rank_figures.items())
        each = state.samples_per_second
        # What a rank does now is of no interest when the training is over.
        runs = state.stages.get(state.training) == "running"
        parts = [name for name in ("waiting", "exchange") if any(name in one.get("shares", {}) for _, one in ranks)]
        waits = [TRAIN_PARTS[name] for name in parts]
        head = ["rank", "step", "samples/s", *waits, "memory", "cores used", "where", *(["silent for", "doing"] * runs)]
        rows = [_row(rank, one, each.get(rank), parts)[: len(head)] for rank, one in ranks[:MOST_RANKS]]
        title = "Ranks" if runs else "Ranks, as they were last seen"
        left = f'<p class="dim">and {len(ranks) - MOST_RANKS:,} more</p>' if len(ranks) > MOST_RANKS else ""
        where = head.index("where")
        table = frame.table(head, rows, numbers=(*range(where), where + 1), wide=(where + 2,))
        frame.say(self.root, f"<h3>{title}</h3>{table}{left}")


def _row(rank: int, one: Mapping[str, Any], rate: float | None, parts: Sequence[str]) -> list[str]:
    shares = one.get("shares", {})
    step, memory, cores, silent = (one.get(name) for name in ("step", "memory", "cpu", "silent"))
    return [
        f"{rank}",
        "–" if step is None else f"{step:,}",
        "–" if rate is None else f"{rate:,.1f}",
        *(frame.percent(shares[name], 1) if name in shares else "–" for name in parts),
        "–" if memory is None else size(memory),
        "–" if cores is None else f"{cores:.1f}",
        shown(f"{one.get('host', '')}:{one.get('pid', '')}".strip(":"), 60),
        "–" if silent is None else f"{silent:.0f} s",
        shown(one.get("doing", "")),
    ]


class Pictures(Figure):
    """The newest sample pictures of the training."""

    def __init__(self) -> None:
        self.root = frame.text()

    def update(self, state: RunState) -> None:
        found = [(step, caption, frame.picture_address(data)) for step, caption, data in state.pictures]
        found = [one for one in found if one[2]]
        if not found:
            why = "No picture yet. Set launch.grid_every=200, and a training draws at step 0, 200, 400 and so on."
            frame.say(self.root, frame.empty(why) if state.training else "")
            return
        step, caption, address = found[-1]
        said = f"<h3>Pictures of step {step:,}</h3>" + (f'<p class="dim">{shown(caption, 300)}</p>' if caption else "")
        frame.say(self.root, f'{said}<img class="picture" src="{address}" alt="pictures that the model draws">')
