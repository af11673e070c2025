"""LoRA as files: as `load_lora_weights` of diffusers reads it, and as the programs around kohya's scripts do.

    lora/pytorch_lora_weights.safetensors     unet.NAME.lora_A.weight, unet.NAME.lora_B.weight
    lora/kohya.safetensors                    lora_unet_NAME.lora_down.weight, .lora_up.weight, .alpha

A transformer's file has `transformer.` in place of `unet.`, and there is no file of kohya's form.
The scale `alpha / rank` is multiplied into the second matrix. So a reader that knows no alpha gets the same model.

Covers: writing both files; reading a file of either form, and whether it belongs to a denoiser.
Does not cover: training (`tuning`), the folder and its label (`store.artifacts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from daskt2i.errors import ModelError, ModelMissing

if TYPE_CHECKING:
    from torch import Tensor, nn

FILE, KOHYA = "pytorch_lora_weights.safetensors", "kohya.safetensors"

Adapters = Mapping[str, tuple["Tensor", "Tensor"]]
"""Name of a layer -> its matrices down and up."""


def write(adapters: Adapters, scale: float, part: str, folder: Path) -> None:
    """Write the files of an adapter.

    Args:
        adapters: of `tuning.adapters`.
        scale: of the adapters.
        part: folder of the denoiser in its pipeline: `unet` or `transformer`.
    """
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import save_file

    peft = {}
    for name, (down, up) in adapters.items():
        peft[f"{part}.{name}.lora_A.weight"] = down.detach().float().cpu().contiguous().clone()
        peft[f"{part}.{name}.lora_B.weight"] = (up.detach().float().cpu() * scale).contiguous()
    save_file(peft, folder / FILE, metadata={"format": "pt"})
    if part == "unet":
        save_file(dict(convert_state_dict_to_kohya(peft)), folder / KOHYA, metadata={"format": "pt"})


def read(place: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The adapters of a file of either form, with the scale in the second matrix. Names as in the file.

    Args:
        place: a safetensors file, or a folder that holds `FILE`.

    Raises:
        ModelMissing: there is none.
        ModelError: it holds no LoRA.
    """
    from safetensors.torch import load_file

    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        raise ModelMissing(f"There is no LoRA in {place}. Nothing was started; give a safetensors file or its folder.")
    try:
        found = load_file(path) if path.suffix == ".safetensors" else {}
    except Exception as error:  # safetensors has its own class for a damaged file
        raise ModelError(f"{path} is not a complete safetensors file. Nothing was started; fetch it again.") from error
    read: dict[str, tuple[Tensor, Tensor]] = {}
    for down, up in ((".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")):
        for key in (key for key in found if key.endswith(down)):
            name = key.removesuffix(down)
            if name + up not in found:
                continue
            alpha = found.get(f"{name}.alpha")
            scale = 1.0 if alpha is None else float(alpha) / len(found[key])
            read[name] = (found[key], found[name + up] * scale)
    if odd := [name for name, pair in read.items() if not all(bool(one.isfinite().all()) for one in pair)]:
        raise ModelError(
            f"The LoRA {path} holds values that are not finite (NaN or infinity), such as {odd[0]}. Nothing was "
            "started, and the file is unchanged; train it again, or give another one."
        )
    if not read:
        raise ModelError(
            f"{path} holds no LoRA that daskt2i reads. Nothing was started; give one of diffusers or kohya."
        )
    return read


def add(adapters: Adapters, model: nn.Module, part: str, place: Path, pipeline: str, scale: float = 1.0) -> None:
    """Add adapters to the weights of a denoiser.

    Args:
        adapters: of `read`.
        place, pipeline: names, for messages.
        scale: what the change is multiplied by.

    Raises:
        ModelError: they belong to another model; then nothing is added.
    """
    import torch

    weights = {name.removesuffix(".weight"): weight for name, weight in model.named_parameters() if weight.ndim > 1}
    names = {f"{part}.{name}": name for name in weights}
    names |= {f"lora_unet_{name.replace('.', '_')}": name for name in weights}
    for key, (down, up) in adapters.items():
        weight = weights.get(names.get(key, ""))
        if weight is None or (up.shape[0], down[0].numel()) != (weight.shape[0], weight[0].numel()):
            what = "which it does not have" if weight is None else "which has another size there"
            raise ModelError(
                f"The LoRA {place.name} belongs to another model than {pipeline}: it changes {key}, {what}. Nothing "
                "was drawn, and both are unchanged; give a LoRA that was trained on this model."
            )
    with torch.no_grad():
        for key, (down, up) in adapters.items():
            weight = weights[names[key]]
            change = up.flatten(1).double() @ down.flatten(1).double() * scale
            weight.add_(change.reshape(weight.shape).to(weight))
