"""U-ViT: a transformer over patches with the long skip connections of a U-Net (Bao et al. 2023, arXiv:2209.12152).

Time, text and patches are tokens of one sequence. The blocks of the second half also get the output of their mirror
image in the first half. A 3 x 3 convolution follows the last layer (section 3 of the paper).

diffusers has no such class. So this one has its methods (`from_pretrained`, `save_pretrained`, `config`) and takes a
call as a U-Net does. A pipeline folder names it by this module, and `StableDiffusionPipeline.from_pretrained` of plain
diffusers loads it where daskt2i is installed.

Covers: the presets of the paper, fitting them to a store, the model, its call.
Does not cover: the objective (`model.diffusion`; the paper's is `epsilon`), the pipeline (`sample.pipelines`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions, StoreFacts
from daskt2i.model.denoisers.fitting import fitted, fresh, require_patches
from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Table 1 of the paper, and section 5.3 for COCO: patches of 2 x 2 latents.
    "uvit-s2": {"width": 512, "layers": 13, "heads": 8, "patch_size": 2},
    "uvit-s2-deep": {"width": 512, "layers": 17, "heads": 8, "patch_size": 2},
}
"""Arguments of `UViT`."""

_CLIP_TOKENS = 77


class UViTKind:
    """The kind of `UViT`."""

    class_path = "daskt2i.model.denoisers.uvit.UViT"
    pipeline = "StableDiffusionPipeline"
    presets: Mapping[str, int] = {"uvit-s2": 44_700_000, "uvit-s2-deep": 58_400_000}
    objectives: tuple[Objective, ...] = ("flow", "v", "epsilon")

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """See `DenoiserKind.config`.

        Raises:
            ConfigError: there is no such preset, an argument contradicts the store, latents have several sizes or
                cannot be cut into patches, or the sizes of the model do not fit together.
        """
        if len(facts.latent_shapes) > 1:
            sizes = ", ".join(f"{height} x {width}" for _, height, width in facts.latent_shapes)
            raise ConfigError(
                f"A U-ViT learns a position for each patch of one size, but latents are {sizes}. Nothing was started; "
                "choose the rows of one size (train.view), or another train.model.class."
            )
        ((channels, height, width),) = facts.latent_shapes
        side: int | tuple[int, int] = height if height == width else (height, width)
        needed = {"in_channels": channels, "text_features": facts.features}
        config = fitted(
            (preset, PRESETS),
            changes,
            needed,
            {"sample_size": side, "text_tokens": facts.tokens or _CLIP_TOKENS},
        )
        layers, heads, inner = config.get("layers", 13), config.get("heads", 8), config.get("width", 512)
        if layers % 2 == 0 or inner % (2 * heads):
            raise ConfigError(
                f"train.model.config has {layers} layers, width {inner} and {heads} heads. Nothing was started; a "
                "U-ViT has an odd number of layers, and a width that is a multiple of twice its heads."
            )
        require_patches(config.get("patch_size", 2), facts.latent_shapes)
        return config

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """See `DenoiserKind.takes`: nothing."""
        return frozenset()

    def build(self, config: Mapping[str, Any], seed: int) -> nn.Module:
        """See `DenoiserKind.build`.

        Raises:
            ConfigError: the class rejects the config.
        """
        model: nn.Module = fresh(uvit(), config, seed)
        return model

    def predict(self, model: nn.Module, inputs: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """See `DenoiserKind.predict`."""
        found: Tensor = model(
            inputs, times, conditions.states, encoder_attention_mask=conditions.mask, return_dict=False
        )[0]
        return found


def __getattr__(name: str) -> Any:
    """`UViT`, and its base `ModelMixin`: diffusers asks for both by name when it loads a pipeline."""
    if name == "UViT":
        return uvit()
    if name == "ModelMixin":
        from diffusers import ModelMixin

        return ModelMixin
    raise AttributeError(f"module {__name__} has no {name}")


@functools.cache
def _block() -> Any:
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    class Block(nn.Module):
        """Attention and an MLP of four times the width, each after a normalisation; with or without a long skip."""

        def __init__(self, width: int, heads: int, long_skip: bool) -> None:
            super().__init__()
            self.heads = heads
            self.skip = nn.Linear(2 * width, width) if long_skip else None
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, tokens: Tensor, mask: Tensor | None, before: Tensor | None = None) -> Tensor:
            """Tokens `float[b, n, width]`; `before`, of the mirror image of this block."""
            if self.skip is not None and before is not None:
                tokens = self.skip(torch.cat([tokens, before], 2))
            found = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1))
            query, key, value = found.permute(2, 0, 3, 1, 4)
            attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
            tokens = tokens + self.out(attended.transpose(1, 2).flatten(2))
            return tokens + self.mlp(self.norm2(tokens))

    return Block


@functools.cache
def uvit() -> Any:
    """The class."""
    import torch
    from diffusers import ConfigMixin, ModelMixin
    from diffusers.configuration_utils import register_to_config
    from diffusers.models.embeddings import get_timestep_embedding
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
    from torch import nn

    block = _block()

    class UViT(ModelMixin, ConfigMixin):
        """See the module.

        Args:
            sample_size: side of the latents, or (height, width).
            in_channels: channels of the latents; the output has as many.
            text_features, text_tokens: length of a text state; most of them for one caption.
            width, layers, heads: size of the transformer; `layers` is odd.
            patch_size: side of a patch of latents.
        """

        _supports_gradient_checkpointing = True
        _no_split_modules = ("Block",)

        @register_to_config  # type: ignore[untyped-decorator]
        def __init__(
            self,
            sample_size: int | tuple[int, int] = 32,
            in_channels: int = 4,
            text_features: int = 768,
            text_tokens: int = 77,
            width: int = 512,
            layers: int = 13,
            heads: int = 8,
            patch_size: int = 2,
            time_cond_proj_dim: None = None,
        ) -> None:
            super().__init__()
            sides = (sample_size,) * 2 if isinstance(sample_size, int) else sample_size
            patches = (sides[0] // patch_size) * (sides[1] // patch_size)
            self.gradient_checkpointing = False
            self.patches = nn.Conv2d(in_channels, width, patch_size, patch_size)
            self.text = nn.Linear(text_features, width)
            self.positions = nn.Parameter(torch.zeros(1, 1 + text_tokens + patches, width))
            half = layers // 2
            self.down = nn.ModuleList(block(width, heads, False) for _ in range(half))
            self.middle = block(width, heads, False)
            self.up = nn.ModuleList(block(width, heads, True) for _ in range(half))
            self.norm = nn.LayerNorm(width)
            self.pixels = nn.Linear(width, patch_size**2 * in_channels)
            self.last = nn.Conv2d(in_channels, in_channels, 3, padding=1)
            nn.init.trunc_normal_(self.positions, std=0.02)
            for part in self.modules():
                if isinstance(part, nn.Linear):
                    nn.init.trunc_normal_(part.weight, std=0.02)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)

        def forward(
            self,
            sample: Tensor,
            timestep: Tensor | float,
            encoder_hidden_states: Tensor,
            encoder_attention_mask: Tensor | None = None,
            return_dict: bool = True,
            **unused: Any,
        ) -> Any:
            """What the objective asks, of noised latents: `float[b, c, y, x]`, as of `UNet2DConditionModel.forward`.

            Args:
                sample: noised latents, `float[b, c, y, x]`.
                timestep: 0 to 1000, one number or `float[b]`.
                encoder_hidden_states: text states, `float[b, token, feature]`.
                encoder_attention_mask: `bool[b, token]`, True for tokens of the prompt; None if padding counts as text.
                unused: arguments of a U-Net that pipelines give and this model has no use for.
            """
            count, width = len(sample), self.config.width
            times = torch.as_tensor(timestep, device=sample.device).expand(count)
            time = get_timestep_embedding(times, width, flip_sin_to_cos=True, downscale_freq_shift=0)
            text = self.text(encoder_hidden_states)
            image = self.patches(sample)
            rows, columns = image.shape[2:]
            tokens = torch.cat([time[:, None].to(image.dtype), text, image.flatten(2).transpose(1, 2)], 1)
            ahead = 1 + text.shape[1]  # a batch may have fewer text states than the longest caption
            tokens = tokens + torch.cat(
                [self.positions[:, :ahead], self.positions[:, 1 + self.config.text_tokens :]], 1
            )
            tokens = self._blocks(tokens, self._mask(encoder_attention_mask, tokens.shape[1]))
            made = self.pixels(self.norm(tokens[:, ahead:]))
            side = self.config.patch_size
            made = made.unflatten(2, (side, side, -1)).unflatten(1, (rows, columns))
            made = made.permute(0, 5, 1, 3, 2, 4).reshape(count, -1, rows * side, columns * side)
            found = self.last(made)
            return UNet2DConditionOutput(sample=found) if return_dict else (found,)

        def _blocks(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
            before: list[Tensor] = []
            for one in self.down:
                tokens = self._run(one, tokens, mask)
                before.append(tokens)
            tokens = self._run(self.middle, tokens, mask)
            for one in self.up:
                tokens = self._run(one, tokens, mask, before.pop())
            return tokens

        def _run(self, one: Any, *given: Tensor | None) -> Any:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                return self._gradient_checkpointing_func(one, *given)
            return one(*given)

        @staticmethod
        def _mask(mask: Tensor | None, count: int) -> Tensor | None:
            """Which tokens are attended to, `bool[b, 1, 1, n]`: time, the tokens of the prompt, all patches."""
            if mask is None:
                return None
            whole = torch.ones(len(mask), count, dtype=torch.bool, device=mask.device)
            whole[:, 1 : 1 + mask.shape[1]] = mask.bool()
            return whole[:, None, None]

    UViT.__module__, UViT.__qualname__ = __name__, "UViT"
    return UViT
