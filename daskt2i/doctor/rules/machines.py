"""Problems of a single machine: memory, temporary space, open files, GPUs.

Covers: the machines of workers, and of this process where it is the only one.
Does not cover: what differs between workers (`rules.cluster`), what they see of a workflow (`rules.workflow`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from daskt2i.doctor.facts import Found, Problem, Severity, Worker, who
from daskt2i.formatting import many, size
from daskt2i.plan import MIB, PAUSE_FRACTION

_SMALLEST_TEMP = 64 * MIB
_FEWEST_FILES = 256
_DRIVERS = {11: 450, 12: 525, 13: 580}
"""Major version of CUDA -> the first driver that runs it (NVIDIA's "CUDA Compatibility")."""


def problems(found: Found) -> Iterator[Problem]:
    """All problems of machines."""
    for rule in (_limits, _pause, _memory, _temp, _files, _gpus, _shared_gpus):
        yield from rule(found)


def _limits(found: Found) -> Iterator[Problem]:
    """Limits of workers that together are above the memory of their host."""
    alike = defaultdict[tuple[int, str, str], list[list[Worker]]](list)
    for workers in _by_host(found, "memory", "machine"):
        there, asked = int(workers[0].said("memory", "machine")), sum(one.memory_limit for one in workers)
        if asked > 1.02 * there and len(workers) > 1:
            alike[len(workers), size(asked), size(there)].append(workers)
    for (count, asks, has), groups in alike.items():
        least = min(int(workers[0].said("memory", "machine")) for workers in groups)
        yield Problem(
            "slows",
            "memory-limit",
            f"The workers on {_hosts(groups)} may use {asks} together, and it has {has}: the system may end one "
            "before Dask does.",
            f"Start them with --memory-limit {least // count // MIB}MiB, or fewer of them.",
            _addresses(groups),
        )

    def above(one: Worker) -> bool:
        group = one.said("memory", "group")
        return bool(group) and one.memory_limit > 1.02 * int(group)

    yield from _each(
        found,
        above,
        "slows",
        "memory-limit",
        "its memory limit is above that of its control group (container or job), which ends it first.",
        "Start it with the limit of the group (--memory-limit).",
    )
    if found.address:
        yield from _each(
            found,
            lambda one: one.look is not None and not one.memory_limit,
            "note",
            "memory-limit",
            "no memory limit, so Dask neither pauses nor restarts it before the machine is full.",
            "Start it with --memory-limit.",
        )


def _pause(found: Found) -> Iterator[Problem]:
    """A worker that Dask pauses below the share that the plan reckons with."""

    def early(one: Worker) -> bool:
        share = one.said("dask", "pause")
        known = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share < PAUSE_FRACTION
        return bool(known and one.memory_limit and found.need) and found.need > float(share) * one.memory_limit

    yield from _each(
        found,
        early,
        "stops",
        "memory-pause",
        f"Dask pauses it below {PAUSE_FRACTION:.0%} of its limit, and a chunk needs more ({size(found.need)}).",
        "Set distributed.worker.memory.pause to 0.80 there, or give it more memory.",
    )


def _memory(found: Found) -> Iterator[Problem]:
    """Free memory now against what the workers of a host need. The host that lacks most stands for all."""
    short: list[tuple[int, int, list[Worker]]] = []
    for workers in _by_host(found, "memory", "free"):
        free = min(int(one.said("memory", "free")) for one in workers)
        used = sum({int(one.said("pid") or 0): int(one.said("memory", "process") or 0) for one in workers}.values())
        processes = len({one.said("pid") for one in workers})
        need = found.need * processes - min(used, found.need * processes)
        if found.need and free < need:
            short.append((free, need, workers))
    if short:
        free, need, workers = min(short, key=lambda one: one[0] - one[1])
        more = f", and {many(len(short) - 1, 'other host')} have too little, too" if len(short) > 1 else ""
        yield Problem(
            "slows",
            "memory",
            f"{workers[0].host} has {size(free)} of memory free now, and a run needs about {size(need)} more "
            f"there{more}.",
            "Other programs use the rest: end them, or use fewer workers.",
            _addresses([workers for _, _, workers in short]),
        )


def _temp(found: Found) -> Iterator[Problem]:
    """Folders for temporary files that take none, or are nearly full."""

    def refuses(one: Worker) -> bool:
        return bool(one.said("temp", "error") or one.said("worker", "local", "error"))

    def nearly_full(one: Worker) -> bool:
        frees = [one.said("temp", "free"), one.said("worker", "local", "free")]
        return not refuses(one) and any(free is not None and free < _SMALLEST_TEMP for free in frees)

    bad = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if refuses(one):
            place = one.said("temp") if one.said("temp", "error") else one.said("worker", "local")
            bad[f"{place['path']} takes no files ({place['error']})"].append(one)
    for why, workers in bad.items():
        yield Problem(
            "stops" if found.remote_folder else "slows",
            "temp",
            f"{_who(found, workers)}: the folder for temporary files {why}. Spilling needs it, and so does a run "
            "folder behind an address.",
            "Free some space there, or name another folder (TMPDIR, --local-directory of dask worker).",
            tuple(one.address for one in workers if one.address),
        )
    yield from _each(
        found,
        nearly_full,
        "slows",
        "temp",
        f"less than {size(_SMALLEST_TEMP)} are free in its folder for temporary files.",
        "Free some space there, or name another folder (TMPDIR, --local-directory of dask worker).",
    )


def _files(found: Found) -> Iterator[Problem]:
    def few(one: Worker) -> bool:
        return 0 < int(one.said("open_files", "soft") or 0) < _FEWEST_FILES

    yield from _each(
        found,
        few,
        "slows",
        "open-files",
        f"it may open fewer than {_FEWEST_FILES} files.",
        "Start it after `ulimit -n 4096`.",
    )


def _gpus(found: Found) -> Iterator[Problem]:
    """GPUs that torch will not use."""

    def has(one: Worker) -> bool:
        return bool(one.said("gpus", "names")) and one.said("gpus", "visible") not in ("", "-1")

    yield from _each(
        found,
        lambda one: has(one) and one.said("torch_cuda") == "",
        "slows",
        "gpu",
        "there is a GPU, but torch is a build for CPUs only.",
        "Install a build of torch for CUDA there.",
    )

    def old(one: Worker) -> bool:
        cuda, driver = str(one.said("torch_cuda") or ""), str(one.said("gpus", "driver") or "")
        first, major = _DRIVERS.get(int(cuda.partition(".")[0] or 0)), driver.partition(".")[0]
        return has(one) and first is not None and major.isdecimal() and int(major) < first

    yield from _each(
        found,
        old,
        "slows",
        "gpu",
        "the driver of its GPU is too old for the CUDA of torch, so torch will not use the GPU.",
        "Update the driver, or install a build of torch for an older CUDA.",
    )


def _shared_gpus(found: Found) -> Iterator[Problem]:
    """Workers that see the same GPU."""
    alike = defaultdict[tuple[int, int], list[list[Worker]]](list)
    for workers in _by_host(found, "gpus", "names"):
        gpus, first = len(workers[0].said("gpus", "names")), [str(one.said("gpus", "visible")) for one in workers]
        if len(workers) > 1 and len(set(first)) < len(workers):
            alike[len(workers), gpus].append(workers)
    for (count, gpus), groups in alike.items():
        yield Problem(
            "slows",
            "gpu",
            f"{count} workers on {_hosts(groups)} see the same GPUs ({gpus} there): to encode, they share the memory "
            "of the first.",
            "Start one worker for each GPU (dask cuda worker), or give each its own CUDA_VISIBLE_DEVICES.",
            _addresses(groups),
        )


def _by_host(found: Found, *names: str) -> list[list[Worker]]:
    """The workers that say this value of their look, by host."""
    hosts = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if one.said(*names) is not None:
            hosts[one.host].append(one)
    return list(hosts.values())


def _hosts(groups: Sequence[Sequence[Worker]]) -> str:
    """Words for hosts of which the same is told: `"node1"`, `"each of 2 hosts (node1, node2)"`."""
    names = [workers[0].host for workers in groups]
    if len(names) == 1:
        return names[0]
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"each of {many(len(names), 'host')} ({', '.join(names[:3])}{more})"


def _addresses(groups: Sequence[Sequence[Worker]]) -> tuple[str, ...]:
    return tuple(one.address for workers in groups for one in workers if one.address)


def _each(
    found: Found, wrong: Callable[[Worker], bool], severity: Severity, about: str, what: str, advice: str
) -> Iterator[Problem]:
    """One problem for all workers for which something is wrong."""
    workers = [one for one in found.workers if wrong(one)]
    if workers:
        addresses = tuple(one.address for one in workers if one.address)
        yield Problem(severity, about, f"{_who(found, workers)}: {what}", advice, addresses)


def _who(found: Found, workers: list[Worker]) -> str:
    return who(workers, len(found.workers)) if found.address else "This machine"
