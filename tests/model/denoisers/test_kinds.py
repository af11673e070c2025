"""A workflow names its class of denoisers, and a class that cannot be trained is refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from daskt2i.config.settings import TrainSettings
from daskt2i.config.training.denoiser import UNET
from daskt2i.model.denoisers.denoiser import DenoiserKind
from daskt2i.model.denoisers.kinds import KINDS, kind_of
from daskt2i.model.denoisers.unet import UNet
from daskt2i.train.resume import identity_of

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
