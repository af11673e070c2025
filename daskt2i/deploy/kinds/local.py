"""`distributed.LocalCluster`: workers on this machine.

Covers: refusing arguments with which it cannot start, before it starts.
Does not cover: what it has in common with all kinds (`kind`), classes that are derived from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from distributed import LocalCluster, Nanny, Worker
from distributed.worker_memory import parse_memory_limit

from daskt2i import documents
from daskt2i.deploy.kinds.kind import Kind, own_names, refuse_unknown
from daskt2i.deploy.kinds.request import Refused, Request


class Local(Kind):
    """It passes arguments that it does not know to its workers, so they know more names."""

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        super().check(factory, arguments)
        if factory is LocalCluster:
            family = {one for each in (LocalCluster, Nanny, Worker) for one in each.__mro__}
            refuse_unknown(arguments, set().union(*map(own_names, family)), factory)
            try:
                parse_memory_limit(arguments.get("memory_limit"), 1, 1, logger=logging.getLogger(__name__))
            except (ValueError, TypeError, AttributeError):
                given = documents.shown(arguments["memory_limit"])
                raise Refused(f"memory_limit is {given}, which is no size of memory such as '4 GiB'") from None

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        """It has no script. Making it without starting it finds values that it refuses."""

        async def make() -> None:
            cluster = factory(**arguments, asynchronous=True)  # such a cluster starts only when it is awaited
            await cluster.close()

        if factory is LocalCluster:
            asyncio.run(make())
        return ""
