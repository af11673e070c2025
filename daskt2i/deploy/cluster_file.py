"""Cluster files: the class of a cluster, what its workers are, and the Dask settings of its processes.

    ClusterFile.read("slurm").start(workers=4, threads=8, memory_limit=16 * 2**30)

Covers: reading a file, what it asks for (`asks`), starting its cluster and waiting for its workers.
Does not cover: the process of a started cluster (`cluster_process`), arguments in terms of each class (`kinds`), how
many workers to start (`session.worker_layout`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import dask.config
from dask.utils import parse_bytes
from distributed.security import Security

from daskt2i import documents
from daskt2i.config.workflow_file import find_file, read_yaml
from daskt2i.deploy.cluster_process import ClusterProcess, NotStarted, preview
from daskt2i.deploy.connect import Connection, behind_loopback, client_of, offer
from daskt2i.deploy.kinds.by_class import kind_by_path
from daskt2i.deploy.kinds.request import MOST_CORES, MOST_WORKERS, Request
from daskt2i.deploy.tls_files import has_own_certificates, keep_certificates, remove_certificates
from daskt2i.deploy.waiting import Patience
from daskt2i.errors import ConfigError, SchedulerError

KEYS = ("cluster", "arguments", "config", "config_of", "workers", "worker", "adapt", "wait_minutes", "tls")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _quiet(text: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """A cluster file.

    Attributes:
        name: name of the file, without its ending.
        factory: dotted path of the class.
        arguments: arguments of the class.
        config: Dask settings of its processes, by dotted key.
        workers: number of workers, if nothing else says it; None if the plan decides.
        threads, memory: cores and bytes of each worker, if the workers are on other machines; else None.
        adapt: arguments of the cluster's `adapt`, or None.
        wait_minutes: how long to wait for the first worker.
        tls: whether the cluster gets certificates; None if nothing says so.
    """

    name: str
    factory: str
    arguments: dict[str, Any]
    config: dict[str, Any]
    workers: int | None = None
    threads: int | None = None
    memory: int | None = None
    adapt: dict[str, Any] | None = None
    wait_minutes: float = 2.0
    tls: bool | None = None
    path: str = field(default="", compare=False)

    @classmethod
    def read(cls, name: str, _before: tuple[str, ...] = ()) -> ClusterFile:
        """Read a cluster file.

        Args:
            name: name of a shipped file, or a path.
            _before: paths of the files that lead to it by `config_of`.

        Raises:
            ConfigError: there is no such file, or it is wrong.
        """
        path = find_file(name, "clusters")
        data = read_yaml(path, "`cluster: distributed.LocalCluster` and `workers: 4`")
        unknown = data.keys() - set(KEYS)
        if unknown or not isinstance(data.get("cluster"), str):
            wrong = f"has the unknown keys {', '.join(sorted(map(str, unknown)))}" if unknown else "lacks `cluster:`"
            raise ConfigError(
                f"The cluster file {path} {wrong}. Its keys are {', '.join(KEYS[:-1])} and {KEYS[-1]}. Nothing was "
                "started."
            )
        for key, needs in _KINDS.items():
            if key in data and data[key] is not None and not needs.fits(data[key]):
                raise ConfigError(
                    f"The cluster file {path} is wrong: {key} is {documents.shown(data[key])}, but it must "
                    f"{needs.words}. Nothing was started."
                )
        _require_plain(data, path)
        if str(path) in _before:
            raise ConfigError(
                f"The cluster file {path} leads to itself by config_of. Nothing was started; name a file there that "
                "does not lead back, such as local."
            )
        config = dict(cls.read(data["config_of"], (*_before, str(path))).config) if data.get("config_of") else {}
        worker = data.get("worker") or {}
        return cls(
            path.stem,
            data["cluster"],
            dict(data.get("arguments") or {}),
            config | dict(data.get("config") or {}),
            data.get("workers"),
            worker.get("cores"),
            parse_bytes(worker["memory"]) if worker else None,
            data.get("adapt"),
            data.get("wait_minutes", 2.0),
            data.get("tls"),
            str(path),
        )

    @property
    def elsewhere(self) -> bool:
        """Whether the workers are on other machines, so that the cores and memory of this one do not count.

        Raises:
            ConfigError: they are, and the file does not say what a worker is.
        """
        if self.threads is None and kind_by_path(self.factory).elsewhere:
            raise ConfigError(
                f"The cluster file {self.name}.yaml does not say how large a worker is, and its workers are not on "
                "this machine. Nothing was started; write, for example, `worker: {cores: 4, memory: 8 GiB}` into it."
            )
        return self.threads is not None

    def check(self, workers: int, threads: int, memory_limit: int) -> None:
        """Refuse a file on this machine whose cluster cannot start, as far as that can be found without starting it.

        Raises:
            ConfigError: the class cannot be imported.
            SchedulerError: it refuses its arguments, or it is no class of a cluster.
        """
        if self != ClusterFile.read("local"):  # ours needs no second process to be sure
            self.asks(workers, threads, memory_limit)

    def asks(self, workers: int, threads: int, memory_limit: int) -> tuple[str, str]:
        """What would be asked for, in words, and the job script or the manifest. Nothing is started or submitted.

        Raises:
            ConfigError: the class cannot be imported, or it refuses its arguments.
        """
        try:
            return preview(self.factory, self.arguments, self._request(workers, threads, memory_limit))
        except NotStarted as error:
            self._explain(error)

    def start(self, workers: int, threads: int, memory_limit: int, tell: Callable[[str], None] = _quiet) -> Connection:
        """Start the cluster, and wait for its workers: for all on this machine, elsewhere for the first.

        Args:
            workers: number of workers.
            threads: torch threads of each worker.
            memory_limit: memory limit of each worker, bytes.
            tell: gets a line while a queue does not start the workers.

        Raises:
            ConfigError: the class cannot be imported, or it refuses its arguments.
            SchedulerError: the cluster did not start. Nothing of it is left.
        """
        request = self._request(workers, threads, memory_limit)
        try:
            with ExitStack() as stack:
                cluster = ClusterProcess(self.factory, self.arguments, request, open=self._may_be_open())
                stack.callback(cluster.close)
                files = keep_certificates(cluster.address, cluster.security or {})
                stack.callback(remove_certificates, files)
                security = Security(**cluster.security) if cluster.security else None
                client = client_of(cluster.address, security)
                stack.enter_context(client)
                if self.threads is not None:
                    behind_loopback.add(client)
                patience = Patience(self.name, client, cluster, self.wait_minutes * 60, tell)
                patience.first(1 if self.threads is not None else cluster.workers or workers)
                stack.pop_all()
            offer(client)  # not before: `with` would make a default client the current one of this thread for good
        except NotStarted as error:
            self._explain(error)
        except SchedulerError:
            raise
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError) as error:
            self._explain(NotStarted(str(error)))

        def close() -> None:
            # The work is done, so a worker that ends slowly is not an error. It ends with the cluster's process.
            with suppress(TimeoutError, OSError):
                client.close(timeout=5)
            cluster.close()
            remove_certificates(files)

        def gather(number: int) -> None:
            cluster.fix()
            patience.all(number)

        if self.threads is None:
            return Connection(client, threads, close, owned=True)
        return Connection(client, threads, close, owned=True, gather=gather, ended=patience.ended)

    def _request(self, workers: int, threads: int, memory_limit: int) -> Request:
        return Request(
            name=f"daskt2i-{secrets.token_hex(4)}",
            workers=workers,
            threads=threads,
            memory=memory_limit,
            environ=dict.fromkeys(_THREADS, str(threads)),
            config=self.config,
            tls=uses_tls(self.arguments, self.config, self.tls),
            adapt=self.adapt,
        )

    def _may_be_open(self) -> bool:
        """Whether the user asked for a scheduler without TLS."""
        asked = {"security", "protocol"} & self.arguments.keys()
        return self.tls is False or bool(asked) or not dask.config.get("daskt2i.tls", True)

    def _explain(self, error: NotStarted) -> NoReturn:
        """Raise what the process of the cluster said as an error for the user.

        Raises:
            ConfigError: the class cannot be imported.
            SchedulerError: anything else.
        """
        if error.kind == "import" and error.extra:
            raise ConfigError(
                f"The cluster file {self.name}.yaml needs a package that is not installed ({error}). Nothing was "
                f"started; run pip install 'daskt2i[{error.extra}]'."
            ) from None
        if error.kind == "import":
            raise ConfigError(
                f"The cluster file {self.name}.yaml names {self.factory}, which cannot be imported ({error}). Nothing "
                "was started; check the spelling, and that the package is installed."
            ) from None
        if self.threads is None and error.kind != "refused":
            raise SchedulerError(
                f"The cluster of the file {self.name}.yaml did not start ({error}). No work was done; the scheduler "
                "multiprocessing (scheduler) needs no cluster."
            ) from None
        raise SchedulerError(
            f"The cluster of the file {self.name}.yaml did not start: {error}. Nothing of it is left, and no work was "
            f"done; change {self.path or 'the file'} or a copy of it, and run it again."
        ) from None


def uses_tls(arguments: Mapping[str, Any], config: Mapping[str, Any], asked: bool | None = None) -> bool:
    """Whether a cluster that daskt2i starts gets temporary certificates.

    Without them, whoever reaches the scheduler could run code as the user who started it. No: if the cluster file gives
    `security` or `protocol`, or says `tls: false`, if Dask's configuration names certificates, or if the setting
    `daskt2i.tls` of Dask's configuration is false (for debugging).
    """
    own = has_own_certificates(dask.config.config) or any("comm.tls" in key or "encryption" in key for key in config)
    allowed = bool(dask.config.get("daskt2i.tls", True)) and asked is not False
    return allowed and not own and not {"security", "protocol"} & arguments.keys()


def _require_plain(data: Mapping[str, Any], path: Path) -> None:
    """Refuse what JSON cannot hold, because a file goes to the process of its cluster as JSON.

    Raises:
        ConfigError: a value is no number, or no plain value.
    """
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:  # YAML has .nan and .inf
        raise ConfigError(
            f"The cluster file {path} holds .nan or .inf, which is no number for a cluster. Nothing was started; write "
            "a number, or null for no value."
        ) from None
    except TypeError as error:  # YAML has dates
        raise ConfigError(
            f"The cluster file {path} holds a value that is not text, a number, a list or a mapping ({error}). Put "
            "it in quotes."
        ) from None


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a key of a file holds."""

    words: str
    fits: Callable[[Any], bool]


