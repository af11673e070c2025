"""Which class of a cluster is of which kind.

Covers: the kind by the path of a class, before it is imported, and by the class itself with its base classes.
Does not cover: the kinds.
"""

from __future__ import annotations

import inspect
from typing import Any

from daskt2i.deploy.kinds.jobqueue import Jobqueue, Pbs, Sge
from daskt2i.deploy.kinds.kind import Kind
from daskt2i.deploy.kinds.kubernetes import Kubernetes
from daskt2i.deploy.kinds.local import Local
from daskt2i.deploy.kinds.slurm import Slurm
from daskt2i.deploy.kinds.small import Cuda, Gateway
from daskt2i.deploy.kinds.ssh import Ssh

_BY_NAME: dict[str, type[Kind]] = {
    "SLURMCluster": Slurm,
    "PBSCluster": Pbs,
    "SGECluster": Sge,
    "SSHCluster": Ssh,
    "KubeCluster": Kubernetes,
    "LocalCUDACluster": Cuda,
    "GatewayCluster": Gateway,
    "LocalCluster": Local,
}
_BY_PACKAGE = {"dask_jobqueue": Jobqueue}


def kind_by_path(path: str) -> Kind:
    """The kind of a class by its dotted path. Nothing is imported.

    A class of your own has the kind of its base class, which is known only to `kind_of`.
    """
    package, name = path.partition(".")[0], path.rpartition(".")[2]
    return _BY_NAME.get(name, _BY_PACKAGE.get(package, Kind))()


def kind_of(factory: Any) -> Kind:
    """The kind of a class, or of a function that makes a cluster."""
    for one in factory.__mro__ if inspect.isclass(factory) else (factory,):
        name, package = getattr(one, "__name__", ""), str(getattr(one, "__module__", "")).partition(".")[0]
        if (found := _BY_NAME.get(name) or _BY_PACKAGE.get(package)) is not None:
            return found()
    return Kind()
