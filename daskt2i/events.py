"""The events that stages report while they run, and the listener that gets them.

    def show(event: Event) -> None: ...
    encode(prepared, executor, show)

Covers: the events of encoding, training, drawing, checking and insights; those of a rank; workers that join and die.
Does not cover: how an event is shown (`display`), the results of stages (such as `encode.summary`), how events get from
a rank to the driver (`launch`).

The thread that runs the stage calls the listener, one event after the other. If the listener raises an error, the stage
ends with it. A listener must accept every kind of event, because later versions add kinds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from daskt2i.protocols import ExecutorInfo, WorkerDeath, WorkersJoined
from daskt2i.redact import without_secret
from daskt2i.types import Receipt, Runtime
from daskt2i.view import Viewed


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage began. `StageEnded` always follows, also after an error.

    Attributes:
        stage: `encode`, `train` or `train-vae`.
        total: rows to encode, or steps of the whole training.
        batch: samples in one step; 1 for rows.
    """

    stage: str
    total: int
    batch: int = 1


@dataclass(frozen=True, slots=True)
class StageEnded:
    """A stage ended. `error` is what ended it; None if it ended well."""

    stage: str
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class DashboardReady:
    """Dask's dashboard can be opened at this address."""

    link: str


@dataclass(frozen=True, slots=True)
class WorkersReady:
    """The workers of `encode` are ready. Earlier runs encoded `chunks_done` chunks with `rows_done` rows."""

    executor_info: ExecutorInfo
    chunks_done: int
    rows_done: int


@dataclass(frozen=True, slots=True)
class ChunksFound:
    """What is in the store before the first chunk of this encode, from the receipts of earlier runs.

    Attributes:
        rows, chunks: of the whole store. The last chunk may have fewer rows.
        rows_per_chunk: rows of every other chunk.
        done: one byte for each chunk: 1 if it is finished, else 0.
        accepted, rejected, captions, truncated, stored_bytes: totals of the finished chunks. `rejected` is reason ->
            rows.
    """

    rows: int
    chunks: int
    rows_per_chunk: int
    done: bytes
    accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    captions: int = 0
    truncated: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The first worker has loaded the encoders, so it is known how they run.

    Attributes:
        runtime: device, precision, threads and engine.
        batch: images in one batch.
        min_psnr: a chunk whose checked rows are below this PSNR is refused, dB.
    """

    runtime: Runtime
    batch: int
    min_psnr: float


@dataclass(frozen=True, slots=True)
class ChunkSent:
    """A chunk was given to the executor: it runs, or it is the next one of a worker."""

    chunk: int


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """A chunk was committed.

    Attributes:
        name, threads: of the worker, as its scheduler knows them; "" and 0 if none does.
    """

    receipt: Receipt
    name: str = ""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """A chunk failed. `final` is True if it will not be tried again."""

    chunk: int
    error: BaseException
    final: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something does not move. It comes again while this lasts, less and less often.

    Attributes:
        what: what is awaited, a clause for a person.
        where: the worker (`host:pid`) or the scheduler that waits; "" if it is not known.
        seconds: for how long.
        limit: seconds after which it is given up; 0 for never.
        chunk: the chunk that waits; None for none.
    """

    what: str
    where: str
    seconds: float
    limit: float = 0.0
    chunk: int | None = None


@dataclass(frozen=True, slots=True)
class Moving:
    """The run moves again, after `Waiting`. One chunk may wait while others end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one kind of work: `"chunks checked"`, 12 of 80. It comes often, so show only some of these events."""

    what: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Activity:
    """What the stage is doing now, one line for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Note:
    """A warning, or a decision that the program took, for a person. Secrets in its text are hidden."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", without_secret(self.text))


@dataclass(frozen=True, slots=True)
class LaunchEvent:
    """An event of the launcher or of one of its ranks.

    Attributes:
        kind: the launcher sends `attempt`, `failed`, `fewer`, `note` (the last three have a `text`). Every rank sends
            `rendezvous`, `alive`, `error`. A trainer sends `started`, `step`, `heldout`, `checkpoint`, `sheet`,
            `skipped`, `done`. Your own module can send kinds of its own.
        attempt: number of the start of all ranks, from 1.
        rank: the rank that sent it; None for the launcher.
        fields: JSON values by name. `event["loss"]` reads one.
    """

    kind: str
    attempt: int
    rank: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(text := self.fields.get("text"), str):
            object.__setattr__(self, "fields", {**self.fields, "text": without_secret(text)})

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default if the event does not have it."""
        return self.fields.get(name, default)


@dataclass(frozen=True, slots=True)
class PlanReady:
    """The plan of a stage is ready: an `EncodePlan` or a `TrainPlan`."""

    plan: Viewed


@dataclass(frozen=True, slots=True)
class ResultReady:
    """One of several stages succeeded. `result` is what the method of that stage returns."""

    stage: str
    result: Viewed


Event = (
    StageStarted
    | StageEnded
    | DashboardReady
    | WorkersReady
    | ChunksFound
    | ModelReady
    | ChunkSent
    | ChunkDone
    | ChunkFailed
    | Waiting
    | Moving
    | Progress
    | Activity
    | Note
    | LaunchEvent
    | PlanReady
    | ResultReady
)


class Listener(Protocol):
    """Receives every event. A function with one argument is a listener."""

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


def tell_deaths(executor: Any, listener: Listener, again: str) -> None:
    """Tell which workers died and how many joined since the last call, if the executor says so.

    Args:
        again: what happens to the work of these: `"encoded"` is "… is encoded again".
    """
    for joined in _taken(getattr(executor, "worker_joins", None)):
        listener(Activity(join_words(joined)))
    for death in _taken(getattr(executor, "worker_deaths", None)):
        listener(Note(death_words(death, again)))


def _taken(told: Any) -> Iterator[Any]:
    """What is in a deque; each is taken from it. Another thread may take some."""
    while isinstance(told, deque) and told:
        try:
            one = told.popleft()
        except IndexError:
            return
        yield one


def join_words(joined: WorkersJoined) -> str:
    """A line about workers that joined: `"1 worker joined: there are 2 workers now"`."""
    return f"{joined.new:,} worker{'s' * (joined.new != 1)} joined: there are {joined.workers:,} workers now"


def death_words(death: WorkerDeath, again: str) -> str:
    """A note about a worker that died. Arguments as in `tell_deaths`."""
    chunks = sorted(index for item in death.items if isinstance(index := getattr(item, "index", None), int))
    if len(chunks) != len(death.items):
        what = "What it worked on is"
    elif len(chunks) == 1:
        what = f"Its chunk {chunks[0]} is"
    else:
        what = f"Chunks {', '.join(map(str, chunks[:-1]))} and {chunks[-1]} are"
    goes = "continues" if death.left == 1 else "continue"
    left = f"{death.left:,} worker{'s' * (death.left != 1)} {goes}" if death.left else "none is left now"
    who = f"The worker {death.worker}" if death.worker else "A worker"
    return f"{who} {death.how}. {what} {again} again, so nothing is lost; {left}."


def ignore(event: Event, /) -> None:
    """A listener that does nothing."""
