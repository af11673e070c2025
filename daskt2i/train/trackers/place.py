"""Where a tracker without a server keeps its files.

Covers: a folder of the run folder; for one behind an address, a folder of this machine that is the same each time.
Does not cover: what lies there (`weights_and_biases`, `mlflow_store`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from daskt2i.encoders.finding.model_copies import cache_folder
from daskt2i.store.run_folder import RunFolder


def place_of_files(folder: RunFolder, name: str) -> Path:
    """The folder, which exists.

    Args:
        name: inside the run folder: `train/mlflow`.
    """
    if folder.is_local:
        place = folder.local_path(name)
    else:  # trackers write into the middle of files, which an object store cannot
        key = hashlib.sha256(folder.root.encode()).hexdigest()[:16]
        place = cache_folder().parent / "trackers" / key / name
    place.mkdir(parents=True, exist_ok=True)
    return place
