"""Figures of runs on the `/metrics` of a Dask scheduler, for Prometheus.

Covers: the names of the metrics, with their units and labels; adding them to a scheduler.
Does not cover: the figures (`run_state`), metrics of Dask itself, a board for Grafana (docs/reference/grafana.json).

Every metric has the labels `run` (the id) and `label` (the last part of the run folder). Names and labels are a
promise: boards and alerts of users ask for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.dashboard.run_state import RunState

Values = Iterator[tuple[dict[str, str], float]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without the prefix `daskt2i_`.
        help: what it is, with its unit.
        values: labels and value for a run; nothing while it is not known.
        labels: names of labels beside `run` and `label`.
    """

    name: str
    help: str
    values: Callable[[RunState], Values]
    labels: tuple[str, ...] = ()


def _one(of: Callable[[RunState], Any]) -> Callable[[RunState], Values]:
    def values(state: RunState) -> Values:
        value = of(state)
        if value is not None:
            yield {}, float(value)

    return values


def _many(label: str, of: Callable[[RunState], Mapping[Any, Any]]) -> Callable[[RunState], Values]:
    def values(state: RunState) -> Values:
        for name, value in of(state).items():
            yield {label: str(name)}, float(value)

    return values


def _encode(of: Callable[[RunState], Any]) -> Callable[[RunState], Values]:
    return _one(lambda state: of(state) if state.chunks else None)


def _train(of: Callable[[RunState], Any]) -> Callable[[RunState], Values]:
    return _one(lambda state: of(state) if state.training else None)


def _last(series: Any) -> Any:
    return series.last[1] if series.last else None


def _sum_of(name: str) -> Callable[[RunState], Any]:
    return lambda state: sum(one.get(name) or 0 for one in state.workers.values()) if state.workers else None


def _rate_now(state: RunState) -> float | None:
    """0 when no encode runs: the rate of a minute that has passed says nothing about now."""
    return state.rate if state.stages.get("encode") == "running" else 0.0


def _speed_now(state: RunState) -> float | None:
    return _last(state.speed) if state.stages.get(state.training) == "running" else 0.0


def _rank_shares(state: RunState) -> Values:
    for rank, shares in state.rank_shares.items():
        for part, share in shares.items():
            yield {"rank": str(rank), "part": part}, float(share)


METRICS = (
    Metric("running", "1 while this stage runs, else 0.", _many("stage", lambda s: _are(s, "running")), ("stage",)),
    Metric(
        "failed",
        "1 if this stage ended with an error, else 0.",
        _many("stage", lambda s: _are(s, "failed")),
        ("stage",),
    ),
    Metric(
        "driver_lost",
        "1 if the process that drives this stage went away before it told an end, else 0.",
        _many("stage", lambda s: _are(s, "lost")),
        ("stage",),
    ),
    Metric("updated_seconds", "Time of the newest message, seconds since 1970.", _one(lambda s: s.updated or None)),
    Metric("rows", "Rows of the store, done or not.", _encode(lambda s: s.rows)),
    Metric("rows_done", "Rows that are accepted or rejected.", _encode(lambda s: s.rows_done)),
    Metric("rows_accepted", "Rows whose latents are in the store.", _encode(lambda s: s.accepted)),
    Metric("rows_rejected", "Rejected rows by reason.", _many("reason", lambda s: s.rejected), ("reason",)),
    Metric(
        "rows_per_second",
        "Rows per second of all workers, over the last minute; 0 when no encode runs.",
        _encode(_rate_now),
    ),
    Metric("encode_seconds_left", "Seconds until the encode ends, an estimate.", _encode(lambda s: s.eta and s.eta[0])),
    Metric("stored_bytes", "Bytes of the store.", _encode(lambda s: s.bytes)),
    Metric("chunks", "Chunks by state.", _many("state", lambda s: s.chunk_states if s.chunks else {}), ("state",)),
    Metric(
        "part_seconds", "Seconds of all workers by part of this encode.", _many("part", lambda s: s.parts), ("part",)
    ),
    Metric("workers", "Workers that ended a chunk of this encode.", _encode(lambda s: s.workers_seen)),
    Metric("worker_memory_bytes", "Largest memory of each worker so far, added up.", _encode(_sum_of("memory"))),
    Metric("psnr_lowest_decibels", "Lowest PSNR of the checked pictures, dB.", _encode(lambda s: s.psnr_lowest)),
    Metric("train_step", "Steps of the training that are done.", _train(lambda s: s.step)),
    Metric("train_steps", "Steps of the whole training.", _train(lambda s: s.steps)),
    Metric("train_loss", "Loss of the newest step.", _train(lambda s: _last(s.loss))),
    Metric("train_heldout_loss", "Newest loss of validation rows.", _train(lambda s: _last(s.heldout))),
    Metric("train_learning_rate", "Learning rate of the newest step.", _train(lambda s: _last(s.learning_rate))),
    Metric(
        "train_samples_per_second",
        "Samples per second of all ranks in the last minute; 0 when no training runs.",
        _train(_speed_now),
    ),
    Metric("rank_share", "Share of the time of each rank by part, 0 to 1.", _rank_shares, ("rank", "part")),
    Metric("train_share", "Share of the time of rank 0 by part, 0 to 1.", _many("part", lambda s: s.shares), ("part",)),
    Metric(
        "rank_memory_bytes",
        "Memory of each rank.",
        _many("rank", lambda s: {rank: one.get("memory", 0) for rank, one in s.rank_figures.items()}),
        ("rank",),
    ),
)


def _are(state: RunState, how: str) -> dict[str, int]:
    return {stage: int(one == how) for stage, one in state.stages.items()}


class Collector:
    """Gives Prometheus the metrics of all runs.

    Args:
        runs: id of a run -> its state. It is read at each request.
    """

    def __init__(self, runs: Mapping[str, RunState]) -> None:
        self.runs = runs

    def collect(self) -> Iterator[Any]:
        """The metrics, as `prometheus_client` asks for them."""
        from prometheus_client.core import GaugeMetricFamily

        for metric in METRICS:
            family = GaugeMetricFamily(f"daskt2i_{metric.name}", metric.help, labels=["run", "label", *metric.labels])
            for run, state in list(self.runs.items()):
                for labels, value in _values(metric, state):
                    told = (run, state.label, *(labels[name] for name in metric.labels))
                    family.add_metric([_printable(one) for one in told], value)
            yield family

    def describe(self) -> Iterator[Any]:
        """The names alone, for the registry."""
        return self.collect()


def _values(metric: Metric, state: RunState) -> list[tuple[dict[str, str], float]]:
    """Labels and finite values. A run whose figures are odd is left out, so that the others are shown."""
    try:
        return [(labels, value) for labels, value in metric.values(state) if math.isfinite(value)]
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, RuntimeError):
        return []


def _printable(text: str) -> str:
    """A label that can be written: a broken file name may hold half a character."""
    return text.encode("utf-8", "replace").decode()


_collectors: list[Collector] = []
"""The one of this process. Its registry takes each name once, and a process may start several schedulers in turn."""


def add(scheduler: Any, runs: Mapping[str, RunState]) -> str:
    """Add the metrics of runs to the `/metrics` of a scheduler.

    Args:
        runs: id of a run -> its state. Later changes are seen.

    Returns:
        "", or a sentence that says what is missing.
    """
    try:
        from prometheus_client import REGISTRY
    except ImportError:
        return "The scheduler has no prometheus_client, so its /metrics has no figures of daskt2i."
    if _collectors:
        _collectors[0].runs = runs
        return ""
    made = Collector(runs)
    REGISTRY.register(made)
    _collectors.append(made)
    return ""
