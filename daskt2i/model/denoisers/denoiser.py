"""What a class of denoisers is for training: how it fits a store, how it is built, how it is called.

Covers: the protocol `DenoiserKind`, and the two data classes that it takes.
Does not cover: the classes (a module each), which of them a setting names (`kinds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from daskt2i.model.noise_schedule import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

POOLED, SIZES = "pooled", "sizes"
"""What a denoiser may take besides text states: pooled text states, and sizes and crops of pictures."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store gives a denoiser, as plain numbers.

    Attributes:
        latent_shapes: (channels, height, width) of the latents of each bucket; the most frequent one first.
        features: length of a text state; 0 if that is not known.
        tokens: most text states of a caption.
        pooled: length of a pooled text state; 0 if the store has none.
        masked: whether padding is no text, so that the denoiser needs a mask.
        sizes: whether the store has sizes and crops of pictures.
        encoders: classes of the text models, such as `CLIPTextModel`; several for a joint text encoder.
    """

    latent_shapes: tuple[tuple[int, int, int], ...]
    features: int
    tokens: int = 0
    pooled: int = 0
    masked: bool = False
    sizes: bool = True
    encoders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a denoiser is told of b samples besides noised latents and times, on its device.

    Attributes:
        states: text states, `float32[b, token, feature]`.
        mask: `bool[b, token]`, True for tokens of the caption; None if padding counts as text.
        pooled: pooled text states, `float32[b, feature]`; None unless the kind takes them.
        sizes: SDXL's six numbers (`time_ids`), `float32[b, 6]`: height and width of the source, top and left of the
            crop, height and width of the picture; None unless the kind takes them.
    """

    states: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    sizes: Tensor | None = None


@runtime_checkable
class DenoiserKind(Protocol):
    """A class of denoisers. It has no state: one object serves all trainings of a process.

    Attributes:
        class_path: what `train.model.class` says.
        pipeline: the class of diffusers' pipeline that draws with it.
        presets: name of each preset -> approximate number of parameters, for the plan.
        objectives: those that its pipeline can draw with.
    """

    class_path: str
    pipeline: str
    presets: Mapping[str, int]
    objectives: tuple[Objective, ...]

    def config(
        self, preset: str | None, changes: Mapping[str, Any], facts: StoreFacts, least: int = 0
    ) -> dict[str, Any]:
        """Arguments of the class for the latents and text states of a store. It imports no torch.

        Args:
            preset: a name of `presets`, or None if `changes` is the whole config.
            changes: arguments of the class, as in its config.json; they override the preset.
            least: fewest samples that the model gets at once; 0 if that is not known.

        Raises:
            ConfigError: there is no such preset, or the store lacks what the model needs; says what to do.
        """

    def takes(self, preset: str | None, changes: Mapping[str, Any]) -> frozenset[str]:
        """What the model takes besides text states, of `POOLED` and `SIZES`."""

    def build(self, config: Mapping[str, Any], seed: int) -> nn.Module:
        """The model with fresh weights, ready to train. The same seed gives the same weights.

        Raises:
            ConfigError: the class rejects the config.
        """

    def predict(self, model: nn.Module, inputs: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """The output for what the objective asks, in the signs of `model.diffusion`: `float[b, c, y, x]`.

        Args:
            model: the result of `build`, perhaps wrapped (DDP, compiled), so only its call is used.
            inputs: noised latents, `float32[b, c, y, x]`.
            times: `float32[b]`, 0 (clean) to 1000 (noise), as `NoisedBatch.times`.
        """
