"""When rank 0 saves a checkpoint between the planned ones: because somebody asked, or because time has passed.

Covers: the decision after each step.
Does not cover: the planned checkpoints and saving (`train.loop`), who asks (`launch.vitals.heartbeat`).

Only rank 0 saves, and the others do not wait. So rank 0 decides alone, by its own clock.
"""

from __future__ import annotations

from time import monotonic

from daskt2i.config.settings import LaunchSettings
from daskt2i.launch.vitals import heartbeat


class SaveTimes:
    """The time since the last checkpoint of this process."""

    def __init__(self, launch: LaunchSettings) -> None:
        self._seconds = launch.checkpoint_minutes * 60
        self._last = monotonic()

    def due(self) -> bool:
        """Whether a checkpoint is to be saved now."""
        return heartbeat.asked() or (self._seconds > 0 and monotonic() - self._last >= self._seconds)

    def now(self, step: int) -> None:
        """A checkpoint of this step was saved. Who asked for it gets an answer."""
        self._last = monotonic()
        heartbeat.saved(step)
