"""Kubernetes through the operator of dask-kubernetes (`KubeCluster`).

Covers: image, environment, requests and limits of a pod, the manifest that the operator gets.
Does not cover: building the image (`clusters/kubernetes/`), TLS: `KubeCluster` connects to its scheduler without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from daskt2i.deploy.kinds.kind import Kind, refuse_unknown
from daskt2i.deploy.kinds.request import Refused, Request, variables
from daskt2i.formatting import many, size

_OF_SPEC = ("image", "env", "resources", "worker_command", "scheduler_service_type", "idle_timeout")
"""Arguments that are part of the manifest. The others are arguments of the class."""


class Kubernetes(Kind):
    """A cluster whose scheduler and workers are pods."""

    elsewhere = True
    extra = "kubernetes"
    close_seconds = 60.0

    def arguments(self, factory: Any, given: Mapping[str, Any], request: Request, stack: ExitStack) -> dict[str, Any]:
        """In terms of pods: environment, requests equal to limits, options of the worker's command."""
        if request.tls:
            raise Refused("KubeCluster has no TLS; write `tls: false` into the file, and keep others from its port")
        own = {"quiet": True, **{name: value for name, value in given.items() if name not in _OF_SPEC}}
        spec = given.get("custom_cluster_spec") or self.manifest(given, request)
        return {**own, "custom_cluster_spec": spec}

    def manifest(self, given: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """The resource `DaskCluster` for the operator."""
        from dask_kubernetes.operator import make_cluster_spec

        amount = {"cpu": str(request.threads), "memory": f"{math.ceil(request.memory / 2**20)}Mi"}
        limits = ["--nthreads", str(request.threads), "--memory-limit", str(request.memory)]
        environ = [{"name": name, "value": value} for name, value in variables(request).items()]
        more = given.get("env") or {}
        if isinstance(more, Mapping):
            more = [{"name": name, "value": str(value)} for name, value in more.items()]
        own = {
            "image": "daskt2i:latest",
            "resources": {"requests": amount, "limits": dict(amount)},
            "worker_command": ["dask", "worker", *limits],
        }
        own |= {name: given[name] for name in _OF_SPEC if name in given and name != "env"}
        spec: dict[str, Any] = make_cluster_spec(
            name=request.name, n_workers=request.workers, env=[*environ, *more], **own
        )
        scheduler, worker = spec["spec"]["scheduler"]["spec"], spec["spec"]["worker"]["spec"]
        # dask-kubernetes starts `dask-scheduler`, which distributed no longer has.
        scheduler["containers"][0]["args"] = ["dask", "scheduler", "--host", "0.0.0.0"]
        for pod in (scheduler, worker):
            pod["automountServiceAccountToken"] = False  # the pods need no right to change the Kubernetes cluster
        return spec

    def check(self, factory: Any, arguments: Mapping[str, Any]) -> None:
        """Arguments of the manifest are no longer among them."""
        import inspect

        names = {p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY}
        refuse_unknown(arguments, names, factory)

    def fill(self, cluster: Any, arguments: Mapping[str, Any], request: Request) -> int | None:
        """The manifest has the number of pods."""
        return super().fill(cluster, {"n_workers": request.workers}, request)

    def words(self, arguments: Mapping[str, Any], request: Request) -> str:
        pod = arguments["custom_cluster_spec"]["spec"]["worker"]["spec"]["containers"][0]
        each = f"{many(request.threads, 'core')}, {size(request.memory)}"
        return f"{many(request.workers, 'pod')} of {each}, image {pod['image']}"

    def preview(self, factory: Any, arguments: Mapping[str, Any], request: Request) -> str:
        """The manifest, as it is sent to the API server."""
        import yaml

        return str(yaml.safe_dump(arguments["custom_cluster_spec"], sort_keys=False))

    def explain(self, error: BaseException) -> str:
        text = str(error)
        if "kubeconfig" in text.lower() or "Unable to find valid credentials" in text:
            return "no Kubernetes can be reached: there is no kubeconfig, and this is not a pod"
        return super().explain(error)
