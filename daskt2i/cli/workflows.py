"""A command's workflow, with what its user should know about the settings on standard error.

Covers: old names of settings, which are still read.
Does not cover: reading workflow files (`config.workflow_file`), options (`options`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from daskt2i.cli.console import complain

if TYPE_CHECKING:
    from daskt2i.config.settings import Workflow


def load_workflow(
    name: str = "demo", sets: Sequence[str] = (), images: str | None = None, captions: str | None = None
) -> Workflow:
    """As `config.workflow_file.load_workflow`, and its notes are printed."""
    from daskt2i.config import workflow_file

    workflow = workflow_file.load_workflow(name, sets, images, captions)
    for note in workflow.notes:
        complain(note, "yellow")
    return workflow
