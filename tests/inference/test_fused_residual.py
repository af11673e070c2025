"""The residual add inside the convolution: bf16 is as near to fp32 as before, and fp32 is fp32."""

from __future__ import annotations

import copy
import types

import pytest
import torch
from builders.models import KL
from diffusers import AutoencoderKL

from daskt2i.encoders.weights import quiet
from daskt2i.inference.fused_residual import find_fused_add, fuse_residual_adds
from daskt2i.inference.rewrite import rewrite_for_inference


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_autoencoder_is_no_further_from_fp32_than_before(dtype: torch.dtype) -> None:
    exact = AutoencoderKL(**KL).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    with quiet("diffusers"):
        plain = copy.deepcopy(exact).to(dtype)
    fast = copy.deepcopy(plain)
    rewrite_for_inference(fast)
    assert fuse_residual_adds(fast) == sum(type(one).__name__ == "ResnetBlock2D" for one in plain.modules())
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    pixels = pixels.to(memory_format=torch.channels_last)
    before = pixels.clone()
    with torch.no_grad():
        states = [one.encode(pixels.to(one.dtype)).latent_dist.parameters for one in (exact, plain, fast)]
        latent = states[0][:, :4]
        pictures = [one.decode(latent.to(one.dtype)).sample for one in (exact, plain, fast)]
    assert torch.equal(pixels, before)
    for wanted, eager, fused in (states, pictures):
        room = 1e-6 * wanted.norm()
        assert (fused.float() - wanted).norm() <= 1.2 * (eager.float() - wanted).norm() + room


def test_without_the_private_name_nothing_changes() -> None:
    namespace = types.SimpleNamespace(backends=torch.backends, ops=types.SimpleNamespace(mkldnn=object()))
    assert find_fused_add(namespace) is None
    with quiet("diffusers"):
        plain = AutoencoderKL(**KL).eval().requires_grad_(False)
    assert fuse_residual_adds(plain) == 0  # its blocks are not rewritten
