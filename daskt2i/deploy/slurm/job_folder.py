"""The folder of a running job: certificates and Dask's settings for its scheduler, its workers and its command.

Covers: making the folder in a place that all nodes see, so that only this user can read it; removing those of jobs that
were killed; finding that of another job by its run folder.
Does not cover: certificates of clusters that daskt2i starts on this machine (`deploy.tls_files`).

Dask reads the settings because the script sets `DASK_CONFIG`. The user's own file of that variable is merged into them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import dask.config
import yaml
from distributed.security import Security

from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.tls_files import FILES, has_own_certificates
from daskt2i.errors import ConfigError, SchedulerError

FIND_SECONDS = 300.0
"""How long workers wait for a job that they can join: the next of a row of jobs may just be starting."""

_PREFIX = ".daskt2i-job"
_RUN = "run"
_POLL_SECONDS, _CONNECT_SECONDS = 2.0, 5.0
_ROLES = ("scheduler", "worker", "client")
_QUEUE_SECONDS = 20
_LINK = "distributed.dashboard.link"


def make_job_folder(place: str | Path, out: str) -> Path:
    """Make the folder of this job, with mode 0700, and write `dask.yaml` and the certificates into it.

    Args:
        place: a folder that all nodes see. It is made if it does not exist.
        out: the run folder, as `find_job` will name it.

    Raises:
        ConfigError: nothing can be written there.
    """
    cluster, job = os.environ.get("SLURM_CLUSTER_NAME", "slurm"), os.environ.get("SLURM_JOB_ID", "0")
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        _remove_old(Path(place), cluster, job)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{cluster}-{job}-", dir=place))  # mode 0700
        for name, text in {**_files(folder), _RUN: out}.items():
            handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(
            f"The job cannot write into {place} ({error.strerror or error}), where the certificates of its cluster "
            "belong. Nothing was started; give another folder that all nodes see (--shared)."
        ) from error
    return folder


def find_job(place: str | Path, out: str, seconds: float = FIND_SECONDS) -> tuple[Path, str]:
    """The folder of the job that works on a run folder, and the address of its scheduler.

    Args:
        place: as for `make_job_folder`.
        out: the run folder.
        seconds: how long to wait for such a job.

    Raises:
        SchedulerError: there is none.
    """
    deadline = monotonic() + seconds
    while True:
        for folder in sorted(Path(place).glob(f"{_PREFIX}-*"), reverse=True):
            with suppress(OSError, ValueError, KeyError, TypeError):  # the job is just beginning or ending
                if (folder / _RUN).read_text(encoding="utf-8") == out:
                    address = str(json.loads((folder / "scheduler.json").read_text(encoding="utf-8"))["address"])
                    host, _, port = address.partition("://")[2].rpartition(":")
                    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
                        return folder, address
        if monotonic() > deadline:
            raise SchedulerError(
                f"No job works on {out} now, so these workers have nothing to do. Start a job that works on it first, "
                "and this one again."
            )
        sleep(_POLL_SECONDS)


def _files(folder: Path) -> dict[str, str]:
    """Name -> text."""
    settings = _settings()
    if has_own_certificates(dask.config.config) or not dask.config.get("daskt2i.tls", True):
        return {"dask.yaml": yaml.safe_dump(settings)}
    security = Security.temporary()
    texts = {FILES[name]: str(getattr(security, name)) for name in FILES}
    tls: dict[str, Any] = {"ca-file": str(folder / FILES["tls_ca_file"])}
    pair = {"cert": str(folder / FILES["tls_client_cert"]), "key": str(folder / FILES["tls_client_key"])}
    tls |= dict.fromkeys(_ROLES, pair)
    comm = {"distributed": {"comm": {"tls": tls, "require-encryption": True, "default-scheme": "tls"}}}
    return {"dask.yaml": yaml.safe_dump(dask.config.merge(settings, comm)), **texts}


def _settings() -> dict[str, Any]:
    """The user's own file of `DASK_CONFIG`, and over it the settings that `clusters/local.yaml` gives its processes.

    The dashboard listens on one node alone, so its link is that of a tunnel to this node. The log of Dask is silent as
    on this machine: the command tells what goes wrong, and workers that end with their scheduler log tracebacks.
    """
    own = [*dask.config.collect_yaml([os.environ["DASK_CONFIG"]])] if "DASK_CONFIG" in os.environ else []
    ours: dict[str, Any] = {}
    dask.config.set(read_yaml(find_file("local", "clusters"))["config"], config=ours)
    ours["logging"] = {"distributed": "critical"}
    if dask.config.get(_LINK, "").startswith("{scheme}://{host}"):  # not the proxy of a user
        dask.config.set({_LINK: "http://127.0.0.1:{port}/status"}, config=ours)
    found: dict[str, Any] = dask.config.merge(*own, ours)
    return found


def _remove_old(place: Path, cluster: str, job: str) -> None:
    """Remove the folders of jobs of this cluster that do not run any more. Without an answer of SLURM all stay."""
    old = [one for one in place.glob(f"{_PREFIX}-{cluster}-*-*") if one.is_dir() and not one.is_symlink()]
    if not old:
        return
    with suppress(OSError, subprocess.SubprocessError):
        command = ["squeue", "--noheader", "--format=%A", f"--user={os.getuid()}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_QUEUE_SECONDS)
        alive = set(done.stdout.split()) - {job}  # what this job left, SLURM has started it again
        for one in old:
            if one.name.split("-")[-2] not in alive:
                shutil.rmtree(one, ignore_errors=True)
