"""Every rank holds a part of each weight (FSDP2, `launch.sharding`), for models larger than a device.

Covers: which modules are gathered together, the parts that a rank holds, whole tensors from them, a checkpoint's part.
Does not cover: models that fit (`replicas`, with the same methods), a step (`train_state`).

`fully_shard` of torch cuts each weight along its first dimension, gathers a block's weights just before the block
computes, and sums gradients into the parts. Optimiser, clipping and averages here see the parts as plain tensors that
share memory with torch's: both are done element by element, so nothing else is needed, and a step costs no dispatch
of distributed tensors. Muon alone needs whole matrices (`muon`).

A checkpoint is the same file as that of a training with replicas: a tensor is gathered when it is written, one at a
time. So a training may go on with another number of ranks, and with or without shards.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_BLOCK = 1 / 8
"""A module with more than this share of the weights is gathered in smaller pieces, if it has lists of them."""


class Spread:
    """A tensor of which each rank holds a part. It has what a file needs to know before its data.

    Args:
        part: of this rank, along the first dimension.
        like: a distributed weight of the same shape.
    """

    def __init__(self, part: Tensor, like: Any) -> None:
        self.part, self._like = part, like
        self.shape, self.dtype = like.shape, part.dtype

    def numel(self) -> int:
        """Number of elements of the whole."""
        return int(self._like.numel())

    def element_size(self) -> int:
        """Bytes of an element."""
        return self.part.element_size()

    def whole(self) -> Tensor:
        """The whole tensor. Every rank calls it, in the same order."""
        from torch.distributed.tensor import DTensor

        like = self._like
        made = DTensor.from_local(
            self.part.detach(),
            like.device_mesh,
            like.placements,
            run_check=False,
            shape=like.shape,
            stride=like.stride(),
        )
        return made.full_tensor()


class Shards:
    """A model whose weights are spread over the ranks. Its methods are those of `replicas.Replicas`.

    Args:
        model: whole, the same on every rank, on the CPU or its device. Its weights become parts on the device.
        device: `cpu`, `cuda` or `cuda:N`.
        world: number of ranks.
        compiled: whether `torch.compile` makes the model faster.
    """

    spread = True

    def __init__(self, model: nn.Module, device: str, world: int, compiled: bool = False) -> None:
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # It cuts contiguous tensors only. The memory order changes rounding, and nothing else.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._empty = _without_weights(model)
        mesh = init_device_mesh(device.partition(":")[0], (world,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        # By default the rest of a model stays whole after a validation, and its weights are then other objects.
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
        self.model, self.sent = model, None
        self.wrapped: Any = torch.compile(model) if compiled else model
        self._parts: dict[int, nn.Parameter] = {}
        self._likes: dict[int, Any] = {}
        weights: Iterator[Any] = model.parameters()  # distributed tensors now
        for weight in weights:
            part = torch.nn.Parameter(weight.detach().to_local(), requires_grad=weight.requires_grad)
            self._parts[id(weight)], self._likes[id(part)] = part, weight

    def held(self, weights: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """This rank's parts, in memory that the model shares."""
        return [self._parts[id(weight)] for weight in weights]

    def one_part(self, last: bool) -> contextlib.AbstractContextManager[Any]:
        """The ranks sum the gradients of each part of a batch: kept whole, they would be as large as the model."""
        return contextlib.nullcontext()

    def clear(self) -> None:
        """Forget the gradients of the model."""
        for weight in self.model.parameters():
            weight.grad = None

    def norm(self, held: Sequence[nn.Parameter], most: float | None) -> Tensor:
        """Hand the gradients over to the parts, and clip them by the norm over all ranks, as `clip_grad_norm_`."""
        import torch

        gradients = []
        for part in held:
            gradient: Any = self._likes[id(part)].grad
            part.grad = None if gradient is None else gradient.to_local()
            if part.grad is not None:
                gradients.append(part.grad)
        norms = torch._foreach_norm(gradients) if gradients else []
        total = torch.stack([one.square() for one in norms]).sum() if norms else torch.zeros(())
        torch.distributed.all_reduce(total)
        norm = total.sqrt()
        if most:
            scale = torch.clamp(most / (norm + 1e-6), max=1.0)  # the constant is that of clip_grad_norm_
            torch._foreach_mul_(gradients, scale)
        return norm

    def shape(self, weight: nn.Parameter) -> tuple[int, ...]:
        """Shape of a whole weight, from its part."""
        return tuple(self._likes[id(weight)].shape)

    def whole(self, value: Tensor, weight: nn.Parameter) -> Tensor:
        """See `Replicas.whole`."""
        return Spread(value, self._likes[id(weight)]).whole()

    def own(self, value: Tensor, weight: nn.Parameter) -> Tensor:
        """See `Replicas.own`.

        Raises:
            ValueError: the tensor has another shape.
        """
        return _part(value, self._likes[id(weight)])

    def kept(self, value: Tensor, weight: nn.Parameter) -> Any:
        """See `Replicas.kept`."""
        return Spread(value, self._likes[id(weight)])

    def state(self) -> Mapping[str, Any]:
        """See `Replicas.state`. Buffers are whole on every rank."""
        weights = {id(weight): self._parts[id(weight)] for weight in self.model.parameters()}
        found: dict[str, Any] = {}
        for name, value in self.model.state_dict(keep_vars=True).items():
            part = weights.get(id(value))
            found[name] = value if part is None else Spread(part, value)
        return found

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Replicas.load`. A value that `state` of this model gave is there already."""
        import torch

        mine = self.model.state_dict(keep_vars=True)
        if strange := sorted(mine.keys() ^ state.keys()):
            raise RuntimeError(f"{strange[0]} is in one of them alone")
        with torch.no_grad():
            for name, value in state.items():
                held = self._parts.get(id(mine[name]))
                if isinstance(value, Spread):
                    continue
                if held is not None:
                    held.copy_(_part(value, mine[name]))
                else:
                    mine[name].copy_(value)

    @contextlib.contextmanager
    def on_first(self, rank: int) -> Iterator[nn.Module | None]:
        """A whole copy of the model in rank 0's main memory, with the weights of now; None on the other ranks."""
        import torch

        whole: Any = copy.deepcopy(self._empty) if rank == 0 else None
        weights = dict(whole.named_parameters()) if rank == 0 else {}
        buffers = dict(whole.named_buffers()) if rank == 0 else {}
        for name, weight in self.model.named_parameters():
            value = self.whole(self._parts[id(weight)], self._parts[id(weight)])
            if rank == 0:
                module, _, last = name.rpartition(".")
                setattr(
                    whole.get_submodule(module),
                    last,
                    torch.nn.Parameter(value.cpu(), requires_grad=weights[name].requires_grad),
                )
        if rank == 0:
            for name, buffer in self.model.named_buffers():
                buffers[name].copy_(buffer)
        yield whole.eval() if rank == 0 else None


def blocks(model: nn.Module) -> list[nn.Module]:
    """The modules whose weights are gathered together: items of module lists, none inside another one.

    A list's items that hold more than `LARGEST_BLOCK` of all weights are looked into: the blocks of a U-Net have lists
    of their own.
    """
    from torch.nn import ModuleList

    most = LARGEST_BLOCK * _size(model)
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if not isinstance(child, ModuleList):
                look(child)
                continue
            for item in child:
                inner = any(isinstance(one, ModuleList) for one in item.modules())
                if _size(item) > most and inner:
                    look(item)
                elif _size(item):
                    found.append(item)

    look(model)
    return found


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy of a model whose weights have shapes and no memory. Buffers are copied."""
    import torch

    known: dict[int, Any] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    return copy.deepcopy(model, known)


def _part(value: Tensor, like: Any) -> Tensor:
    """This rank's part of a whole tensor, as `fully_shard` cuts it: `torch.chunk` along the first dimension.

    Raises:
        ValueError: the tensor has another shape than the weight.
    """
    if value.shape != like.shape:
        raise ValueError(f"a tensor has the shape {list(value.shape)}, not {list(like.shape)}")
    mesh = like.device_mesh
    chunks = value.chunk(mesh.size(), dim=0)
    rank = mesh.get_local_rank()
    return chunks[rank] if rank < len(chunks) else value[:0]
