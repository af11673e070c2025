"""The plugin of the Dask scheduler that hears our messages and shows our pages on its dashboard.

    why = show_pages(client)        # "" or one sentence: what is not shown

Covers: folding messages into one `RunState` for each run, the past of a topic, adding our pages, their entry in the
navigation and our panes in the listing that JupyterLab reads, what the client is told if that is not possible.
Does not cover: sending messages (`listener`), what a page shows (`page`, `panes`, `figures`), /metrics (`metrics`).

The plugin runs in the process of the scheduler, on its event loop. So each hook is short, and no error leaves it.
Pages of a running dashboard cannot be taken away again. When the runs have ended, the plugin does nothing: it has no
timer, and a page shows how they ended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin

from daskt2i.dashboard import messages
from daskt2i.dashboard.live import NAME
from daskt2i.dashboard.run_state import RunState
from daskt2i.redact import without_secret

if TYPE_CHECKING:
    from distributed import Client

TOPIC = "daskt2i-pages"
"""The plugin writes here, once, what it shows. The client that registered it reads it there."""

MOST_RUNS = 20
"""Runs that a scheduler remembers. The run that was silent for longest is forgotten first."""

_AFTER = "system"
"""The page of Dask before ours in the navigation."""

_TOPICS = frozenset(messages.TOPICS.values())
_SAYS = "The run goes on; progress and report show the same."
_log = logging.getLogger("distributed.scheduler")


class DashboardPlugin(SchedulerPlugin):
    """Hears the messages of all runs on this scheduler.

    Attributes:
        runs: id of a run -> its state, at most `MOST_RUNS`. The run that was heard last is the last one.
    """

    name = NAME
    idempotent = True

    def __init__(self) -> None:
        self.runs: dict[str, RunState] = {}
        self._tellers: dict[str, str] = {}  # id of a run -> the client of Dask that told its newest message

    def __reduce__(self) -> tuple[type[DashboardPlugin], tuple[()]]:
        return type(self), ()  # the scheduler begins with an empty one of its own version

    async def start(self, scheduler: Any) -> None:
        """Hear the past, and add the pages. An error is logged, and told to the client by `TOPIC`."""
        past = [event for topic in sorted(_TOPICS) for event in scheduler.get_events(topic) or ()]
        for when, message in sorted(past, key=lambda event: event[0]):
            self._hear(message, when)
        for teller in {*self._tellers.values()} - {*scheduler.clients}:  # it left before the plugin came
            self.remove_client(scheduler, teller)
        missing = " ".join(why for part in (_add_pages, _add_metrics) if (why := _tried(part, scheduler, self)))
        scheduler.log_event(TOPIC, {"v": messages.VERSION, "missing": missing})

    def log_event(self, topic: str, msg: Any) -> None:
        """A message was logged. The scheduler calls this for every topic."""
        if topic in _TOPICS:
            self._hear(msg, time.time())

    def remove_client(self, scheduler: Any, client: str) -> None:
        """A client of Dask has left. Stages that it drove and that told no end are lost: their process is gone."""
        for run, teller in list(self._tellers.items()):
            if teller == client:
                del self._tellers[run]
                if run in self.runs:
                    self.runs[run].lose(time.time())

    def _hear(self, message: Any, when: float) -> None:
        try:
            if not isinstance(message, Mapping) or "v" not in message or not isinstance(run := message.get("run"), str):
                return
            state = self.runs.pop(run, None) or RunState(run)
            state.hear(message, when)
            self.runs[run] = state
            if isinstance(teller := message.get("client"), str):
                self._tellers[run] = teller
            while len(self.runs) > MOST_RUNS:
                forgotten = next(iter(self.runs))
                del self.runs[forgotten]
                self._tellers.pop(forgotten, None)
        except Exception:  # the loop of the scheduler must go on, whatever a client sends
            _log.debug("daskt2i: a message was not understood", exc_info=True)


def show_pages(client: Client) -> str:
    """Show our pages on the dashboard of a client's scheduler. Never raises an `Exception`.

    Returns:
        "", or one sentence for the user: what is not shown, and why.
    """
    try:
        client.register_plugin(DashboardPlugin())
        told = client.get_events(TOPIC)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "daskt2i":
            return _nothing_shown(error)
        return (
            "The dashboard of this scheduler shows no pages of daskt2i, because the scheduler cannot import daskt2i. "
            "Install daskt2i where the scheduler runs; encode needs it there too."
        )
    except Exception as error:  # no rights, a scheduler without pickle, a lost connection
        return _nothing_shown(error)
    message = told[-1][1] if told else {}
    if missing := str(message.get("missing", "")):
        return f"The dashboard of this scheduler lacks pages of daskt2i: {without_secret(missing)} {_SAYS}"
    if message.get("v") != messages.VERSION:
        return (
            "The dashboard of this scheduler may lack figures, because another version of daskt2i is installed there. "
            f"{_SAYS}"
        )
    return ""


def _nothing_shown(error: Exception) -> str:
    said = without_secret(" ".join(str(error).split())[:200].rstrip(". "))
    return (
        "The dashboard of this scheduler shows no pages of daskt2i, because it did not take them "
        f"({type(error).__name__}: {said}). {_SAYS}"
    )


def _tried(part: Callable[[Any, DashboardPlugin], str], scheduler: Any, plugin: DashboardPlugin) -> str:
    """Do a part. What is missing if it cannot be done, as one sentence; else ""."""
    try:
        return part(scheduler, plugin)
    except Exception as error:  # another Bokeh, another version of distributed
        _log.debug("daskt2i: no pages on this dashboard", exc_info=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('. ')}."


def _add_pages(scheduler: Any, plugin: DashboardPlugin) -> str:
    """Add pages, navigation and listing to the dashboard, if they are not there yet."""
    from daskt2i.dashboard import page, panes  # only the scheduler needs them, and not the driver

    try:
        from bokeh.server.tornado import BokehTornado
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables
        from tornado.ioloop import IOLoop
    except ImportError as error:
        return f"the scheduler has no bokeh of a version that its Dask can use ({' '.join(str(error).split())})."
    http = getattr(scheduler, "http_application", None)
    there = [app for app in getattr(http, "applications", ()) if isinstance(app, BokehTornado)]
    if http is None or not there:
        return "the scheduler runs without a dashboard."
    if any(page.PATH in app.app_paths for app in there):
        return ""  # from an earlier plugin: its pages find this one by its name
    prefix = there[0].prefix
    variables = template_variables(scheduler)  # one dictionary for all pages of a scheduler, so ours change all of them
    documents = {page.PATH: page.document, **{pane.path: pane.document for pane in panes.PANES}}
    ours = BokehApplication(documents, scheduler, prefix=prefix, template_variables=variables)
    http.add_application(ours)
    ours.initialize(IOLoop.current())
    ours.start()
    _add_to_navigation(variables)
    _add_to_listing(http, scheduler, prefix)
    return ""


def _add_metrics(scheduler: Any, plugin: DashboardPlugin) -> str:
    """Add the figures of the runs to /metrics."""
    from daskt2i.dashboard import metrics

    return metrics.add(scheduler, plugin.runs)


def _add_to_navigation(variables: dict[str, Any]) -> None:
    """Add our page after Dask's, and our panes to "More...". Both lists are changed in place: all pages share them."""
    from daskt2i.dashboard import page, panes

    pages, plots = variables["pages"], variables["plots"]
    name = page.PATH.strip("/")
    if name not in pages:
        pages.insert(pages.index(_AFTER) + 1 if _AFTER in pages else len(pages), name)
    there = {plot["url"] for plot in plots}
    plots += [{"url": url, "name": pane.name} for pane in panes.PANES if (url := pane.path.strip("/")) not in there]
    plots.sort(key=lambda plot: plot["name"].lower())


def _add_to_listing(http: Any, scheduler: Any, prefix: str) -> None:
    """Add our panes to the listing. Dask's own lists only pages of the first application of Bokeh."""
    from distributed.http.scheduler.info import IndividualPlots

    from daskt2i.dashboard import panes

    ours = {f"Individual {pane.name}": pane.path for pane in panes.PANES}

    class Listing(IndividualPlots):
        def write(self, chunk: Any) -> None:
            super().write({**chunk, **ours} if isinstance(chunk, dict) else chunk)

    # Tornado asks rules that are added to an application before those that it was made with.
    http.add_handlers(r".*", [(f"{prefix}/individual-plots.json", Listing, {"dask_server": scheduler})])
