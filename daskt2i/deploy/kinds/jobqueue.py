"""Batch systems through dask-jobqueue: each worker is a job of SLURM, PBS, SGE and the like.

Covers: cores, memory and environment of a job, the script of a job, certificates in a private folder that the jobs can
read, refused jobs.
Does not cover: what SLURM says of its queue (`slurm`), a script for sbatch without dask-jobqueue.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dask
from distributed.security import Security

from daskt2i.deploy.kinds.adapting import ByTasks
from daskt2i.deploy.kinds.kind import Kind, names_of, own_names, refuse_unknown
from daskt2i.deploy.kinds.request import Refused, Request, exports
from daskt2i.deploy.tls_files import has_own_certificates
from daskt2i.formatting import many, size

_COMMAND_SECONDS = 30
_FOLDER = "~/.cache/daskt2i/jobs"
_OWN = ("tls_ca_file", "tls_client_cert", "tls_client_key")


class Jobqueue(Kind):
    """A class of dask-jobqueue. The scheduler runs on this machine, in the process that holds the cluster."""

    elsewhere = True
    extra = "hpc"
    close_seconds = 60.0

    def __init__(self) -> None:
        self._texts: dict[str, Any] | None = None  # certificates as text, for clients
        self._folder: Path | None = None
        self._errors: list[str] = []

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """In terms of a job: its cores, its memory, one process, exports before the worker starts."""
        if "job_name" in given:
            raise Refused("daskt2i finds the jobs of a run by their name, so job_name cannot be given")
        section = f"jobqueue.{factory.job_cls.config_name}"
        processes = int(given.get("processes") or 1)
        folder = self._private_folder(given, section, request, stack)
        own: dict[str, Any] = {
            "processes": processes,
            "cores": request.threads * processes,
            "memory": f"{request.memory * processes} B",
            "job_name": request.name,
            "silence_logs": logging.CRITICAL,
            "n_workers": 0,
            "python": dask.config.get(f"{section}.python", None) or shlex.quote(sys.executable),
            "log_directory": dask.config.get(f"{section}.log-directory", None) or str(folder),
        }
        # Only this machine sees the pages of the scheduler and the workers: they show captions and ask no password.
        own["scheduler_options"] = {"dashboard_address": "127.0.0.1:8787"} | dict(given.get("scheduler_options") or {})
        site = dask.config.get(f"{section}.worker-extra-args", None) or []
        own["worker_extra_args"] = [
            "--dashboard-address",
            "127.0.0.1:0",
            *(given.get("worker_extra_args") or site),
        ]
        before = given.get("job_script_prologue") or dask.config.get(f"{section}.job-script-prologue", None) or []
        own["job_script_prologue"] = [*exports(request), *before]
        joined = ("scheduler_options", "worker_extra_args", "job_script_prologue")
        merged = own | {name: value for name, value in given.items() if name not in joined}
        merged.pop("n_workers")  # `fill` asks for the jobs, and hears of those that are refused
        if request.tls and "security" not in given:
            merged["security"] = self._certificates(folder)
        elif merged.get("security") is False:
            merged.pop("security")
        elif "security" not in given and has_own_certificates(dask.config.config):
            merged["security"] = Security()  # with the files that Dask's configuration names
        merged.setdefault("shared_temp_directory", str(folder))
        return merged

    def _private_folder(self, given: Mapping[str, Any], section: str, request: Request, stack: ExitStack) -> Path:
        """A folder for the certificates and the logs of jobs, which only this user can read."""
        shared = given.get("shared_temp_directory") or dask.config.get(f"{section}.shared-temp-directory", None)
        home = Path(os.path.expandvars(shared or _FOLDER)).expanduser()
        folder = self._folder = home / request.name
        try:
            home.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise Refused(f"no private folder could be made in {home} ({error.strerror})") from None
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def _certificates(self, folder: Path) -> Security:
        """Certificates for this cluster alone, as files that only this user can read: workers get their paths."""
        made = Security.temporary()
        texts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
        files = {}
        for name, text in texts.items():
            files[name] = str(folder / f"{name}.pem")
            handle = os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(str(text))
        self._texts = {**{name: getattr(made, name) for name in _OWN}, "require_encryption": True}
        roles = ("scheduler", "worker", "client")
        pairs = {f"tls_{role}_{part}": files[part] for role in roles for part in ("cert", "key")}
        return Security(require_encryption=True, tls_ca_file=files["ca"], **pairs)

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        """Arguments go to the class, or from there to the class of its jobs."""
        family = [one for one in factory.__mro__ if not one.__module__.startswith("distributed.")]
        if (names := names_of(factory.job_cls)) is not None:
            refuse_unknown(arguments, names.union(*map(own_names, family)), factory)

    def start(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> Any:
        """Start the scheduler. Jobs that are refused are remembered."""
        command = factory.job_cls.submit_command.split()[0]
        if shutil.which(command) is None:
            raise Refused(
                f"there is no {command} on this machine; start it where jobs can be submitted, such as a login node"
            )
        errors = self._errors

        async def start(job: Any) -> None:
            try:
                await factory.job_cls.start(job)
            except BaseException as error:
                errors.append(_refusal(error))
                raise

        job_cls = type(factory.job_cls.__name__, (factory.job_cls,), {"start": start})
        return factory(**arguments, job_cls=job_cls)

    def fill(self, cluster: Any, arguments: Mapping[str, Any], request: Request) -> int | None:
        """Submit the jobs, and wait until the batch system has taken or refused them."""
        if request.adapt is not None:
            return super().fill(cluster, arguments, request)
        cluster.scale(request.workers)
        with suppress(Exception):  # remembered with its words
            cluster.sync(_submitted, cluster)
        if self._errors:
            raise Refused(self._errors[0])
        return request.workers

    def adapting(self, request: Request) -> dict[str, Any]:
        """Jobs by the number of tasks, unless the file says for how many seconds of work there is to be one."""
        return {} if "target_duration" in (request.adapt or {}) else {"Adaptive": ByTasks}

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        """`"4 jobs of 8 cores, 16 GiB, 2:00:00, partition debug"`."""
        processes = int(arguments["processes"])
        jobs = math.ceil(request.workers / processes)
        parts = [f"{many(jobs, 'job')} of {many(int(arguments['cores']), 'core')}", size(_bytes(arguments["memory"]))]
        section = f"jobqueue.{self.section}"
        queue = "partition" if self.section == "slurm" else "queue"
        for name, word in (("walltime", ""), ("queue", f"{queue} "), ("account", "account "), ("project", "project ")):
            if (value := arguments.get(name) or dask.config.get(f"{section}.{name}", None)) is not None:
                parts.append(f"{word}{value}")
        if processes > 1:
            parts.append(f"{processes} workers in a job")
        if request.adapt is not None:
            parts.append(f"as many as are needed ({_limits(request.adapt)})")
        return ", ".join(parts)

    section = ""

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        """The script of a job. The address of the scheduler is not known yet."""

        async def script() -> str:
            cluster = factory(**arguments, asynchronous=True)  # such a cluster starts only when it is awaited
            found = str(cluster.job_script())
            await cluster.close()
            return found

        return asyncio.run(script())

    def security(self, cluster: Any) -> dict[str, Any] | None:
        return self._texts or super().security(cluster)

    def explain(self, error: BaseException) -> str:
        return _refusal(error)

    def cancel(self, cluster: Any, request: Request) -> None:
        """Cancel all jobs of the request, also those whose number is not known yet."""
        if command := self.cancel_command(request):
            call(command)

    def last_line(self) -> str:
        """The last line that a worker wrote into the log of its job, if there is any."""
        found = ""
        for path in sorted(self._folder.glob("*.err")) if self._folder is not None else ():
            with suppress(OSError):
                lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
                told = [line for line in lines if line and not line.startswith("slurmstepd")]
                found = told[-1] if told else found
        return found


class Pbs(Jobqueue):
    """PBS and its relatives."""

    section = "pbs"


class Sge(Jobqueue):
    """Grid Engine."""

    section = "sge"


async def _submitted(cluster: Any) -> None:
    await cluster._correct_state()  # `scale` only plans it, and its errors go to a log


def _refusal(error: BaseException) -> str:
    """What a batch system said, without the command and its exit code."""
    _, found, told = str(error).partition("stderr:\n")
    if not found:
        return str(error).partition("\n")[0].rstrip(".:") or type(error).__name__
    lines = [re.sub(r"^\w+: (error: )?", "", line.strip()) for line in told.splitlines() if line.strip()]
    return f"the batch system refused a job ({'; '.join(lines[:2]).rstrip('.')})"


def call(command: list[str]) -> str | None:
    """The output of a command of the batch system; None if it failed."""
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
        return done.stdout if done.returncode == 0 else None
    return None


def _bytes(memory: str) -> int:
    return int(dask.utils.parse_bytes(memory))


def _limits(adapt: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in adapt.items())
