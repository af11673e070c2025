"""Training on what an encode with buckets, resolutions and mirrored pictures has made, to drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.runs import trained_here
from builders.shapes import BUCKETS, SIZES, shaped, write_photographs
from builders.workflows import finish

from daskt2i import Run, open_store, torch_dataset
from daskt2i.config.settings import SampleSettings, TrainSettings, Workflow
from daskt2i.encoders.latent_scaling import latent_scaling
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder

UNET = {
    "block_out_channels": [16, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"), SIZES * 3)


def workflow(photographs: Path, image: dict[str, Any], **train: Any) -> Workflow:
    given = {"steps": 3, "batch": 4, "validation": 4, "warmup": 0, "model": {"config": UNET}, **train}
    found = shaped(photographs, image)
    sample = SampleSettings(prompts=["a dog"], steps=2)
    return found.model_copy(update={"train": TrainSettings.model_validate(given), "sample": sample})


@pytest.mark.parametrize(
    "image", [{"buckets": BUCKETS, "flip": True}, {"resolutions": [32, 64]}], ids=["buckets", "resolutions"]
)
def test_a_store_of_several_sizes_is_trained_on_and_drawn_with(
    image: dict[str, Any], photographs: Path, tmp_path: Path
) -> None:
    whole = workflow(photographs, image)
    accepted = finish(whole, tmp_path).accepted
    made = trained_here(whole, tmp_path)
    assert made.steps == 3
    assert made.heldout_loss is not None
    data = LatentDataset(RunFolder(tmp_path), seed=0, batch=4, heldout=0)
    data.close()
    assert data.rows == accepted
    assert len(data.latent_shapes) == (5 if "buckets" in image else 1)
    height, width = data.latent_shape[1:]
    with Run(whole, tmp_path, scheduler="serial", progress=False) as run:
        assert run.plan("train").rows == accepted
        drawn = run.sample()
    assert {picture.size for picture in drawn.images} == {(width * 8, height * 8)}


def test_batches_have_the_latents_of_the_rows_in_the_store(photographs: Path, tmp_path: Path) -> None:
    finish(workflow(photographs, {"buckets": BUCKETS}), tmp_path)
    store = open_store(tmp_path)
    mean, std, factor = latent_scaling(store.attrs["daskt2i"]["image_encoder"], 4)
    places = {int(row): place for place, row in enumerate(store.row.values)}
    dataset, sizes = torch_dataset(tmp_path, 2, posterior="mean"), set()
    for batch in dataset:
        height, width = (8 * side for side in batch["latents"].shape[2:])
        sizes.add((width, height))
        raw = store[f"latent_mean_{width}x{height}"].values[[places[row] for row in batch["row"].tolist()]]
        wanted = (raw.astype(np.float32) - mean[:, None, None]) * (np.float32(factor) / std[:, None, None])
        np.testing.assert_allclose(batch["latents"].numpy(), wanted, rtol=1e-6)
    dataset.close()
    assert len(sizes) > 2


def test_a_whole_run_with_buckets_knows_its_sizes_before_it_starts(photographs: Path, tmp_path: Path) -> None:
    with Run(workflow(photographs, {"buckets": BUCKETS}), tmp_path, scheduler="serial", progress=False) as run:
        assert json.dumps(run.plan("run").to_json())
