"""A driver in a process of its own: `driver.py local|dask|ADDRESS JOB`. Prints events; exit code 130 after Ctrl-C."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from daskt2i.deploy.child_processes import block_sigint
from daskt2i.events import LaunchEvent
from daskt2i.launch.dask_ranks import DaskRankSpawner
from daskt2i.launch.launcher import LocalRankSpawner, launch


def main() -> None:
    kind, job = sys.argv[1], json.loads(sys.argv[2])

    def show(event: LaunchEvent) -> None:
        print(json.dumps({"kind": event.kind, **event.fields}), flush=True)

    def go(spawner: Any) -> None:
        env = {name: os.environ[name] for name in ("PYTHONPATH", "LAUNCHED_BY")}
        launch("rank_modules.ddp", job, spawner, 2, 1, show, env=env)

    try:
        if kind == "local":
            go(LocalRankSpawner(2))
            return
        from distributed import Client, LocalCluster

        if kind != "dask":
            with Client(kind) as client:
                go(DaskRankSpawner(client))
            return
        with block_sigint():
            cluster = LocalCluster(
                2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
            )
        with cluster, Client(cluster) as client:
            go(DaskRankSpawner(client))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
