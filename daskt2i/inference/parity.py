"""Whether a module computes the same as a class for inference, seen on a small input.

Covers: comparing the two forward methods, and changing the class of modules that are equal.
Does not cover: the classes (`residual_blocks`).

Versions of diffusers differ. A class for inference repeats the `forward` of a class of diffusers, so the installed
version must give the same bits before a module gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

SIDE = 4
"""Side of the small input in pixels."""


def change_equal(
    modules: Iterable[nn.Module], to: type, key: Callable[[Any], Hashable], inputs: Callable[[Any], tuple[Any, ...]]
) -> int:
    """Give modules another class, if it gives the same bits.

    Args:
        modules: modules of one class.
        to: a class below this class, without state of its own.
        key: modules of the same key run the same lines of code. One of them, the smallest, is compared for all.
        inputs: makes arguments of `forward` for a module.

    Returns:
        the number of changed modules.
    """
    groups: dict[Hashable, list[nn.Module]] = {}
    for module in modules:
        groups.setdefault(key(module), []).append(module)
    changed = 0
    for group in groups.values():
        smallest = min(group, key=lambda module: sum(parameter.numel() for parameter in module.parameters()))
        if _same_bits(smallest, to, inputs(smallest)):
            for module in group:
                module.__class__ = to
            changed += len(group)
    return changed


def small_input(module: nn.Module, *shape: int) -> torch.Tensor:
    """Random numbers on the device and in the dtype of a module; with four axes in channels_last."""
    import torch

    parameter = next(module.parameters())
    made = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)
    return made.to(memory_format=torch.channels_last) if len(shape) == 4 else made


def _same_bits(module: Any, to: Any, inputs: tuple[Any, ...]) -> bool:
    """Whether both methods give the same numbers in the same memory order, and the inputs stay as they were."""
    import torch

    kind = type(module)
    before = [one.clone() if isinstance(one, torch.Tensor) else one for one in inputs]
    try:
        with torch.no_grad():
            wanted = module.forward(*inputs)
            module.__class__ = to
            found = module.forward(*inputs)
    except Exception:  # the class of diffusers is another one than this module was written for
        return False
    finally:
        module.__class__ = kind
    if not isinstance(wanted, torch.Tensor):  # joint attention gives latents and text
        return False
    unchanged = all(
        not isinstance(one, torch.Tensor) or torch.equal(one, old) for one, old in zip(inputs, before, strict=True)
    )
    return unchanged and torch.equal(wanted, found) and wanted.stride() == found.stride()
