"""What the encoders of whole pipelines and of features tell a user to do works."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders.advice import told
from builders.models import bert_folder, dinov2_folder, sdxl_folder, siglip_folder

from daskt2i.encoders.features.vision import VisionEncoder
from daskt2i.encoders.joint.text import JointTextEncoder
from daskt2i.machine.precision import resolve
from daskt2i.types import Runtime

CPU = Runtime("cpu", "fp32", 1)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdxl_folder(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dinov2_folder(tmp_path_factory.mktemp("models") / "dinov2")


@pytest.mark.parametrize("right", ["sdxl", "sd3", "flux"])
def test_a_kind_of_pipeline_that_is_named_is_taken(right: Any) -> None:
    with told("encoders/joint/text.py:JointTextEncoder.__init__ ConfigError") as error:
        JointTextEncoder("a/pipeline", "sd15")  # type: ignore[arg-type]
    assert right in str(error.value)
    assert JointTextEncoder("a/pipeline", right)


@pytest.mark.parametrize("right", ["length", "full"])
def test_a_padding_that_is_named_is_taken(right: Any) -> None:
    with told("encoders/joint/text.py:JointTextEncoder.__init__ ConfigError") as error:
        JointTextEncoder("a/pipeline", "sdxl", pad="unmasked")  # type: ignore[arg-type]
    assert right in str(error.value)
    assert JointTextEncoder("a/pipeline", "sdxl", pad=right)


def test_a_pipeline_whose_tokens_read_the_padding_is_taken_without_pad() -> None:
    with told("encoders/joint/text.py:JointTextEncoder.__init__ ConfigError") as error:
        JointTextEncoder("a/pipeline", "sd3", pad="length")
    assert "leave pad out" in str(error.value)
    assert JointTextEncoder("a/pipeline", "sd3").pad == "full"


def test_a_pipeline_without_t5_is_taken_without_max_tokens() -> None:
    with told("encoders/joint/text.py:JointTextEncoder.__init__ ConfigError") as error:
        JointTextEncoder("a/pipeline", "sdxl", max_tokens=40)
    assert "leave max_tokens out" in str(error.value)
    assert JointTextEncoder("a/pipeline", "sdxl")


def test_a_pipeline_is_taken_as_the_kind_that_it_is(sdxl: Path) -> None:
    with told("encoders/joint/text.py:JointTextEncoder.info ModelError") as error:
        JointTextEncoder(str(sdxl), "flux").load(CPU)
    assert "set dataset.encoders.text.kind" in str(error.value)
    assert JointTextEncoder(str(sdxl), "sdxl").info().arrays


def test_the_tokenizers_of_one_pipeline_are_taken(sdxl: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sdxl, tmp_path / "copy")
    merges = (copy / "tokenizer_2" / "merges.txt").read_text().splitlines()
    (copy / "tokenizer_2" / "merges.txt").write_text("\n".join([merges[0], *merges[3:], ""]))
    mixed, right = JointTextEncoder(str(copy), "sdxl"), JointTextEncoder(str(sdxl), "sdxl")
    for encoder in (mixed, right):
        encoder.load(CPU)
    with told("encoders/joint/text.py:JointTextEncoder.encode ModelError"):
        mixed.encode(["a dog"], 1)
    assert right.encode(["a dog"], 1)["text_mask"].any()


def test_features_load_in_a_precision_that_is_named(dinov2: Path) -> None:
    encoder = VisionEncoder(str(dinov2))
    with told("encoders/weights.py:torch_dtype ConfigError"):
        encoder.load(Runtime("cpu", "fp16", 1))
    for precision in ("fp32", "bf16", resolve("auto", "cpu")):
        encoder.load(Runtime("cpu", precision, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -8, 2.5, "32", True])
def test_a_side_is_a_whole_number_or_left_out(wrong: Any) -> None:
    with told("encoders/features/vision.py:VisionEncoder.__init__ ConfigError"):
        VisionEncoder("a/model", side=wrong)
    assert VisionEncoder("a/model", side=224)
    assert VisionEncoder("a/model")


def test_each_side_that_is_named_is_taken(dinov2: Path) -> None:
    with told("encoders/features/visionconfig.py:VisionShape.side ConfigError") as error:
        VisionEncoder(str(dinov2), side=30).info(64)
    good = [int(number) for number in re.findall(r"\d+", str(error.value).rpartition("use")[2])]
    assert good == [24, 32]
    assert all(VisionEncoder(str(dinov2), side=side).info(64).arrays for side in good)


def test_models_that_make_features_are_taken(dinov2: Path, tmp_path: Path) -> None:
    with told("encoders/features/visionconfig.py:vision_shape ModelError"):
        VisionEncoder(str(bert_folder(tmp_path / "bert"))).info(32)
    assert VisionEncoder(str(dinov2)).info(32).arrays
    assert VisionEncoder(str(siglip_folder(tmp_path / "siglip"))).info(32).arrays
