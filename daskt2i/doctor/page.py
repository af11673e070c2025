"""The page of `doctor` as names and values: problems, then the driver, the workers by kind, the network, the plan.

Covers: words for a terminal of 80 columns; workers in groups, so that a thousand need no more lines than two.
Does not cover: drawing the table (`display.tables`), the figures of each worker (`--json` has them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from daskt2i.doctor.bare import private
from daskt2i.doctor.facts import Found, Problem, Speed, Worker
from daskt2i.encode.prepare import EncodePlan
from daskt2i.formatting import duration, many, size
from daskt2i.redact import without_secret
from daskt2i.view import Section, View

_GROUPS = 6
"""Kinds of workers that are shown."""

_NOTES = 10
"""Problems of each kind that are shown."""

Rows = Iterator[tuple[str, str]]


def page(
    found: Found,
    problems: Sequence[Problem],
    plan: EncodePlan | None,
    *,
    ranks: int,
    out: str,
    seconds: float,
) -> View:
    """The page. Arguments as in `result.DoctorResult`."""
    stops = [one.words() for one in problems if one.severity == "stops"]
    rows = [
        *_problems(problems),
        *_driver(found),
        *_cluster(found),
        *_versions(found),
        *_machine(found),
        *_sees(found),
        *_speeds(found),
        *_plan(plan, ranks),
        ("run folder", out),
        ("looked for", duration(seconds)),
    ]
    title = "A run can start" if not stops else "A run cannot start" if found.here else ""
    silent = sum(one.look is None for one in found.workers)
    if silent and not stops:
        title += f", but {silent:,} of {many(len(found.workers), 'worker')} did not answer"
    if stops:
        title += f": {many(len(stops), 'problem')} would stop it"
    return View(
        title,
        tuple((name, _plain(text)) for name, text in rows),
        failures=tuple(map(_plain, stops)),
        sections=(Section("Workers", tuple((one.known_as or one.host, _plain(kind_of(one))) for one in found.workers)),)
        if found.address
        else (),
    )


def _plain(text: str) -> str:
    return str(private(without_secret(text)))


def _problems(problems: Sequence[Problem]) -> Rows:
    for severity in ("slows", "note"):
        some = [one.words() for one in problems if one.severity == severity]
        yield from ((severity, text) for text in some[:_NOTES])
        if len(some) > _NOTES:
            yield severity, f"and {len(some) - _NOTES:,} more (--json has all)"
    if not problems:
        yield "problems", "none found"


def _driver(found: Found) -> Rows:
    here = Worker("", 0, 0, found.here)
    yield "driver", f"{here.host}: {_hardware(here)}; {here.said('system')}"


def _cluster(found: Found) -> Rows:
    if not found.address:
        return
    interfaces = sorted(
        {str(one.said("network", "interface")) for one in found.workers if one.said("network", "interface")}
    )
    lock = "encrypted" if found.address.startswith(("tls://", "wss://")) else "not encrypted"
    where = "" if found.scheduler is None else f" on {found.scheduler.get('host', 'an unknown host')}"
    yield "scheduler", f"{found.address}{where}, {lock}"
    yield "dashboard", found.dashboard or "none"
    if interfaces:
        yield "interfaces", ", ".join(interfaces[:_GROUPS]) + ", …" * (len(interfaces) > _GROUPS)
    silent = sum(one.look is None for one in found.workers)
    words = f"{many(len(found.workers), 'worker')} on {many(len({one.host for one in found.workers}), 'host')}"
    yield "workers", words + (f"; {silent:,} did not answer" if silent else "")
    groups = _grouped(found.workers, kind_of)
    for kind, workers in list(groups.items())[:_GROUPS]:
        yield f"{len(workers):,} x", kind
    if len(groups) > _GROUPS:
        rest = sum(len(workers) for workers in list(groups.values())[_GROUPS:])
        yield f"{rest:,} x", f"{len(groups) - _GROUPS:,} more kinds (--json has all)"


def kind_of(worker: Worker) -> str:
    """Hardware and limits of a worker, in words. Workers with the same words are of one kind."""
    if worker.look is None:
        return "did not answer"
    allowed = f", {size(worker.memory_limit)} allowed" if worker.memory_limit else ", no memory limit"
    return f"{_hardware(worker)}; {many(worker.threads, 'thread')}{allowed}"


def _hardware(one: Worker) -> str:
    usable, machine = one.said("cores", "usable"), one.said("cores", "machine")
    of = f" of {machine}" if machine and usable and usable < machine else ""
    words = [str(one.said("processor") or "unknown processor")]
    words.append(f"{usable:g}{of} core{'s' * (usable != 1 or bool(of))}" if usable else "")
    words.append(" ".join(one.said("instructions") or ()))
    if gpus := one.said("gpus", "names"):
        kinds = {name: gpus.count(name) for name in gpus}
        words.append(", ".join(f"{count} x {name}" for name, count in kinds.items()))
        words.append(f"driver {one.said('gpus', 'driver')}")
    if memory := one.said("memory", "machine"):
        group = one.said("memory", "group")
        words.append(f"{size(memory)} of memory" + (f", {size(group)} in its group" if group else ""))
    return ", ".join(word for word in words if word)


def _versions(found: Found) -> Rows:
    packages = dict(found.here.get("packages", {}))
    shown = ("daskt2i", "torch", "diffusers", "transformers", "dask", "distributed", "zarr", "ncnn")
    words = [f"Python {found.here.get('python')}", *(f"{name} {packages[name]}" for name in shown if name in packages)]
    yield "versions", ", ".join(words)


def _machine(found: Found) -> Rows:
    """Space, limits and settings: the smallest of all workers."""
    known = [one for one in found.workers if one.look is not None]
    if not known:
        return

    def least(*names: str) -> Any:
        values = [one.said(*names) for one in known if isinstance(one.said(*names), int | float)]
        return min(values) if values else None

    def told(name: str, text: str, *values: Any) -> str:
        return "" if any(value is None for value in values) else f"{name} {text.format(*values)}"

    free = least("memory", "free")
    yield (
        "memory",
        "; ".join(
            part
            for part in (
                told("free now", "{}", None if free is None else size(free)),
                told(
                    "spills at",
                    "{} of the limit, pauses at {}, ended at {}",
                    *(_share(known, name) for name in _SHARES),
                )
                * bool(found.address),
            )
            if part
        ),
    )
    temp, local, shm = least("temp", "free"), least("worker", "local", "free"), least("shm", "free")
    places = [
        f"{size(temp)} in {known[0].said('temp', 'path')}" if temp is not None else "",
        f"{size(local)} where workers spill" if local is not None else "",
        f"{size(shm)} in /dev/shm" if shm is not None else "",
    ]
    yield "free space", ", ".join(part for part in places if part)
    if (files := least("open_files", "soft")) is not None:
        yield "open files", f"{files:,} at most"
    load = [float(one.said("load")) for one in known if isinstance(one.said("load"), int | float)]
    if load:
        yield "load", f"{max(load):.1f} on the busiest host"


_SHARES = ("spill", "pause", "terminate")


def _share(known: Sequence[Worker], name: str) -> str:
    values = {one.said("dask", name) for one in known}
    texts = sorted(
        f"{value:.0%}" if isinstance(value, int | float) and not isinstance(value, bool) else "never"
        for value in values
    )
    return " or ".join(texts)


def _sees(found: Found) -> Rows:
    """How many workers see each part of the workflow."""
    seen = [one for one in found.workers if one.sight is not None]
    if not seen:
        return
    parts: dict[str, list[int]] = {}
    for one in seen:
        for name, part in (one.sight or {}).items():
            count = parts.setdefault(name, [0, 0])
            count[0] += not part.get("error") and part.get("seen_here") is not False
            count[1] += 1
    names = {"source": "source", "image_model": "image model", "text_model": "text model", "folder": "run folder"}
    words = [f"{names[name]} {good:,} of {of:,}" for name, (good, of) in parts.items() if name in names]
    if words:
        yield "workers see", ", ".join(words)


def _speeds(found: Found) -> Rows:
    titles = {
        "driver-worker": "driver, worker",
        "worker-worker": "worker, worker",
        "run-folder": "to run folder",
    }
    for kind, title in titles.items():
        some = [one for one in found.speeds if one.kind == kind and not one.error]
        if some:
            yield title, _speed_words(some, kind)
    clocks = [one.clock for one in found.workers if one.clock is not None]
    if clocks and found.address:
        most = max(clocks, key=lambda clock: clock.surely_off_by())
        if most.surely_off_by() > 0:
            way = "ahead of" if most.ahead > 0 else "behind"
            off = duration(abs(most.ahead)) if abs(most.ahead) >= 1 else f"{abs(most.ahead):.3f} s"
            words = f"up to {off} {way} the driver's (measured to {most.error:.3f} s)"
        else:
            words = f"no difference found (measured to {max(one.error for one in clocks):.3f} s)"
        yield "clocks", words


def _speed_words(some: Sequence[Speed], kind: str) -> str:
    def span(values: Sequence[float | None], words: Callable[[float], str]) -> str:
        known = sorted(value for value in values if value is not None)
        if not known:
            return "not measured"
        low, high = words(known[0]), words(known[-1])
        return low if low == high else f"{low} to {high}"

    def rate(value: float) -> str:
        return f"{size(value)}/s"

    seconds = span([one.seconds for one in some], lambda value: f"{1000 * value:.1f} ms")
    there, back = span([one.there for one in some], rate), span([one.back for one in some], rate)
    if kind == "run-folder":
        return f"writes {there}, reads {back}, a small object in {seconds}"
    if kind == "worker-worker":
        return f"{there}, a message and its answer in {seconds}"
    return f"{there} there, {back} back, a message and its answer in {seconds}"


def _plan(plan: EncodePlan | None, ranks: int) -> Rows:
    if plan is None:
        return
    rows = dict(plan.view().rows)
    for name in ("rows", "chunks", "engine", "precision", "batch", "workers", "memory", "disk"):
        if name in rows:
            yield f"plan: {name}", rows[name]
    if ranks:
        yield "plan: training", many(ranks, "rank")


def _grouped(workers: Sequence[Worker], key: Callable[[Worker], str]) -> Mapping[str, list[Worker]]:
    groups: dict[str, list[Worker]] = {}
    for one in workers:
        groups.setdefault(key(one), []).append(one)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
