"""Stores in fewer bytes, from encode to each reader: training, xarray, verify, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.workflows import fake_settings, finish

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.config.store_settings import StoreSettings
from daskt2i.encode.verify import verify
from daskt2i.export.rows import Exported
from daskt2i.loader.batch_arrays import Batch
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.forms.made_rows import read_made
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

FORMS: dict[str, dict[str, Any]] = {
    "int8": {"latents": "int8", "text": "int8"},
    "bfloat16": {"latents": "bfloat16", "text": "bfloat16"},
    "packed": {"packed": True},
    "packed int8": {"text": "int8", "packed": True},
    "without std": {"std": False},
}
CLOSE = {"int8": 0.02, "bfloat16": 0.01, "packed": 0.0, "packed int8": 0.02, "without std": 0.0}
"""Largest error of a number of the fakes, which are between -1 and 1."""


def stored(settings: dict[str, Any], **fakes: Any) -> Workflow:
    workflow = fake_settings(rows=20, rows_per_chunk=8, source={"captions": 3}, **fakes)
    dataset = workflow.dataset.model_copy(update={"store": StoreSettings.model_validate(settings)})
    return workflow.model_copy(update={"dataset": dataset})


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run folder of each form, and an exact one."""
    folder = tmp_path_factory.mktemp("forms")
    made = {}
    for name, settings in {"exact": {}, **FORMS}.items():
        finish(stored(settings), folder / name).raise_for_failed()
        made[name] = folder / name
    return made


def batches(place: Path, posterior: Any = "mean", **how: Any) -> list[Batch]:
    folder = RunFolder(place)
    dataset = LatentDataset(folder, seed=3, batch=4, window=2, heldout=2, dropout=0.2, posterior=posterior, **how)
    try:
        return [*dataset.heldout_batches(2), *dataset.batches(0, 24)]
    finally:
        dataset.close()


@pytest.mark.parametrize("cache", [2**29, 20_000], ids=["all in memory", "a small cache"])
@pytest.mark.parametrize("name", FORMS)
def test_training_draws_the_same_samples_from_each_form(places: dict[str, Path], name: str, cache: int) -> None:
    for mine, exact in zip(
        batches(places[name], cache_bytes=cache), batches(places["exact"], cache_bytes=cache), strict=True
    ):
        assert np.array_equal(mine.rows, exact.rows)
        assert np.array_equal(mine.slots, exact.slots)
        assert np.array_equal(mine.text_mask, exact.text_mask)
        assert np.array_equal(mine.noise, exact.noise)
        assert mine.text_states.dtype == exact.text_states.dtype
        for ours, theirs in ((mine.latents, exact.latents), (mine.text_states, exact.text_states)):
            assert np.abs(ours.astype(np.float32) - theirs).max() <= CLOSE[name]


def test_an_int8_store_also_has_the_std(places: dict[str, Path]) -> None:
    means, drawn = batches(places["int8"]), batches(places["int8"], "sample")
    theirs = batches(places["exact"], "sample")
    assert any(not np.array_equal(one.latents, other.latents) for one, other in zip(means, drawn, strict=True))
    for mine, exact in zip(drawn, theirs, strict=True):
        assert np.abs(mine.latents - exact.latents).max() < 0.05


def test_a_store_without_std_trains_on_the_mean(places: dict[str, Path]) -> None:
    asked = batches(places["without std"], "sample")
    for mine, exact in zip(asked, batches(places["exact"], "mean"), strict=True):
        assert np.array_equal(mine.latents, exact.latents)


@pytest.mark.parametrize("name", FORMS)
def test_open_store_shows_arrays_as_the_encoders_made_them(places: dict[str, Path], name: str) -> None:
    mine, exact = daskt2i.open_store(places[name]), daskt2i.open_store(places["exact"])
    lost = {"latent_std"} if name == "without std" else set()
    assert set(mine.data_vars) == set(exact.data_vars) - lost
    for array in set(exact.data_vars) - lost:
        assert (mine[array].dims, mine[array].dtype) == (exact[array].dims, exact[array].dtype)
        assert mine[array].chunks == exact[array].chunks
    for array in ("latent_mean", "text_states"):
        ours, theirs = (one[array].values.astype(np.float32) for one in (mine, exact))
        assert np.nanmax(np.abs(ours - theirs)) <= CLOSE[name]
    assert mine["text_states"].attrs.get("stored_as") == (
        None if name == "without std" else {"packed": "exact, packed", "packed int8": "int8, packed"}.get(name, name)
    )


