"""Muon: an optimiser that makes the momentum of inner weight matrices orthogonal. All other weights use AdamW.

Covers: the choice of matrices, the step, sharing its work among ranks.
Does not cover: the learning rate schedule, clipping, gradients (`train_state`).

Source: K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon. The step sizes come from J. Liu et al. 2025,
arXiv:2502.16982, 2.2: with them AdamW's learning rate and weight decay fit both optimisers. torch.optim.Muon (from 2.9
on) does not support convolutions, and does not share its work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from daskt2i.train.optimisation.replicas import AllHeld

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from daskt2i.train.optimisation.shards import Shards

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic Newton-Schulz iteration. It brings singular values to 0.7 to 1.2; small ones grow 3.4
times in each round."""

ROUNDS, WIDE, WIDE_ROUNDS = 3, 512, 5
"""Three rounds are three fifths of the work of five. They are enough for singular values above 0.02, and for the demo.
The singular values of a random matrix with n rows and norm 1 are about n^-1/2. So a matrix with `WIDE` rows and columns
or more gets five rounds, as in the author's code."""

BUCKET = 32_000_000
"""Number of updates that are held at once and sent to the other ranks together."""

LIKE_ADAMW = 0.2
"""Root mean square of AdamW's updates, measured by Liu et al."""

SMALLEST = 16
"""Minimum number of rows and of columns of a matrix: for fewer the method is not worth its cost."""

_OUTER = {"conv_in", "conv_out"}


def inner_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weight matrices of inner layers, including convolutions; and all other trainable weights.

    The first and the last layer, biases, norms and embeddings belong to the others, as the author of Muon advises.
    """
    from torch import nn

    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        sides = (weight.shape[0], weight.numel() // weight.shape[0]) if weight.ndim >= 2 else (0, 0)
        inner = min(sides) >= SMALLEST and id(weight) not in tables and _OUTER.isdisjoint(name.split("."))
        (matrices if inner else others).append(weight)
    return matrices, others


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximately the closest matrix with orthonormal rows (or columns, if these are fewer): `float32[r, c]`."""
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
    matrices: Sequence[nn.Parameter],
    lr: float,
    weight_decay: float,
    ranks: int = 1,
    rank: int = 0,
    layout: AllHeld | Shards | None = None,
) -> torch.optim.Optimizer:
    """Muon for matrices. A convolution's weight is treated as `[outputs, inputs x height x width]`.

    Args:
        matrices: what this rank holds of each.
        layout: how to get whole matrices from that; None: they are whole.
        ranks, rank: number of ranks that share the work, and this rank. Each rank makes some updates orthogonal and
            sends them to all ranks. So all ranks have the same bits as one rank alone. Gradients must be equal on all.
    """
    import torch

    where = layout or AllHeld()
    shapes = {id(weight): where.shape(weight) for weight in matrices}
    buckets = list(_buckets(matrices, shapes))
    mine = {id(weight) for bucket in buckets for weight in _dealt(bucket, ranks, shapes)[rank]}

    class Muon(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
            (group,) = self.param_groups
            for bucket in buckets:
                learned = [(weight, weight.grad) for weight in bucket if weight.grad is not None]
                if not learned:
                    continue
                sizes = [math.prod(shapes[id(weight)]) for weight, _ in learned]
                updates = bucket[0].new_zeros(sum(sizes))
                parts = updates.split(sizes)
                for (weight, gradient), part in zip(learned, parts, strict=True):
                    state = self.state[weight]
                    if not state:
                        state["momentum"] = torch.zeros_like(weight)
                    state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                    if id(weight) in mine or where.spread:
                        ahead = where.whole(gradient.lerp(state["momentum"], MOMENTUM), weight)
                    if id(weight) in mine:
                        part.copy_(orthogonal(ahead.reshape(len(ahead), -1)).flatten())
                if ranks > 1:
                    torch.distributed.all_reduce(updates)  # each rank has zeros in the parts of other ranks
                for (weight, _), part in zip(learned, parts, strict=True):
                    shape = shapes[id(weight)]
                    size = LIKE_ADAMW * math.sqrt(max(shape[0], math.prod(shape[1:])))
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(where.own(part.reshape(shape), weight), alpha=-group["lr"] * size)

    return Muon(matrices, {"lr": lr, "weight_decay": weight_decay})


Shapes = Mapping[int, tuple[int, ...]]
"""`id` of what is held of a weight -> shape of the whole."""


def _buckets(matrices: Iterable[nn.Parameter], shapes: Shapes) -> Iterator[list[nn.Parameter]]:
    """Groups of matrices in their order, each with at most `BUCKET` elements, or with one matrix."""
    bucket: list[nn.Parameter] = []
    total = 0
    for weight in matrices:
        size = math.prod(shapes[id(weight)])
        if bucket and total + size > BUCKET:
            yield bucket
            bucket, total = [], 0
        bucket.append(weight)
        total += size
    yield bucket


def _dealt(matrices: Iterable[nn.Parameter], ranks: int, shapes: Shapes) -> list[list[nn.Parameter]]:
    """Share the matrices among ranks, so that all ranks have about the same work."""
    shares: list[list[nn.Parameter]] = [[] for _ in range(ranks)]
    work = [0] * ranks

    def cost(weight: nn.Parameter) -> int:
        first, *others = shapes[id(weight)]
        rows, columns = sorted((first, math.prod(others)))
        return rows * rows * (rows + 2 * columns)

    for weight in sorted(matrices, key=cost, reverse=True):
        least = work.index(min(work))
        shares[least].append(weight)
        work[least] += cost(weight)
    return shares
