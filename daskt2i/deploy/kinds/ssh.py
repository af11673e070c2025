"""Hosts that SSH reaches: the scheduler on the first, a worker on each of the others (`distributed.SSHCluster`).

Covers: options of the workers, certificates that travel through SSH and are removed at the end, the number of workers.
Does not cover: the end of the remote processes when the connection breaks (`deploy.end_with_input`).

dask sends its settings to the hosts in the command line of a process, which other users of a host may read. So the
certificates are files there, and the settings only name them.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import dask
from distributed import SpecCluster
from distributed.security import Security

from daskt2i.deploy.kinds.kind import Kind, known, own_names, refuse_unknown
from daskt2i.deploy.kinds.request import Refused, Request
from daskt2i.deploy.tls_files import has_own_certificates
from daskt2i.formatting import many, size

_FOLDER = ".cache/daskt2i"
_CONNECT_SECONDS = 30.0
_END = "daskt2i.deploy.end_with_input"


class Ssh(Kind):
    """`distributed.SSHCluster`."""

    elsewhere = True
    extra = "ssh"
    close_seconds = 30.0

    def __init__(self) -> None:
        self._security: dict[str, Any] | None = None

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """In terms of SSH: options of each worker. The hosts inherit the settings of Dask."""
        hosts = _hosts(given)
        worker = {"nthreads": request.threads, "memory_limit": request.memory, "dashboard_address": "127.0.0.1:0"}
        scheduler = {"dashboard_address": "127.0.0.1:8787", "port": 0}
        own: dict[str, Any] = {
            **known(factory, self.offered(request)),
            "worker_options": worker | dict(given.get("worker_options") or {}),
            "scheduler_options": scheduler | dict(given.get("scheduler_options") or {}),
        }
        merged = own | {k: v for k, v in given.items() if k not in own}
        merged["hosts"] = hosts
        return merged

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        refuse_unknown(arguments, own_names(factory) | own_names(SpecCluster), factory)

    def start(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> Any:
        """Bring the certificates to the hosts, then start scheduler and workers there."""
        try:
            import asyncssh  # noqa: F401
        except ImportError:
            raise Refused(f"it needs the package asyncssh: pip install 'daskt2i[{self.extra}]'") from None
        logging.getLogger("distributed.deploy.ssh").setLevel(logging.CRITICAL)  # it tells every line of every host
        variables = {**request.environ}
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": text for name, text in variables.items()})
        # Without it, processes on the hosts would stay when the connection breaks.
        for part in ("scheduler", "nanny"):
            preload = list(dask.config.get(f"distributed.{part}.preload", None) or [])
            dask.config.set({f"distributed.{part}.preload": [*preload, _END]})
        more: dict[str, Any] = {}
        if request.tls and "security" not in arguments:
            made = Security.temporary()
            self._security = {
                "tls_ca_file": made.tls_ca_file,
                "tls_client_cert": made.tls_client_cert,
                "tls_client_key": made.tls_client_key,
                "require_encryption": True,
            }
            texts = {"ca.pem": made.tls_ca_file, "cert.pem": made.tls_client_cert, "key.pem": made.tls_client_key}
            folder = posixpath.join(_FOLDER, request.name)
            asyncio.run(_send(arguments, folder, {name: str(text) for name, text in texts.items()}))
            self._sent = (arguments, folder)
            files = {name: posixpath.join(folder, name) for name in texts}
            # The files are named from the home folder, where a command of SSH starts.
            tls: dict[str, Any] = {"ca-file": files["ca.pem"]}
            for role in ("scheduler", "worker", "client"):
                tls[role] = {"cert": files["cert.pem"], "key": files["key.pem"]}
            dask.config.set({"distributed.comm.tls": tls, "distributed.comm.require-encryption": True})
            more["security"] = made
        elif "security" not in arguments and has_own_certificates(dask.config.config):
            more["security"] = Security()  # with the files that Dask's configuration names
        if more:
            for options in ("scheduler_options", "worker_options"):
                arguments = {**arguments, options: {"protocol": "tls://", **arguments[options]}}
        return factory(**arguments, **more)

    _sent: tuple[Mapping[str, Any], str] | None = None

    def fill(self, cluster: Any, arguments: Mapping[str, Any], request: Request) -> int | None:
        """The hosts are the workers."""
        return self.workers(arguments)

    @staticmethod
    def workers(arguments: Mapping[str, Any]) -> int:
        """Number of workers on all hosts but the first."""
        options = arguments.get("worker_options") or {}
        return (len(_hosts(arguments)) - 1) * int(options.get("n_workers", 1))

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        hosts = arguments["hosts"]
        options = arguments["worker_options"]
        memory = dask.utils.parse_bytes(options["memory_limit"])
        each = f"{many(int(options['nthreads']), 'thread')}, {size(memory)}"
        return f"{many(self.workers(arguments), 'worker')} of {each} on {', '.join(dict.fromkeys(hosts[1:]))}"

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        """The hosts, and what starts on each of them."""
        hosts = arguments["hosts"]
        options, number = dict(arguments["worker_options"]), 1
        number = int(options.pop("n_workers", 1))
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        lines = [f"{hosts[0]}: scheduler"]
        lines += [f"{host}: {many(number, 'worker')} ({shown})" for host in hosts[1:]]
        return "\n".join(lines)

    def security(self, cluster: Any) -> dict[str, Any] | None:
        return self._security or super().security(cluster)

    def cancel(self, cluster: Any, request: Request) -> None:
        """Remove the certificates. The processes end when their connections are closed."""
        if self._sent is not None:
            with suppress(Exception):
                asyncio.run(_remove(*self._sent))

    def explain(self, error: BaseException) -> str:
        text = super().explain(error)
        if "Worker failed to start" in text:
            text = "a process on a host did not start; Python and daskt2i must be there too (remote_python)"
        return text


def _hosts(given: Mapping[str, Any]) -> list[str]:
    hosts = given.get("hosts")
    if not isinstance(hosts, Sequence) or isinstance(hosts, str) or len(hosts) < 2:
        raise Refused("its argument hosts must list two hosts or more: the first for the scheduler, others for workers")
    return [str(host) for host in hosts]


def _options(arguments: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Host -> the options of its connection."""
    given, hosts = arguments.get("connect_options") or {}, _hosts(arguments)
    each = given if isinstance(given, list) else [given] * len(hosts)
    return dict(zip(hosts, each, strict=False))


