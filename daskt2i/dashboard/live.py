"""A page that follows a run: which run it shows, and when it draws.

Covers: the runs that the scheduler's plugin knows; the choice of a run, if there are several; drawing what has changed,
once a second or less often; pages that nobody looks at.
Does not cover: the figures (`figures`), which figures stand together (`page`, `panes`).

All of this happens on the event loop of the scheduler, for each open page. So figures that nobody sees are not drawn,
and a figure that fails is left out and logged once. All pages together may use `BUDGET` of a core: if drawing is dear,
or many pages are open, or the machine is slow, each is drawn less often. A page in a hidden tab of a browser, or in a
hidden panel of JupyterLab, is not drawn before somebody looks at it.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.frame import Figure
from daskt2i.dashboard.run_state import RunState

NAME = "daskt2i-dashboard"
"""Name of the plugin of the scheduler."""

PAUSE_MS = 1000
"""Between two looks at the state, milliseconds. `messages` come about once a second."""

BUDGET = 0.005
"""Share of a core that all open pages together may use to draw."""

MOST_PAUSE = 5.0
"""Seconds between two drawings of a page, at most."""

_SENDING = 1.5
"""Drawing and sending take so many times the processor time of drawing (measured)."""

_AGES = 10.0
"""Seconds after which "last seen" is drawn again, although nothing was heard."""

_TELLS_WHETHER_IT_IS_SEEN = """
let seen = true, told = true
const tell = () => {
  const now = seen && !document.hidden
  if (now !== told) { told = now; head.tags = now ? [] : ["hidden"] }
}
document.addEventListener("visibilitychange", tell)
if (window.IntersectionObserver)  // a frame in a hidden panel is not hidden, but nothing of it is in sight
  new IntersectionObserver((all) => { seen = all[all.length - 1].isIntersecting; tell() })
    .observe(document.documentElement)
