"""What a notebook shows of a run: rows, training, the newest pictures, its settings, its workers.

Covers: reading these from the folder. It starts nothing. A damaged file is named and never raises: a run must be able
to show itself.
Does not cover: what results show (each has its `view`), how it is rendered (`view`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daskt2i.config.settings import Workflow
from daskt2i.encode.saved_workflow import without_secrets
from daskt2i.errors import StoreMissing
from daskt2i.store.run_folder import SAMPLES, WORKFLOW, RunFolder
from daskt2i.store.status import status
from daskt2i.train.metrics import loss_curves, loss_words, read_metrics
from daskt2i.view import Picture, Points, Section, View

if TYPE_CHECKING:
    from distributed import Client

    from daskt2i.session.session import Session

Rows = tuple[tuple[str, str], ...]

_SHEET = f"{SAMPLES}/sheet.png"


def run_view(workflow: Workflow, folder: RunFolder, workers: Rows) -> View:
    """A run.

    Args:
        workers: who works on it; see `who_works`.
    """
    encoded = _encoded(folder)
    trained, curves = _trained(workflow, folder)
    return View(
        "daskt2i.Run",
        (*encoded.rows, ("trained", trained), *workers),
        about=folder.root,
        done=encoded.done,
        rejected=encoded.rejected,
        curves=curves,
        curves_label="loss by step" + ", held-out loss (thick)" * (len(curves) > 1 and len(curves[1]) > 1),
        make_pictures=lambda: _pictures(folder),
        sections=(Section(f"Settings ({WORKFLOW})", text=_settings(workflow)),),
    )


def who_works(session: Session | None, client: Client | None, closed: bool = False) -> Rows:
    """Who works on a run, and where their dashboard is: names and values for a person.

    Args:
        session: the workers of the run; None before the start.
        client: the Dask client of the run; None before the start, or without Dask.
    """
    if closed:
        return (("workers", "closed"),)
    if session is not None and session.scheduler.is_pool:
        return (("workers", session.scheduler.kind),)
    if client is None:
        return (("workers", "not started"),)
    if client.status != "running":
        return (("workers", f"the client is {client.status}"),)
    workers = ("workers", str(client.scheduler.address))
    link = "" if session is None else session.dashboard
    return (workers, ("dashboard", f"{link} (copy this into JupyterLab's Dask panel)")) if link else (workers,)


def _encoded(folder: RunFolder) -> View:
    try:
        return status(folder).view()
    except StoreMissing:
        return View("", (("rows", "nothing is encoded yet"),))
    except Exception as error:
        return View("", (("rows", _unreadable("the store", error)),))


def _trained(workflow: Workflow, folder: RunFolder) -> tuple[str, tuple[Points, ...]]:
    """The last figures in words, and the curves."""
    try:
        lines = read_metrics(folder)
        curves = loss_curves(lines)
        last = loss_words(lines)
        step = f"step {lines[-1]['step']:,} of {workflow.train.steps:,}" if lines else "not yet"
        return ", ".join([step, *last]), curves
    except Exception as error:
        return _unreadable("train/metrics.jsonl", error), ()


def _pictures(folder: RunFolder) -> tuple[Picture, ...]:
    try:
        return (Picture(folder.read(_SHEET), "", wide=True),) if folder.exists(_SHEET) else ()
    except Exception:  # a picture that cannot be read is left out
        return ()


def _settings(workflow: Workflow) -> str:
    try:
        return without_secrets(workflow).to_yaml()
    except Exception as error:
        return _unreadable(WORKFLOW, error)


def _unreadable(what: str, error: Exception) -> str:
    return f"{what} cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
