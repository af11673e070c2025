"""A rewritten model gives the bits of the model that diffusers loads, and cannot be trained by accident."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.models import KL, TINY, kl_folder
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import locate, quiet
from daskt2i.inference.activations import in_place_activations
from daskt2i.inference.attention import direct_attention
from daskt2i.inference.conditions import remember_conditions
from daskt2i.inference.packed_convolutions import Packing, find_packing, pack_convolutions
from daskt2i.inference.parity import change_equal
from daskt2i.inference.residual_blocks import in_place_residual_blocks
from daskt2i.inference.rewrite import PASSES, rewrite_for_inference
from daskt2i.model.denoisers.unet import build, unet_config
from daskt2i.types import Runtime

LAST = torch.channels_last
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.to(memory_format=LAST) if len(shape) == 4 else made


def ready(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """For inference, with random weights also where a fresh model has zeros or ones."""
    with torch.no_grad():
        for index, one in enumerate(model.parameters()):
            one.add_(numbers(*one.shape, seed=index) * 0.05)
    with quiet("diffusers"):
        return model.to(dtype).to(memory_format=LAST).eval().requires_grad_(False)


def unet(preset: str = "demo", **changes: Any) -> Any:
    config = unet_config(preset, {"block_out_channels": (16, 32, 32), **changes}, (4, 16, 16), 16)
    return build(config, 0)


def kl(**changes: Any) -> Any:
    return AutoencoderKL(**{**KL, **changes})


def encode(model: Any, dtype: torch.dtype) -> torch.Tensor:
    found = model.encode(numbers(2, 3, 32, 32, dtype=dtype))
    return found.latents if isinstance(model, AutoencoderTiny) else found.latent_dist.parameters


def decode(model: Any, dtype: torch.dtype) -> torch.Tensor:
    return model.decode(numbers(1, 4, 8, 8, dtype=dtype)).sample


def denoise(model: Any, dtype: torch.dtype, **more: Any) -> torch.Tensor:
    return model(numbers(2, 4, 16, 16, dtype=dtype), torch.tensor(3), numbers(2, 7, 16, dtype=dtype), **more).sample


def masked(model: Any, dtype: torch.dtype) -> torch.Tensor:
    return denoise(model, dtype, encoder_attention_mask=torch.arange(7)[None] < torch.tensor([[3], [6]]))


LIKE_SD = {
    "block_out_channels": (16, 32, 32, 32),
    "norm_num_groups": 8,
    "layers_per_block": 2,
    "resnet_time_scale_shift": "default",
}
CASES = {
    "KL encodes": (kl, encode),
    "KL decodes": (lambda: kl(layers_per_block=2), decode),
    "tiny encodes": (lambda: AutoencoderTiny(**TINY), encode),
    "tiny decodes": (lambda: AutoencoderTiny(**TINY), decode),
    "demo denoiser": (unet, denoise),
    "demo denoiser with a mask": (unet, masked),
    "SD's denoiser": (lambda: unet("sd15-small", **LIKE_SD), denoise),
    "denoiser with blocks that halve": (
        lambda: unet(down_block_types=("DownBlock2D", "ResnetDownsampleBlock2D", "CrossAttnDownBlock2D")),
        denoise,
    ),
}


@PRECISIONS
@pytest.mark.parametrize("case", CASES)
def test_a_rewritten_model_gives_the_same_bits(case: str, dtype: torch.dtype) -> None:
    make, run = CASES[case]
    plain = ready(make(), dtype)
    fast = copy.deepcopy(plain)
    changed = rewrite_for_inference(fast)
    plain_blocks = [one for one in plain.modules() if type(one).__name__ in ("ResnetBlock2D", "AutoencoderTinyBlock")]
    known = [one for one in plain_blocks if getattr(one, "downsample", None) is None]
    assert changed["residual blocks"] == len(known) > 0
    assert changed["packed convolutions"] > 0
    assert (changed["conditions"] > 0, changed["attention"] > 0) == ("denoiser" in case, "tiny" not in case)
    with torch.no_grad():
        wanted = run(plain, dtype)
        found = [run(fast, dtype) for _ in range(2)]  # the first call compares convolutions
    assert all(torch.equal(one, wanted) and one.stride() == wanted.stride() for one in found)
    with torch.inference_mode():
        assert torch.equal(run(fast, dtype), wanted)
        assert torch.equal(run(copy.deepcopy(fast), dtype), wanted)


@PRECISIONS
def test_the_demo_autoencoder_gives_the_same_bits(dtype: torch.dtype) -> None:
    name = "daskt2i:demo/vae"
    encoder = VaeEncoder(name)
    encoder.load(Runtime("cpu", "fp32" if dtype is torch.float32 else "bf16", 1))
    with quiet("diffusers"):
        plain = AutoencoderKL.from_pretrained(
            str(locate(name, None, None, needs=("config.json",), setting="model")), torch_dtype=dtype
        )
    plain = plain.to(memory_format=LAST).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    found = encoder.encode(pictures, 3)
    with torch.inference_mode():
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        wanted = plain.encode(pixels.to(dtype)).latent_dist.parameters.float()[:, :4]
    assert np.array_equal(found["latent_mean"], wanted.to(torch.float16).numpy())


@pytest.mark.parametrize("make", [kl, unet], ids=["autoencoder", "denoiser"])
def test_a_model_in_training_is_refused_and_unchanged(make: Callable[[], Any]) -> None:
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="training mode"):
        rewrite_for_inference(model.train())
    with pytest.raises(ValueError, match="requires a gradient"):
        rewrite_for_inference(model.eval())
    model.requires_grad_(False)
    next(module for module in model.modules() if isinstance(module, torch.nn.Dropout)).train()
    with pytest.raises(ValueError, match="training mode"):
        rewrite_for_inference(model)
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("case", ["KL encodes", "tiny encodes", "demo denoiser"])
def test_with_gradients_on_a_rewritten_model_still_gives_the_right_ones(case: str) -> None:
    make, run = CASES[case]
    plain = ready(make())
    fast = copy.deepcopy(plain)
    rewrite_for_inference(fast)
    found = []
    for model in (plain, fast):
        model.requires_grad_(True)
        run(model, torch.float32).square().mean().backward()
        found.append([one.grad for one in model.parameters() if one.grad is not None])
    assert len(found[0]) > 10
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_weights_and_saved_files_stay_as_they_are(tmp_path: Path) -> None:
    plain = ready(kl())
    fast = copy.deepcopy(plain)
    rewrite_for_inference(fast)
    encode(fast, torch.float32)  # packs
    for name, model in (("plain", plain), ("fast", fast)):
        model.save_pretrained(str(tmp_path / name))
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert sorted(path.name for path in (tmp_path / "fast").iterdir()) == files
    assert all((tmp_path / "plain" / one).read_bytes() == (tmp_path / "fast" / one).read_bytes() for one in files)


def test_new_weights_and_another_dtype_are_seen() -> None:
    first, second = ready(kl()), ready(kl())
    with torch.no_grad():
        for one in second.parameters():
            one.mul_(1.5)
        rewrite_for_inference(first)
        for _ in range(2):
            encode(first, torch.float32)
        first.load_state_dict(second.state_dict())
        assert torch.equal(encode(first, torch.float32), encode(second, torch.float32))
        with quiet("diffusers"):
            first.to(torch.bfloat16), second.to(torch.bfloat16)
        for _ in range(2):
            assert torch.equal(encode(first, torch.bfloat16), encode(second, torch.bfloat16))


class OtherBlock(ResnetBlock2D):
    """A class of somebody else, with the same parts."""

    def forward(self, input_tensor: Any, temb: Any, *args: Any, **kwargs: Any) -> Any:
        return super().forward(input_tensor, temb) * 2


def resnet(**changes: Any) -> Any:
    return ready(ResnetBlock2D(**{"in_channels": 8, "temb_channels": None, "groups": 4, **changes}))


def test_a_class_that_no_pass_knows_is_left_alone() -> None:
    foreign = ready(OtherBlock(in_channels=8, temb_channels=None, groups=4))
    halving, other_activation = resnet(down=True), resnet(non_linearity="mish")
    more_parts = resnet()
    more_parts.gate = torch.nn.Linear(2, 2)
    assert in_place_residual_blocks(torch.nn.ModuleList([foreign, halving, other_activation, more_parts])) == 0
    assert in_place_residual_blocks(torch.nn.ModuleList([resnet(), resnet(output_scale_factor=2.0)])) == 2
    unknown = [torch.nn.Conv2d(4, 4, 3, groups=2), torch.nn.Conv2d(4, 4, 3, padding_mode="circular"), torch.nn.ReLU()]
    assert sum(change(torch.nn.ModuleList(unknown)) for change in PASSES.values()) == 0


def test_a_class_that_gives_other_bits_is_not_used() -> None:
    """As with a version of diffusers whose `forward` computes something else."""

    class Doubles(ResnetBlock2D):
        def forward(self, input_tensor: Any, temb: Any) -> Any:
            return super().forward(input_tensor, temb) * 2

    class Overwrites(ResnetBlock2D):
        def forward(self, input_tensor: Any, temb: Any) -> Any:
            result = super().forward(input_tensor, temb)
            input_tensor.zero_()
            return result

    class Fails(ResnetBlock2D):
        def forward(self, input_tensor: Any, temb: Any) -> Any:
            raise AttributeError("norm3")

    class Same(ResnetBlock2D):
        pass

    for kind in (Doubles, Overwrites, Fails, Same):
        block = resnet()
        assert change_equal([block], kind, lambda _: 0, lambda _: (numbers(1, 8, 4, 4), None)) == (kind is Same)
        assert type(block) is (Same if kind is Same else ResnetBlock2D)


class Scaled:
    """A processor that takes an argument."""

    def __call__(self, attention: Any, hidden_states: Any, factor: float = 2.0, **_: Any) -> Any:
        return attention.to_q(hidden_states) * factor


def test_attention_still_gives_its_processor_the_arguments_that_it_takes() -> None:
    attention = ready(Attention(query_dim=16, heads=2, dim_head=8))
    assert direct_attention(torch.nn.ModuleList([attention])) == 1
    attention.set_processor(Scaled())
    states = numbers(2, 7, 16)
    with torch.no_grad():
        assert torch.equal(attention(states), attention.to_q(states) * 2)
        assert torch.equal(attention(states, factor=3.0), attention.to_q(states) * 3)
        with quiet("diffusers"):
            assert torch.equal(attention(states, unknown=3.0), attention.to_q(states) * 2)


def test_an_activation_in_several_places_is_left_alone() -> None:
    model = ready(kl())
    model.encoder.conv_act = model.decoder.conv_act = model.encoder.mid_block.resnets[0].nonlinearity
    assert in_place_activations(model) == 0


def test_without_a_private_name_of_torch_or_after_its_error_convolutions_are_those_of_torch() -> None:
    namespace = types.SimpleNamespace(backends=torch.backends, ops=torch.ops, _C=types.SimpleNamespace(_nn=object()))
    assert find_packing(namespace) is None
    assert find_packing(types.SimpleNamespace()) is None
    there = find_packing(torch)
    assert there is not None

    def fails(*_: Any) -> Any:
        raise RuntimeError("could not create a primitive")

    wanted, pixels = ready(kl()), numbers(1, 3, 16, 16)  # a shape of its own: convolutions are compared once a shape
    for packing in (Packing(fails, there.convolve), Packing(there.pack, fails)):
        model = copy.deepcopy(wanted)
        assert pack_convolutions(model, packing) > 0
        with torch.no_grad():
            for _ in range(2):
                assert torch.equal(model.encoder(pixels), wanted.encoder(pixels))


def test_a_model_with_large_convolutions_gets_no_packed_weights() -> None:
    model = ready(kl())
    size = sum(one.weight.nbytes for one in model.modules() if type(one) is torch.nn.Conv2d)
    assert pack_convolutions(model, largest=size - 1) == 0
    assert pack_convolutions(model, largest=size) > 0


def test_what_a_prompt_gives_is_computed_once_and_again_if_the_prompt_or_a_weight_changes() -> None:
    model = ready(unet())
    plain = copy.deepcopy(model)
    assert remember_conditions(model) > 0
    key = model.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    states, other = numbers(2, 7, 16), numbers(2, 7, 16, seed=1)
    with torch.no_grad():
        assert key(states) is key(states)
        assert not torch.equal(key(other), key(states))
        for change in (lambda: states.mul_(2), lambda: key.weight.mul_(2)):
            before = key(states)
            change()
            assert key(states) is not before
            assert torch.equal(key(states), torch.nn.functional.linear(states, key.weight))
        gone = numbers(2, 7, 16, seed=2)
        key(gone)
        del gone
    assert key._last[0]() is None  # the states are not kept alive
    assert plain.state_dict().keys() == model.state_dict().keys()


def test_an_encoder_rewrites_what_it_loads_and_a_model_to_train_stays_as_it_is(tmp_path: Path) -> None:
    from daskt2i.model.autoencoder import PretrainedAutoencoder

    folder = kl_folder(tmp_path / "kl")
    encoder = PretrainedAutoencoder(str(folder))
    encoder.load(Runtime("cpu", "fp32", 1))
    assert "InPlaceResnetBlock" in {type(module).__name__ for module in encoder._ready()[0].modules()}
    kinds = {type(module).__name__ for module in encoder.model_to_train().modules()}
    assert not {kind for kind in kinds if kind.startswith(("InPlace", "Packed", "Remembering"))}
