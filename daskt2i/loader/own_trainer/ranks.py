"""Which part of each batch this process takes.

Covers: rank and world size, as the caller gives them, from torch.distributed, or from the variables of torchrun.
Does not cover: the worker processes of a DataLoader (`torch_dataset`).
"""

from __future__ import annotations

import os

from daskt2i.errors import ConfigError


def rank_and_world(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Number of this rank, and number of all ranks.

    Args:
        rank, world_size: what the caller gave. None: ask torch.distributed if it is initialised, else RANK and
            WORLD_SIZE, else this is the only rank.

    Raises:
        ConfigError: one of the two is missing, or they contradict each other.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError(
            f"rank is {rank} and world_size is {world_size}. Nothing was read; give both or neither of them."
        )
    if rank is None or world_size is None:
        rank, world_size = _found()
    if not 0 <= rank < world_size:
        raise ConfigError(
            f"rank is {rank} and world_size is {world_size}, but ranks are numbered from 0. Nothing was read; give a "
            "rank below world_size, or check the variables RANK and WORLD_SIZE."
        )
    return rank, world_size


def _found() -> tuple[int, int]:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    try:
        return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError as error:
        raise ConfigError(
            f"The variables RANK and WORLD_SIZE are not whole numbers ({error}). Nothing was read; correct them, or "
            "give rank and world_size."
        ) from error
