"""What ranks use of the memory of their workers: Dask does not see it, because a rank is a child process.

Covers: a sentence before the start if a worker has too little memory, one when a rank comes near the limit, metrics of
a Dask worker.
Does not cover: measuring (`pulse`), which worker is chosen (`launch.placement`).

Nothing is ended here. A limit of addresses (RLIMIT_AS) is no way: torch and CUDA reserve many times what they use, and
a control group of its own needs rights that a worker seldom has. Where the system limits the worker (a pod, a job of
SLURM), it limits its ranks too: `machine.this_machine` reads that limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daskt2i.deploy.workers import RANK_CPU, RANK_MEMORY
from daskt2i.launch.placement import RankPlacement

MEMORY, CPU = RANK_MEMORY, RANK_CPU

NEAR = 0.9
"""The user is told when a rank uses more than this share of what its worker has left."""

_GIB = 1 << 30


def too_small(placements: Sequence[RankPlacement], need: int) -> str | None:
    """A sentence if workers have less memory than their rank is likely to need.

    Args:
        need: bytes of a rank; 0 if it is not known.
    """
    small = [p for p in placements if p.node.memory and p.node.memory < need]
    if not small:
        return None
    where = ", ".join(f"{p.node.address} ({p.node.memory / _GIB:.1f} GiB)" for p in small[:4])
    more = f" and {len(small) - 4} more" if len(small) > 4 else ""
    return (
        f"A rank needs about {need / _GIB:.1f} GiB, and these workers have less: {where}{more}. The system may end it; "
        "then all ranks start again."
    )


class Usage:
    """Watches the memory of the ranks of one attempt."""

    def __init__(self, placements: Sequence[RankPlacement]) -> None:
        self._placements = placements
        self._told: set[int] = set()

    def hear(self, rank: int, pulse: Mapping[str, Any]) -> str | None:
        """A sentence if this rank comes near the memory of its worker for the first time."""
        limit, used = self._placements[rank].node.memory, pulse.get("memory", 0)
        if not limit or used < NEAR * limit or rank in self._told:
            return None
        self._told.add(rank)
        who = f"Rank {rank} of {len(self._placements)} ({self._placements[rank].node.address})"
        return (
            f"{who} uses {used / _GIB:.1f} GiB, and its worker has {limit / _GIB:.1f} GiB for it. Dask does not count "
            "a rank; the system may end it."
        )


def metrics_of(pulses: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[Any], float]]:
    """Metrics for a Dask worker, which it sends with each of its heartbeats.

    Args:
        pulses: launch -> the last pulse of the rank that runs here. The caller changes it.
    """
    return {
        MEMORY: lambda worker: sum(pulse["memory"] for pulse in list(pulses.values())),
        CPU: lambda worker: round(100 * sum(pulse["cpu"] for pulse in list(pulses.values())), 1),
    }
