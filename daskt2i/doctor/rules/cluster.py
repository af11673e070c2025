"""Problems of a cluster as a group: silent and paused workers, versions, threads, encryption, the scheduler.

Covers: rules that compare workers with each other, with the driver, or with the scheduler.
Does not cover: a single machine (`rules.machines`), the workflow (`rules.workflow`).
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from daskt2i.doctor.facts import Found, Problem, Worker, some_only, who
from daskt2i.formatting import many

_COMMON = ("dask", "distributed", "cloudpickle", "msgpack")
"""Packages with which the processes of a cluster talk to each other."""

_FILES_PER_WORKER = 4
"""Open files of a scheduler for each worker: connections in both directions, and some to spare."""


def problems(found: Found) -> Iterator[Problem]:
    """All problems of the cluster. Empty without one."""
    if not found.address:
        return
    for rule in (_answers, _status, _daskt2i, _versions, _threads, _processes, _nannies, _scheduler, _dashboard, _open):
        yield from rule(found)


def _answers(found: Found) -> Iterator[Problem]:
    silent = [one for one in found.workers if one.look is None]
    if not silent:
        return
    every = len(silent) == len(found.workers)
    yield Problem(
        "stops" if every else "slows",
        "silent",
        f"{who(silent, len(found.workers))} did not answer: frozen, very busy, or cut off from the network.",
        "Look at the process there and its log, and restart it. A run waits minutes for what it gave to such a worker.",
        _addresses(silent),
    )


def _status(found: Found) -> Iterator[Problem]:
    for status, why in (("paused", "above the share of its memory where Dask pauses"), ("closing", "about to end")):
        there = [one for one in found.workers if str(one.said("worker", "status") or "").startswith(status)]
        if there:
            yield Problem(
                "stops" if len(there) == len(found.workers) else "slows",
                status,
                f"{who(there, len(found.workers))}: {status}, {why}. Such a worker takes no chunks.",
                "Free its memory, or restart it." if status == "paused" else "Start another worker in its place.",
                _addresses(there),
            )


def _daskt2i(found: Found) -> Iterator[Problem]:
    """Workers and a scheduler that cannot import daskt2i."""
    lack = [one for one in found.workers if one.look is not None and not one.said("packages", "daskt2i")]
    if lack:
        yield Problem(
            "stops",
            "daskt2i",
            f"{who(lack, len(found.workers))}: daskt2i is not installed there.{some_only(lack, found)}",
            "Install the same version there as here, and start the workers again.",
            _addresses(lack),
        )
    broken = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if one.blind and one not in lack:
            broken[one.blind].append(one)
    for why, workers in broken.items():
        yield Problem(
            "stops",
            "daskt2i",
            f"{who(workers, len(found.workers))}: this daskt2i cannot work there ({why}).{some_only(workers, found)}",
            "Install the same versions there as here, and start the workers again.",
            _addresses(workers),
        )
    if found.scheduler is not None and not found.scheduler.get("packages", {}).get("daskt2i"):
        yield Problem(
            "stops",
            "scheduler",
            "daskt2i is not installed where the scheduler runs, and encode needs it there.",
            "Install the same version there as here, and start the scheduler again.",
        )


def _versions(found: Found) -> Iterator[Problem]:
    """Python, and the packages with which Dask's processes talk. `rules.workflow` compares what decides bytes."""
    here = _talking(found.here)
    groups = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if one.look is not None:
            groups[_differences(_talking(one.look), here)].append(one)
    groups.pop("", None)
    for differ, workers in groups.items():
        yield Problem(
            "slows",
            "versions",
            f"{who(workers, len(found.workers))}: {differ}. Messages between them may fail.",
            "Install the same versions everywhere, at best from one environment.",
            _addresses(workers),
        )
    if found.scheduler is not None and (differ := _differences(_talking(found.scheduler), here)):
        yield Problem(
            "slows",
            "versions",
            f"The scheduler: {differ}. Messages between them may fail.",
            "Install the same versions everywhere, at best from one environment.",
        )


def _talking(look: Mapping[str, object]) -> dict[str, str]:
    packages = look.get("packages")
    known = packages if isinstance(packages, Mapping) else {}
    python = str(look.get("python", ""))
    found = {"Python": ".".join(python.split(".")[:2])} if python else {}
    return {**found, **{name: str(known[name]) for name in _COMMON if name in known}}


def _differences(there: Mapping[str, str], here: Mapping[str, str]) -> str:
    return ", ".join(
        f"{name} {there[name]} there, {here[name]} here" for name in here if name in there and there[name] != here[name]
    )