def _is_worker(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"cores", "memory"}:
        return False
    if not _is_count(value["cores"], MOST_CORES):
        return False
    with suppress(ValueError, TypeError, AttributeError):
        return bool(parse_bytes(value["memory"]) > 0)
    return False


def _is_count(value: Any, most: int = MOST_WORKERS) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_minutes(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _YEAR_MINUTES


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def _is_adapt(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() - {"minimum", "maximum", *_PACE}:
        return False
    least, most = value.get("minimum", 0), value.get("maximum")
    return (least == 0 or _is_count(least)) and _is_count(most) and least <= most


_YEAR_MINUTES = 366 * 24 * 60
_PACE = ("interval", "wait_count", "target_duration")
"""Other arguments of a cluster's `adapt`."""

_KINDS = {
    "arguments": _Needs("hold names with values", _is_named),
    "config": _Needs("hold names with values", _is_named),
    "config_of": _Needs("name a cluster file", lambda value: isinstance(value, str)),
    "workers": _Needs(f"be a number of workers from 1 to {MOST_WORKERS:,}", _is_count),
    "worker": _Needs(f"have the form {{cores: 4, memory: 8 GiB}}, with {MOST_CORES:,} cores at most", _is_worker),
    "adapt": _Needs("have the form {minimum: 1, maximum: 10}", _is_adapt),
    "wait_minutes": _Needs(
        f"be a number of minutes above 0, such as 30, and at most {_YEAR_MINUTES:,} (a year)", _is_minutes
    ),
    "tls": _Needs("be true or false", lambda value: isinstance(value, bool)),
}
