"""The text of a job script for `sbatch`: one job that holds scheduler, workers and the command.

    print(job_script(JobRequest(command=("encode", "--out", "/data/run"), time="2:00:00", nodes=4, …)))

Covers: the lines `#SBATCH`, quoting for the shell, and the shell programs (`common.sh`, then `job.sh` or `join.sh` in
this room), which are the same for all jobs.
Does not cover: checks of the values (`request`).

Why one job and no array: the elements of an array start and end by themselves, but driver and scheduler must live as
long as any worker. In one job all nodes start together, and their time ends together. A job that joins it (`join`) may
be an array: it holds only workers, which may come and go.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from daskt2i.deploy.slurm.request import JobRequest, seconds_of


def job_script(request: JobRequest, made_by: str = "", python: str = sys.executable) -> str:
    """A script for `sbatch`.

    Args:
        made_by: the command that makes it, for a comment.
        python: the interpreter that the nodes use.
    """
    return "\n".join([*_header(request, made_by), "", *_values(request, python), "", _program(request.join)])


def _header(request: JobRequest, made_by: str) -> list[str]:
    options = {
        "job-name": request.name,
        "nodes": request.nodes,
        "ntasks-per-node": request.tasks_per_node,
        "cpus-per-task": request.cpus,
        "mem": request.memory,
        "gpus-per-node": request.gpus or "",
        "time": request.time,
        "signal": "" if request.join else f"B:USR1@{request.stop_before}",
        **request.named,
    }
    made = f"# Made by: {' '.join(made_by.split())}" if made_by else ""
    return [
        "#!/bin/bash",
        "# A job of daskt2i for SLURM. Submit it with: sbatch FILE",
        *([made] if made else []),
        *(f"#SBATCH --{name}={value}" for name, value in options.items() if value != ""),
        "#SBATCH --open-mode=append",  # a job that SLURM starts again keeps what it printed before
        "#SBATCH --requeue",
        "#SBATCH --no-kill",  # if a node is lost, the others go on
        *(f"#SBATCH --{flag}" for flag in request.flags),
        "# shellcheck disable=SC2016,SC2317  # other shells fill some variables in, and traps call functions",
    ]


def _values(request: JobRequest, python: str) -> list[str]:
    interface = ["--interface", request.interface] if request.interface else []
    return [
        *([] if request.join else [f"resubmit=${{1:-{request.resubmit}}}    # how many jobs may follow this one"]),
        f"stop_before={request.stop_before}    # the work stops so many seconds before the end",
        *([f"limit={seconds_of(request.time)}    # seconds of --time"] if request.join else []),
        f"python={shlex.quote(python)}",
        *([] if request.join else [f"command=({shlex.join(request.command)})"]),
        f"out={shlex.quote(request.out)}",
        f"folder={shlex.quote(request.folder)}",
        f"interface=({shlex.join(interface)})",
        f"cd -- {shlex.quote(request.cwd)} || exit 1",
        *request.setup,
    ]


def _program(join: bool) -> str:
    here = Path(__file__).parent
    return "".join((here / name).read_text(encoding="utf-8") for name in ("common.sh", "join.sh" if join else "job.sh"))
