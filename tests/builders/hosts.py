"""Hosts that share nothing, in this process: each has its own cache folder, and does not see some paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from daskt2i.encode import model_cache
from daskt2i.encode.chunks import admission
from daskt2i.executors.serial import SerialExecutor
from daskt2i.hosts.sight import Sight
from daskt2i.protocols import ExecutorInfo


class HostsExecutor(SerialExecutor):
    """One worker on each host. Chunks go to the hosts in turn.

    Args:
        place: folder for the caches of the hosts.
        hides: host -> paths that are not there for it.

    Attributes:
        left_out: hosts that get no items.
        worked: the host of each item.
    """

    def __init__(self, place: Path, hides: Mapping[str, Sequence[Path]]) -> None:
        super().__init__()
        self.place, self.hides = place, hides
        self.left_out: frozenset[str] = frozenset()
        self.worked: list[str] = []

    def start(self) -> ExecutorInfo:
        return ExecutorInfo(workers=len(self.hides), threads=1, memory_limit=None, address="tcp://of-a-test:1")

    def ask(self, question: Callable[[], Any], seconds: float) -> Mapping[str, Any]:
        answers = {}
        for host in self.hides:
            with self.on(host):
                answer = question()
                answers[host] = replace(answer, worker=f"{host}:1") if isinstance(answer, Sight) else answer
        return answers

    def leave_out(self, workers: Collection[str]) -> ExecutorInfo:
        self.left_out = frozenset(workers)
        return replace(self.start(), workers=len(self.hides) - len(self.left_out))

    def run(self, work: Callable[[Any], Any], items: Iterable[Any], alone: bool = False) -> Iterator[tuple[Any, Any]]:
        hosts = [host for host in self.hides if host not in self.left_out]
        for item in items:
            host = hosts[len(self.worked) % len(hosts)]
            self.worked.append(host)
            with self.on(host):
                outcome = next(iter(super().run(work, [item])))
            yield outcome

    @contextmanager
    def on(self, host: str) -> Iterator[None]:
        """In the block, this process is a new one on the host."""
        away = [(path, path.with_name(f"{path.name} away")) for path in self.hides[host]]
        before = os.environ.get("XDG_CACHE_HOME")
        for path, elsewhere in away:
            path.rename(elsewhere)
        os.environ["XDG_CACHE_HOME"] = str(self.place / host)
        (self.place / host).mkdir(parents=True, exist_ok=True)
        for memory in (model_cache._held, admission._admitted, admission._seen_source):
            memory.clear()
        try:
            yield
        finally:
            model_cache._held.clear()
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before
            for path, elsewhere in away:
                elsewhere.rename(path)
