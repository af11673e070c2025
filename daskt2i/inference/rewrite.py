"""The passes over a loaded model, in their order.

Covers: which passes there are, and which models they refuse.
Does not cover: what a pass does (its own module).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from daskt2i.inference.activations import in_place_activations
from daskt2i.inference.attention import direct_attention
from daskt2i.inference.conditions import remember_conditions
from daskt2i.inference.packed_convolutions import pack_convolutions
from daskt2i.inference.residual_blocks import in_place_residual_blocks

if TYPE_CHECKING:
    from torch import nn

Pass = Callable[["nn.Module"], int]
"""Changes submodules of a model, and returns how many."""

PASSES: Mapping[str, Pass] = {
    "residual blocks": in_place_residual_blocks,
    "activations": in_place_activations,
    "attention": direct_attention,
    "conditions": remember_conditions,
    "packed convolutions": pack_convolutions,
}
"""Each pass gives the same bits as the model that diffusers loads."""


def rewrite_for_inference(model: nn.Module) -> dict[str, int]:
    """Change a model in place, so that inference does less work for the same bits.

    Parameters, their names and `state_dict` stay as they are. Submodules of a class that no pass knows are left alone.
    With gradients on, the model computes as diffusers wrote it.

    Args:
        model: a model of diffusers on its device, in its dtype and memory format.

    Returns:
        the number of changed submodules for each pass.

    Raises:
        ValueError: the model is in training mode, or a parameter requires a gradient.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode; only a model for inference can be rewritten")
    if any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("a parameter of the model requires a gradient; only a model for inference can be rewritten")
    return {name: change(model) for name, change in PASSES.items()}
