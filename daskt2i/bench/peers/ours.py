"""Ours, in the process of a tool: `encode` on a local Dask cluster, and the rows of its store.

Covers: one run of `encode` with the rows of the task; reading them from the store.
Does not cover: the task and the other tools (`peer`), the measuring of one `encode` (`bench.cell`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from daskt2i.bench.cell import run_encode
from daskt2i.bench.measured import BenchTask
from daskt2i.config.workflow_file import load_defaults, parse_workflow
from daskt2i.documents import read_yaml
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

RUN = "run"
"""The run folder, below the folder of the task."""


def run(task: Mapping[str, Any]) -> dict[str, Any]:
    """Encode, as a user does. Workers wait for each other before the first chunk, as those of the other tools.

    Raises:
        Daskt2iError: an error of `encode`.
    """
    load_defaults()
    workflow = parse_workflow(read_yaml(task["workflow"]), "of a benchmark")
    asked = BenchTask(
        kind="encode",
        workflow=task["workflow"],
        folder=f"{task['out']}/{RUN}",
        part="both",
        scheduler=task.get("scheduler", "local"),
        workers=task["workers"],
        begun=task["begun"],
    )
    found = run_encode(asked, workflow)
    loaded = task["begun"] + found.cold
    done = loaded + found.steady  # each chunk is written before the next one is encoded
    return {"loaded": loaded, "encoded": done, "done": done, "precision": found.precision}


def read(task: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Row -> `mean`, `std` if there is a posterior, `states` and `lengths` of its captions, for accepted rows."""
    store = ZarrStore(RunFolder(f"{task['out']}/{RUN}"))
    layout = store.layout()
    for row in range(layout["rows"]):
        if not store.read("valid", row, row + 1)[0]:
            continue
        mask = store.read("text_mask", row, row + 1)[0]
        there = mask.any(1)
        made = {"mean": store.read("latent_mean", row, row + 1)[0], "lengths": mask.sum(1)[there]}
        made["states"] = np.where(mask[..., None], store.read("text_states", row, row + 1)[0], 0)[there]
        if "latent_std" in layout["arrays"]:
            made["std"] = store.read("latent_std", row, row + 1)[0]
        yield row, made
