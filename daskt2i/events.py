"""What stages tell while they run: one stream of frozen events, one kind of listener.

    def show(event: Event) -> None: ...
    encode(prepared, executor, show)

Covers: the events of encoding, training, drawing, checking and reporting; what a rank told.
Does not cover: how an event looks (`display`), what comes out at the end (results such as `encode.summary`), how events
travel from a rank (`launch`).

A listener is called in the thread that runs the stage, one event after the other. An error that it raises ends the
stage. It must take every kind of event: more will come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from daskt2i.protocols import ExecutorInfo
from daskt2i.types import Receipt
from daskt2i.view import Viewed


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began. `StageEnded` follows, however the stage ends.

    Attributes:
        stage: `encode`, `train` or `train-vae`.
        total: rows to encode, or steps of the whole training.
        batch: samples of a step; 1 for rows.
    """

    stage: str
    total: int
    batch: int = 1


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage ended. `error` is what ended it, None where all went well."""

    stage: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class DashboardReady:
    """Dask's dashboard can be opened at this address."""

    link: str


@dataclass(frozen=True, slots=True)
class WorkersReady:
    """The workers of `encode` are there. `chunks_done` chunks with `rows_done` rows were encoded before."""

    executor_info: ExecutorInfo
    chunks_done: int
    rows_done: int


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A chunk was committed."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """A chunk failed; `final` when it will not be tried again."""

    chunk: int
    error: BaseException
    final: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far something has come: `"chunks checked"`, 12 of 80. Told often; show it now and then."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What is being done now, in a line for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person should know: a warning, or a decision that was taken."""

    text: str


@dataclass(frozen=True, slots=True)
class LaunchEvent:
    """What the launcher or one of its ranks told.

    Attributes:
        kind: of the launcher: `attempt`, `failed`, `fewer`, `note` (the last three have a `text`). Of every rank:
            `rendezvous`, `alive`, `error`. Of a trainer: `started`, `step`, `heldout`, `checkpoint`, `sheet`,
            `skipped`, `done`. A module of your own tells kinds of its own.
        attempt: which start of all ranks this is, from 1.
        rank: who told it; None for the launcher.
        fields: JSON values by name. `event["loss"]` reads one.
    """

    kind: str
    attempt: int
    rank: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default where it was not told."""
        return self.fields.get(name, default)


@dataclass(frozen=True, slots=True)
class PlanReady:
    """What a stage is going to do is known: an `EncodePlan` or a `TrainPlan`."""

    plan: Viewed


@dataclass(frozen=True, slots=True)
class ResultReady:
    """One stage of several ended well; its result is what the method of that stage gives back."""

    stage: str
    result: Viewed


Event = (
    StageStarted
    | StageEnded
    | DashboardReady
    | WorkersReady
    | ChunkDone
    | ChunkFailed
    | Progress
    | Activity
    | Note
    | LaunchEvent
    | PlanReady
    | ResultReady
)


class Listener(Protocol):
    """Gets every event. A function with one argument is a listener."""

    def __call__(self, event: Event, /) -> None: ...


@contextmanager
def stage_events(stage: str, total: int, listener: Listener, batch: int = 1) -> Iterator[None]:
    """The begin and the end of a stage for whoever listens. Arguments as in `StageStarted`."""
    listener(StageStarted(stage, total, batch))
    try:
        yield
    except BaseException as error:
        listener(StageEnded(stage, error))
        raise
    listener(StageEnded(stage))


def ignore(event: Event, /) -> None:
    """A listener that does nothing."""
