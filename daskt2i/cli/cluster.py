"""The command cluster slurm, which prints a job script, and three commands that the running job calls.

Covers: reading options, checking workflow and command now, so that no job fails after hours in a queue.
Does not cover: the script (`deploy.slurm`), clusters that `--scheduler` starts (`deploy`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daskt2i import addresses
from daskt2i.addresses import expanded
from daskt2i.cli import data, model
from daskt2i.cli.bench.command import typed
from daskt2i.cli.console import complain, write
from daskt2i.cli.endings import report_errors
from daskt2i.cli.front import opened
from daskt2i.cli.options import (
    CaptionsOption,
    ImagesOption,
    JsonOption,
    OutOption,
    SetOption,
    SourceOption,
    WhereOption,
)
from daskt2i.errors import ConfigError
from daskt2i.redact import without_secret

if TYPE_CHECKING:
    from daskt2i.deploy.slurm.request import JobRequest

app = typer.Typer(
    name="cluster",
    help="Scripts for batch systems.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__.replace("_", "-"): command
    for command in (
        *(model.run, data.encode, model.train, model.train_vae, model.sample, model.evaluate),
        *(data.insights, data.estimate),
    )
}
"""Commands that work on a cluster: those with --scheduler."""

SlurmWorkflowOption = Annotated[
    str | None, typer.Option("--workflow", "-w", help="As for the command. [default: settings of the run folder]")
]

JobPlaceArgument = Annotated[str, typer.Argument(metavar="FOLDER", help="A folder that all nodes see.")]
RunOption = Annotated[str, typer.Option("--out", "-o", help="The run folder.")]


@app.command("slurm")
def slurm(
    time: Annotated[str, typer.Option("--time", "-t", help="Limit of a job, e.g. 90, 2:00:00 or 1-12.")],
    nodes: Annotated[int, typer.Option("--nodes", "-N", help="Number of nodes.")] = 1,
    command: Annotated[
        str, typer.Option("--command", help=f"What the job does: {', '.join(_COMMANDS)}.", metavar="NAME")
    ] = "run",
    workflow: SlurmWorkflowOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer only reads it
    workers: Annotated[
        int | None, typer.Option("--workers-per-node", help="Dask workers of a node. [default: one for each GPU, or 1]")
    ] = None,
    cpus: Annotated[int, typer.Option("--cpus-per-task", "-c", help="Processors of each worker.")] = 1,
    memory: Annotated[str, typer.Option("--mem", help="Memory of each node, e.g. 64G. [default: the cluster's]")] = "",
    gpus: Annotated[int, typer.Option("--gpus-per-node", help="GPUs of each node.")] = 0,
    partition: Annotated[str, typer.Option("--partition", "-p", help="The partition.")] = "",
    account: Annotated[str, typer.Option("--account", "-A", help="The account.")] = "",
    sbatch: Annotated[
        list[str], typer.Option("--sbatch", help="Another option of sbatch, e.g. qos=long; may be repeated.")
    ] = [],  # noqa: B006
    setup: Annotated[
        list[str], typer.Option("--setup", help="A shell line that runs first, e.g. 'module load cuda'; may repeat.")
    ] = [],  # noqa: B006
    interface: Annotated[str, typer.Option("--interface", help="Network interface of all nodes, e.g. ib0.")] = "",
    shared: Annotated[
        str | None, typer.Option("--shared", help="A folder that all nodes see, for certificates. [default: of --out]")
    ] = None,
    resubmit: Annotated[int, typer.Option("--resubmit", help="Jobs that may follow if the time is not enough.")] = 0,
    stop_before: Annotated[
        int | None, typer.Option("--stop-before", help="Seconds before its end that the job stops. [default: 120]")
    ] = None,
    name: Annotated[str | None, typer.Option("--job-name", "-J", help="[default: the name of the run folder]")] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Only workers, for the job that works on --out now. They may be an array.")
    ] = False,
    more: Annotated[
        list[str] | None, typer.Argument(help="More options of the command, after --.", metavar="[-- OPTION...]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a job script for sbatch: a Dask cluster, and a command on it.

    The job needs no dask-jobqueue. With --resubmit it submits itself again shortly before its time is over, until the
    work is done. A job with --join adds workers to a running one.
    """
    with report_errors():
        found = _COMMANDS.get(command)
        if found is None:
            raise ConfigError(
                f"A job cannot run {command!r}. No script was written; give one of {', '.join(_COMMANDS)} (--command)."
            )
        given = {"source": source, "images": images, "captions": captions, "where": where}
    with opened(
        workflow, out_folder, set_, source=source, images=images, captions=captions, where=where, scheduler="serial"
    ) as run:
        from daskt2i.deploy.slurm.partition import require_nodes
        from daskt2i.deploy.slurm.request import JobRequest
        from daskt2i.deploy.slurm.script import job_script

        out, named = run.out, _is_file(workflow)
        words = [command, *([] if workflow is None else ["--workflow", _absolute(workflow) if named else workflow])]
        words += ["--out", out]
        for option, text in given.items():
            if text is not None:
                words += [f"--{option}", _absolute(text) if option in ("images", "captions") else text]
        words += [word for text in set_ for word in ("--set", text)] + list(more or ())
        _require_words(command, found, words[1:])
        request = JobRequest(
            command=tuple(words),
            out=without_secret(out),
            folder=_folder(out, shared),
            cwd=os.getcwd(),  # noqa: PTH109
            time=time,
            nodes=nodes,
            workers_per_node=workers,
            cpus=cpus,
            memory=memory,
            gpus=gpus,
            resubmit=resubmit,
            stop_seconds=stop_before,
            name=_name(out) if name is None else name,
            named={"partition": partition, "account": account},
            flags=tuple(sbatch),
            interface=interface,
            setup=tuple(setup),
            join=join,
        )
        require_nodes(nodes, partition)
        script = job_script(request, typed())
        told = _notes(request, script)
        for text in told:
            complain(text, "yellow")
        if as_json:
            write({"script": script, "out": out, "notes": told}, True, None)
        else:
            sys.stdout.write(script)


