"""SigLIP and DINOv2, compared with plain transformers code; and a store of their features."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.models import dinov2_folder, siglip_folder
from builders.parity import as_stored
from builders.workflows import fake_settings, finish

from daskt2i import open_store
from daskt2i.encoders.features.vision import VisionEncoder
from daskt2i.encoders.features.visionconfig import DEFAULTS
from daskt2i.encoders.finding.model_copies import is_allowed
from daskt2i.errors import StoreError
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime

FP32 = Runtime("cpu", "fp32", 1)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dinov2_folder(tmp_path_factory.mktemp("models") / "dinov2")


def pictures(side: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def loaded(folder: Path, **arguments: Any) -> VisionEncoder:
    encoder = VisionEncoder(str(folder), **arguments)
    encoder.load(FP32)
    return encoder


def plain(folder: Path, kind: str, item: np.ndarray, mean: Any, std: Any, **options: Any) -> Any:
    """One picture, normalised as the model's processor does it."""
    import torch
    import transformers

    from daskt2i.encoders.weights import quiet

    with quiet():
        model = getattr(transformers, kind).from_pretrained(folder).eval()
    values = (item.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    with torch.no_grad():
        return model(torch.from_numpy(values.transpose(2, 0, 1)[None]), **options)


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("side", [32, 48], ids=["trained-size", "larger"])
def test_dinov2_features_equal_those_of_plain_transformers(tmp_path: Path, registers: int, side: int) -> None:
    folder = dinov2_folder(tmp_path / "model", registers)
    encoder, items = loaded(folder), pictures(side)
    made = encoder.encode(items, 2)
    kind = "Dinov2WithRegistersModel" if registers else "Dinov2Model"
    for index, item in enumerate(items):
        out = plain(folder, kind, item, **IMAGENET)
        as_stored(made["image_features"][index], out.last_hidden_state[0, 1 + registers :].numpy())
        as_stored(made["image_pooled"][index], out.pooler_output[0].numpy())
    assert encoder.info(side).attributes["grid"] == [side // 8, side // 8]


@pytest.mark.parametrize("whole", [False, True], ids=["tower", "repository"])
@pytest.mark.parametrize("side", [None, 48], ids=["trained-size", "larger"])
def test_siglip_features_equal_those_of_plain_transformers(tmp_path: Path, whole: bool, side: int | None) -> None:
    folder, items = siglip_folder(tmp_path / "model", whole), pictures(side or 32)
    made = loaded(folder, side=side).encode(items, 2)
    for index, item in enumerate(items):
        out = plain(folder, "SiglipVisionModel", item, **HALF, interpolate_pos_encoding=side is not None)
        as_stored(made["image_features"][index], out.last_hidden_state[0].numpy())
        as_stored(made["image_pooled"][index], out.pooler_output[0].numpy())


def test_pictures_are_resized_to_the_size_of_the_model(tmp_path: Path) -> None:
    folder = siglip_folder(tmp_path / "siglip")
    flat = np.full((1, 64, 64, 3), 90, np.uint8)
    encoder = loaded(folder)
    assert encoder.info(64).arrays[0].shape == (16, 16)
    large, small = encoder.encode(flat, 1), encoder.encode(flat[:, :32, :32], 1)
    as_stored(large["image_features"], small["image_features"].astype(np.float32))


def test_the_pixels_are_as_the_folder_of_the_model_says(dinov2: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(dinov2, tmp_path / "copy")
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    item = pictures(32, 1)
    out = plain(copy, "Dinov2Model", item[0], **HALF)
    as_stored(loaded(copy).encode(item, 1)["image_pooled"][0], out.pooler_output[0].numpy())
    assert VisionEncoder(str(copy)).info(32).weights != VisionEncoder(str(dinov2)).info(32).weights
    (copy / "preprocessor_config.json").unlink()
    assert VisionEncoder(str(copy)).info(32).weights == VisionEncoder(str(dinov2)).info(32).weights
    assert is_allowed("preprocessor_config.json"), "it goes to the workers that lack the model"


@pytest.mark.parametrize("build", ["dinov2", "registers", "swiglu", "siglip", "repository"])
def test_weight_bytes_are_those_of_the_model(tmp_path: Path, build: str) -> None:
    import transformers

    from daskt2i.encoders.weights import quiet

    place = tmp_path / "model"
    folder = {
        "dinov2": lambda: dinov2_folder(place),
        "registers": lambda: dinov2_folder(place, registers=4),
        "swiglu": lambda: dinov2_folder(place, use_swiglu_ffn=True),
        "siglip": lambda: siglip_folder(place),
        "repository": lambda: siglip_folder(place, whole=True),
    }[build]()
    info = VisionEncoder(str(folder)).info(32)
    with quiet():
        model = getattr(transformers, info.attributes["class"]).from_pretrained(folder)
    count = 4 * sum(one.numel() for one in model.parameters())
    assert info.weight_bytes == count
    assert VisionEncoder(str(folder), weights="random").info(32).weight_bytes == count


def test_missing_keys_of_a_config_get_the_defaults_of_transformers() -> None:
    import transformers

    for config in (transformers.Dinov2Config(), transformers.SiglipVisionConfig()):
        assert {key: getattr(config, key) for key in DEFAULTS} == dict(DEFAULTS)


def test_a_store_of_features_has_no_decoded_rows_and_is_not_trained_from(dinov2: Path, tmp_path: Path) -> None:
    image = {"class": "daskt2i.encoders.features.vision.VisionEncoder", "model": str(dinov2)}
    result = finish(fake_settings(rows=4, image=image), tmp_path)
    assert result.accepted == 4
    store = open_store(tmp_path)
    assert store["image_features"].shape == (4, 16, 16)
    assert store["image_pooled"].shape == (4, 16)
    assert np.isfinite(store["image_features"].values).all()
    with pytest.raises(StoreError, match="has no latent_mean, but training needs"):
        LatentDataset(RunFolder(tmp_path), seed=0, batch=4)


def test_random_weights_follow_the_seed_and_are_marked(dinov2: Path) -> None:
    items = pictures(32, 1)
    one, same, other = (
        loaded(dinov2, weights="random", seed=seed).encode(items, 1)["image_pooled"] for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert VisionEncoder(str(dinov2), weights="random").info(32).random_weights


def test_dinov2_gets_as_many_whole_patches_as_the_pictures_have(dinov2: Path) -> None:
    assert [VisionEncoder(str(dinov2)).info(side).attributes["side"] for side in (30, 32, 47)] == [24, 32, 40]


def test_pickling_does_not_include_the_model(dinov2: Path) -> None:
    encoder = loaded(dinov2)
    assert len(pickle.dumps(encoder)) < 2000
    with pytest.raises(RuntimeError, match="load"):
        pickle.loads(pickle.dumps(encoder)).encode(pictures(32, 1), 1)
