"""The loss on held-out rows over all ranks, and its other figures.

Covers: sums over ranks, means, names of the figures.
Does not cover: the rows and their loss (`task.TrainTask.heldout`), when it is computed (`loop`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from daskt2i.launch.process_group import ProcessGroup
from daskt2i.train.task import TrainTask

if TYPE_CHECKING:
    from torch import nn


def heldout_figures(task: TrainTask, model: nn.Module, group: ProcessGroup) -> dict[str, float]:
    """Mean figures of the held-out rows of all ranks, `heldout_loss` first; empty if no row could be held out.

    A loss of 0 would look like a very good one, so without rows there is none.
    """
    import torch

    total, count, sums = task.heldout(model)
    pairs: dict[str, tuple[float, float]] = {"loss": (total, count)}
    pairs |= {name: found if isinstance(found, tuple) else (found, count) for name, found in sorted(sums.items())}
    table = group.sum(torch.tensor(list(pairs.values())).double())
    return _means(dict(zip(pairs, table.tolist(), strict=True)))


def _means(sums: Mapping[str, list[float]]) -> dict[str, float]:
    return {f"heldout_{name}": total / count for name, (total, count) in sums.items() if count}
