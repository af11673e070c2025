"""Muon: momentum whose matrices are made orthogonal, for the weights inside a network; AdamW for all others.

Covers: which weights are such matrices, the step, sharing its work among ranks.
Does not cover: rates over time, clipping, gradients (`train_state`).

K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; sizes of steps after J. Liu et al. 2025,
arXiv:2502.16982, 2.2: with them AdamW's learning rate and weight decay suit both. torch.optim.Muon (from 2.9 on) takes
no convolutions, and does not share its work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration: singular values come to 0.7 to 1.2, small ones grow 3.4 times a round."""

ROUNDS, WIDE, WIDE_ROUNDS = 3, 512, 5
"""Three are three fifths of the work: singular values above 0.02 arrive, and the demo learns so. The values of a random
matrix with n rows and norm 1 lie around n^-1/2, so from `WIDE` rows and columns on it is five, as its author takes."""

BUCKET = 32_000_000
"""Updates that are held at once, and sent to the other ranks together."""

LIKE_ADAMW = 0.2
"""Root mean square of AdamW's updates, seen by Liu et al."""

SMALLEST = 16
"""Rows and columns that a matrix must have: fewer directions are not worth the work."""

_OUTER = {"conv_in", "conv_out"}


def inner_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights between two layers of features, convolutions included; and all others.

    The first and the last layer, biases, norms and embeddings are others, as its author advises.
    """
    from torch import nn

    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        sides = (weight.shape[0], weight[0].numel()) if weight.ndim >= 2 else (0, 0)
        inner = min(sides) >= SMALLEST and id(weight) not in tables and _OUTER.isdisjoint(name.split("."))
        (matrices if inner else others).append(weight)
    return matrices, others


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly the closest matrix with orthonormal rows or columns, whichever are fewer: `float32[rows, columns]`."""
    import torch

    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(WIDE_ROUNDS if len(x) >= WIDE else ROUNDS):
        gram = x @ x.mT
        x = torch.addmm(a * x, torch.addmm(b * gram, gram, gram, alpha=c), x)
    return x.mT if tall else x


def muon(
    matrices: Sequence[nn.Parameter], lr: float, weight_decay: float, ranks: int = 1, rank: int = 0
) -> torch.optim.Optimizer:
    """Muon for matrices; a convolution's weight counts as `[outputs, inputs x height x width]`.

    Args:
        ranks, rank: who shares the work: each rank makes some updates orthogonal and sends them to all, so that all
            have the same bits, and those of one rank alone. Gradients must be the same on all.
    """
    import torch

    buckets = list(_buckets(matrices))
    mine = {id(weight) for bucket in buckets for weight in _dealt(bucket, ranks)[rank]}

    class Muon(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
            (group,) = self.param_groups
            for bucket in buckets:
                learned = [(weight, weight.grad) for weight in bucket if weight.grad is not None]
                if not learned:
                    continue
                sizes = [weight.numel() for weight, _ in learned]
                updates = bucket[0].new_zeros(sum(sizes))
                parts = updates.split(sizes)
                for (weight, gradient), part in zip(learned, parts, strict=True):
                    state = self.state[weight]
                    if not state:
                        state["momentum"] = torch.zeros_like(weight)
                    state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                    if id(weight) in mine:
                        ahead = gradient.lerp(state["momentum"], MOMENTUM)
                        part.copy_(orthogonal(ahead.reshape(weight.shape[0], -1)).flatten())
                if ranks > 1:
                    torch.distributed.all_reduce(updates)  # the others' parts are zeros
                for (weight, _), part in zip(learned, parts, strict=True):
                    size = LIKE_ADAMW * math.sqrt(max(weight.shape[0], weight[0].numel()))
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(part.reshape(weight.shape), alpha=-group["lr"] * size)

    return Muon(matrices, {"lr": lr, "weight_decay": weight_decay})


def _buckets(matrices: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The matrices in their order, as many together as `BUCKET` holds, one at least."""
    bucket: list[nn.Parameter] = []
    for weight in matrices:
        if bucket and sum(other.numel() for other in bucket) + weight.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(weight)
    yield bucket


def _dealt(matrices: Iterable[nn.Parameter], ranks: int) -> list[list[nn.Parameter]]:
    """The matrices of each rank, so that all have about as much to multiply."""
    shares: list[list[nn.Parameter]] = [[] for _ in range(ranks)]
    work = [0] * ranks

    def cost(weight: nn.Parameter) -> int:
        rows, columns = sorted((weight.shape[0], weight[0].numel()))
        return rows * rows * (rows + 2 * columns)

    for weight in sorted(matrices, key=cost, reverse=True):
        least = work.index(min(work))
        shares[least].append(weight)
        work[least] += cost(weight)
    return shares
