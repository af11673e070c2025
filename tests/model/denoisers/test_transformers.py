"""SD3, Lumina 2, SANA and PRX: fitted to a store, and called as a plain loop calls them, to the last sign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from builders.advice import told
from builders.denoisers import PUBLISHED, TRANSFORMERS, disturbed, plain_loss
from torch.nn.functional import mse_loss

from daskt2i.model.denoisers.denoiser import Conditions, DenoiserKind, StoreFacts
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.model.diffusion import Diffusion

FACTS = StoreFacts(((4, 8, 8), (4, 4, 16)), features=16, tokens=24, pooled=16)


def kind(name: str) -> DenoiserKind:
    return kind_of(f"diffusers.{name}")


def conditions(count: int, tokens: int = 12) -> Conditions:
    lengths = torch.arange(2, 2 + count)[:, None]
    mask = torch.arange(tokens)[None] < lengths
    return Conditions(torch.randn(count, tokens, 16) * mask[..., None], mask, torch.randn(count, 16))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_small_config_is_fitted_to_the_store_and_takes_all_its_sizes(name: str) -> None:
    one = kind(name)
    config = one.config(None, TRANSFORMERS[name], FACTS)
    model = one.build(config, 0)
    for shape in FACTS.latent_shapes:
        inputs = torch.randn(2, *shape)
        assert one.predict(model, inputs, torch.tensor([0.0, 1000.0]), conditions(2)).shape == inputs.shape
    assert {type(model).__name__, *model.state_dict()} == {name, *kind(name).build(config, 0).state_dict()}
    again, other = one.build(config, 0), one.build(config, 1)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_fresh_model_predicts_nothing_and_all_its_weights_learn(name: str) -> None:
    one = kind(name)
    model = one.build(one.config(None, TRANSFORMERS[name], FACTS), 0)
    inputs, times = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 900.0])
    assert not one.predict(model, inputs, times, conditions(2)).any()
    disturbed(model)
    one.predict(model, inputs, times, conditions(2)).square().mean().backward()
    assert [key for key, values in model.named_parameters() if values.grad is None] == []  # DDP would wait for it


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_loss_and_gradient_are_those_of_a_plain_loop(name: str, shift: float) -> None:
    torch.manual_seed(0)
    one, given = kind(name), conditions(4)
    ours = disturbed(one.build(one.config(None, TRANSFORMERS[name], FACTS), 0))
    theirs = getattr(diffusers, name)(**ours.config)
    theirs.load_state_dict(ours.state_dict())
    latents, noise, normal = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.randn(4)
    diffusion = Diffusion("flow", shift=shift)
    noised = diffusion.noised(latents, noise, torch.rand(4), normal)
    loss = diffusion.loss(one.predict(ours, noised.inputs, noised.times, given), noised).mean()
    plain = plain_loss(theirs, latents, noise, normal, shift, given)
    loss.backward()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for left, right in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert left.grad is not None
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name != "SD3Transformer2DModel"])
def test_padding_changes_nothing_under_a_mask(name: str) -> None:
    one, given = kind(name), conditions(3)
    model = disturbed(one.build(one.config(None, TRANSFORMERS[name], FACTS), 0)).eval()
    inputs, times = torch.randn(3, 4, 8, 8), torch.tensor([100.0, 500.0, 900.0])
    assert given.mask is not None
    states = torch.where(given.mask[..., None], given.states, torch.tensor(7.0))
    with torch.no_grad():
        made = one.predict(model, inputs, times, given)
        torch.testing.assert_close(one.predict(model, inputs, times, Conditions(states, given.mask)), made)
        alone = one.predict(model, inputs[:1], times[:1], Conditions(given.states[:1, :2], given.mask[:1, :2]))
        whole = one.predict(model, inputs, times, Conditions(given.states))
    torch.testing.assert_close(alone, made[:1], rtol=1e-4, atol=1e-5)  # as if the others were not there
    assert mse_loss(whole, made) > 1e-6  # without a mask padding is text


@pytest.mark.parametrize(("name", "config"), PUBLISHED)
def test_a_config_of_the_hub_is_taken_and_fitted_to_the_latents(name: str, config: dict[str, Any]) -> None:
    """The keys of published config.json files; their widths are made small."""
    one = kind(name)
    facts = StoreFacts(((config["in_channels"], 64, 64),), features=24, tokens=77, pooled=16)
    made = one.config(None, {"_class_name": name, "_diffusers_version": "0.33.0", **config}, facts)
    assert made.get("sample_size", 64) == 64
    assert one.build(made, 0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_does_not_fit_a_store_is_refused_and_what_the_message_says_is_taken(name: str) -> None:
    one, small = kind(name), TRANSFORMERS[name]
    with told("model/denoisers/fitting.py:fitted ConfigError") as error:
        one.config(None, {**small, "in_channels": 16}, FACTS)
    assert "sets in_channels=16, but the store needs in_channels=4" in str(error.value)
    with told("model/denoisers/fitting.py:fitted ConfigError"):
        one.config("demo", {}, FACTS)
    for preset in one.presets:
        assert one.config(preset, {}, FACTS)
    odd = StoreFacts(((4, 8, 8), (4, 7, 8)), features=16, tokens=24, pooled=16)
    with told("model/denoisers/fitting.py:require_patches ConfigError") as error:
        one.config(None, {**small, "patch_size": 2}, odd)
    assert "latents are 7 x 8" in str(error.value)
    assert one.config(None, {**small, "patch_size": 1}, odd)


def test_sd3_needs_pooled_states_and_padding_that_is_text() -> None:
    sd3, small = kind("SD3Transformer2DModel"), TRANSFORMERS["SD3Transformer2DModel"]
    with told("model/denoisers/sd3.py:SD3.config ConfigError") as error:
        sd3.config(None, small, replace(FACTS, pooled=0))
    assert "text_pooled" in str(error.value)
    with told("model/denoisers/sd3.py:SD3.config ConfigError") as error:
        sd3.config(None, small, replace(FACTS, masked=True))
    assert "pad=full" in str(error.value)
    assert sd3.config(None, small, FACTS)


def test_a_head_of_lumina2_is_as_long_as_its_axes() -> None:
    lumina2, small = kind("Lumina2Transformer2DModel"), TRANSFORMERS["Lumina2Transformer2DModel"]
    with told("model/denoisers/lumina2.py:Lumina2.config ConfigError") as error:
        lumina2.config(None, {**small, "axes_dim_rope": [8, 8, 16]}, FACTS)
    assert "whose sum is 24" in str(error.value)
    assert lumina2.config(None, {**small, "axes_dim_rope": [4, 12, 8]}, FACTS)
    long = lumina2.config(None, {**small, "axes_lens": [4, 2, 2]}, FACTS)
    assert long["axes_lens"] == (25, 8, 8)  # the captions of the store, and its longest side in patches


def test_sana_draws_without_the_guidance_of_sprint() -> None:
    sana, small = kind("SanaTransformer2DModel"), TRANSFORMERS["SanaTransformer2DModel"]
    with told("model/denoisers/sana.py:Sana.config ConfigError"):
        sana.config(None, {**small, "guidance_embeds": True}, FACTS)
    assert sana.config(None, {**small, "guidance_embeds": False}, FACTS)
    scaled = {**sana.config(None, small, FACTS), "timestep_scale": 0.5}
    model = disturbed(sana.build(scaled, 0))
    same = disturbed(sana.build({**scaled, "timestep_scale": 1.0}, 0))
    inputs, times, given = torch.randn(2, 4, 8, 8), torch.tensor([300.0, 900.0]), conditions(2)
    torch.testing.assert_close(sana.predict(model, inputs, times, given), sana.predict(same, inputs, times / 2, given))


def test_arguments_that_do_not_fit_together_are_refused_before_the_first_step() -> None:
    sana, small = kind("SanaTransformer2DModel"), TRANSFORMERS["SanaTransformer2DModel"]
    with told("model/denoisers/fitting.py:built ConfigError"):
        sana.build(sana.config(None, {**small, "cross_attention_dim": 24}, FACTS), 0)
    assert sana.build(sana.config(None, {**small, "cross_attention_dim": 32}, FACTS), 0)
    with told("model/denoisers/fitting.py:fresh ConfigError"):
        sana.build({**sana.config(None, small, FACTS), "colour": "red"}, 0)
