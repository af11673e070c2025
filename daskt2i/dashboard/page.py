"""The page /daskt2i of the dashboard: everything of a run, in tabs.

Covers: which figures stand in which tab (`SECTIONS`), their places, the document.
Does not cover: panes for JupyterLab (`panes`), the same figures in a file (`report`).

A tab is made when it is first opened, and drawn while it is open: it costs nothing before and behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.encode import Chunks, Headline, Notes, Parts, Rate
from daskt2i.dashboard.figures.estimate import Estimate
from daskt2i.dashboard.figures.frame import Figure
from daskt2i.dashboard.figures.rejected import Newest, Psnr, Reasons
from daskt2i.dashboard.figures.training import LearningRate, Loss, LossByLevel, Pictures, Ranks, Shares, Speed
from daskt2i.dashboard.figures.workers import WorkerMemory, WorkerRates, WorkerTable
from daskt2i.dashboard.live import Follower
from daskt2i.dashboard.panes import asked

PATH = "/daskt2i"

_TEMPLATE = '{% extends "simple.html" %}{% block extra_resources %}<style>' + frame.PAGE_CSS + "</style>{% endblock %}"
"""Dask's own page with our colours."""


@dataclass(frozen=True, slots=True)
class Section:
    """A tab.

    Attributes:
        rows: figures side by side in each line.
        stages: stages during which a new page opens this tab.
    """

    title: str
    rows: tuple[tuple[type[Figure], ...], ...]
    stages: tuple[str, ...] = ()


SECTIONS = (
    Section("Encode", ((Rate, Parts), (Chunks,), (WorkerRates, WorkerMemory), (WorkerTable,)), ("encode",)),
    Section("Rejected rows", ((Reasons, Psnr), (Newest,))),
    Section(
        "Training", ((Loss, Pictures), (LossByLevel, LearningRate), (Speed, Shares), (Ranks,)), ("train", "train-vae")
    ),
    Section("Estimate and notes", ((Estimate,), (Notes,))),
)


class _Page:
    """The tabs, and the figures of the open one."""

    def __init__(self, scheduler: Any, asked_for: str) -> None:
        from bokeh.layouts import column
        from bokeh.models import TabPanel, Tabs

        self._made: dict[int, list[Figure]] = {}
        self._headline = Headline()
        narrow = {"min-width": "0", "max-width": "100%"}
        self._places = [column(sizing_mode="stretch_width", styles=narrow) for _ in SECTIONS]
        panels = [TabPanel(child=p, title=s.title) for p, s in zip(self._places, SECTIONS, strict=True)]
        self._tabs = Tabs(tabs=panels, sizing_mode="stretch_width", stylesheets=[frame.TABS_CSS])
        self._follower = Follower(scheduler, self._seen, asked_for)
        self._follower.draw()
        stage = "" if self._follower.state is None else self._follower.state.stage
        self._tabs.active = next((i for i, one in enumerate(SECTIONS) if stage in one.stages), 0)
        self._tabs.on_change("active", lambda name, old, new: self._follower.draw())
        all_ = (self._follower.head, self._headline.root, self._tabs)
        self.root = column(*all_, sizing_mode="stretch_width", styles=narrow)

    def follow(self, document: Any) -> None:
        """Fill a document, and follow the run while it is open."""
        self._follower.draw()
        document.add_root(self.root)
        self._follower.follow(document)

    def _seen(self) -> list[Figure]:
        from bokeh.core.property.validation import validate
        from bokeh.layouts import row

        active = self._tabs.active
        if active in self._made:
            return [self._headline, *self._made[active]]
        with validate(True):  # Dask turns it off to update a page; new models need it to convert what they are given
            section = SECTIONS[active]
            figures = [[kind() for kind in kinds] for kinds in section.rows]
            self._made[active] = [one for line in figures for one in line]
            for one in self._made[active]:
                one.root.styles = frame.BESIDE
            self._places[active].children = [
                row(*(one.root for one in line), sizing_mode="stretch_width", stylesheets=[frame.ROW_CSS])
                for line in figures
            ]
        return [self._headline, *self._made[active]]


def document(scheduler: Any, extra: Any, document: Any) -> None:
    """Fill a new document of Bokeh. Dask calls it with the scheduler when somebody opens the page."""
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    _Page(scheduler, asked(document)).follow(document)
    document.theme, document.title = BOKEH_THEME, "Dask: daskt2i"
    document.template = env.from_string(_TEMPLATE)
    document.template_variables.update(extra)
