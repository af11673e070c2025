"""Pictures of several shapes: aspect buckets, several sizes of one crop, crops, mirrored pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders.coco import coco_source
from builders.models import kl_folder
from builders.shapes import BUCKETS, SIZES, picture, shaped, write_photographs
from builders.workflows import finish
from PIL import Image

import daskt2i
from daskt2i.encode.prepare import prepare
from daskt2i.encode.verify import verify
from daskt2i.errors import ConfigError, FingerprintMismatch, Reason
from daskt2i.sources.coco import CocoSource
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

BY_BUCKET = [(16, 32), (32, 16), (48, 80), (64, 64), (80, 48)]
"""The buckets of `SIZES`, in the order of the store: two images are smaller than the bucket of their ratio."""

NUMBERS = [0, 4, 8, 9, 12, 13, 14, 16, 17, 18]
"""Their row numbers, with four rows a chunk."""

READ: Counter[int] = Counter()
"""Image id -> how often `CountingSource` read its file."""


class CountingSource(CocoSource):
    """Counts the files that are read."""

    def read(self, row: Row) -> bytes:
        READ[row.image_id] += 1
        return super().read(row)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def bucketed(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the ten photographs in buckets, with mirrored pictures."""
    out = tmp_path_factory.mktemp("bucketed") / "run"
    assert finish(shaped(photographs, {"buckets": BUCKETS, "flip": True}), out).accepted == 10
    return out


def counted(folder: Path) -> dict[str, str]:
    """The photographs as a source that counts what is read."""
    READ.clear()
    return {**coco_source(folder), "class": f"{__name__}.CountingSource"}


