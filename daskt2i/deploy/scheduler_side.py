"""What the process of a scheduler is like: whether it can read our tasks, and where its dashboard is.

Covers: asking a scheduler once for each client; recognising the error of a task that it could not read; links.
Does not cover: what workers can import, adding pages to a dashboard (`dashboard.plugin`).

Dask's scheduler unpickles each task before it gives the task to a worker. So it needs what the tasks are made of.
"""

from __future__ import annotations

import weakref
from typing import Any

from distributed import Client

from daskt2i.errors import SchedulerError

_SAYS = "Error during deserialization of the task graph"
"""How distributed begins its error about tasks that the scheduler cannot read."""

_PAGE, _STATUS = "/daskt2i", "/status"
"""The page of our runs, and Dask's first page."""

_prefixes: weakref.WeakKeyDictionary[Client, str | None] = weakref.WeakKeyDictionary()
"""Client -> what its dashboard has before the names of its pages, such as `/dask`; None without a dashboard."""


def ask_scheduler(client: Client) -> None:
    """Ask the scheduler what it is like. One that does not answer such questions is trusted.

    Raises:
        SchedulerError: it cannot import daskt2i.
    """
    try:
        _prefixes[client] = client.run_on_scheduler(_prefix)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == __name__.partition(".")[0]:
            raise _unreadable(client, error) from None
    except Exception:  # no right to ask, a lost connection, an older daskt2i: the first task will tell
        return


def unreadable_by(client: Client, outcome: Any) -> SchedulerError | None:
    """The error to raise if a task ended because the scheduler could not read it; None if `outcome` is another end."""
    if not isinstance(outcome, RuntimeError) or _SAYS not in str(outcome):
        return None
    return _unreadable(client, outcome.__cause__ or outcome.__context__)


def link_of(client: Client, link: str) -> str:
    """Dask's link to a dashboard, corrected: "" if there is no dashboard; with the prefix of its pages.

    Dask gives a link also if the scheduler serves nothing but /health and /metrics, and leaves out a prefix.
    """
    prefix = _prefixes.get(client, "")
    if prefix is None:
        return ""
    path = f"{prefix}{_STATUS}"
    return f"{link.removesuffix(_STATUS)}{path}" if link.endswith(_STATUS) and not link.endswith(path) else link


def page_of(link: str) -> str:
    """The link to the page of our runs, for the link of a dashboard."""
    return link.removesuffix(_STATUS) + _PAGE if link.endswith(_STATUS) else link


def _unreadable(client: Client, why: BaseException | None) -> SchedulerError:
    address = getattr(client.scheduler, "address", "") or "of this client"
    if isinstance(why, ImportError) and why.name:
        cause = f"it cannot import {why.name.partition('.')[0]}"
    elif why is not None:
        cause = f"{type(why).__name__}: {' '.join(str(why).split())[:200].rstrip('. ')}"
    else:
        cause = "it lacks what they need"
    return SchedulerError(
        f"The scheduler at {address} cannot read the tasks of daskt2i: {cause}. Nothing of this stage was done, and "
        "what is committed stays. Install this version of daskt2i where the scheduler runs, with the packages that "
        "your own classes need, start the scheduler anew, and run it again."
    )


def _prefix(dask_scheduler: Any = None) -> str | None:
    """On the scheduler: what its dashboard has before the names of its pages; None without a dashboard.

    An application of Bokeh serves the pages. This must not import Bokeh where there is none.
    """
    there = getattr(getattr(dask_scheduler, "http_application", None), "applications", ())
    bokeh = [app for app in there if type(app).__module__.partition(".")[0] == "bokeh" or hasattr(app, "app_paths")]
    return str(bokeh[0].prefix).rstrip("/") if bokeh else None
