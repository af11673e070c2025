"""The denoiser fits the store that it is trained on, or says at once why it cannot."""

from __future__ import annotations

import pytest
import torch

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers import unet as model


def test_presets_are_fitted_to_latents_and_text_states() -> None:
    config = model.unet_config("demo", {}, (8, 16, 16), 96)
    assert (config["in_channels"], config["out_channels"], config["sample_size"]) == (8, 8, 16)
    assert config["cross_attention_dim"] == 96
    unet = model.build(config, 0)
    made = unet(torch.randn(2, 8, 16, 16), 500, torch.randn(2, 7, 96)).sample
    assert made.shape == (2, 8, 16, 16)


def test_a_new_model_predicts_zero_and_learns_from_its_first_step() -> None:
    unet = model.build(model.unet_config("demo", {"block_out_channels": (16, 32, 32)}, (4, 16, 16), 32), 0)
    latents, states = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 32)
    made = unet(latents, 500, states).sample
    assert made.abs().max() == 0
    (made - latents).square().mean().backward()
    assert unet.conv_out.weight.grad.abs().max() > 0


def test_the_same_seed_gives_the_same_weights_and_torchs_random_state_stays_unchanged() -> None:
    config = model.unet_config("demo", {"block_out_channels": (16, 32, 32)}, (4, 16, 16), 32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = (model.build(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("preset", sorted(model.PRESETS))
def test_the_plan_has_the_approximate_size_of_each_preset(preset: str) -> None:
    features = 128 if preset == "demo" else 768
    config = model.unet_config(preset, {}, (4, 32, 32), features)
    with torch.device("meta"):
        count = sum(p.numel() for p in model.build(config, 0).parameters())
    assert count == pytest.approx(model.PARAMETERS[preset], rel=0.1)
    if preset == "sd15":  # Rombach et al. 2022, table 15, as published for Stable Diffusion: 859.52 M
        assert round(count / 1e6, 2) == 859.52


def test_a_config_in_the_workflow_overrides_the_preset_but_must_fit_the_store() -> None:
    assert model.unet_config("demo", {"layers_per_block": 3}, (4, 16, 16), 8)["layers_per_block"] == 3
    published = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "block_out_channels": [32, 64]}
    assert "_class_name" not in model.unet_config(None, published, (4, 16, 16), 8)
    with pytest.raises(ConfigError, match="in_channels=8, but the store needs in_channels=4"):
        model.unet_config("demo", {"in_channels": 8}, (4, 16, 16), 8)


def test_a_model_that_cannot_work_is_refused_and_the_message_says_what_would_work() -> None:
    with pytest.raises(ConfigError, match="it can be demo, sd15-small, sd15"):
        model.unet_config("tiny", {}, (4, 16, 16), 8)
    with pytest.raises(ConfigError, match=r"latents are 15 x 16.*Use a model with fewer levels"):
        model.unet_config("demo", {}, (4, 15, 16), 8)
    with pytest.raises(ConfigError, match=r"diffusers rejects train\.model\.config"):
        model.build(model.unet_config("demo", {"down_block_types": ["Nothing"] * 3}, (4, 16, 16), 8), 0)