async def _on_each(arguments: Mapping[str, Any], command: str, text: str) -> None:
    """Run a command of a shell on every host, with text on its input."""
    import asyncssh

    async def one(host: str, options: Mapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS), asyncssh.connect(host, **options) as connection:
                await connection.run(command, input=text, check=True)
        except asyncssh.HostKeyNotVerifiable:
            raise Refused(
                f"the key of the host {host} is not known here; run ssh {host} once and accept it, or name a file of "
                "host keys with connect_options: {known_hosts: FILE}"
            ) from None
        except (OSError, asyncssh.Error) as error:
            reason = getattr(error, "reason", "") or getattr(error, "strerror", "") or str(error) or "no answer"
            raise Refused(f"{host} cannot be used through SSH: {reason}".rstrip(".")) from None

    await asyncio.gather(*(one(host, options) for host, options in _options(arguments).items()))


async def _send(arguments: Mapping[str, Any], folder: str, texts: Mapping[str, str]) -> None:
    """Write files that only the user can read. Their text never stands in a command line."""
    place = shlex.quote(folder)
    parts = [f"umask 077; rm -rf {place}; mkdir -p {place} && cd {place}"]
    parts += [f"head -c {len(text)} > {shlex.quote(name)}" for name, text in texts.items()]
    await _on_each(arguments, " && ".join(parts), "".join(texts.values()))


async def _remove(arguments: Mapping[str, Any], folder: str) -> None:
    await _on_each(arguments, f"rm -rf {shlex.quote(folder)}", "")
