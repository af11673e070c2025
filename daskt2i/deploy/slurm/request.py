"""What a user asks of SLURM, checked before a job waits in a queue for hours.

Covers: the forms of a time and of a size, names that fit on a line `#SBATCH`, how long before its end a job stops.
Does not cover: whether the cluster has such nodes (`sbatch` says so), the text of the script (`script`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from daskt2i.errors import ConfigError

STOP_SECONDS = 120
"""By default a job begins to stop so many seconds before its end: a training saves a checkpoint, which may take a
minute. SLURM may send the signal up to a minute earlier."""

_SHORTEST_STOP = 10
_MOST_NODES = 65_533
"""SLURM's own limit (MAX_SLURM_NODES is below 2^16)."""

_TIMES = (
    (re.compile(r"(\d+)"), (60,)),
    (re.compile(r"(\d+):(\d+)"), (60, 1)),
    (re.compile(r"(\d+):(\d+):(\d+)"), (3600, 60, 1)),
    (re.compile(r"(\d+)-(\d+)"), (86_400, 3600)),
    (re.compile(r"(\d+)-(\d+):(\d+)"), (86_400, 3600, 60)),
    (re.compile(r"(\d+)-(\d+):(\d+):(\d+)"), (86_400, 3600, 60, 1)),
)
_SIZE = re.compile(r"[1-9]\d*[KMGT]?")
_WORD = re.compile(r"[A-Za-z0-9_.:,@%+=/&|*\[\]()-]+")
"""What a value on a line `#SBATCH` may hold. Blanks, quotes, `#` and ends of lines mean something to SLURM."""


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job of one command.

    Args:
        command: words after `python -m daskt2i.workflow`, without the scheduler: `("encode", "--out", "/data/run")`.
        out: the run folder, an absolute path or an address; for messages of the job.
        folder: a folder that all nodes see. The job makes a folder of its own in it, which only this user can read.
        cwd: the working directory of the job.
        nodes: number of nodes.
        time: the limit of time, in one of the forms of SLURM.
        workers_per_node: Dask workers on each node. None: one for each GPU that is asked for, or one.
        cpus: processors of each worker; its torch threads.
        memory: memory of each node in SLURM's form (`64G`), or "" for the default of the cluster.
        gpus: GPUs of each node.
        resubmit: how many jobs may follow, one after the other, if the time is over before the work is done.
        stop_seconds: how long before its end the job stops the work. None: `STOP_SECONDS`, or less in a short job.
        name: the name of the job.
        named: more options of `sbatch`, by name without `--`: `{"partition": "gpu"}`.
        flags: the same as text: `"reservation=mine"`, `"exclusive"`.
        interface: the network interface of scheduler and workers, or "" for the usual one.
        setup: lines of shell that run first.
        join: the job holds only workers. They join the job that works on the run folder.

    Raises:
        ConfigError: a value has a form that SLURM does not know. Nothing was written.
    """

    command: tuple[str, ...]
    out: str
    folder: str
    cwd: str
    time: str
    nodes: int = 1
    workers_per_node: int | None = None
    cpus: int = 1
    memory: str = ""
    gpus: int = 0
    resubmit: int = 0
    stop_seconds: int | None = None
    name: str = "daskt2i"
    named: dict[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    interface: str = ""
    setup: tuple[str, ...] = ()
    join: bool = False

    def __post_init__(self) -> None:
        _require_count("--nodes", self.nodes, most=_MOST_NODES)
        _require_count("--workers-per-node", 1 if self.workers_per_node is None else self.workers_per_node)
        _require_count("--cpus-per-task", self.cpus)
        _require_count("--gpus-per-node", self.gpus, least=0)
        _require_count("--resubmit", self.resubmit, least=0)
        seconds = seconds_of(self.time)
        if self.memory and not _SIZE.fullmatch(self.memory):
            raise ConfigError(
                f"--mem is {self.memory!r}, and SLURM knows no such size. No script was written; give a whole number "
                "with K, M, G or T, such as 64G."
            )
        for option, text in {"job-name": self.name, "interface": self.interface, **self.named}.items():
            if text and not _WORD.fullmatch(text):
                raise ConfigError(
                    f"--{option} is {text!r}, which cannot stand in a job script: blanks, quotes and signs have a "
                    f"meaning there. No script was written; give a name of letters, digits and -_.,:@%+=/ (--{option})."
                )
        for text in self.flags:
            if not re.fullmatch(rf"[a-z][a-z0-9-]*(=({_WORD.pattern}))?", text):
                raise ConfigError(
                    f"--sbatch is {text!r}, which is not an option of sbatch. No script was written; give NAME or "
                    "NAME=VALUE without blanks, such as --sbatch reservation=course."
                )
        if self.stop_seconds is not None and not 1 <= self.stop_seconds < seconds:
            raise ConfigError(
                f"--stop-before is {self.stop_seconds} s, but the job has {seconds} s (--time {self.time}). No script "
                "was written; give a number of seconds that is smaller."
            )

    @property
    def tasks_per_node(self) -> int:
        """Dask workers on each node."""
        return self.workers_per_node or max(1, self.gpus)

    @property
    def stop_before(self) -> int:
        """Seconds before the end of its time at which the job stops the work."""
        if self.stop_seconds is not None:
            return self.stop_seconds
        return min(STOP_SECONDS, max(_SHORTEST_STOP, seconds_of(self.time) // 4))


def seconds_of(time: str) -> int:
    """The seconds of a time in one of SLURM's forms: minutes, minutes:seconds, hours:minutes:seconds, days-hours, …

    Raises:
        ConfigError: it has none of these forms, or it is no time at all.
    """
    for form, factors in _TIMES:
        if (found := form.fullmatch(time)) is not None:
            seconds = sum(int(part) * factor for part, factor in zip(found.groups(), factors, strict=True))
            if seconds >= 60:
                return seconds
            break
    raise ConfigError(
        f"--time is {time!r}, and SLURM knows no such limit, or it is below a minute. No script was written; give "
        "minutes (90), hours:minutes:seconds (1:30:00) or days-hours (2-12)."
    )


def _require_count(option: str, count: int, least: int = 1, most: int = 1_000_000) -> None:
    if not least <= count <= most:
        raise ConfigError(
            f"{option} is {count}, but it must be a number from {least} to {most}. No script was written."
        )
