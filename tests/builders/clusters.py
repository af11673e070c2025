"""A cluster that starts nothing, for tests of the process that holds one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dask.config


class Pretended:
    """What `deploy.cluster_process` needs of a cluster.

    Args:
        folder: takes the files `started` (its process), `config` (`temporary-directory`) and `closed`.
        address: of the scheduler that is not there.
        refuse: the error of a cluster that does not start.
        given: what a file adds for each cluster, such as the number of workers.
    """

    security = None
    scheduler = None

    def __init__(self, folder: str, address: str = "tcp://127.0.0.1:9", refuse: str = "", **given: Any) -> None:
        print('{"not": "an answer"}', flush=True)
        self.folder, self.scheduler_address = Path(folder), address
        if refuse:
            raise ValueError(refuse)
        (self.folder / "started").write_text(str(os.getpid()))
        (self.folder / "config").write_text(str(dask.config.get("temporary-directory", None)))

    def close(self, timeout: float) -> None:
        (self.folder / "closed").touch()
