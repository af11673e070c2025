"""Panes: pages with a few figures each, which JupyterLab's Dask extension offers in its panel.

Covers: which panes there are, their names for people, their addresses, their documents.
Does not cover: the page with everything (`page`), how a pane gets on the dashboard (`plugin`).

The extension lists what /individual-plots.json names, opens each as a frame of its own, and keeps its address, so an
address never changes. A pane is narrow or low as the user likes, so figures stand below each other.
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

TEMPLATE = "{% block preamble %}<style>" + frame.PAGE_CSS + "</style>{% endblock %}"
"""Bokeh's own page with our colours."""


@dataclass(frozen=True, slots=True)
class Pane:
    """A pane.

    Attributes:
        name: for people. The extension shows it in capitals, and sorts by it.
        path: address below the dashboard's.
        figures: from top to bottom.
    """

    name: str
    path: str
    figures: tuple[type[Figure], ...]

    def document(self, scheduler: Any, extra: Any, document: Any) -> None:
        """Fill a new document of Bokeh. Dask calls it with the scheduler when somebody opens the pane."""
        from bokeh.layouts import column
        from distributed.dashboard.components.scheduler import BOKEH_THEME

        figures = [kind() for kind in self.figures]
        follower = Follower(scheduler, lambda: figures, asked(document))
        follower.draw()
        document.add_root(column(follower.head, *(one.root for one in figures), sizing_mode="stretch_width"))
        document.theme, document.template, document.title = BOKEH_THEME, TEMPLATE, self.name
        follower.follow(document)


def asked(document: Any) -> str:
    """The run that the address of a page names: `?run=ID`; "" for none."""
    request = getattr(getattr(document, "session_context", None), "request", None)
    values = (getattr(request, "arguments", None) or {}).get("run") or [b""]
    return bytes(values[0]).decode("utf-8", "replace")


PANES = (
    Pane("Daskt2i Encode", "/individual-daskt2i-encode", (Headline, Rate, Chunks, Parts)),
    Pane("Daskt2i Encode Workers", "/individual-daskt2i-workers", (WorkerRates, WorkerMemory, WorkerTable)),
    Pane("Daskt2i Rejected Rows", "/individual-daskt2i-rejected", (Reasons, Newest, Psnr)),
    Pane(
        "Daskt2i Training",
        "/individual-daskt2i-training",
        (Headline, Loss, LossByLevel, LearningRate, Speed, Shares, Ranks),
    ),
    Pane("Daskt2i Training Pictures", "/individual-daskt2i-pictures", (Pictures,)),
    Pane("Daskt2i Estimate And Notes", "/individual-daskt2i-estimate", (Estimate, Notes)),
)
