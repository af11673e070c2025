"""Where ranks run: on which machines, network interfaces and GPUs.

Covers: which rank goes to which worker and GPU, the GPUs and interfaces of this machine.
Does not cover: starting a rank (`supervisor`), finding the workers (`dask_ranks`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from daskt2i.errors import PlanError
from daskt2i.machine.machine import this_machine


@dataclass(frozen=True, slots=True)
class WorkerNode:
    """Where one rank can run.

    Attributes:
        address: address of the Dask worker, or any other unique name.
        host: address of the machine, as the other ranks reach it.
        gpus: names for CUDA_VISIBLE_DEVICES; workers of one host may share them.
        cores: number of cores of the worker.
        ident: an identity that changes when the worker is restarted at the same address.
        memory: bytes that a rank may use there; 0 if no limit is known.
    """

    address: str
    host: str
    gpus: tuple[str, ...] = ()
    cores: int = 1
    ident: str = ""
    memory: int = 0


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """One rank on its worker.

    Attributes:
        cuda: the one GPU of this rank; "" hides all GPUs; None if the worker has no GPU.
        backend: backend of torch.distributed, the same for all ranks: `nccl` if each has its own GPU, else `gloo`.
    """

    node: WorkerNode
    rank: int
    world: int
    local_rank: int
    local_world: int
    cuda: str | None
    backend: str


def interface_of(address: str) -> str:
    """The network interface that has this address, e.g. `eth0`, or `lo` for a loopback address; "" if none has it.

    Args:
        address: IPv4, IPv6 or a host name.
    """
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        try:
            wanted = ipaddress.ip_address(socket.gethostbyname(address))
        except (OSError, ValueError):
            return ""
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            with contextlib.suppress(ValueError):  # a hardware address
                found = ipaddress.ip_address(entry.address.partition("%")[0])
                # Debian gives a machine's own name the address 127.0.1.1, which no interface has.
                if found == wanted or (found.is_loopback and wanted.is_loopback and found.version == wanted.version):
                    return name
    return ""


def visible_gpus() -> tuple[str, ...]:
    """Names that CUDA_VISIBLE_DEVICES may have for child processes of this process."""
    count, visible = this_machine().gpus, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if visible is None else (name.strip() for name in visible.split(","))
    return tuple(name for name in names if name not in ("", "-1"))[:count]


def arrange(nodes: Sequence[WorkerNode], ranks: int, use_gpus: bool = True, need: int = 0) -> list[RankPlacement]:
    """Choose a worker for each rank: use few hosts, prefer hosts with GPUs, and number the ranks of a host in a row.

    Workers with too little memory come last, and only if there are no others.

    Each rank gets one GPU of its host. If one rank would have no GPU, all ranks use the CPU: ranks work in step, so all
    would be as slow as the one on a CPU.

    Args:
        ranks: from 1 to the number of workers.
        use_gpus: False hides all GPUs.
        need: bytes of memory of a rank; 0 if it is not known.

    Raises:
        PlanError: there are more ranks than workers.
    """
    if not 1 <= ranks <= len(nodes):
        raise PlanError(
            f"{ranks} ranks need {ranks} workers, but there are {len(nodes)}. Nothing was started. Use fewer ranks, or "
            "start more workers."
        )
    enough = [node for node in nodes if not node.memory or node.memory >= need]
    nodes = enough if len(enough) >= ranks else nodes
    counts = Counter(node.host for node in nodes)
    gpus = {host: len({gpu for p in nodes if p.host == host for gpu in p.gpus}) * use_gpus for host in counts}
    chosen = sorted(nodes, key=lambda p: (-min(gpus[p.host], counts[p.host]), -counts[p.host], p.host))[:ranks]
    taken: set[tuple[str, str]] = set()
    cuda: list[str | None] = []
    for node in chosen:
        own = next((gpu for gpu in node.gpus if (node.host, gpu) not in taken), None)
        cuda.append(own)
        taken.add((node.host, str(own)))
    each = use_gpus and None not in cuda
    local: Counter[str] = Counter()
    placements = []
    for rank, node in enumerate(chosen):
        placements.append(
            RankPlacement(
                node=node,
                rank=rank,
                world=ranks,
                local_rank=local[node.host],
                local_world=sum(p.host == node.host for p in chosen),
                cuda=cuda[rank] if each else ("" if node.gpus else None),
                backend="nccl" if each else "gloo",
            )
        )
        local[node.host] += 1
    return placements
