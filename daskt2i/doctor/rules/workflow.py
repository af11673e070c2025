"""Problems of workers with a workflow: versions that decide bytes, the source, the models, the run folder.

Covers: what each worker sees, compared with the driver.
Does not cover: what the driver itself finds: the errors of the plan say that (`driver`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from daskt2i.doctor.facts import Found, Problem, Worker, some_only, who
from daskt2i.formatting import size
from daskt2i.machine.versions import version_differences

_MODELS = (("image_model", "image encoder"), ("text_model", "text encoder"))


def problems(found: Found) -> Iterator[Problem]:
    """All problems of what workers see. `found.named` holds what the driver knows."""
    for rule in (_versions, _source, _models, _folder, _precision):
        yield from rule(found)


def _versions(found: Found) -> Iterator[Problem]:
    here = found.named.get("versions")
    if not here:
        return

    def differ(one: Worker) -> str:
        there = _part(one, "versions").get("versions")
        return "; ".join(version_differences(there, here)) if there else ""

    for why, workers in _grouped(found, differ).items():
        yield Problem(
            "stops",
            "versions",
            f"{who(workers, len(found.workers))}: other versions than here ({why}). Its rows could differ, so a run "
            "ends there.",
            "Install the same packages for workers and driver, and start the workers again.",
            tuple(one.address for one in workers),
        )


def _source(found: Found) -> Iterator[Problem]:
    for why, workers in _grouped(found, lambda one: str(_part(one, "source").get("error", ""))).items():
        yield Problem(
            "stops",
            "source",
            f"{who(workers, len(found.workers))}: does not read the image {found.named.get('image')!r} as the driver "
            f"does ({why}).",
            "Give all machines the same images under the same path or address (images).",
            tuple(one.address for one in workers),
        )


def _models(found: Found) -> Iterator[Problem]:
    for name, words in _MODELS:
        for why, workers in _grouped(found, lambda one: str(_part(one, name).get("error", ""))).items():  # noqa: B023
            if found.named.get("sends") and all(_part(one, name).get("missing") for one in workers):
                yield Problem(
                    "slows",
                    "models",
                    f"{who(workers, len(found.workers))}: the model of the {words} cannot be used there ({why})."
                    f"{_sent(found)}",
                    "Nothing must be done. To save the time, put the model into a folder that all machines share.",
                    tuple(one.address for one in workers),
                )
                continue
            fetches = all(_part(one, name).get("fetches") for one in workers)
            yield Problem(
                "slows" if fetches else "stops",
                "models",
                f"{who(workers, len(found.workers))}: the model of the {words} cannot be used there ({why})."
                + (" The hub answers there, so each host would fetch it." if fetches else some_only(workers, found)),
                "Put the model into a folder that all machines share, and name this folder in the workflow, or fetch "
                "it on each host before.",
                tuple(one.address for one in workers),
            )
        mine = found.named.get(name)

        def other(one: Worker) -> str:
            part = _part(one, name)  # noqa: B023
            if not part.get("weights") or not mine or part["weights"] == mine:  # noqa: B023
                return ""
            return "copy" if part.get("copied") and found.named.get("sends") else "other weights"

        for what, workers in _grouped(found, other).items():
            yield Problem(
                "slows" if what == "copy" else "stops",
                "models",
                f"{who(workers, len(found.workers))}: the {words} has other weights there than here."
                + (_sent(found) if what == "copy" else some_only(workers, found)),
                "Nothing must be done."
                if what == "copy"
                else "Give all workers the same model folder, or name a revision of the hub id.",
                tuple(one.address for one in workers),
            )


def _sent(found: Found) -> str:
    return f" The first encode sends the models ({size(found.named['sends'])}) through the run folder to such hosts."


def _folder(found: Found) -> Iterator[Problem]:
    def unseen(one: Worker) -> str:
        part = _part(one, "folder")
        return str(part.get("error", "")) if not part.get("sees") else ""

    def unwritten(one: Worker) -> str:
        part = _part(one, "folder")
        return str(part.get("error", "")) if part.get("sees") else ""

    hidden = _grouped(found, unseen)
    fit = len(found.workers) - sum(map(len, hidden.values()))
    goes_on = fit > 0 and fit >= found.named.get("min_fit", 1.0) * len(found.workers)
    for why, workers in hidden.items():
        yield Problem(
            "slows" if goes_on else "stops",
            "run-folder",
            f"{who(workers, len(found.workers))}: does not see the run folder of the driver ({why})."
            + " An encode leaves it out, and a training would stop." * goes_on,
            "Give a folder that all machines share under the same path, or an address such as s3://bucket/run (out).",
            tuple(one.address for one in workers),
        )
    for why, workers in _grouped(found, unwritten).items():
        every = len(workers) == len(found.workers)
        yield Problem(
            "stops" if every else "slows",
            "run-folder",
            f"{who(workers, len(found.workers))}: sees the run folder and cannot write into it ({why})."
            + " What it encodes fails, and is encoded elsewhere." * (not every),
            "Give the user of the workers the right to write there, or choose another run folder (out).",
            tuple(one.address for one in workers),
        )
    lost = [one for one in found.workers if _part(one, "folder").get("seen_here") is False]
    if lost:
        yield Problem(
            "stops",
            "run-folder",
            f"{who(lost, len(found.workers))}: what it writes into the run folder is not seen here.",
            "Give a folder that all machines share under the same path, or an address such as s3://bucket/run (out).",
            tuple(one.address for one in lost),
        )


def _precision(found: Found) -> Iterator[Problem]:
    """Kinds of workers that would choose different precisions. A store has one."""
    chosen = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if precision := _part(one, "precision").get("precision"):
            chosen[str(precision)].append(one)
    if len(chosen) > 1:
        words = ", ".join(f"{name} on {who(workers, len(found.workers))}" for name, workers in sorted(chosen.items()))
        name = max(chosen, key=lambda one: len(chosen[one]))
        yield Problem(
            "stops",
            "precision",
            f"The kinds of workers would choose different precisions ({words}), and a store has one.",
            f"Set dataset.precision, for example to {name}, or use workers of one kind.",
        )


def _part(worker: Worker, name: str) -> Mapping[str, Any]:
    part = (worker.sight or {}).get(name)
    return part if isinstance(part, Mapping) else {}


def _grouped(found: Found, why: Callable[[Worker], str]) -> dict[str, list[Worker]]:
    """Workers by what is wrong with them. Those without anything wrong are left out."""
    groups = defaultdict[str, list[Worker]](list)
    for one in found.workers:
        if words := why(one):
            groups[words].append(one)
    return dict(groups)
