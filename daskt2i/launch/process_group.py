"""Communication between the ranks of a run: broadcast of one value, sums over all ranks.

Covers: the process group from its start to its end, the device of tensors for `nccl` and `gloo`.
Does not cover: the mean of gradients (DDP, in `train.optimisation`), rank numbers and the rendezvous (`rank`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from daskt2i.launch.rank import Rank

if TYPE_CHECKING:
    from torch import Tensor

GROUP_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others while rank 0 draws or finishes. The launcher notices a dead rank much sooner."""


@contextmanager
def joined(me: Rank) -> Iterator[ProcessGroup]:
    """Join the process group with the other ranks, if there are any. Call it on every rank."""
    from torch import distributed

    if me.world > 1:
        distributed.init_process_group(os.environ.get("DASKT2I_BACKEND", "gloo"), timeout=GROUP_TIMEOUT)
    yield ProcessGroup(me.world)
    # Not in a `finally`: after an error nccl would wait for ranks that are gone, and this process ends anyway.
    if me.world > 1:
        distributed.destroy_process_group()


class ProcessGroup:
    """All ranks of a run. Call each method on all ranks, in the same order."""

    def __init__(self, world: int) -> None:
        self.world = world

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on all ranks. It is a JSON value.

        It is not pickled, as `broadcast_object_list` of torch does: the connections of gloo have no authentication, and
        a pickle from a stranger would run code.
        """
        if self.world == 1:
            return value
        import torch
        from torch import distributed

        place, text = self._place(), bytearray(json.dumps(value).encode())
        size = torch.tensor([len(text)], dtype=torch.int64, device=place)
        distributed.broadcast(size, src=0)
        if distributed.get_rank() == 0:
            box = torch.frombuffer(text, dtype=torch.uint8).to(place)
        else:
            box = torch.empty(int(size), dtype=torch.uint8, device=place)
        distributed.broadcast(box, src=0)
        return json.loads(bytes(box.cpu().numpy()))

    def sum(self, table: Tensor) -> Tensor:
        """Sum a table over all ranks; in float32 if there are several."""
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
