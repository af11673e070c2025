"""Workflows of fakes, for tests of everything around an encoder: no weights, no torch, milliseconds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from builders import STARTUP
from daskt2i.cli.front import parse_sets
from daskt2i.config import workflow_file as config
from daskt2i.config.component import Component
from daskt2i.config.settings import DatasetSettings, EncoderSettings, Workflow
from daskt2i.config.workflow_file import load_defaults, parse_workflow

SOURCE = "daskt2i.sources.fake.FakeSource"
IMAGE = "daskt2i.encoders.fake.FakeImageEncoder"
TEXT = "daskt2i.encoders.fake.FakeTextEncoder"


def fake_data(
    *,
    rows: int = 20,
    rows_per_chunk: int = 8,
    resolution: int = 32,
    source: dict[str, Any] | None = None,
    image: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    **run: Any,
) -> dict[str, Any]:
    """A workflow as plain data.

    Args:
        source, image, text: arguments of the fakes; `class` names another one.
        run: settings under `run:`.
    """
    return {
        "name": "fake",
        "dataset": {
            "source": {"class": SOURCE, "rows": rows, **(source or {})},
            "image": {"resolution": resolution},
            "encoders": {"image": {"class": IMAGE, **(image or {})}, "text": {"class": TEXT, **(text or {})}},
            "precision": "fp32",
            "rows_per_chunk": rows_per_chunk,
        },
        "run": {"device": "cpu", "batch": 4, **run},
    }


def write_workflow(path: Path, **settings: Any) -> Path:
    """`fake_data(**settings)` as a workflow file."""
    path.write_text(yaml.safe_dump(fake_data(**settings)), encoding="utf-8")
    return path


def fake_settings(**settings: Any) -> Workflow:
    """`fake_data(**settings)`, resolved."""
    import dask.config

    load_defaults()
    data = fake_data(**settings)
    data["run"] = {**dask.config.get("daskt2i.run"), **data["run"]}
    return parse_workflow(data, "of a test")


def load_workflow(
    name: str = "demo", sets: Sequence[str] = (), images: str | None = None, captions: str | None = None
) -> Workflow:
    """A workflow with `--set` texts, as the command line reads them."""
    return config.load_workflow(name, parse_sets(sets), images=images, captions=captions)


def small_settings(**settings: Any) -> Workflow:
    """`fake_settings` with four rows in one chunk. An encode needs half of the time."""
    return fake_settings(**{"rows": 4, **settings})


def component(class_path: str, **arguments: Any) -> Component:
    """A component as a workflow names it; arguments may be any Python value."""
    return Component.model_validate({"class": class_path, **arguments})


def with_parts(workflow: Workflow, **parts: Component) -> Workflow:
    """The workflow with other components: `source`, `image`, `text`."""
    dataset: DatasetSettings = workflow.dataset
    encoders: EncoderSettings = dataset.encoders.model_copy(
        update={k: v for k, v in parts.items() if k in ("image", "text")}
    )
    changes: dict[str, Any] = {"encoders": encoders}
    if "source" in parts:
        changes["source"] = parts["source"]
    return workflow.model_copy(update={"dataset": dataset.model_copy(update=changes)})


def finish(workflow: Workflow, out: Path) -> Any:
    """Encode it in this process. Returns the summary."""
    from daskt2i.encode.driver import encode
    from daskt2i.encode.prepare import prepare
    from daskt2i.executors.serial import SerialExecutor

    return encode(prepare(workflow, out), SerialExecutor())


def child_environment() -> dict[str, str]:
    """For child processes: no hub, no thread storms, a terminal of 80 columns, no colours."""
    drop = ("FORCE_COLOR", "PYTHONWARNINGS")
    kept = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith("DASK_")}
    kept["PYTHONPATH"] = str(STARTUP)
    return {**kept, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