tell()
"""

_NOTHING = (
    "Nothing of daskt2i has run on this scheduler yet. Encode or train on it, with "
    "<code>daskt2i.Run(…, client=client)</code> or <code>--scheduler</code> and its address; the figures appear here "
    "by themselves."
)

_log = logging.getLogger("distributed.scheduler")


def runs_of(scheduler: Any) -> Mapping[str, RunState]:
    """The runs that the plugin of a scheduler knows. Pages stay, also if the plugin was taken away: then {}."""
    return getattr(scheduler.plugins.get(NAME), "runs", {})


def newest(runs: Mapping[str, RunState], before: str = "") -> str:
    """The run to show if nobody chose one: the one that was shown, while it runs; else a running one, the newest.

    Args:
        before: id of the run that is shown; "" for none.
    """
    if before in runs and not runs[before].finished:
        return before
    order = {name: (not state.finished, state.begun or 0.0) for name, state in runs.items()}
    return max(order, key=lambda name: order[name], default="")


_open: weakref.WeakSet[Follower] = weakref.WeakSet()
"""Pages of this process that somebody looks at."""


class Follower:
    """Draws figures of one run again and again.

    Args:
        scheduler: the scheduler whose plugin knows the runs.
        figures: the figures that are on the screen now.
        asked: the run that the address of the page names; "" for none.

    Attributes:
        head: what stands above the figures: the choice of a run, or a sentence if there is none.
    """

    def __init__(self, scheduler: Any, figures: Callable[[], Iterable[Figure]], asked: str = "") -> None:
        from bokeh.layouts import column
        from bokeh.models import Select

        self._scheduler, self._figures = scheduler, figures
        self._chosen, self._run = asked, ""
        self._drawn: dict[int, tuple[tuple[Any, ...], float]] = {}
        self._measured = 0.0
        self._failed: set[str] = set()
        self._select = Select(title="Run", options=[], visible=False, width=420, stylesheets=[frame.SELECT_CSS])
        self._select.on_change("value", self._choose)
        self._due = 0.0
        self._hidden = False
        self._text = frame.text()
        self.head = column(self._select, self._text, sizing_mode="stretch_width")

    def _choose(self, name: str, old: str, new: str) -> None:
        if new != self._run:
            self._chosen = new
            self.draw()

    @property
    def state(self) -> RunState | None:
        """The run that is shown; None if there is none."""
        return runs_of(self._scheduler).get(self._run)

    def follow(self, document: Any) -> None:
        """Draw again and again, while the document is open and somebody looks at it."""
        from bokeh.models import CustomJS
        from distributed.dashboard.components import add_periodic_callback

        document.follower = self  # the callback of Dask holds it weakly
        _open.add(self)
        add_periodic_callback(document, self, PAUSE_MS)
        document.on_session_destroyed(lambda context: _open.discard(self))
        with suppress(AttributeError, ValueError):  # an older Bokeh: then it is drawn always
            self.head.on_change("tags", self._look)
            document.js_on_event("document_ready", CustomJS(args={"head": self.head}, code=_TELLS_WHETHER_IT_IS_SEEN))

    def _look(self, name: str, old: Any, new: Any) -> None:
        """The browser tells whether the page can be seen."""
        self._hidden = new == ["hidden"]
        if self._hidden:
            _open.discard(self)
        else:
            _open.add(self)
            self.draw()

    def update(self) -> None:
        """Draw what has changed, if it is time for that. Called once a second."""
        now = monotonic()
        if self._hidden or now < self._due:
            return
        begun = time.thread_time()
        self.draw()
        spent = _SENDING * (time.thread_time() - begun)
        pause = min(MOST_PAUSE, spent * max(1, len(_open)) / BUDGET)
        self._due = now + pause - PAUSE_MS / 2000  # the call after that is nearest

    def draw(self) -> None:
        """Draw what has changed now."""
        runs = runs_of(self._scheduler)
        self._run = self._chosen if self._chosen in runs else newest(runs, self._run)
        self._offer(runs)
        state = runs.get(self._run)
        frame.say(self._text, "" if state is not None else frame.empty(_NOTHING))
        state = state or RunState()
        clock = time.time()
        if clock >= self._measured + _AGES / 2:
            self._measured = clock
            _add_spilled(self._scheduler, state)
        now = (self._run, state.version, clock // _AGES)
        for figure in self._figures():
            before, when = self._drawn.get(id(figure), ((), 0.0))
            if before == now or (before[:1] == now[:1] and 0 <= clock - when < figure.pause(state)):
                continue
            self._drawn[id(figure)] = now, clock
            try:
                figure.update(state)
            except Exception:  # a figure that cannot be drawn must not end the others
                name = type(figure).__name__
                if name not in self._failed:
                    self._failed.add(name)
                    _log.warning("daskt2i: the figure %s cannot be drawn", name, exc_info=True)

    def _offer(self, runs: Mapping[str, RunState]) -> None:
        options = [(name, _title(state)) for name, state in sorted(runs.items(), key=lambda one: -(one[1].begun or 0))]
        if self._select.options != options:
            self._select.options = options
        if self._select.value != self._run:
            self._select.value = self._run
        if self._select.visible != (len(runs) > 1):
            self._select.visible = len(runs) > 1


def _title(state: RunState) -> str:
    how = state.stages.get(state.stage, "")
    label = state.label or state.run
    return f"{label[:60]}: {state.stage} {how}".rstrip(": ")


def _add_spilled(scheduler: Any, state: RunState) -> None:
    """Bytes that Dask moved to disk, of each worker. A worker is found by its process id, if only one has it."""
    if not state.workers or state.finished:
        return
    by_pid: dict[int, Any] = {}
    for worker in list(scheduler.workers.values()):
        pid = getattr(worker, "pid", None) or (getattr(worker, "metrics", None) or {}).get("pid")
        if pid is not None:
            by_pid[pid] = None if pid in by_pid else worker
    for name, one in state.workers.items():
        pid_text = name.rpartition(":")[2]
        worker = by_pid.get(int(pid_text)) if pid_text.isdecimal() else None
        if worker is not None:
            one["spilled"] = getattr(worker.memory, "spilled", None)
