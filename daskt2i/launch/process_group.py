"""The ranks of a run, talking to each other: one value for all, sums over all.

Covers: the process group from its start to its end, where tensors must be for `nccl` or `gloo`.
Does not cover: the mean of gradients (DDP, in `train.train_state`), who the ranks are and where they meet (`rank`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daskt2i.launch.rank import Rank

if TYPE_CHECKING:
    from torch import Tensor

GROUP_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others, rank 0 drawing or finishing; the launcher notices a dead one long before."""


@contextmanager
def joined(me: Rank) -> Iterator[ProcessGroup]:
    """Meet the other ranks, if there are any. Call it on every rank."""
    from torch import distributed

    if me.world > 1:
        distributed.init_process_group(os.environ.get("DASKT2I_BACKEND", "gloo"), timeout=GROUP_TIMEOUT)
    yield ProcessGroup(me.world)
    # Not after an error: nccl would wait for ranks that are gone, and this process ends anyway.
    if me.world > 1:
        distributed.destroy_process_group()


class ProcessGroup:
    """All ranks of a run. Every method is called on all of them, in the same order."""

    def __init__(self, world: int) -> None:
        self.world = world

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        from torch import distributed

        box = [value]
        if self.world > 1:
            distributed.broadcast_object_list(box, src=0, device=self._place())
        return box[0]

    def sum(self, table: Tensor) -> Tensor:
        """Over all ranks; in float32 where there are several."""
        from torch import distributed

        if self.world > 1:
            table = table.float().to(self._place())  # nccl and some GPUs have no float64
            distributed.all_reduce(table)
        return table

    @staticmethod
    def _place() -> Any:
        import torch
        from torch import distributed

        return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
