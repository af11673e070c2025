"""Which weights of a pretrained denoiser are trained: all of them, a low-rank adapter (LoRA), or layers by name.

    load_weights(model, given)      # the base's weights into a model of its config
    names = choose(model, given.given, seed)
    ...
    merged(model)                   # weights under the base's names, the adapter added

Covers: loading the base, freezing, the adapter of `peft`, the weights that result, the cost of all this.
Does not cover: files of LoRA (`lora_files`), the optimiser (`train.optimisation`).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskt2i.config.training.pretrained import LoraSettings, PretrainedSettings
from daskt2i.encoders.weights import first_line
from daskt2i.errors import ConfigError, ModelError
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline
from daskt2i.model.pretrained.tunables import SETTING

if TYPE_CHECKING:
    from torch import Tensor, nn

_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
"""Parts of the names that `peft` gives to the weights of a layer with an adapter."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a way of tuning costs.

    Attributes:
        weights: of the denoiser, numbers.
        trained: numbers that are trained.
        state_bytes: of the optimiser: the two moments of AdamW, in fp32. Muon keeps one.
    """

    weights: int
    trained: int

    @property
    def state_bytes(self) -> int:
        return 8 * self.trained

    @property
    def bytes(self) -> int:
        """Of a rank in fp32: all weights; gradients, moments and moving average of those that are trained."""
        return 4 * self.weights + 16 * self.trained


def cost_of(given: PretrainedPipeline) -> Cost:
    """The cost of tuning a pipeline, from the headers of its weight files. It imports no torch.

    Raises:
        ConfigError: a pattern or a target names nothing.
    """
    shapes = _shapes(given)
    whole = sum(map(math.prod, shapes.values()))
    how = given.given
    if how.method == "full":
        return Cost(whole, whole)
    if how.method == "layers":
        chosen = matching(list(shapes), how.layers, given.name)
        return Cost(whole, sum(math.prod(shapes[name]) for name in chosen))
    layers = [name for name in shapes if len(shapes[name]) > 1 and _is_target(name.removesuffix(".weight"), how.lora)]
    if not layers:
        raise _no_target(how.lora, given.name)
    return Cost(whole, sum(_adapter_size(shapes[name], how.lora.rank) for name in layers))


def _shapes(given: PretrainedPipeline) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in given.files.paths:
        with safe_open(path, framework="numpy") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def _adapter_size(shape: tuple[int, ...], rank: int) -> int:
    """Numbers of an adapter: down to the rank with the kernel of the layer, and up with one of 1 x 1."""
    out, *inputs = shape
    return rank * (math.prod(inputs) + out)


def _is_target(module: str, lora: LoraSettings) -> bool:
    return any(module == target or module.endswith(f".{target}") for target in lora.target_modules)


def _no_target(lora: LoraSettings, name: str) -> ConfigError:
    return ConfigError(
        f"No layer of {name} has a name that ends with {' or '.join(lora.target_modules)}, so there is nothing to "
        "train. Nothing was started; correct train.pretrained.lora.target_modules."
    )


def matching(names: list[str], patterns: list[str], pipeline: str) -> list[str]:
    """The weights that patterns name.

    Raises:
        ConfigError: a pattern names none.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ConfigError(
                f"No weight of {pipeline} has a name like {pattern}. Nothing was started; correct "
                f"train.pretrained.layers. A weight is named like {names[len(names) // 2]}."
            )
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def read_weights(given: PretrainedPipeline) -> dict[str, Tensor]:
    """The weights of a base's denoiser, as stored."""
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for path in given.files.paths:
        found |= load_file(path)
    return found


def require_finite(given: PretrainedPipeline, setting: str = SETTING) -> None:
    """Refuse a pipeline whose denoiser holds NaN or infinity, or is cut off. It reads all weights, one at a time.

    Args:
        setting: what names the pipeline, for messages.

    Raises:
        ModelError: it does.
    """
    from safetensors import SafetensorError, safe_open

    for path in given.files.paths:
        try:
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                wrong = next((name for name in names if not file.get_tensor(name).isfinite().all()), None)
        except SafetensorError as error:
            raise ModelError(
                f"The file {path.name} of {given.name} cannot be read ({first_line(error)}). Nothing was started; "
                f"fetch the model again, or give another one ({setting})."
            ) from error
        if wrong is not None:
            raise ModelError(
                f"The weight {wrong} of {given.name} holds values that are not finite (NaN or infinity), so it cannot "
                f"be used. Nothing was started, and the file is unchanged; fetch the model again, or give another one "
                f"({setting})."
            )


def load_weights(model: nn.Module, given: PretrainedPipeline) -> None:
    """Put the base's weights into a model of its config.

    Raises:
        ModelError: weights and config do not belong together.
    """
    wanted, found = model.state_dict(), read_weights(given)
    wrong = sorted(wanted.keys() ^ found.keys()) or [name for name in wanted if wanted[name].shape != found[name].shape]
    if wrong:
        raise ModelError(
            f"The weights of {given.name} do not fit its config.json, such as {wrong[0]} ({len(wrong)} in all). "
            "Nothing was changed; fetch the model again."
        )
    model.load_state_dict(found)


def require_peft() -> None:
    """Refuse LoRA where `peft` is missing.

    Raises:
        ConfigError: it is.
    """
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise ConfigError(
            "train.pretrained.method is lora, which needs the package peft, and it is not installed. Nothing was "
            "started; install it with `pip install 'daskt2i[tune]'`, or set train.pretrained.method=full."
        )


def choose(model: Any, how: PretrainedSettings, name: str, seed: int) -> None:
    """Freeze what is not trained, and add the adapter of LoRA. The same seed gives the same adapter.

    Args:
        model: a model of diffusers with the base's weights.
        name: of the pipeline, for messages.

    Raises:
        ConfigError: a pattern or a target names nothing, or `peft` is missing.
    """
    import torch

    if how.method == "full":
        return
    if how.method == "layers":
        chosen = set(matching([key for key, _ in model.named_parameters()], how.layers, name))
        for key, weight in model.named_parameters():
            weight.requires_grad_(key in chosen)
        return
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    lora = how.lora
    model.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # any number
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        init_lora_weights="gaussian",  # as the scripts of diffusers
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model)
        except ValueError as error:
            raise _no_target(lora, name) from error
    for layer in adapters(model).values():
        for weight in layer:
            weight.data = weight.data.float()


def adapters(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Name of a layer -> the two matrices of its adapter, down and up; empty without LoRA."""
    weights = dict(model.named_parameters())
    return {
        name.removesuffix(_DOWN): (weight, weights[name.replace(_DOWN, _UP)])
        for name, weight in weights.items()
        if name.endswith(_DOWN)
    }


def merged(model: nn.Module, scale: float) -> dict[str, Tensor]:
    """The weights of a model under the names of its base, copies; each adapter is added to the weight of its layer.

    Args:
        scale: of the adapters (`LoraSettings.scale`).
    """
    import torch

    layers = adapters(model)
    found = {
        name.replace(_BASE, "."): value.detach().clone()
        for name, value in model.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name
    }
    with torch.no_grad():
        for name, (down, up) in layers.items():
            weight = found[f"{name}.weight"]
            change = up.flatten(1).double() @ down.flatten(1).double() * scale
            weight += change.reshape(weight.shape).to(weight.dtype)
    return found


def trained(model: nn.Module) -> Mapping[str, Tensor]:
    """The weights that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
