"""A run of Weights & Biases. It is offline unless WANDB_MODE says otherwise: nothing is sent without being asked for.

Covers: one run, its figures, its sheets. Does not cover: which figures, and when (`follow`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

from PIL import Image

from daskt2i.store.run_folder import RunFolder
from daskt2i.train.trackers.place import place_of_files


class WandbRun:
    """A run of wandb with its files in `train/wandb/` of `place`."""

    def __init__(self, folder: RunFolder, prefix: str, config: Mapping[str, Any], run_id: str) -> None:
        import wandb

        self.id = run_id
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "daskt2i"),
            id=run_id,
            resume="allow",
            dir=str(place_of_files(folder, prefix)),
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """See `follow.Tracker`."""
        self._run.log(dict(figures), step=step)

    def sheet(self, step: int, at: int, png: bytes) -> None:
        """See `follow.Tracker`. wandb takes no step before the last one, so the caption says which step it is."""
        with Image.open(io.BytesIO(png)) as image:
            self._run.log({"sheet": self._image(image, caption=f"step {step}")}, step=at)

    def close(self) -> None:
        """See `follow.Tracker`."""
        self._run.finish()
