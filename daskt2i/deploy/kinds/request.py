"""What is asked of a cluster: workers, their threads, memory, environment and Dask settings.

Covers: the data that goes to the process of the cluster, environment variables for workers that inherit no settings.
Does not cover: where the numbers come from (`session.worker_layout`, cluster files), what a class makes of them
(`kinds`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_WORKERS = 250_000
"""Workers of one cluster. Its scheduler is one process, which needs about four open files for each of them, and Linux
gives a process 2^20 of them at most (`fs.nr_open`)."""

MOST_CORES = 8_192
"""Cores of one worker: Linux runs on so many processors at most (`CONFIG_NR_CPUS`)."""


class Refused(Exception):
    """A cluster that cannot be started as it was asked for. Its text is a clause for a person."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one run asks of a cluster. It holds JSON values only.

    Attributes:
        name: a name that no other run has; jobs and pods have it.
        workers: number of workers. 0 to ask for none.
        threads: torch threads of each worker.
        memory: bytes of each worker.
        environ: environment variables of the workers.
        config: settings of Dask, by dotted key, for the scheduler and the workers.
        tls: whether the cluster gets certificates that are made for it.
        adapt: arguments of the cluster's `adapt`; None for a fixed number of workers.
    """

    name: str
    workers: int
    threads: int
    memory: int
    environ: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = True
    adapt: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The arguments of this class, as JSON values."""
        return asdict(self)


_ENVIRON = ("distributed.nanny.pre-spawn-environ", "distributed.nanny.environ")


def variables(request: Request) -> dict[str, str]:
    """Environment of a worker that does not inherit the settings of Dask: its variables, and the settings as variables.

    Dask reads `DASK_DISTRIBUTED__WORKER__MEMORY__SPILL` as `distributed.worker.memory.spill`, and values as Python.
    Names of environment variables would lose their capitals, so the variables of a nanny are one dictionary.
    """
    found: dict[str, str] = dict(request.environ)
    groups: dict[str, dict[str, Any]] = {}
    for key, value in request.config.items():
        group = next((one for one in _ENVIRON if key.startswith(f"{one}.")), None)
        if group is not None:
            groups.setdefault(group, {})[key.removeprefix(f"{group}.")] = value
        else:
            found[_variable(key)] = value if isinstance(value, str) else repr(value)
    return found | {_variable(key): _as_python(values) for key, values in groups.items()}


def exports(request: Request) -> list[str]:
    """The same as lines of a shell script."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables(request).items()]


def _variable(key: str) -> str:
    return "DASK_" + key.replace(".", "__").replace("-", "_").upper()


def _as_python(values: Mapping[str, Any]) -> str:
    """A dictionary as Python, without single quotes, which a shell would need in a longer form."""
    return "{" + ", ".join(f"{json.dumps(name)}: {value!r}" for name, value in values.items()) + "}"
