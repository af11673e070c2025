"""A workflow names its class of denoisers, and a class that cannot be trained is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from builders.advice import told

from daskt2i.config.settings import TrainSettings
from daskt2i.config.training.denoiser import UNET
from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import DenoiserKind, StoreFacts
from daskt2i.model.denoisers.kinds import KINDS, kind_of
from daskt2i.model.denoisers.unet import UNet
from daskt2i.train.resume import identity_of
from daskt2i.train.samples import check_model

FACTS = StoreFacts(((4, 16, 16),), 16, 24)
STORED: Mapping[str, Any] = {
    "fingerprint": "f",
    "text_encoder": {"pad": "full"},
    "identity": {"encoders": {"text": {}}},
}


class OwnKind(UNet):
    """A kind of the user's own."""

    class_path = "mylab.Denoiser"


def named(**model: Any) -> TrainSettings:
    return TrainSettings.model_validate({"model": model, "steps": 1})


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_found_by_its_class_path(name: str) -> None:
    assert isinstance(kind_of(name), DenoiserKind)
    assert kind_of(name).class_path == name


def test_without_a_class_the_unet_trains_and_naming_it_is_the_same_training() -> None:
    assert kind_of(None) is kind_of(UNET)
    plain, by_name = named(preset="demo"), named(**{"class": UNET, "preset": "demo"})
    assert identity_of(plain, STORED) == identity_of(by_name, STORED)
    assert list(identity_of(plain, STORED)["train"]["model"]) == ["preset", "config"]
    assert list(json.loads(by_name.model.model_dump_json(by_alias=True))) == ["preset", "config"]


def test_the_default_preset_is_that_of_the_unet_alone() -> None:
    assert named().model.preset == "demo"
    own = named(**{"class": f"{__name__}.OwnKind"}).model
    assert (own.preset, type(kind_of(own))) == (None, OwnKind)
    assert identity_of(named(**{"class": "mylab.Other"}), STORED)["train"]["model"]["class"] == "mylab.Other"


@pytest.mark.parametrize("name", ["diffusers.AutoencoderKL", "UNet2DConditionModel", "daskt2i.types.ArraySpec"])
def test_a_class_that_cannot_be_trained_is_refused_with_those_that_can(name: str) -> None:
    with pytest.raises(ConfigError, match="Nothing was started"):
        kind_of(name)
    with told("model/denoisers/kinds.py:kind_of ConfigError") as error:
        kind_of("fractions.Fraction")
    assert all(kind in str(error.value) for kind in KINDS)
    with told("model/denoisers/kinds.py:kind_of ConfigError") as error:
        kind_of("mylab.is.not_here")
    assert "cannot be imported" in str(error.value)
    assert isinstance(kind_of(next(iter(KINDS))), DenoiserKind)


def test_an_objective_that_the_pipeline_cannot_draw_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnKind, "objectives", ("v",))
    own = {"class": f"{__name__}.OwnKind", "preset": "demo"}
    with told("train/samples.py:check_model ConfigError") as error:
        check_model(TrainSettings.model_validate({"model": own, "objective": "flow"}), FACTS)
    assert "set train.objective to v" in str(error.value)
    check_model(TrainSettings.model_validate({"model": own, "objective": "v"}), FACTS)
