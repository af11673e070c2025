"""Attention that does not ask its processor for its arguments at each call.

Covers: `Attention` of diffusers, called without arguments for its processor.
Does not cover: keys and values of the prompt (`conditions`).

`Attention.forward` reads the signature of its processor each time, to drop arguments that the processor lacks. Without
such arguments this changes nothing, and takes as long as the attention of a small picture.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from daskt2i.inference.parity import SIDE, change_equal, small_input

if TYPE_CHECKING:
    import torch
    from torch import nn


def direct_attention(model: nn.Module) -> int:
    """The pass: change the attention of a model. Returns how many."""
    from diffusers.models.attention_processor import Attention

    found = [one for one in model.modules() if type(one) is Attention and _is_known(one)]
    return change_equal(found, _attention(), lambda one: type(one.processor).__name__, _inputs)


def _is_known(attention: Any) -> bool:
    from torch import nn

    layers = [getattr(attention, name, None) for name in ("to_q", "to_k")]
    return all(isinstance(layer, nn.Linear) for layer in layers) and callable(getattr(attention, "processor", None))


def _inputs(attention: Any) -> tuple[Any, ...]:
    pixels = small_input(attention, 1, SIDE * SIDE, attention.to_q.in_features)
    return pixels, small_input(attention, 1, SIDE, attention.to_k.in_features)


@functools.cache
def _attention() -> type:
    from diffusers.models.attention_processor import Attention

    class DirectAttention(Attention):
        """`Attention` for inference."""

        def forward(
            self,
            hidden_states: torch.Tensor,
            encoder_hidden_states: torch.Tensor | None = None,
            attention_mask: torch.Tensor | None = None,
            **kwargs: Any,
        ) -> torch.Tensor:
            """See `Attention.forward`."""
            if kwargs:
                return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
            result: torch.Tensor = self.processor(
                self, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask
            )
            return result

    return DirectAttention
