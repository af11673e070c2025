"""How fast other clusters encode on the cores of local workers: the same rows on each of them, in turn, in one run.

    python benchmarks/cluster_speed.py slurm my-hosts.yaml [--rows 512] [--rounds 3] [--workers 2] [--workflow demo]

All clusters are started first, with the same number of workers of one thread each, and TLS. Each encodes a few rows to
load the models. Then each encodes all rows once in a round. The ratio is the rate of a cluster divided by the rate of
the local workers of the same round. The workers of the other clusters must run on this machine.

Other work on the machine changes the rate, and hardly the processor time. So both are told. `cpu_ratio` is the
processor time of the local cluster (workers, scheduler, driver) divided by that of the other one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed import Client

import daskt2i
from daskt2i.deploy.cluster_file import ClusterFile

LOCAL = "local"


def rate(client: Client, folder: Path, workflow: str, rows: int) -> float:
    """Images per second of one encode."""
    with daskt2i.Run(workflow, folder, client=client, settings={"scenes.rows": rows}, progress=False) as run:
        return run.encode().images_per_second


def cpu_seconds(client: Client) -> float:
    """Processor time that the workers, the scheduler and this process have used so far, seconds."""
    used = client.run(_used)
    used["scheduler"] = client.run_on_scheduler(_used)
    used["driver"] = _used()
    return sum(dict(used.values()).values())  # a scheduler may live in the process of the driver


def _used() -> tuple[int, float]:
    return os.getpid(), time.process_time()


def tell(**found: Any) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clusters", nargs="+", metavar="CLUSTER", help="names or paths of cluster files")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--memory", type=int, default=4 << 30, help="bytes of each worker")
    parser.add_argument("--workflow", default="demo")
    asked = parser.parse_args()
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in asked.clusters}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=".")))
        clients: dict[str, Client] = {}
        for name in (LOCAL, *asked.clusters):
            connection = ClusterFile.read(name).start(asked.workers, 1, asked.memory)
            stack.callback(connection.close)
            connection.gather(asked.workers)
            clients[name] = connection.client
            rate(connection.client, folder / f"warm-{Path(name).stem}", asked.workflow, 128)
        for number in range(asked.rounds):
            rates, costs = {}, {}
            for name, client in clients.items():
                before = cpu_seconds(client)
                rates[name] = rate(client, folder / f"{number}-{Path(name).stem}", asked.workflow, asked.rows)
                costs[name] = cpu_seconds(client) - before
            for name, found in ratios.items():
                found.append((rates[name] / rates[LOCAL], costs[LOCAL] / costs[name]))
            tell(
                images_per_second={name: round(value, 2) for name, value in rates.items()},
                cpu_seconds={name: round(value, 2) for name, value in costs.items()},
            )
    for name, found in ratios.items():
        by_clock, by_cpu = (round(statistics.median(values), 3) for values in zip(*found, strict=True))
        tell(cluster=name, ratio=by_clock, cpu_ratio=by_cpu, rounds=len(found))


if __name__ == "__main__":
    main()
