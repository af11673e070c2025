"""The sheets of pictures that a training has drawn: one for each step at which it drew.

Covers: which steps there are, the file of one.
Does not cover: drawing them (`train.denoiser_rank`), when one is drawn (`train.loop`, `train.upkeep.requests`).
"""

from __future__ import annotations

import re

from daskt2i.store.run_folder import TRAIN, RunFolder

SHEETS = f"{TRAIN}/sheets"

_NAME = re.compile(r"step-(\d{7,})\.png")


class Sheets:
    """The sheets of a run folder.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def steps(self) -> tuple[int, ...]:
        """The steps with a sheet, ascending."""
        names = (name.rpartition("/")[2] for name in self._folder.list(SHEETS))
        return tuple(sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name))))

    def read(self, step: int) -> bytes:
        """The sheet of a step, as a PNG file.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._folder.read(f"{SHEETS}/step-{step:07d}.png")
