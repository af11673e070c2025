"""Waiting for the workers of a job before its command starts: a training counts them once, at its start.

Covers: how long to wait, and what to say if some are missing.
Does not cover: workers that join later; encode gives them chunks (`executors.dask`).
"""

from __future__ import annotations

from time import monotonic, sleep

from daskt2i.deploy.connect import attach
from daskt2i.deploy.workers import workers_of
from daskt2i.errors import SchedulerError

ALL_SECONDS = 120.0
"""How long to wait for all workers. Python starts slowly from a shared disk that many nodes read at once."""

FIRST_SECONDS = 300.0
"""How long to wait for the first."""

_PERIOD = 0.25


def wait_for_workers(address: str, wanted: int, all_seconds: float = ALL_SECONDS) -> int:
    """Wait until all workers of a job have joined, or some of them and `all_seconds` are over.

    Returns:
        the number of workers that are there.

    Raises:
        SchedulerError: no worker came.
    """
    begun = monotonic()
    connection = attach(address, 1)
    try:
        while True:
            there, waited = len(workers_of(connection.client)), monotonic() - begun
            if there >= wanted or (there and waited > all_seconds):
                return there
            if waited > max(all_seconds, FIRST_SECONDS):
                raise SchedulerError(
                    f"No worker has joined the job within {waited / 60:.0f} minutes, so nothing was done. The lines "
                    "above say why; submit the script again when that is mended."
                )
            sleep(_PERIOD)
    except (OSError, TimeoutError) as error:
        raise SchedulerError(
            f"The scheduler of the job at {address} is gone ({error}), so nothing was done. Submit the script again."
        ) from error
    finally:
        connection.close()
