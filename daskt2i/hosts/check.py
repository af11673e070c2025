"""Asking all workers, before the first chunk, whether they see what the run needs.

Covers: who lacks what; whether the run goes on with the other workers; the sentence for each.
Does not cover: looking (`sight`), a worker that joins later (`encode.chunks.admission`), models that are sent
(`model_files`).

With some workers that lack something, a run could stop or go on. One bad mount among a hundred hosts must not stop a
run at night. But if most hosts lack something, the setup is wrong, and a run on the few others would take days without
a word. So a share decides: `run.min_fit_workers`.
"""

from __future__ import annotations

import functools
import socket
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from daskt2i.errors import WorkerWithoutFiles
from daskt2i.events import Listener, Note
from daskt2i.formatting import many
from daskt2i.hosts.sight import Lack, Needs, Sight, Thing, look
from daskt2i.protocols import AsksWorkers, Executor, ExecutorInfo

LOOK_SECONDS = 120.0
"""How long workers may look. Hashing a model of 2 GB on a slow disk takes a minute. Who is late is asked again at its
first chunk."""

_ADVICE: Mapping[Thing, str] = {
    "run folder": "give a folder that all hosts share under the same path, or an address such as s3://bucket/run (out)",
    "images": "give all hosts the images under the same path, or at an address such as s3://bucket/images (images)",
    "models": "put the models under the same path there",
}
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class StageWords:
    """The words of a stage.

    Attributes:
        left_out: what does not happen on a host that lacks something: `"no picture is drawn"`.
        refused: what did not happen, and what is kept, if the stage ends.
        again: what to do next: `"draw again"`.
    """

    left_out: str
    refused: str
    again: str


ENCODE = StageWords(
    "no chunk of this run is encoded", "Nothing was encoded, and finished chunks are kept", "encode again"
)
SAMPLE = StageWords("no picture is drawn", "Nothing was drawn", "draw again")
INSIGHTS = StageWords("no image is read", "Nothing was reported", "run insights again")


@dataclass(frozen=True, slots=True)
class Checked:
    """What the workers answered.

    Attributes:
        sights: worker, as the executor names it -> what it lacks.
        left: the workers that get items, if some were left out; else None.
    """

    sights: Mapping[str, Sight]
    left: ExecutorInfo | None = None

    @property
    def unfit(self) -> Mapping[str, Sight]:
        """The workers that lack something."""
        return {name: sight for name, sight in self.sights.items() if sight.lacks}

    def with_models(self) -> Checked:
        """As if the workers had the models that can be sent."""
        return Checked(
            {
                name: replace(sight, lacks=tuple(lack for lack in sight.lacks if not _can_be_sent(lack)))
                for name, sight in self.sights.items()
            }
        )


def check_workers(
    executor: Executor,
    needs: Needs,
    workers: int,
    share: float,
    listener: Listener,
    words: StageWords,
    send: Callable[[], str] = lambda: "this stage sends none",
) -> Checked:
    """Ask all workers, and leave those out that lack something. An executor on this machine has none to ask.

    Args:
        workers: number of workers.
        share: the stage goes on if at least this share of the workers, and one, lacks nothing.
        send: offers the models to workers that lack them. Returns "", or why not.

    Raises:
        WorkerWithoutFiles: too many workers lack something. The message names their hosts.
    """
    if not isinstance(executor, AsksWorkers):
        return Checked({})
    checked, why = Checked(executor.ask(functools.partial(look, needs), LOOK_SECONDS)), ""
    if any(_can_be_sent(lack) for sight in checked.sights.values() for lack in sight.lacks) and not (why := send()):
        checked = checked.with_models()
    if not (unfit := checked.unfit):
        return checked
    fit = max(workers, len(checked.sights)) - len(unfit)
    if fit < 1 or fit < share * (fit + len(unfit)):
        raise WorkerWithoutFiles(_refused(list(unfit.values()), fit, why, words))
    left = executor.leave_out(list(unfit))
    said = _said(list(unfit.values()))
    listener(Note(f"{said}, so {words.left_out} there, but by {many(left.workers, 'other worker')}."))
    return replace(checked, left=left)


def _can_be_sent(lack: Lack) -> bool:
    return lack.thing == "models" and lack.missing


def _refused(unfit: Collection[Sight], fit: int, unsent: str, words: StageWords) -> str:
    things = dict.fromkeys(lack.thing for sight in unfit for lack in sight.lacks)
    what = "; ".join(_ADVICE[thing] for thing in things)
    what += f" (they were not sent: {unsent})" if unsent else ""
    others = f"{many(fit, 'worker')} would be left, which is less than run.min_fit_workers asks for. " if fit else ""
    also = ", or set run.min_fit_workers lower to go on with the others" if fit else ""
    return (
        f"{_said(unfit)}, although the driver on {socket.gethostname()} sees it. {others}{words.refused}; "
        f"{what}{also}, then {words.again}."
    )


def _said(unfit: Collection[Sight]) -> str:
    """`"node1 does not see the run folder /data/run; node2 and node3 …"`: each host once, with what it lacks."""
    hosts: dict[tuple[str, ...], Counter[str]] = {}
    for sight in unfit:
        clauses = tuple(lack.clause for lack in sight.lacks)
        hosts.setdefault(clauses, Counter())[sight.host] += 1
    return "; ".join(f"{_names(names)} {' and '.join(clauses)}" for clauses, names in hosts.items())


def _names(hosts: Counter[str]) -> str:
    named = [f"{host} ({many(count, 'worker')})" for host, count in sorted(hosts.items())]
    rest = len(named) - _MOST_NAMED
    return ", ".join(named[:_MOST_NAMED]) + (f" and {many(rest, 'other host')}" if rest > 0 else "")
