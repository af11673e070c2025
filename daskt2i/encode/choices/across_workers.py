"""One precision for a store whose workers are of several kinds, and would choose different ones.

Covers: asking the workers before the first chunk, if the precision is `auto`; what is chosen, and the note about it.
Does not cover: the choice of one worker (`machine.precision`), a worker that joins later (`encode.chunks.admission`).
"""

from __future__ import annotations

import functools

from daskt2i.hosts.check import LOOK_SECONDS
from daskt2i.machine.precision import default_device, kind_of, resolve
from daskt2i.protocols import AsksWorkers, Executor

COMMON = "fp32"
"""The precision that every kind of worker computes."""


def agreed_precision(executor: Executor, asked: str, device: str) -> tuple[str, str]:
    """The precision to ask for, and a note for the user; "" if there is nothing to say.

    It stays `auto` if all workers are of one kind, or if all kinds would choose the same.

    Args:
        asked: `dataset.precision`.
        device: `run.device`.
    """
    if asked != "auto" or not isinstance(executor, AsksWorkers):
        return asked, ""
    kinds = set(executor.ask(functools.partial(_kind, device), LOOK_SECONDS).values())
    if len(kinds) < 2:
        return asked, ""
    answers = executor.ask(functools.partial(_choice, device), LOOK_SECONDS)
    choices = dict(sorted(answers.values(), reverse=True))  # of each kind one, because the choice is measured
    if len(set(choices.values())) < 2:
        return asked, ""
    named = " and ".join(f"{kind} ({precision})" for kind, precision in sorted(choices.items()))
    others = " or ".join(sorted({*choices.values()} - {COMMON}))
    return COMMON, (
        f"The workers are of several kinds, which would choose different precisions: {named}. A store has one, so all "
        f"encode in {COMMON}. To use another one for all of them, set dataset.precision={others} in a new run folder."
    )


def _kind(device: str) -> str:
    """On a worker."""
    return kind_of(_device(device))


def _choice(device: str) -> tuple[str, str]:
    """On a worker: its kind, and the precision that it would choose."""
    return _kind(device), resolve("auto", _device(device))


def _device(device: str) -> str:
    return default_device() if device == "auto" else device
