"""Where ranks run: the machines, network interfaces and GPUs that they are given.

Covers: which rank goes to which place and on which GPU, what this machine offers.
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
        address: of the Dask worker, or any name that tells places apart.
        host: address of the machine, as the other ranks reach it.
        gpus: what CUDA_VISIBLE_DEVICES may name there; places of one host may share them.
        cores: of the worker.
        ident: changes when the worker is started again at the same address.
    """

    address: str
    host: str
    gpus: tuple[str, ...] = ()
    cores: int = 1
    ident: str = ""


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """One rank at its place.

    Attributes:
        cuda: the one GPU of this rank; "" hides those that are there; None where there is none to hide.
        backend: of torch.distributed, the same for all ranks: `nccl` where each has a GPU of its own, else `gloo`.
    """

    node: WorkerNode
    rank: int
    world: int
    local_rank: int
    local_world: int
    cuda: str | None
    backend: str


def interface_of(address: str) -> str:
    """The network interface that has this address, e.g. `eth0`, or `lo` for a loopback address; "" where none has it.

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
                # 127.0.1.1, as Debian names a machine to itself, stands at no interface.
                if found == wanted or (found.is_loopback and wanted.is_loopback and found.version == wanted.version):
                    return name
    return ""


def visible_gpus() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES may name for processes of this one."""
    count, visible = this_machine().gpus, os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if visible is None else (name.strip() for name in visible.split(","))
    return tuple(name for name in names if name not in ("", "-1"))[:count]


def arrange(nodes: Sequence[WorkerNode], ranks: int, use_gpus: bool = True) -> list[RankPlacement]:
    """Which rank goes where: on as few hosts as can be, those with GPUs first, the ranks of a host side by side.

    A host's GPUs are shared out, one to a rank. If any rank would go without, all do: ranks in step with one on a CPU
    are as slow as that one.

    Args:
        ranks: from 1 to the number of places.
        use_gpus: False hides them all.

    Raises:
        PlanError: more ranks than places.
    """
    if not 1 <= ranks <= len(nodes):
        raise PlanError(
            f"{ranks} ranks need as many workers, and there are {len(nodes)}. Nothing was started; ask for fewer "
            "ranks, or start more workers."
        )
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
