"""Kubernetes through the operator of dask-kubernetes (`KubeCluster`).

Covers: image, environment, requests and limits of a pod, the manifest.
Does not cover: building the image (`clusters/kubernetes/`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from daskt2i.deploy.kinds.kind import Kind, known
from daskt2i.deploy.kinds.request import Request, variables
from daskt2i.formatting import many, size


class Kubernetes(Kind):
    """A cluster whose scheduler and workers are pods."""

    elsewhere = True
    extra = "kubernetes"
    close_seconds = 60.0

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """In terms of pods: environment, requests equal to limits, options of the worker's command."""
        amount = {"cpu": str(request.threads), "memory": f"{math.ceil(request.memory / 2**20)}Mi"}
        limit = ["--memory-limit", str(request.memory), "--nthreads", str(request.threads)]
        command = ["dask", "worker", *limit]
        own = {
            "name": request.name,
            "n_workers": request.workers,
            "env": variables(request) | dict(given.get("env") or {}),
            "resources": {"requests": amount, "limits": dict(amount)},
            "worker_command": command,
            "quiet": True,
        }
        return known(factory, own) | {k: v for k, v in given.items() if k != "env"}

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        image = arguments.get("image", "the default image")
        each = f"{many(request.threads, 'core')}, {size(request.memory)}"
        return f"{many(request.workers, 'pod')} of {each}, image {image}"

    def manifest(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What the operator gets."""
        from dask_kubernetes.operator import make_cluster_spec

        names = ("name", "image", "n_workers", "resources", "env", "worker_command", "scheduler_service_type")
        given = {name: arguments[name] for name in (*names, "idle_timeout") if name in arguments}
        made: dict[str, Any] = arguments.get("custom_cluster_spec") or make_cluster_spec(**given)
        return made

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        import yaml

        return str(yaml.safe_dump(self.manifest(arguments), sort_keys=False))

    def explain(self, error: BaseException) -> str:
        text = str(error)
        if "kubeconfig" in text.lower() or "Unable to find valid credentials" in text:
            return "no Kubernetes can be reached: there is no kubeconfig, and this is not a pod"
        return super().explain(error)
