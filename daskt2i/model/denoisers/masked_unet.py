"""A `UNet2DConditionModel` that also pools the prompt without its padding. Weights and config are those of diffusers.

With `addition_embed_type: text` the UNet of diffusers pools the text states and adds the result to the time embedding.
It has a mask for cross attention, but none for pooling. So padding changes the pooled state, and a sample depends on
the longest caption of its batch. This class gives the mask to both.

Covers: the class, and pooling with a mask.
Does not cover: presets and fitting (`unet`), where masks come from (`loader.dataset`, `sample.prompt_states`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MASK = "text_mask"
"""Key of the mask among the additional conditions, which diffusers hands to `get_aug_embed`."""


@functools.cache
def masked_unet() -> Any:
    """The class. An existing UNet of diffusers can take it as its `__class__`: it has no state of its own."""
    import torch
    from diffusers import UNet2DConditionModel

    class MaskedUNet(UNet2DConditionModel):
        """The UNet of diffusers. A call with `encoder_attention_mask` also masks the pooled prompt."""

        def forward(
            self,
            sample: torch.Tensor,
            timestep: torch.Tensor | float,
            encoder_hidden_states: torch.Tensor,
            *args: Any,
            encoder_attention_mask: torch.Tensor | None = None,
            added_cond_kwargs: dict[str, Any] | None = None,
            **kwargs: Any,
        ) -> Any:
            """See `UNet2DConditionModel.forward`.

            Args:
                encoder_attention_mask: `bool[b, token]`, True for tokens of the prompt; None if padding counts as text.
            """
            if encoder_attention_mask is not None:
                if any("SimpleCrossAttn" in str(block) for block in self.config.down_block_types):
                    encoder_hidden_states, encoder_attention_mask = self._other_than_pixels(
                        sample, encoder_hidden_states, encoder_attention_mask
                    )
                added_cond_kwargs = {**(added_cond_kwargs or {}), _MASK: encoder_attention_mask}
            return super().forward(
                sample,
                timestep,
                encoder_hidden_states,
                *args,
                encoder_attention_mask=encoder_attention_mask,
                added_cond_kwargs=added_cond_kwargs,
                **kwargs,
            )

        def _other_than_pixels(
            self, sample: torch.Tensor, states: torch.Tensor, mask: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Add a masked token if a level has as many pixels as there are tokens.

            These blocks attend to pixels and tokens together. diffusers extends the mask by the pixels only if its
            length is not the number of pixels.
            """
            pixels = sample.shape[2] * sample.shape[3]
            if states.shape[1] not in {pixels // 4**level for level in range(len(self.config.block_out_channels))}:
                return states, mask
            return torch.nn.functional.pad(states, (0, 0, 0, 1)), torch.nn.functional.pad(mask, (0, 1))

        def get_aug_embed(
            self, emb: torch.Tensor, encoder_hidden_states: torch.Tensor, added_cond_kwargs: dict[str, Any]
        ) -> torch.Tensor | None:
            """The addition to the time embedding, `float[b, embedding]`. diffusers calls it."""
            mask = (added_cond_kwargs or {}).get(_MASK)
            if mask is None or self.config.addition_embed_type != "text":
                return super().get_aug_embed(emb, encoder_hidden_states, added_cond_kwargs)
            return _embedded(self.add_embedding, encoder_hidden_states, mask.bool())

    return MaskedUNet


def _embedded(layers: Any, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`TextTimeEmbedding` of diffusers, for the tokens of the mask alone: `float[b, token, feature]` -> `float[b, e]`.

    `AttentionPooling` attends from the mean of the tokens (plus a learned vector) to itself and to each token.
    """
    import torch

    states = layers.norm1(states)
    pool, real = layers.pool, mask[..., None]
    # Padding may hold any number, also one that is not finite.
    states = torch.where(real, states, torch.zeros((), dtype=states.dtype, device=states.device))
    mean = states.sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    first = mean.to(states.dtype) + pool.positional_embedding.to(states.dtype)
    tokens = torch.cat([first, states], 1)
    attended = torch.cat([torch.ones_like(mask[:, :1]), mask], 1)

    def heads(values: torch.Tensor) -> torch.Tensor:
        return values.unflatten(2, (pool.num_heads, pool.dim_per_head)).transpose(1, 2)

    pooled = torch.nn.functional.scaled_dot_product_attention(
        heads(pool.q_proj(first)),
        heads(pool.k_proj(tokens)),
        heads(pool.v_proj(tokens)),
        attn_mask=attended[:, None, None],
    )
    result: torch.Tensor = layers.norm2(layers.proj(pooled.flatten(1)))
    return result