def files(out: Path) -> dict[str, bytes]:
    """The arrays of a store."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in (out / "latents.zarr").rglob("c*") if path.is_file()
    }


def plain_latent(model: Any, photo: Image.Image, box: Sequence[int], size: tuple[int, int], flipped: bool) -> Any:
    """Mean of the posterior as a user of diffusers would compute it, in fp32."""
    import torch

    shown = photo.resize(size, Image.Resampling.BICUBIC, box=tuple(map(float, box)))
    if flipped:
        shown = shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        return model.encode(pixels).latent_dist.mean[0].numpy()


@pytest.mark.parametrize(
    "image",
    [{"buckets": BUCKETS, "flip": True}, {"resolutions": [32, 64], "crop": "random"}, {"resolution": 32, "flip": True}],
    ids=["buckets", "resolutions", "flip"],
)
def test_each_latent_is_that_of_plain_diffusers_on_the_recorded_crop(
    image: dict[str, Any], photographs: Path, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    folder = kl_folder(tmp_path / "vae")
    model = AutoencoderKL.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False).eval()
    encoder = {"class": "daskt2i.encoders.vae.VaeEncoder", "model": str(folder), "engine": "torch"}
    finish(shaped(photographs, image, encoder=encoder, gate_rows=0), tmp_path / "run")
    compared = 0
    with daskt2i.open_store(tmp_path / "run") as store:
        for view in store.attrs["daskt2i"]["views"]:
            means = store[f"latent_mean_{view['name']}"]
            for place in np.flatnonzero(~np.isnan(means.values).any(axis=(1, 2, 3))):
                row = store.isel(row=place)
                photo, size = picture(photographs, int(row.image_id)), (view["width"], view["height"])
                wanted = plain_latent(model, photo, row.crop_box.values, size, view["flipped"])
                assert np.allclose(means[place].values, wanted, atol=2e-3, rtol=2e-3)
                compared += 1
    assert compared == 20


def test_rows_are_ordered_by_bucket_and_each_bucket_begins_a_chunk(bucketed: Path) -> None:
    with daskt2i.open_store(bucketed) as store:
        views = [view for view in store.attrs["daskt2i"]["views"] if not view["flipped"]]
        assert [(view["width"], view["height"]) for view in views] == BY_BUCKET
        assert [view["rows"] for view in views] == [1, 1, 2, 3, 3]
        assert [view["first_chunk"] for view in views] == [0, 1, 2, 3, 4]
        assert store.row.values.tolist() == NUMBERS
        sizes = [tuple(size) for size in store.source_size.values.tolist()]
        assert sorted(sizes) == sorted(SIZES)
        for view in views:
            first = 4 * view["first_chunk"]
            own = (store.row.values >= first) & (store.row.values < first + view["rows"])
            there = ~np.isnan(store[f"latent_mean_{view['name']}"].values).any(axis=(1, 2, 3))
            assert there.tolist() == own.tolist()


def test_every_row_is_counted_once_and_the_store_is_in_order(bucketed: Path, photographs: Path) -> None:
    manifest = pq.read_table(bucketed / "manifest.parquet").to_pylist()
    assert sorted(line["image_id"] for line in manifest) == list(range(100, 110))
    assert [line["row"] for line in manifest] == NUMBERS
    found = verify(RunFolder(bucketed), shaped(photographs, {"buckets": BUCKETS, "flip": True}), trusted=True)
    assert found.ok
    assert found.rows == 10
    assert len(found.psnr) == 10, "a picture and its mirror image of each chunk"
    assert daskt2i.open_run(bucketed).status().rows == 10


def test_rows_of_each_bucket_are_decoded_back(bucketed: Path) -> None:
    assert [len(receipt.psnr) for receipt in Receipts(RunFolder(bucketed)).read()] == [2, 2, 4, 4, 4]


def test_a_mirrored_latent_is_made_from_mirrored_pixels(bucketed: Path) -> None:
    with daskt2i.open_store(bucketed) as store:
        for size in BY_BUCKET:
            name = f"latent_mean_{size[0]}x{size[1]}"
            there = ~np.isnan(store[name].values).any(axis=(1, 2, 3))
            mirrored = store[f"{name}_flipped"].values[there]
            # The latents of the fake are averages of squares, so here the two ways give the same.
            assert np.allclose(mirrored, store[name].values[there][..., ::-1], atol=1e-3)
            assert not np.allclose(mirrored, store[name].values[there], atol=1e-3)


def test_no_picture_is_scaled_up_unless_asked(photographs: Path, tmp_path: Path) -> None:
    for upscale, least in ((False, 1.0), (True, 0.4)):
        out = tmp_path / str(upscale)
        finish(shaped(photographs, {"buckets": {**BUCKETS, "upscale": upscale}}), out)
        scales = []
        with daskt2i.open_store(out) as store:
            for view in store.attrs["daskt2i"]["views"]:
                there = ~np.isnan(store[f"latent_mean_{view['name']}"].values).any(axis=(1, 2, 3))
                boxes = store.crop_box.values[there]
                scales += [(box[2] - box[0]) / view["width"] for box in boxes]
        assert len(scales) == 10
        assert min(scales) >= least
        assert bool(min(scales) < 1) is upscale


def test_images_without_a_bucket_are_rejected_and_counted(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, [(64, 64), (40, 15), (64, 64), (64, 64), (64, 64)])
    (folder / "images" / "002.png").unlink()
    (folder / "images" / "003.png").write_bytes(b"no picture")
    result = finish(shaped(folder, {"buckets": BUCKETS, "min_side": 8}), tmp_path / "run")
    assert (result.rows, result.accepted) == (5, 2)
    assert result.rejected == {"image-too-small": 1, "missing-file": 1, "unreadable-image": 1}
    detail = {line["image_id"]: line["detail"] for line in pq.read_table(tmp_path / "run/manifest.parquet").to_pylist()}
    assert detail[101] == "40 x 15 pixels are fewer than the smallest bucket has"


def test_an_image_that_became_smaller_than_its_bucket_is_rejected(tmp_path: Path) -> None:
    folder = write_photographs(tmp_path, [(64, 64), (64, 64)])
    workflow = shaped(folder, {"buckets": BUCKETS})
    prepare(workflow, tmp_path / "run")
    write_photographs(tmp_path, [(64, 64), (50, 64)])
    result = finish(workflow, tmp_path / "run")
    assert result.rejected == {str(Reason.IMAGE_TOO_SMALL): 1}
    assert result.accepted == 1


def test_several_sizes_come_from_one_read_of_each_file(photographs: Path, tmp_path: Path) -> None:
    finish(shaped(photographs, {"resolutions": [32, 64]}, source=counted(photographs)), tmp_path / "both")
    assert READ.pop(100) > 1, "driver and worker compare the first row, to see the same files"
    assert set(READ.values()) == {1}
    with daskt2i.open_store(tmp_path / "both") as both:
        assert both["latent_mean_32x32"].shape == (10, 4, 4, 4)
        for side in (32, 64):
            finish(shaped(photographs, {"resolution": side}), tmp_path / str(side))
            with daskt2i.open_store(tmp_path / str(side)) as one:
                for name in ("latent_mean", "latent_std"):
                    assert np.array_equal(both[f"{name}_{side}x{side}"].values, one[name].values)


def test_one_resolution_in_a_list_has_plain_names(photographs: Path, tmp_path: Path) -> None:
    finish(shaped(photographs, {"resolutions": [32]}), tmp_path / "list")
    finish(shaped(photographs, {"resolution": 32}), tmp_path / "plain")
    assert files(tmp_path / "list") == files(tmp_path / "plain")
    with daskt2i.open_store(tmp_path / "list") as store:
        assert "views" not in store.attrs["daskt2i"]


def test_a_resumed_encode_reads_no_headers_and_writes_the_same_bytes(
    photographs: Path, bucketed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    workflow = shaped(photographs, {"buckets": BUCKETS, "flip": True}, source=counted(photographs))
    finish(workflow, out)
    assert READ.pop(109) > 2, "driver and worker compare the first row, to see the same files"
    assert set(READ.values()) == {2}, "once for its size, and once to encode it"
    whole = files(out)
    for chunk in (1, 3):  # as a killed run leaves them
        (out / "receipts" / f"chunk-{chunk:07d}.json").unlink()
    READ.clear()
    result = finish(workflow, out)
    assert (result.done, result.skipped, result.accepted) == (2, 3, 10)
    first = {line["image_id"] for line in pq.read_table(out / "manifest.parquet").to_pylist() if line["chunk"] == 0}
    again = {
        line["image_id"] for line in pq.read_table(out / "manifest.parquet").to_pylist() if line["chunk"] in (1, 3)
    }
    assert set(READ) == again | first, "the content of the first finished chunk is always compared"
    assert files(out) == whole == files(bucketed)


def test_random_crops_are_recorded_and_depend_on_seed_and_image_alone(photographs: Path, tmp_path: Path) -> None:
    boxes = {}
    for name, image in {
        "centre": {"crop": "centre"},
        "one": {"crop": "random"},
        "again": {"crop": "random"},
        "other": {"crop": "random", "seed": 1},
    }.items():
        finish(shaped(photographs, {"resolution": 32, **image}), tmp_path / name)
        with daskt2i.open_store(tmp_path / name) as store:
            boxes[name] = store.crop_box.values
            assert "latent_mean" in store
    assert np.array_equal(boxes["one"], boxes["again"])
    assert not np.array_equal(boxes["one"], boxes["other"])
    assert not np.array_equal(boxes["one"], boxes["centre"])
    sides = boxes["one"][:, 2:] - boxes["one"][:, :2]
    assert sides.min(axis=1).tolist() == [min(size) for size in SIZES]


def test_rows_keep_their_origin_with_where_and_buckets(photographs: Path, tmp_path: Path) -> None:
    workflow = shaped(photographs, {"buckets": BUCKETS}, where="width > 64")
    prepared = prepare(workflow, tmp_path / "run")
    rows = [row for chunk in prepared.grid for row in prepared.source.rows(chunk.start, chunk.stop)]
    assert {row.origin: row.image_id for row in rows} == {place: 100 + place for place in (0, 3, 5, 6, 7)}
    assert finish(workflow, tmp_path / "run").accepted == 5


def test_a_column_has_the_rows_of_a_store_in_buckets(photographs: Path, tmp_path: Path) -> None:
    run = daskt2i.Run(shaped(photographs, {"buckets": BUCKETS}), tmp_path / "run", scheduler="serial", progress=False)
    run.encode()
    run.add(column="words", encoder="daskt2i.encoders.fake.FakeTextEncoder", arguments={"features": 8})
    with daskt2i.open_store(tmp_path / "run") as store:
        assert store.words_text_states.shape[0] == 10
        assert store.words_valid.values.all()


def test_the_plan_tells_the_buckets_and_what_they_leave_out(photographs: Path, tmp_path: Path) -> None:
    plan = prepare(shaped(photographs, {"buckets": BUCKETS}), tmp_path / "run")
    text = repr(plan)
    assert "5 sizes; crops leave out" in text
    assert "80 x 48" in text
    assert "3 rows in 1 chunk" in text
    assert [one["rows"] for one in plan.to_json()["buckets"]] == [1, 1, 2, 3, 3]
    assert "Buckets with fewer rows than one training batch (train.batch=64): 16 x 32 (1)" in text
    assert not (tmp_path / "run" / "latents.zarr").exists()
    shares = [one["wasted"] for one in plan.to_json()["buckets"]]
    assert all(0 <= share < 0.7 for share in shares)


def test_other_buckets_are_another_store(photographs: Path, bucketed: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"dataset\.image\.buckets\.step: 16 there, 32 now"):
        prepare(shaped(photographs, {"buckets": {**BUCKETS, "step": 32}, "flip": True}), bucketed)


def test_an_estimate_measures_the_largest_bucket(photographs: Path, tmp_path: Path) -> None:
    run = daskt2i.Run(shaped(photographs, {"buckets": BUCKETS}), tmp_path / "run", scheduler="serial", progress=False)
    assert run.estimate(rows=4).to_json()["rows"] == 10


def test_a_step_that_the_encoder_cannot_take_is_named(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.image\.buckets makes squares of 60 pixels.*a multiple of 8"):
        prepare(shaped(photographs, {"buckets": {**BUCKETS, "step": 12}}), tmp_path / "run")


@pytest.mark.parametrize(
    ("image", "what"),
    [
        ({"buckets": BUCKETS, "resolutions": [32]}, "dataset.image has both resolutions and buckets"),
        ({"resolutions": [32, 32]}, "dataset.image.resolutions names a size twice"),
        ({"buckets": {"area": "64"}}, "dataset.image.buckets.area is '64'; give width x height"),
        ({"buckets": {"area": "64x64", "step": 128}}, "has a step of 128 pixels, so no bucket fits"),
    ],
    ids=["both", "twice", "area", "step"],
)
def test_settings_that_contradict_each_other_are_one_sentence(image: dict[str, Any], what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        shaped(tmp_path, image)
    assert what in str(error.value)


@pytest.mark.parametrize(
    "image", [{"buckets": BUCKETS, "flip": True}, {"resolutions": [32, 64]}], ids=["buckets", "sizes"]
)
def test_smaller_stores_have_views_too(image: dict[str, Any], photographs: Path, tmp_path: Path) -> None:
    small = shaped(photographs, image, store={"latents": "int8", "std": False, "text": "int8"})
    finish(shaped(photographs, image), tmp_path / "exact")
    assert finish(small, tmp_path / "small").accepted == 10
    with daskt2i.open_store(tmp_path / "exact") as exact, daskt2i.open_store(tmp_path / "small") as found:
        names = [name for name in exact.data_vars if str(name).startswith("latent_mean_")]
        assert len(names) == len(exact.attrs["daskt2i"]["views"])
        for name in names:
            assert found[name].shape == exact[name].shape
            assert np.allclose(found[name].values, exact[name].values, atol=0.02, equal_nan=True)
        assert not [name for name in found.data_vars if "latent_std" in str(name)]
    assert verify(RunFolder(tmp_path / "small"), small, trusted=True).ok
