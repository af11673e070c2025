"""Every rank holds the whole model, and the ranks exchange gradients (DDP), or there is one rank.

Covers: the model that learns, the exchange and its time, the norm of the gradient, tensors for a checkpoint.
Does not cover: weights that are spread over the ranks (`shards`, with the same methods), a step (`train_state`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class AllHeld:
    """Weights that every rank holds whole. `shards.Shards` has the same methods for parts."""

    spread = False
    """Whether a rank holds only a part of each weight, so that all ranks must take part in using the whole."""

    def shape(self, weight: nn.Parameter) -> tuple[int, ...]:
        """Shape of a whole weight."""
        return tuple(weight.shape)

    def whole(self, value: Tensor, weight: nn.Parameter) -> Tensor:
        """A whole tensor from what the ranks hold of it. Every rank calls it, in the same order."""
        return value

    def own(self, value: Tensor, weight: nn.Parameter) -> Tensor:
        """What this rank holds of a whole tensor that belongs to a weight."""
        return value

    def kept(self, value: Tensor, weight: nn.Parameter) -> Any:
        """A tensor that belongs to a weight, for a checkpoint."""
        return value


class Replicas(AllHeld):
    """A model of which every rank holds all weights.

    Args:
        model: on its device, the same on every rank.
        world: number of ranks; if it is more than one, the process group must exist.
        compiled: whether `torch.compile` makes the model faster.
        measured: whether the exchange of gradients is timed.

    Attributes:
        wrapped: the model for training. Its gradients are the mean over all ranks.
        sent: when the last gradients were sent, if that is measured; else None.
    """

    def __init__(self, model: nn.Module, world: int, compiled: bool = False, measured: bool = False) -> None:
        import torch

        self.model = model
        self.wrapped: Any = torch.compile(model) if compiled else model
        self.sent: float | None = None
        self._distributed = world > 1
        if self._distributed:
            self.wrapped = torch.nn.parallel.DistributedDataParallel(self.wrapped, gradient_as_bucket_view=True)
            if measured:
                self.sent = 0.0
                self.wrapped.register_comm_hook(None, lambda state, bucket: self._send(bucket))

    def _send(self, bucket: Any) -> Any:
        """Exchange a bucket of gradients as DDP does, and record the time. DDP sends the last bucket at the end."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        self.sent = perf_counter()
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    def held(self, weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """What this rank holds of some weights, for the optimiser."""
        return list(weights)

    def one_part(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """A context for a part of a batch: the ranks exchange their gradients once, with the last part."""
        return contextlib.nullcontext() if last or not self._distributed else self.wrapped.no_sync()

    def clear(self) -> None:
        """Forget gradients. Those of what the optimiser holds are forgotten by it."""

    def norm(self, held: Sequence[nn.Parameter], most: float | None) -> Tensor:
        """Norm of the gradient over all weights. Larger gradients are scaled to `most`; None or 0 for no limit."""
        import torch

        return torch.nn.utils.clip_grad_norm_(held, most or math.inf)

    def state(self) -> Mapping[str, Any]:
        """The model's weights and buffers, for a checkpoint."""
        return self.model.state_dict()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set weights and buffers to those of a checkpoint.

        Raises:
            RuntimeError: they belong to another model.
        """
        self.model.load_state_dict(state)

    @contextlib.contextmanager
    def on_first(self, rank: int) -> Iterator[nn.Module | None]:
        """The whole model on rank 0, None on the others. Every rank calls it if weights are spread."""
        yield self.model if rank == 0 else None
