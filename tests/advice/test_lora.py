"""What `sample` with another pipeline or a LoRA tells a user to do works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders.advice import told
from builders.pipelines import sd_folder

import daskt2i
from daskt2i.errors import ModelError, ModelMissing
from daskt2i.model.pretrained import lora_files
from daskt2i.sample.other_model import OtherModel

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    (tmp_path / "lora").mkdir()
    lora_files.write({LAYER: (torch.ones(2, 32), torch.ones(32, 2))}, 1.0, "unet", tmp_path / "lora")
    return tmp_path / "lora"


def test_a_scale_needs_a_lora_and_a_number_that_can_be_used(lora: Path) -> None:
    for wrong in (OtherModel(lora_scale=0.5), OtherModel(lora=str(lora), lora_scale=float("nan"))):
        with told("sample/other_model.py:OtherModel.require ConfigError"):
            wrong.require()
    for scale in (-10.0, 1.0, 10.0):
        OtherModel(lora=str(lora), lora_scale=scale).require()


def test_a_lora_with_nan_is_refused_before_drawing(lora: Path) -> None:
    OtherModel(lora=str(lora)).require()
    lora_files.write({LAYER: (torch.full((2, 32), torch.nan), torch.ones(32, 2))}, 1.0, "unet", lora)
    with told("model/pretrained/lora_files.py:read ModelError") as info:
        OtherModel(lora=str(lora / lora_files.KOHYA)).require()
    assert "not finite" in str(info.value)


def test_a_missing_lora_and_one_of_another_model_draw_nothing(lora: Path, tmp_path: Path) -> None:
    base = sd_folder(tmp_path / "tiny-sd")
    with daskt2i.Run("demo", tmp_path / "run", scheduler="serial", progress=False) as run:
        with pytest.raises(ModelMissing, match="no LoRA"):
            run.sample("a", pretrained=base, lora=lora / "absent.safetensors", steps=1)
        lora_files.write({LAYER: (torch.ones(2, 64), torch.ones(64, 2))}, 1.0, "unet", lora)
        with pytest.raises(ModelError, match="belongs to another model"):
            run.sample("a", pretrained=base, lora=lora, steps=1)
    assert not (tmp_path / "run" / "samples").exists()


def test_a_pipeline_of_the_hub_that_is_not_here_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with told("encoders/finding/locate.py:_download ModelMissing") as info:
        OtherModel("daskt2i-tests/nowhere@v2").require()
    assert "hf download daskt2i-tests/nowhere --revision v2" in str(info.value)