def _threads(found: Found) -> Iterator[Problem]:
    """Threads against the cores of the hosts. The workers that daskt2i starts are laid out by the plan."""
    if found.owned:
        return
    for few, hosts in _by_use(found).items():
        workers = [one for one in found.workers if one.host in hosts]
        used, cores = hosts[workers[0].host]
        words = f"{workers[0].host} has {many(cores, 'core')}, and its workers compute with {many(used, 'thread')}"
        others = f"; {many(len(hosts) - 1, 'more host')} are alike" if len(hosts) > 1 else ""
        if found.threads_set:
            advice = f"Change run.threads (it is {found.threads}), or the number of workers."
        elif few:
            advice = (
                f"Start one worker for each core there (dask worker --nworkers {cores} --nthreads 1), or set "
                "run.threads to the cores of a worker."
            )
        else:
            advice = "Start fewer workers there, or with fewer threads: they slow each other down."
        yield Problem("slows", "threads", f"{words}{others}.", advice, _addresses(workers))


def _by_use(found: Found) -> dict[bool, dict[str, tuple[int, int]]]:
    """Whether a host uses too few of its cores (or too many) -> host -> threads and cores."""
    cores: dict[str, set[int]] = defaultdict(set)
    used: dict[str, int] = defaultdict(int)
    most: dict[str, float] = {}
    for one in found.workers:
        if one.said("cores", "usable") is not None:
            cores[one.host] |= set(one.said("cores", "numbers") or ())
            most[one.host] = max(most.get(one.host, 0.0), float(one.said("cores", "usable")))
            used[one.host] += found.threads or one.threads
    answer: dict[bool, dict[str, tuple[int, int]]] = {}
    for host, threads in used.items():
        quota = most[host] < len(cores[host]) and len([1 for one in found.workers if one.host == host]) == 1
        there = int(most[host]) if quota or not cores[host] else len(cores[host])
        if 2 * threads < there or threads > 1.5 * there + 1:
            answer.setdefault(2 * threads < there, {})[host] = (threads, there)
    return answer


def _processes(found: Found) -> Iterator[Problem]:
    """Workers that are threads of one process: a process runs one model at a time."""
    places = defaultdict[tuple[str, int], list[Worker]](list)
    for one in found.workers:
        if one.said("pid"):
            places[one.host, int(one.said("pid"))].append(one)
    shared = [one for workers in places.values() if len(workers) > 1 for one in workers]
    if shared:
        yield Problem(
            "slows",
            "processes",
            f"{who(shared, len(found.workers))}: several workers share a process, and a process runs one model at a "
            "time.",
            "Start workers as processes (processes=True of LocalCluster).",
            _addresses(shared),
        )


def _nannies(found: Found) -> Iterator[Problem]:
    alone = [one for one in found.workers if one.said("worker", "nanny") is False]
    if alone and not found.owned:
        yield Problem(
            "note",
            "nanny",
            f"{who(alone, len(found.workers))}: without a nanny. If it is killed, nobody starts it again.",
            "Start workers with a nanny (the default of dask worker), unless a batch system restarts them.",
            _addresses(alone),
        )


def _scheduler(found: Found) -> Iterator[Problem]:
    """The limit of open files, the dashboard."""
    if found.scheduler is None:
        if not found.workers:  # nobody was asked
            return
        yield Problem(
            "note",
            "scheduler",
            "The scheduler did not run a function of this client, so nothing is known of its machine.",
            "Look at its log, and whether distributed.scheduler.pickle is true there.",
        )
        return
    files = found.scheduler.get("open_files", {}).get("soft", 0)
    need = _FILES_PER_WORKER * len(found.workers) + 64
    if 0 < files < need:
        yield Problem(
            "slows",
            "open-files",
            f"The scheduler may open {files:,} files, and {len(found.workers):,} workers need about {need:,}.",
            f"Start it after `ulimit -n {max(4096, 2 * need)}`.",
        )
    if not found.dashboard and not found.scheduler.get("packages", {}).get("bokeh"):
        yield Problem(
            "note",
            "dashboard",
            "The scheduler has no dashboard, because bokeh is not installed there.",
            "Install bokeh where the scheduler runs to watch a run.",
        )


def _dashboard(found: Found) -> Iterator[Problem]:
    if found.dashboard_error:
        yield Problem(
            "note",
            "dashboard",
            f"The dashboard at {found.dashboard} does not answer from here ({found.dashboard_error}). A run works "
            "without.",
            "Forward its port (ssh -L), or name the address that a browser reaches (distributed.dashboard.link).",
        )


def _open(found: Found) -> Iterator[Problem]:
    """A scheduler without encryption runs the code of everybody who reaches its port."""
    scheme, _, rest = found.address.partition("://")
    if scheme not in ("tcp", "ws"):
        return
    host = rest.rpartition(":")[0].strip("[]")
    try:
        near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        near = host == "localhost"
    reach = "every user of this machine" if near else "everybody who reaches its port over the network"
    yield Problem(
        "note",
        "encryption",
        f"The scheduler at {found.address} is not encrypted: {reach} can run code on its workers.",
        "Start it with certificates (distributed.comm.tls in Dask's configuration), unless you trust them all.",
    )


def _addresses(workers: Sequence[Worker]) -> tuple[str, ...]:
    return tuple(one.address for one in workers)
