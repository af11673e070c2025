"""The figures of a training, folded from its messages.

Covers: steps, losses, speed, ranks, checkpoints, pictures.
Does not cover: what all stages have (`run_state`), encodes (`encode`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from daskt2i.dashboard.state.names import TRAIN_PARTS
from daskt2i.dashboard.state.series import Series, figures_of, number, whole

MOST_PICTURES = 4

MOST_LEVELS = 8
"""Validations whose losses by noise level are kept: the first, the newest, and some between."""

_LEVEL = "heldout_loss_t"
"""Begins the names of the losses by noise level (`train.figures.by_time`)."""

CONTINUES = ("loss", "heldout", "by_level", "learning_rate", "norm", "pictures", "step", "checkpoint")
"""What a training keeps when it continues."""


_RANK_NUMBERS = ("step", "memory", "cpu", "silent", "pid")
_RANK_TEXTS = ("doing", "host")


def rank_figures(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a message tells of a rank; what is of another type is left out."""
    found, shares = figures_of(told, _RANK_NUMBERS, _RANK_TEXTS), told.get("shares")
    if isinstance(shares, Mapping):
        found["shares"] = figures_of(shares, TRAIN_PARTS, ())
    return found


def levels_of(figures: Mapping[str, Any]) -> dict[str, float]:
    """Noise level, 0 to 9, as text -> held-out loss of its rows; a level without rows is left out."""
    found = {name.removeprefix(_LEVEL): value for name, value in figures.items() if name.startswith(_LEVEL)}
    return {level: number(value) for level, value in found.items() if level.isdecimal()}


def _as_last_measured(told: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a rank. If its process has just ended, nothing was measured: the figures before count."""
    if told.get("memory"):
        return told
    measured = ("memory", "cpu")
    return {k: v for k, v in told.items() if k not in measured} | {k: before[k] for k in measured if k in before}


class TrainFigures:
    """The newest training.

    Attributes:
        training: `train` or `train-vae`, the newest one. steps: of the whole training. step: the newest. first_step:
            where this training began or continued. train_batch: samples of a step. attempt: number of the start.
        loss, heldout, learning_rate, norm: (step, value). heldout_figures: name -> its newest value. by_level: (step,
            noise level -> held-out loss) of few validations.
        speed: (step, samples per second of all ranks in the last minute). mean_speed: since the start of the ranks,
            without the first step; 0.0 if it is not known. shares: share of the time of rank 0 -> 0 to 1: `waiting`
            (for data), `forward`, `backward`, `optimiser`, `exchange` (for other ranks).
        ranks: number of ranks. places: where they run. rank_figures: rank -> `step`, `doing`, `memory` (bytes), `cpu`
            (cores), `silent` (seconds since its last beat), `host`, `pid`, `shares` (as of rank 0).
        checkpoint: step of the newest checkpoint, or None. about: `precision`, `device`, `threads`, `parameters`.
        pictures: (step, caption, data URI), the newest last.
    """

    stages: dict[str, str]
    waiting: str

    def _begin_training(self, training: str) -> None:
        self.training = training
        self.train_begun: float | None = None
        self.train_ended: float | None = None
        self.steps = self.step = self.first_step = self.train_batch = self.attempt = self.ranks = 0
        self.speed, self.mean_speed = Series(), 0.0
        self.heldout_figures: dict[str, float] = {}
        self.shares: dict[str, float] = {}
        self.places: list[str] = []
        self.rank_figures: dict[int, dict[str, Any]] = {}
        self.about: dict[str, Any] = {}
        self._forget_curves()

    def _forget_curves(self) -> None:
        """What belongs to a training that began before this one."""
        self.loss, self.heldout, self.learning_rate, self.norm = Series(), Series(), Series(), Series()
        self.by_level = Series(most=MOST_LEVELS)
        self.checkpoint: int | None = None
        self.pictures: deque[tuple[int, str, str]] = deque(maxlen=MOST_PICTURES)

    def _hear_ranks(self, m: Mapping[str, Any], at: float) -> None:
        self.attempt, self.ranks = whole(m["attempt"]), whole(m["ranks"])
        self.places = [str(one) for one in m.get("places", ())]
        self.rank_figures, self.waiting = {}, ""

    def _hear_started(self, m: Mapping[str, Any], at: float) -> None:
        self.step = self.first_step = whole(m["step"])
        if self.step == 0:
            self._forget_curves()
        self.steps, self.ranks = whole(m.get("steps", self.steps)), whole(m.get("ranks", self.ranks))
        self.about = {k: m[k] for k in ("precision", "device", "threads", "parameters", "step_seconds") if k in m}
        self.waiting = ""

    def _hear_step(self, m: Mapping[str, Any], at: float) -> None:
        self.step, self.waiting = whole(m["step"]), ""
        for series, name in ((self.loss, "loss"), (self.learning_rate, "rate"), (self.norm, "norm")):
            if name in m:
                series.add(self.step, number(m[name]))
        self.mean_speed = number(m.get("samples_per_second") or self.mean_speed)
        if recent := m.get("recent") or m.get("samples_per_second"):  # older versions told only the mean
            self.speed.add(self.step, number(recent))
        self.shares = {str(k): number(v) for k, v in m.get("shares", {}).items()} or self.shares

    def _hear_heldout(self, m: Mapping[str, Any], at: float) -> None:
        figures = {k: number(v) for k, v in m.items() if k.startswith("heldout_")}
        self.heldout.add(whole(m["step"]), figures["heldout_loss"])
        self.heldout_figures = figures
        if levels := levels_of(figures):
            self.by_level.add(whole(m["step"]), levels)

    def _hear_checkpoint(self, m: Mapping[str, Any], at: float) -> None:
        self.checkpoint = whole(m["step"])

    def _hear_pulse(self, m: Mapping[str, Any], at: float) -> None:
        for rank, figures in m["ranks"].items():
            self.rank_figures[int(rank)] = _as_last_measured(
                rank_figures(figures), self.rank_figures.get(int(rank), {})
            )

    def _hear_picture(self, m: Mapping[str, Any], at: float) -> None:
        data = str(m["data"])
        if data.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
            step = whole(m["step"]) or (
                0 if m["stage"] == self.training else self.step
            )  # sample draws the newest model
            self.pictures.append((step, str(m["caption"]), data))

    @property
    def samples_per_second(self) -> dict[int, float]:
        """Rank -> its samples per second. All ranks do the same steps, so each has an equal part."""
        if self.speed.last is None or not self.ranks:
            return {}
        return dict.fromkeys(range(self.ranks), self.speed.last[1] / self.ranks)

    @property
    def rank_shares(self) -> dict[int, dict[str, float]]:
        """Rank -> its shares of the time by part, 0 to 1. Before the first pulse only those of rank 0 are known."""
        told = {rank: one["shares"] for rank, one in sorted(self.rank_figures.items()) if one.get("shares")}
        return told or ({0: self.shares} if self.shares else {})

    @property
    def mean_shares(self) -> dict[str, tuple[float, float, float]]:
        """Part -> its share of the time since the start: the mean of all ranks, the lowest, the highest; 0 to 1."""
        ranks, found = list(self.rank_shares.values()), {}
        for part in TRAIN_PARTS:
            if shares := [one[part] for one in ranks if part in one]:
                found[part] = sum(shares) / len(shares), min(shares), max(shares)
        return found

    @property
    def steps_left_seconds(self) -> float | None:
        """Seconds until the last step at the newest speed; None if it is not known."""
        if self.speed.last is None or not self.steps or self.stages.get(self.training) != "running":
            return None
        return (self.steps - self.step) * self.train_batch / self.speed.last[1]
