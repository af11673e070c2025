"""A run of MLflow, in a store of files (`place`) unless MLFLOW_TRACKING_URI names another one.

Covers: one run, its figures, its settings, its sheets. Does not cover: which figures, and when (`follow`).

The store is one of files: the package mlflow-skinny has no database. MLflow 3 wants to be told that this is meant.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.trackers.place import place_of_files

_LONGEST = 500
"""Characters of a parameter that every version of MLflow takes."""


class MlflowRun:
    """A run of MLflow. Settings are its parameters, from its begin: MLflow lets none change."""

    def __init__(self, folder: RunFolder, prefix: str, config: Mapping[str, Any], known: str | None) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = place_of_files(folder, f"{prefix}/mlflow").as_uri()
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._client, self._metric = MlflowClient(tracking_uri=uri), Metric
        if known is not None and self._continues(known):
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "daskt2i")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.id = self._client.create_run(experiment, run_name=f"{folder}/{prefix}").info.run_id
        params = [Param(key, value) for key, value in _flat("", config)]
        for start in range(0, len(params), 100):  # the most that a server takes at once
            self._client.log_batch(self.id, params=params[start : start + 100])

    def _continues(self, known: str) -> bool:
        """Go on in a run. False if this store has no such run: it was begun on another machine."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(known, status="RUNNING")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self.id = known
        return True

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `follow.Tracker`."""
        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[self._metric(name, one, now, step) for name, one in figures.items()])

    def sheet(self, step: int, at: int, png: bytes) -> None:
        """See `follow.Tracker`. It becomes an artifact, named by its step."""
        with tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
            path = Path(place) / f"step-{step:07d}.png"
            path.write_bytes(png)
            self._client.log_artifact(self.id, str(path), "sheets")

    def close(self) -> None:
        """See `follow.Tracker`."""
        self._client.set_terminated(self.id)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings as dotted names with text: `train.steps`, `"900"`."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), one)
    else:
        yield prefix, (value if isinstance(value, str) else json.dumps(value, default=str))[:_LONGEST]
