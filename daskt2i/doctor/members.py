"""The workers of a look: connecting to them, and asking each what it is and what it sees.

Covers: which scheduler is asked, time limits, how many workers do the dear parts.
Does not cover: the functions that run there (`bare`, `sight`, `wire`), the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from daskt2i.deploy.workers import workers_of
from daskt2i.doctor import speeds
from daskt2i.doctor.asking import (
    PER_WORKER_SECONDS,
    ask_each,
    dashboard_error,
    look_at,
    look_at_scheduler,
    why_not_importable,
)
from daskt2i.doctor.facts import Clock, Found, Speed, Worker
from daskt2i.doctor.meeting import Meeting
from daskt2i.doctor.sight import SEE_SECONDS, Wanted, folder_speed, see
from daskt2i.encode.chunks.admission import statement
from daskt2i.encode.prepare import EncodePlan
from daskt2i.facts.selection import reading_component
from daskt2i.faults.time_limit import within
from daskt2i.hosts.model_files import encoder_infos, models_of
from daskt2i.machine.versions import OPTIONAL
from daskt2i.session.session import Session
from daskt2i.types import Row

MOST_HOSTS = 32
"""Hosts on which the weights of the models are read and compared."""

_LIST_SECONDS = 10.0
_FIRST_ROWS = 16
"""Rows of which the first usable one is read by all workers."""


def listed(found: Found, session: Session) -> Found:
    """The workers of a cluster by name, with what each says of itself, and the scheduler.

    Raises:
        OSError: the scheduler does not list them in time.
    """
    client = session.client
    there = within(_LIST_SECONDS, lambda: workers_of(client))
    if not isinstance(there, Mapping):
        raise there if isinstance(there, OSError) else OSError(f"it did not list its workers in {_LIST_SECONDS:.0f} s")
    answers, scheduler = look_at(client, list(there)), look_at_scheduler(client)
    workers = []
    for address, about in there.items():
        answer = answers.get(address)
        name = str(about.get("name", ""))
        threads, limit = int(about.get("nthreads") or 1), int(about.get("memory_limit") or 0)
        worker = Worker(address, threads, limit, name="" if name == address else name)
        if answer is not None:
            clock = Clock.of(answer.asked, answer.look["time"], answer.answered)
            worker = replace(worker, look=answer.look, clock=clock)
        workers.append(worker)
    names = {one.ip: one.host for one in workers if one.look is not None}
    workers.sort(key=lambda one: (len(one.name), one.name, one.address))  # in the order of names: 2 stands before 10
    named = tuple(replace(one, known_host=names.get(one.ip, "")) for one in workers)
    return replace(
        found,
        scheduler=None if scheduler is None else scheduler.look,
        workers=named,
        dashboard_error=dashboard_error(found.dashboard),
    )


def with_sight(found: Found, client: Any, plan: EncodePlan | None, meeting: Meeting) -> Found:
    """What each worker sees of the workflow. Without a cluster, the plan has told it."""
    plain, named = _wanted(plan, meeting)
    found = replace(found, named=named)
    asked = [one for one in found.workers if one.said("packages", "daskt2i")]
    if client is None or not asked:
        return found
    firsts = {one.address for one in speeds.some_of(asked, MOST_HOSTS) if _is_first(one, asked)}
    kinds = _first_of_each_kind(asked) if _chooses(plan) else set()
    given = {
        one.address: (replace(plain, models=one.address in firsts, precision=one.address in kinds),) for one in asked
    }
    limit = SEE_SECONDS + 5 + PER_WORKER_SECONDS * len(given)
    answers = ask_each(client, see, given, limit)
    silent = [one.address for one in asked if one.address not in answers]
    why = why_not_importable(client, silent, see.__module__) if silent else {}
    made = {address: sight.get("folder", {}).get("made") for address, sight in answers.items()}
    seen = meeting.seen([name for name in made.values() if name])
    workers = []
    for one in found.workers:
        if one.address in answers:
            sight = dict(answers[one.address])
            if name := made[one.address]:
                sight["folder"] = sight["folder"] | ({"seen_here": seen[name]} if name in seen else {})
            one = replace(one, sight=sight)
        elif one.address in why:
            one = replace(one, blind=why[one.address] or f"it did not look in {limit:.0f} s")
        workers.append(one)
    return replace(found, workers=tuple(workers))


def with_speeds(found: Found, client: Any, meeting: Meeting) -> Found:
    """Some measured connections, and better clocks of the measured workers."""
    measured: list[Speed] = []
    if client is None:
        if meeting.error is None:
            told = within(SEE_SECONDS + 2, lambda: folder_speed_here(meeting))
            measured.append(speeds.folder_words("", told if isinstance(told, dict) else {"error": "no answer"}))
        return replace(found, speeds=tuple(measured))
    answering = [one for one in found.workers if one.look is not None]
    clocks: dict[str, Clock] = {}
    some = speeds.some_of(answering)
    for one in some:
        speed, clock = speeds.to_worker(client, one)
        measured.append(speed)
        if clock is not None:
            clocks[one.address] = clock
    able = [one for one in answering if one.sight is not None]
    if not found.address.startswith("inproc"):
        measured += [speeds.between(client, start, end) for start, end in speeds.pairs_of(able)]
    for one in speeds.some_of(able):
        if meeting.error is None and not (one.sight or {}).get("folder", {"error": "unseen"})["error"]:
            measured.append(speeds.to_folder(client, one, meeting.folder, meeting.prefix))
    workers = tuple(replace(one, clock=clocks.get(one.address, one.clock)) for one in found.workers)
    return replace(found, speeds=tuple(measured), workers=workers)


def folder_speed_here(meeting: Meeting) -> dict[str, Any]:
    """The speed of the run folder from this process."""
    import asyncio

    return asyncio.run(folder_speed(meeting.folder, meeting.prefix, speeds.SIZE))


def _wanted(plan: EncodePlan | None, meeting: Meeting) -> tuple[Wanted, dict[str, Any]]:
    """What workers look for, and what the driver knows of it."""
    named: dict[str, Any] = {"versions": statement(tuple(OPTIONAL))}
    wanted = Wanted()
    if meeting.error is None:
        wanted = replace(wanted, folder=meeting.folder, name=meeting.name, content=meeting.content)
    if plan is None:
        return wanted, named
    dataset = plan.workflow.dataset
    encoders = dataset.encoders
    named |= {"image_model": plan.image_info.weights, "text_model": plan.text_info.weights}
    models = within(SEE_SECONDS, lambda: models_of(encoder_infos(encoders, dataset.image.side)))
    total = sum(one.bytes for one in models) if isinstance(models, tuple) else 0
    named["min_fit"] = plan.workflow.run.min_fit_workers
    named["sends"] = total if total <= plan.workflow.run.send_bytes() else 0
    wanted = replace(
        wanted,
        image_encoder=encoders.image,
        text_encoder=encoders.text,
        resolution=dataset.image.side,
    )
    row, digest = _first_image(plan)
    if row is not None:
        named["image"] = row.file_name
        wanted = replace(wanted, source=reading_component(dataset), row=row, image=digest)
    return wanted, named


def _first_image(plan: EncodePlan) -> tuple[Row | None, str]:
    """A row near the start, and the hash of its image file; None if this process cannot read one."""

    def read() -> tuple[Row, str] | None:
        rows = plan.source.rows(0, min(_FIRST_ROWS, plan.source_info.rows))
        row = next((row for row in rows if row.usable), None)
        return None if row is None else (row, hashlib.sha256(plan.source.read(row)).hexdigest())

    found = within(SEE_SECONDS, read)
    return found if isinstance(found, tuple) else (None, "")


def _chooses(plan: EncodePlan | None) -> bool:
    """Whether workers choose the precision of the store."""
    return plan is not None and plan.precision == "auto"


def _first_of_each_kind(workers: Sequence[Worker]) -> set[str]:
    """A worker of each kind of processor or GPU; empty if all are of one kind."""
    kinds: dict[tuple[Any, ...], str] = {}
    for one in workers:
        gpus = one.said("gpus", "names") if one.said("gpus", "visible") not in ("", "-1") else None
        kinds.setdefault((tuple(one.said("instructions") or ()), tuple(gpus or ())), one.address)
    return set(kinds.values()) if len(kinds) > 1 else set()


def _is_first(worker: Worker, workers: Sequence[Worker]) -> bool:
    """Whether it is the first worker of its host in the list."""
    return next(one for one in workers if one.host == worker.host) is worker
