"""What all kinds of clusters have in common, and the kind of a class that daskt2i does not know.

Covers: arguments that a class knows, unknown arguments, asking for workers, certificates of a cluster.
Does not cover: the process that holds the cluster (`deploy.cluster_child`).
"""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from distributed import LocalCluster

from daskt2i.deploy.kinds.request import Refused, Request
from daskt2i.formatting import many, size


class Kind:
    """A cluster on this machine, or of a class that daskt2i does not know.

    Attributes:
        elsewhere: whether the workers are on other machines, so that the cores of this one do not count.
        extra: the extra of daskt2i that installs the package of the class; "" if there is none.
        close_seconds: how long the cluster may take to close.
    """

    elsewhere = False
    extra = ""
    close_seconds = 10.0

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """The arguments of the class: those of the file, and those of the request that it knows and the file lacks.

        Args:
            stack: gets what is to be removed at the end, such as certificates.

        Raises:
            Refused: the file asks for something that cannot be.
        """
        return known(factory, self.offered(request)) | dict(given)

    def offered(self, request: Request) -> dict[str, Any]:
        """Arguments that many classes have."""
        offered = {"n_workers": request.workers, "memory_limit": request.memory, "silence_logs": logging.CRITICAL}
        return offered | ({"security": True} if request.tls else {})

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        """Refuse what cannot start: an argument that the class does not have, or one that it needs and does not get.

        Raises:
            Refused: with the reason.
        """
        refuse_unknown(arguments, _all_names(factory), factory)
        refuse_no_cluster(factory)
        refuse_missing(arguments, factory)

    def start(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> Any:
        """Make the cluster. It has a scheduler, but perhaps no workers yet."""
        return factory(**arguments)

    def fill(self, cluster: Any, arguments: Mapping[str, Any], request: Request) -> int | None:
        """Ask for the workers, unless the class was told their number. Returns the number that will come."""
        if request.adapt is not None:
            # A stage gives work to the workers that it sees, so without any it would wait for ever.
            least = max(1, int(request.adapt.get("minimum", 1)))
            cluster.adapt(**{**self.adapting(request), **request.adapt, "minimum": least})
            return least
        if "n_workers" in arguments:
            number: int | None = arguments["n_workers"]
            return number
        if fixed := len(getattr(cluster, "worker_spec", None) or ()):  # for example a list of hosts
            return fixed
        if callable(scale := getattr(cluster, "scale", None)):
            scale(request.workers)
        return request.workers

    def adapting(self, request: Request) -> dict[str, Any]:
        """More arguments for the cluster's `adapt`."""
        return {}

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        """What is asked for, for a person: `"4 jobs of 8 cores, 16 GiB, 2:00:00"`."""
        return f"{many(request.workers, 'worker')} of {many(request.threads, 'core')}, {size(request.memory)}"

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        """The job script or the manifest, without starting anything; "" if the class has none."""
        return ""

    def security(self, cluster: Any) -> dict[str, Any] | None:
        """Arguments of `distributed.Security` for a client: from the file, or made by the cluster itself."""
        given = getattr(cluster, "security", None)
        names = ("tls_ca_file", "tls_client_cert", "tls_client_key", "require_encryption")
        found = {name: value for name in names if (value := getattr(given, name, None)) is not None}
        return found if any(found.values()) else None

    def queue(self, cluster: Any, request: Request) -> dict[str, Any] | None:
        """What the queue says of the jobs; None if it cannot be asked.

        `running` and `pending` are numbers. `reasons` are those of pending jobs, `hopeless` whether they stay. `ended`
        are the ends of jobs, `log` is the last line that a job wrote.
        """
        return None

    def renew(self, cluster: Any, request: Request) -> bool:
        """Ask for workers in the place of those whose time was over. Returns whether it did."""
        return False

    def fix(self, cluster: Any, request: Request) -> None:
        """Stop `adapt`, which would retire the workers of ranks, and ask for as many workers as it may have."""
        if request.adapt is not None and callable(scale := getattr(cluster, "scale", None)):
            if (adaptive := getattr(cluster, "_adaptive", None)) is not None:
                adaptive.stop()
            scale(int(request.adapt.get("maximum", request.workers)))

    def cancel_command(self, request: Request) -> list[str]:
        """A command that ends everything that the request started, even if its process was killed. [] for none."""
        return []

    def cancel(self, cluster: Any, request: Request) -> None:
        """End jobs before the cluster is closed, because closing may wait for workers."""

    def explain(self, error: BaseException) -> str:
        """An error of the class as a clause for a person."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[-1].rstrip(".") if lines else type(error).__name__


def known(factory: Any, offered: Mapping[str, Any]) -> dict[str, Any]:
    """The offered arguments that a class or function of a cluster knows by name.

    A class that also takes `**more` may pass it to its base class, so the arguments of the base classes count too. What
    a function does with `**more` is not known. LocalCluster passes it to its workers, which know `memory_limit`.
    """
    names, _ = _signature(factory)
    if inspect.isclass(factory) and issubclass(factory, LocalCluster):
        names.add("memory_limit")
    elif "security" in names:
        names.remove("security")  # True means temporary certificates to LocalCluster; to other classes it may not
    return {name: value for name, value in offered.items() if name in names}


def names_of(factory: Any) -> set[str] | None:
    """The names of all arguments of a class or function. None if its signature does not name all of them."""
    names, complete = _signature(factory)
    return names if complete else None


def _all_names(factory: Any) -> set[str] | None:
    """The names of all arguments. None if it passes others on, as `LocalCluster` does to its workers."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else {p.name for p in parameters}


def own_names(factory: Any) -> set[str]:
    """The named arguments of a function, or of one class without those of its base classes."""
    if inspect.isclass(factory) and ("__init__" not in vars(factory) or factory is object):
        return set()
    parameters = inspect.signature(factory).parameters.values()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _signature(factory: Any) -> tuple[set[str], bool]:
    """The named arguments, and whether these are all."""
    names: set[str] = set()
    for one in factory.__mro__[:-1] if inspect.isclass(factory) else (factory,):
        if inspect.isclass(one) and "__init__" not in vars(one):
            continue
        try:
            parameters = inspect.signature(one).parameters.values()
        except (TypeError, ValueError):  # a built-in class has no signature
            return names, False
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names, True
    return names, False


def refuse_no_cluster(factory: Any) -> None:
    """Refuse what is surely no class of a cluster, and no function that makes one.

    Raises:
        Refused: with the reason.
    """
    if not callable(factory):
        raise Refused(f"it names a {type(factory).__name__}, but it must name the class of a cluster")
    if inspect.isclass(factory) and not any(hasattr(factory, name) for name in _OF_CLUSTERS):
        raise Refused(f"{factory.__name__} is not the class of a cluster")


_OF_CLUSTERS = ("scheduler_address", "scheduler", "scale", "close")
"""A class of a cluster has one of these names at the least."""


def refuse_missing(arguments: Mapping[str, Any], factory: Any) -> None:
    """Refuse a call in which an argument is missing.

    Raises:
        Refused: it names the argument.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a built-in function without a signature
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if missing := [name for name in needed if name not in arguments]:
        name = getattr(factory, "__name__", factory)
        raise Refused(f"{name} needs the argument {missing[0]!r}, which the file does not give")


def refuse_unknown(arguments: Iterable[str], names: set[str] | None, factory: Any) -> None:
    """Refuse an argument that a class does not have.

    Raises:
        Refused: it names the argument, and one that is similar.
    """
    unknown = sorted(set(arguments) - names) if names is not None else []
    if unknown and names is not None:
        near = difflib.get_close_matches(unknown[0], names, 1)
        raise Refused(
            f"{getattr(factory, '__name__', factory)} has no argument {unknown[0]!r}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
        )
