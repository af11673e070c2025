"""How fast other clusters encode on the cores of local workers: the same rows on each of them, in turn, in one run.

    python benchmarks/cluster_speed.py slurm my-hosts.yaml [--rows 512] [--rounds 3] [--workers 2] [--workflow demo]

All clusters are started first, with the same number of workers of one thread each, and TLS. Each encodes a few rows to
load the models. Then each encodes all rows once in a round. The ratio is the rate of a cluster divided by the rate of
the local workers of the same round. The workers of the other clusters must run on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
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
    ratios: dict[str, list[float]] = {name: [] for name in asked.clusters}
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
            rates = {
                name: rate(client, folder / f"{number}-{Path(name).stem}", asked.workflow, asked.rows)
                for name, client in clients.items()
            }
            for name, found in ratios.items():
                found.append(rates[name] / rates[LOCAL])
            tell(images_per_second={name: round(value, 2) for name, value in rates.items()})
    for name, found in ratios.items():
        tell(cluster=name, ratio=round(statistics.median(found), 3), rounds=len(found))


if __name__ == "__main__":
    main()
