"""The view of a run folder for a notebook: rows, training, the newest pictures, settings.

Covers: reading these from the folder. It starts nothing.
Does not cover: the views of results (each result has its `view`), rendering a view (`view`).
"""

from __future__ import annotations

from daskt2i.config.settings import Workflow
from daskt2i.encode.saved_workflow import without_secrets
from daskt2i.errors import StoreMissing
from daskt2i.store.run_folder import SAMPLES, WORKFLOW, RunFolder
from daskt2i.store.status import status
from daskt2i.train.metrics import loss_curves, read_metrics
from daskt2i.view import Picture, Section, View

_SHEET = f"{SAMPLES}/sheet.png"


def run_view(workflow: Workflow, folder: RunFolder, workers: str) -> View:
    """Make the view of a run.

    Args:
        workers: a text that names the workers.
    """
    lines = read_metrics(folder)
    curves = loss_curves(lines)
    try:
        encoded = status(folder).view()
    except StoreMissing:
        encoded = View("", (("rows", "nothing is encoded yet"),))
    trained = "not yet"
    if lines:
        last = [f"{name} {curve[-1][1]:.4f}" for name, curve in zip(("loss", "held out"), curves, strict=True) if curve]
        trained = ", ".join([f"step {lines[-1]['step']:,} of {workflow.train.steps:,}", *last])

    def pictures() -> tuple[Picture, ...]:
        return (Picture(folder.read(_SHEET), "", wide=True),) if folder.exists(_SHEET) else ()

    return View(
        "daskt2i.Run",
        (*encoded.rows, ("trained", trained), ("workers", workers)),
        about=folder.root,
        done=encoded.done,
        rejected=encoded.rejected,
        curves=curves,
        curves_label="loss by step" + ", held-out loss (thick)" * (len(curves[1]) > 1),
        make_pictures=pictures,
        sections=(Section(f"Settings ({WORKFLOW})", text=without_secrets(workflow).to_yaml()),),
    )
