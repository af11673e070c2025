"""Whether a partition of this cluster has so many nodes: SLURM may let a job that is too large wait for ever.

Covers: asking `sinfo`, if it is here.
Does not cover: other limits; `sbatch` refuses some, and `squeue` tells the reason why a job waits.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress

from daskt2i.errors import ConfigError

_SECONDS = 10


def require_nodes(nodes: int, partition: str) -> None:
    """Refuse more nodes than the partition has. Without an answer of SLURM nothing is refused.

    Args:
        partition: its name, or several with commas; "" for the default of the cluster.

    Raises:
        ConfigError: no such partition has so many nodes.
    """
    found = _sizes(partition)
    if found and max(found.values()) < nodes:
        name, most = max(found.items(), key=lambda one: one[1])
        raise ConfigError(
            f"--nodes is {nodes}, but the partition {name} has {most}, so the job would wait for ever. No script was "
            "written; give fewer nodes (--nodes), or another partition (--partition)."
        )


def _sizes(partition: str) -> dict[str, int]:
    """Partition -> number of its nodes, of those that a job may run in. SLURM marks the default one with a star."""
    command = ["sinfo", "--noheader", "--format=%P %D", *([f"--partition={partition}"] if partition else [])]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
        lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
        return {name.rstrip("*"): int(count) for name, count in lines if partition or name.endswith("*")}
    return {}