@pytest.mark.parametrize("name", FORMS)
def test_verify_decodes_back_what_is_stored(places: dict[str, Path], name: str) -> None:
    found = verify(RunFolder(places[name]), stored(FORMS[name]), trusted=True)
    assert found.ok
    assert not found.notes
    assert len(found.psnr) == 3
    assert min(found.psnr) > 20


@pytest.mark.parametrize("name", FORMS)
def test_an_export_has_the_arrays_as_the_encoders_made_them(places: dict[str, Path], name: str) -> None:
    parts = {}
    for one in (name, "exact"):
        store = ZarrStore(RunFolder(places[one]))
        exported = Exported.of(store, np.arange(2, 18))
        assert not [extra for extra in exported.extra if extra.endswith(("_scale", "_begin", "_packed"))]
        parts[one] = list(exported.parts())
    for mine, exact in zip(parts[name], parts["exact"], strict=True):
        assert [one.shape for one in mine.states] == [one.shape for one in exact.states]
        for ours, theirs in zip([*mine.states, mine.mean], [*exact.states, exact.mean], strict=True):
            assert np.abs(ours.astype(np.float32) - theirs).max() <= CLOSE[name]


def test_rows_across_chunks_are_unpacked_one_by_one(places: dict[str, Path]) -> None:
    mine, exact = (ZarrStore(RunFolder(places[name])) for name in ("packed", "exact"))
    for start, stop in ((0, 20), (5, 17), (8, 8), (19, 20)):
        assert np.array_equal(read_made(mine, "text_states", start, stop), exact.read("text_states", start, stop))


def test_the_rejected_rows_of_a_packed_int8_store_are_counted_as_before(tmp_path: Path) -> None:
    fakes = {"image": {"nan_for": [0, 90]}}
    results = [
        finish(stored(settings, **fakes), tmp_path / str(index))
        for index, settings in enumerate(({}, {"latents": "int8", "text": "int8", "packed": True}))
    ]
    assert 0 < results[0].accepted < 20
    assert results[0].accepted == results[1].accepted
    assert results[0].rejected == results[1].rejected


def test_the_settings_of_the_store_are_part_of_its_fingerprint(places: dict[str, Path]) -> None:
    marks = {name: (about_store(ZarrStore(RunFolder(place))) or {})["fingerprint"] for name, place in places.items()}
    assert len(set(marks.values())) == len(places)


def test_a_chunk_is_the_same_bytes_when_it_is_encoded_again(places: dict[str, Path], tmp_path: Path) -> None:
    finish(stored(FORMS["packed int8"]), tmp_path / "again").raise_for_failed()
    first, second = places["packed int8"] / "latents.zarr", tmp_path / "again" / "latents.zarr"
    files = sorted(path.relative_to(first) for path in first.rglob("c.*"))
    assert files
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in files)


@pytest.mark.parametrize("shape", [{"resolutions": [16, 32]}, {"buckets": {"area": "32x32", "step": 8}}], ids=str)
def test_each_view_of_a_picture_has_a_scale_of_its_own(tmp_path: Path, shape: dict[str, Any]) -> None:
    drawn = {}
    for name, settings in (("exact", {}), ("int8", {"latents": "int8", "packed": True})):
        workflow = stored(settings)
        image = type(workflow.dataset.image).model_validate({**shape, "flip": True})
        dataset = workflow.dataset.model_copy(update={"image": image})
        finish(workflow.model_copy(update={"dataset": dataset}), tmp_path / name).raise_for_failed()
        drawn[name] = batches(tmp_path / name, "sample")
    for mine, exact in zip(drawn["int8"], drawn["exact"], strict=True):
        assert np.array_equal(mine.rows, exact.rows)
        assert mine.latents.shape == exact.latents.shape
        assert np.abs(mine.latents - exact.latents).max() < 0.05
        assert np.array_equal(mine.text_states, exact.text_states)
    arrays = ZarrStore(RunFolder(tmp_path / "int8")).layout()["arrays"]
    assert len([name for name in arrays if name.endswith("_flipped_scale")]) == len(arrays_of(shape))
    assert daskt2i.open_store(tmp_path / "int8").attrs["daskt2i"]["forms"]


def arrays_of(shape: dict[str, Any]) -> list[str]:
    """Mean and std of each mirrored view: two sizes, or one bucket, as all pictures of the fake have one shape."""
    return ["mean", "std"] * len(shape.get("resolutions", [1]))
