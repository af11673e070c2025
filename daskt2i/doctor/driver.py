"""The whole look: this process, the plan, the workers, what they see, how fast they are; then the rules.

Covers: the order, and problems that are errors of daskt2i itself: of the plan, of the scheduler, of the run folder.
Does not cover: each part (`members`, `meeting`, `speeds`), the rules (`rules`), the page (`page`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from daskt2i.deploy.only import ALL, Only
from daskt2i.deploy.workers import workers_of
from daskt2i.doctor.asking import look_here
from daskt2i.doctor.facts import SEVERITIES, Found, Problem, Worker
from daskt2i.doctor.meeting import FOLDER_SECONDS, Meeting, meeting_in
from daskt2i.doctor.members import listed, with_sight, with_speeds
from daskt2i.doctor.result import DoctorResult
from daskt2i.doctor.rules import cluster, machines, network, workflow
from daskt2i.encode.prepare import EncodePlan, check_disk, preflight, prepare
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.plan import WorkerLayout
from daskt2i.protocols import ExecutorInfo
from daskt2i.session.run_settings import RunSettings, refuse_strangers
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import encode_layout, ranks_for
from daskt2i.store.publishing.lock import holder

T = TypeVar("T")


def doctor(settings: RunSettings, session: Callable[[], Session], named: bool) -> DoctorResult:
    """Look at everything. It encodes nothing, and removes what it writes.

    Args:
        session: makes the session of the run; its scheduler is what the user or the settings name.
        named: whether the user named the scheduler. Only then it may start workers.
    """
    return _Look(settings, named).go(session)


@dataclass(slots=True)
class _Look:
    """One look.

    Attributes:
        problems: what was found so far.
        plan: of an encode; None if there is none.
    """

    settings: RunSettings
    named: bool
    problems: list[Problem] = field(default_factory=list)
    plan: EncodePlan | None = None

    def go(self, session: Callable[[], Session]) -> DoctorResult:
        begun, when = perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
        here = look_here().look
        found = Found(here, remote_folder=not self.settings.folder.is_local, workers=(Worker("", 0, 0, here),))
        with meeting_in(self.settings.folder) as meeting:
            self._meet(meeting)
            if (workers := self._try("scheduler", session)) is not None:
                found = self._with_workers(found, workers, meeting)
        for rules in (cluster, machines, workflow, network):
            self.problems.extend(rules.problems(found))
        ranks = self._ranks(found)
        return DoctorResult(
            problems=tuple(sorted(self.problems, key=lambda one: SEVERITIES.index(one.severity))),
            found=found,
            plan=self.plan,
            workflow=self.settings.workflow.name,
            out=str(self.settings.folder),
            when=when,
            seconds=perf_counter() - begun,
            ranks=ranks,
        )

    def _try(self, about: str, call: Callable[[], T]) -> T | None:
        """The result of a call; None if it failed, which is then a problem that stops a run."""
        try:
            return call()
        except KeyboardInterrupt:  # `Interrupted` is an Exception too
            raise
        except Exception as error:  # a look goes on, whatever a part of it meets
            self._stop(about, error)
            return None

    def _stop(self, about: str, error: BaseException) -> None:
        text = " ".join(str(error).split())
        text = text if isinstance(error, Daskt2iError) else f"{type(error).__name__}: {text}"
        if not any(one.text == text for one in self.problems):
            self.problems.append(Problem("stops", about, text, ""))

    def _meet(self, meeting: Meeting) -> None:
        """The run folder and the plan, as this process sees them."""
        settings = self.settings
        if isinstance(meeting.error, TimeoutError):
            text = f"The run folder {settings.folder} did not answer in {FOLDER_SECONDS:.0f} s."
            advice = "Look whether its mount or its server works, or choose another run folder (out)."
            self.problems.append(Problem("stops", "run-folder", text, advice))
        elif meeting.error is not None:
            self._stop("run-folder", meeting.error)
        if meeting.error is not None:
            return

        def make() -> EncodePlan:
            refuse_strangers(settings)
            return prepare(settings.workflow, settings.folder.root, draw=False)

        self.plan = plan = self._try("plan", make)
        if plan is not None and (warning := self._try("disk", lambda: check_disk(plan) or "")):
            self.problems.append(Problem("slows", "disk", warning, ""))
        if (held := holder(settings.folder)).words:
            self.problems.append(
                Problem(
                    "stops" if held.known else "note",
                    "run-folder",
                    f"The run folder is in use: {_without_user(held.words)}.",
                    "Wait until that process ends, stop it, or choose another run folder (out).",
                )
            )

    def _with_workers(self, found: Found, session: Session, meeting: Meeting) -> Found:
        scheduler = session.scheduler
        layout = self._layout(scheduler)
        if self.plan is not None:
            found = replace(found, need=self.plan.requirements.worker_memory)
        client = None
        if self._connects(scheduler, layout):
            found = replace(found, address=scheduler.address or scheduler.kind, workers=())
            connected = self._try("scheduler", lambda: self._connected(found, session, layout or _CLUSTERS_OWN))
            if connected is None:
                return found
            found, client = connected, session.client
        else:
            found = replace(found, threads=layout.threads if layout is not None else 0)
        seen = self._try("workers", lambda: with_sight(found, client, self.plan, meeting)) or found
        return self._try("network", lambda: with_speeds(seen, client, meeting)) or seen

    def _layout(self, scheduler: Scheduler) -> WorkerLayout | None:
        """Workers and threads, as a run would have them. None if there is no plan."""
        if scheduler.kind in ("local", "multiprocessing", "joblib"):
            from daskt2i.executors.shared_memory import require_semaphores

            self._try("shared-memory", lambda: require_semaphores(scheduler.kind))
        if (plan := self.plan) is None:
            return None
        layout = self._try("layout", lambda: encode_layout(scheduler, plan))
        if layout is not None:
            self.plan = replace(plan, layout=layout)
        return layout

    def _connects(self, scheduler: Scheduler, layout: WorkerLayout | None) -> bool:
        """Whether workers are asked: those of a running cluster, or those that the user wants to be started."""
        if scheduler.kind == "address":
            return True
        if scheduler.is_pool or not self.named:
            if scheduler.kind not in ("local", "serial", "multiprocessing", "joblib"):
                text = f"The settings name the scheduler {scheduler.kind}, and its workers were not started."
                self.problems.append(Problem("note", "scheduler", text, "Name it (scheduler) to look at them."))
            return False
        if layout is None:
            text = "The workers were not started, because there is no plan that says how many."
            self.problems.append(Problem("note", "scheduler", text, "Solve the problems of the plan first."))
        return layout is not None

    def _connected(self, found: Found, session: Session, layout: WorkerLayout) -> Found:
        """Connect, ask the workers, and compare their memory with the plan."""
        # It does not wait for the first worker, as an executor does, nor for one that fits the settings.
        there = session.spawner(replace(layout, only=ALL))[1]
        owned = session.scheduler.kind != "address"
        found = replace(
            found,
            address=there.address,
            dashboard=there.dashboard,
            owned=owned,
            threads=layout.threads,
            threads_set=not owned and layout.threads > 0,
        )
        found = listed(found, session)
        if not found.workers:
            text, advice = f"The scheduler at {found.address} has no workers.", "Start workers (dask worker ADDRESS)."
            self.problems.append(Problem("stops", "workers", text, advice))
        self._fit(found, session)
        limits = [one.memory_limit for one in found.workers if one.memory_limit]
        plan = self.plan
        if plan is not None and limits:
            info = ExecutorInfo(len(found.workers), found.threads or there.threads, min(limits))
            self._try("memory-limit", lambda: preflight(plan, info))
        return found

    def _fit(self, found: Found, session: Session) -> None:
        """The settings that choose workers fit some of them."""
        workflow, count = self.settings.workflow, len(found.workers)
        for setting, only in (("run.only", Only(workflow.run.only)), ("launch.only", Only(workflow.launch.only))):
            fitting = self._try("workers", partial(_fitting, only, session))
            if found.workers and fitting == {}:
                names = ", ".join(one.name or one.known_as for one in found.workers[:_MOST_NAMED])
                more = ", …" * (count > _MOST_NAMED)
                text = f"{setting} is {only.text}, but no worker {only.words} is there. They are: {names}{more}."
                advice = f"Change {setting}, or start such a worker."
                self.problems.append(Problem("stops", "workers", text, advice))

    def _ranks(self, found: Found) -> int:
        """Processes that a training would have."""
        launch, train = self.settings.workflow.launch, self.settings.workflow.train
        plan = self.plan
        workers = len(found.workers) if found.address else plan.layout.workers if plan and plan.layout else 0
        if not workers:
            return 0
        try:
            return ranks_for(train.batch, launch.ranks, workers)
        except ConfigError as error:
            self.problems.append(Problem("slows", "training", str(error), ""))
            return 0


_MOST_NAMED = 8
_CLUSTERS_OWN = WorkerLayout(0, 0, 0, "the cluster's own")


def _fitting(only: Only, session: Session) -> Mapping[str, Any]:
    return only.of(session.client, workers_of(session.client))


def _without_user(words: str) -> str:
    """The words for a holder of the run folder, without the name of its user."""
    before, user, rest = words.partition(", user ")
    return f"{before}, {rest.partition(', ')[2]}" if user else words
