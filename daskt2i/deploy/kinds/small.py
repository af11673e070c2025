"""Clusters that need little of their own: GPUs of this machine (dask-cuda), Dask Gateway.

Covers: their arguments.
Does not cover: what all kinds have in common (`kind`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from daskt2i.deploy.kinds.kind import Kind
from daskt2i.deploy.kinds.request import Request
from daskt2i.formatting import many, size


class Cuda(Kind):
    """`dask_cuda.LocalCUDACluster`: one worker for each GPU of this machine."""

    extra = "cuda"

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """torch has its own memory on the GPU, so dask-cuda neither spills from it nor makes a pool there."""
        own = {"threads_per_worker": 1, "device_memory_limit": 0, "rmm_pool_size": None}
        return own | super().arguments(factory, given, request, stack)


class Gateway(Kind):
    """`dask_gateway.GatewayCluster`: the server decides which options exist, and makes the certificates itself."""

    elsewhere = True
    extra = "gateway"
    close_seconds = 30.0

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """Options of the server are among the arguments of the file."""
        return dict(given)

    def security(self, cluster: Any) -> dict[str, Any] | None:
        """The certificate of the gateway's cluster is also the one that signs it."""
        made = getattr(cluster, "security", None)
        cert, key = getattr(made, "tls_cert", None), getattr(made, "tls_key", None)
        if not (cert and key):
            return super().security(cluster)
        return {"tls_ca_file": cert, "tls_client_cert": cert, "tls_client_key": key, "require_encryption": True}

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        """The options are those of the server, which refuses others."""

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        each = f"{many(request.threads, 'core')}, {size(request.memory)}"
        return f"{many(request.workers, 'worker')} of {each}, as the gateway allows"
