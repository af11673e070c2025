"""What messages about classes of denoisers tell a user to do, done."""

from __future__ import annotations

from typing import Any

import pytest
from builders.advice import told

from daskt2i.config.settings import TrainSettings
from daskt2i.model.denoisers.denoiser import DenoiserKind, StoreFacts
from daskt2i.model.denoisers.kinds import KINDS, kind_of
from daskt2i.model.denoisers.unet import UNet
from daskt2i.train.samples import check_model

FACTS = StoreFacts(((4, 16, 16),), 16, 24)
PIXART, UVIT = "diffusers.PixArtTransformer2DModel", "daskt2i.model.denoisers.uvit.UViT"
SMALL: dict[str, dict[str, Any]] = {
    PIXART: {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1},
    UVIT: {"width": 32, "layers": 3, "heads": 2},
}


class OwnKind(UNet):
    """A kind of the user's own."""

    class_path = "mylab.Denoiser"
    objectives = ("v",)


def check(name: str, facts: StoreFacts = FACTS, preset: str | None = None, **config: Any) -> None:
    model = {"class": name, "preset": preset, "config": {**SMALL[name], **config}}
    check_model(TrainSettings.model_validate({"model": model}), facts)


@pytest.mark.parametrize("name", ["diffusers.AutoencoderKL", "UNet2DConditionModel", "fractions.Fraction"])
def test_a_class_that_cannot_be_trained_is_refused_with_those_that_can(name: str) -> None:
    with told("model/denoisers/kinds.py:kind_of ConfigError") as error:
        kind_of(name)
    for kind in KINDS:
        assert kind in str(error.value)
        assert isinstance(kind_of(kind), DenoiserKind)


def test_a_class_that_is_not_there_is_refused_and_one_that_is_is_taken() -> None:
    with told("model/denoisers/kinds.py:kind_of ConfigError") as error:
        kind_of("mylab.is.not_here")
    assert "cannot be imported" in str(error.value)
    assert isinstance(kind_of(f"{__name__}.OwnKind"), OwnKind)


def test_an_objective_that_the_pipeline_cannot_draw_with_is_refused() -> None:
    own = {"class": f"{__name__}.OwnKind", "preset": "demo"}
    with told("train/samples.py:check_model ConfigError") as error:
        check_model(TrainSettings.model_validate({"model": own, "objective": "flow"}), FACTS)
    assert "set train.objective to v" in str(error.value)
    check_model(TrainSettings.model_validate({"model": own, "objective": "v"}), FACTS)


@pytest.mark.parametrize("name", SMALL)
def test_a_preset_of_another_class_is_refused_and_those_of_this_class_are_taken(name: str) -> None:
    with told("model/denoisers/fitting.py:fitted ConfigError") as error:
        check(name, preset="sd15")
    for preset in KINDS[name].presets:
        assert preset in str(error.value)
        check_model(TrainSettings.model_validate({"model": {"class": name, "preset": preset}}), FACTS)
    check(name)


@pytest.mark.parametrize(("name", "key"), [(PIXART, "caption_channels"), (UVIT, "in_channels")])
def test_a_config_that_contradicts_the_store_is_refused_until_the_argument_is_removed(name: str, key: str) -> None:
    with told("model/denoisers/fitting.py:fitted ConfigError") as error:
        check(name, **{key: 99})
    assert f"remove {key}" in str(error.value)
    check(name)


@pytest.mark.parametrize("name", SMALL)
def test_latents_that_patches_do_not_divide_need_another_patch_or_another_size(name: str) -> None:
    odd = StoreFacts(((4, 15, 15),), 16, 24)
    with told("model/denoisers/fitting.py:require_patches ConfigError"):
        check(name, odd)
    check(name, odd, patch_size=3)
    check(name)


def test_a_config_that_the_class_rejects_is_told_in_its_words() -> None:
    with told("model/denoisers/fitting.py:fresh ConfigError") as error:
        KINDS[PIXART].build(KINDS[PIXART].config(None, {**SMALL[PIXART], "norm_type": "none"}, FACTS), 0)
    assert "norm_type" in str(error.value)
    assert KINDS[PIXART].build(KINDS[PIXART].config(None, SMALL[PIXART], FACTS), 0)


def test_sizes_that_the_pipeline_would_not_tell_are_refused() -> None:
    with told("model/denoisers/pixart.py:PixArt.config ConfigError"):
        check(PIXART, use_additional_conditions=True)
    check(PIXART, use_additional_conditions=False)


def test_a_uvit_takes_latents_of_one_size() -> None:
    mixed = StoreFacts(((4, 16, 16), (4, 12, 20)), 16, 24)
    with told("model/denoisers/uvit.py:UViTKind.config ConfigError") as error:
        check(UVIT, mixed)
    assert "16 x 16, 12 x 20" in str(error.value)
    check(UVIT)  # one view
    check(PIXART, mixed)  # another class


@pytest.mark.parametrize("wrong", [{"layers": 4}, {"width": 33}, {"heads": 3}])
def test_a_uvit_of_sizes_that_do_not_fit_together_is_refused(wrong: dict[str, int]) -> None:
    with told("model/denoisers/uvit.py:UViTKind.config ConfigError") as error:
        check(UVIT, **wrong)
    assert "odd number of layers" in str(error.value)
    check(UVIT)
