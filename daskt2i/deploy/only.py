"""Which workers of a cluster a stage uses: the settings `run.only` and `launch.only`.

Covers: all workers, those with or without a GPU, those whose name, host or address fits a pattern; none that fits.
Does not cover: workers that are avoided because they fail, or because a rank runs there (`executors.dask`).
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from time import monotonic, sleep
from typing import Any

from daskt2i.deploy.workers import ask_workers, workers_of
from daskt2i.errors import SchedulerError
from daskt2i.machine.machine import this_machine

ALL = "all"

_ASK_SECONDS = 3.0
_AGAIN_SECONDS = 30.0
"""A worker that did not say whether it has a GPU is asked again after this time."""

_LOOK_SECONDS = 0.5


class Only:
    """The workers that a stage may use.

    Args:
        text: `all`, `cpu`, `gpu`, or a pattern with `*` and `?` for the name, the host or the address of a worker.
    """

    def __init__(self, text: str = ALL) -> None:
        self.text = text
        self._gpus: dict[tuple[str, str], bool] = {}
        self._asked: dict[tuple[str, str], float] = {}

    @property
    def words(self) -> str:
        """Which workers, in words: `"with a GPU"`."""
        known = {ALL: "at all", "gpu": "with a GPU", "cpu": "without a GPU"}
        return known.get(self.text, f"whose name, host or address is like {self.text!r}")

    def of(self, client: Any, workers: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the workers that fit. It asks workers that are new whether they have a GPU.

        Args:
            workers: from `deploy.workers.workers_of`.
        """
        if self.text == ALL:
            return dict(workers)
        if self.text not in ("cpu", "gpu"):
            return {address: about for address, about in workers.items() if self._is_like(address, about)}
        self._ask(client, workers)
        wanted = self.text == "gpu"
        return {address: about for address, about in workers.items() if self._gpus.get(_key(address, about)) is wanted}

    def required(self, client: Any, seconds: float) -> dict[str, Any]:
        """The workers that fit. It waits for the first one.

        Raises:
            SchedulerError: there is none.
        """
        deadline = monotonic() + seconds
        while not (found := self.of(client, workers := workers_of(client))):
            if monotonic() > deadline:
                names = ", ".join(sorted(str(about.get("name")) for about in workers.values())[:8])
                raise SchedulerError(
                    f"The scheduler at {client.scheduler.address} has no worker {self.words}. Its workers: {names}. "
                    "Nothing was started; start such a worker, or change run.only (for encoding) or launch.only (for "
                    "training and drawing)."
                )
            sleep(_LOOK_SECONDS)
        return found

    def _is_like(self, address: str, about: Mapping[str, Any]) -> bool:
        # Without its protocol: `t*` means a name.
        place = address if "://" in self.text else address.partition("://")[2]
        return any(fnmatchcase(str(one), self.text) for one in (about.get("name"), about.get("host"), place))

    def _ask(self, client: Any, workers: Mapping[str, Any]) -> None:
        now, new = monotonic(), []
        for address, about in workers.items():
            key = _key(address, about)
            if key in self._gpus or now - self._asked.get(key, float("-inf")) < _AGAIN_SECONDS:
                continue
            self._asked[key] = now
            if about.get("resources", {}).get("GPU"):
                self._gpus[key] = True
            else:
                new.append(address)
        if new:
            for address, has in ask_workers(client, _has_gpu, new, seconds=_ASK_SECONDS).items():
                self._gpus[_key(address, workers[address])] = has


def _key(address: str, about: Mapping[str, Any]) -> tuple[str, str]:
    """A worker that is started again at the same address is another one."""
    return address, str(about.get("id"))


def _has_gpu() -> bool:
    """On a worker."""
    return bool(this_machine().gpus)