@app.command("folder", hidden=True)
def folder(place: JobPlaceArgument, out_folder: RunOption) -> None:
    """Make the folder of a running job, and print it."""
    with report_errors():
        from daskt2i.deploy.slurm.job_folder import make_job_folder

        sys.stdout.write(f"{make_job_folder(place, out_folder)}\n")


@app.command("find", hidden=True)
def find(place: JobPlaceArgument, out_folder: RunOption) -> None:
    """Print the folder of the job that works on a run folder, and the address of its scheduler."""
    with report_errors():
        from daskt2i.deploy.slurm.job_folder import find_job

        sys.stdout.write("\n".join([*map(str, find_job(place, out_folder)), ""]))


@app.command("wait", hidden=True)
def wait(
    address: Annotated[str, typer.Argument(help="Address of the scheduler.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="How many workers are to come.")] = 1,
) -> None:
    """Wait for the workers of a running job."""
    with report_errors():
        from daskt2i.deploy.slurm.arrival import wait_for_workers

        there = wait_for_workers(address, workers)
        if there < workers:
            complain(f"{there} of {workers} workers have joined the job in time. It begins with these.", "yellow")


def _absolute(text: str) -> str:
    try:
        return addresses.absolute(text)
    except ValueError:  # the message of the command itself is better
        return text


def _is_file(workflow: str | None) -> bool:
    return workflow is not None and workflow.endswith((".yaml", ".yml"))


def _folder(out: str, shared: str | None) -> str:
    """The place for the job's own folder: beside the run folder, which all nodes see too."""
    if shared is not None:
        return str(expanded(shared, "shared").absolute())
    return str(Path.cwd()) if addresses.is_address(out) else str(Path(out).parent)


def _name(out: str) -> str:
    name = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in PurePosixPath(out).name)
    return f"daskt2i-{name.strip('-')}".strip("-")


def _require_words(command: str, function: Callable[..., None], words: Sequence[str]) -> None:
    """Refuse options that the command of the job does not have.

    Raises:
        ConfigError: the command does not have them.
    """
    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(command)(function)
    made: Any = typer.main.get_command(single)
    try:
        made.make_context(command, list(words), resilient_parsing=False)
    except Exception as error:  # Typer may bring a click of its own, so its class is not known here
        if not hasattr(error, "format_message"):
            raise
        said: Any = error
        raise ConfigError(
            f"{command} does not take what the job gives it: {said.format_message().rstrip('.')}. No script was "
            f"written; `python -m daskt2i.workflow {command} --help` shows its options."
        ) from None


def _notes(request: JobRequest, script: str) -> list[str]:
    notes = []
    if without_secret(script) != script:
        notes.append("The script holds a secret, as you gave it. Keep the file private.")
    if not request.resubmit and not request.join:
        notes.append(
            "If the time is over before the work is done, submit the script again: it continues. --resubmit N lets the "
            "job do that itself."
        )
    return notes
