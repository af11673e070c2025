"""Views of a store: which chunks have which arrays, and chunks that are short before the last one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.stores import put

from daskt2i.errors import StoreError
from daskt2i.plan import ChunkGrid
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import View, grid_of, short_chunks, view_name, view_of_array, views_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Chunk, Encoded

WIDE = View("32x16", 32, 16, False, 0, 2, 6)
WIDE_FLIPPED = View("32x16_flipped", 32, 16, True, 0, 2, 6)
HIGH = View("16x32", 16, 32, False, 2, 2, 7)
VIEWS = (WIDE, WIDE_FLIPPED, HIGH)
"""Two buckets of a store of 4 rows a chunk: chunks of 4 and 2 rows, then of 4 and 3."""

GRID = ChunkGrid(15, 4, {1: 2})


def about(views: Sequence[View] = VIEWS) -> dict[str, Any]:
    return {"views": [view.to_json() for view in views]}


def spec(view: View) -> ArraySpec:
    return ArraySpec(view.array("latent_mean"), ("c", "y", "x"), (1, view.height, view.width), "float16", "nan")


ARRAYS = (*map(spec, VIEWS), ArraySpec("caption", (), (), "string", ""), ArraySpec("image_id", (), (), "int64", 0))


@pytest.fixture
def store(tmp_path: Path) -> ZarrStore:
    store = ZarrStore(RunFolder(tmp_path))
    store.create(GRID.rows, GRID.rows_per_chunk, ARRAYS, {"daskt2i": about()})
    return store


def filled(chunk: Chunk) -> Encoded:
    """Arrays of a chunk whose values are its row numbers."""
    rows = np.arange(chunk.start, chunk.stop)
    views = [view for view in VIEWS if view.covers(chunk.index)]
    latents = {
        view.array("latent_mean"): np.broadcast_to(rows[:, None, None, None], (len(rows), *spec(view).shape)).astype(
            "f2"
        )
        for view in views
    }
    return Encoded({**latents, "caption": rows.astype(str).astype(object), "image_id": rows})


def test_row_numbers_are_left_out_after_a_short_chunk() -> None:
    assert [(chunk.start, chunk.stop) for chunk in GRID] == [(0, 4), (4, 6), (8, 12), (12, 15)]
    assert GRID.filled == 13
    assert [GRID.row(place) for place in range(13)] == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13, 14]


def test_the_views_of_a_store_give_its_chunks() -> None:
    found = grid_of({"rows": 15, "rows_per_chunk": 4}, about())
    assert found == GRID
    assert views_of(about()) == VIEWS


def test_a_store_without_views_has_chunks_as_before() -> None:
    assert views_of({}) == ()
    assert grid_of({"rows": 15, "rows_per_chunk": 4}, {}) == ChunkGrid(15, 4)


def test_the_same_rows_in_several_sizes_make_no_short_chunk_but_the_last() -> None:
    sizes = [dataclasses.replace(WIDE, name=name, chunks=4, rows=15) for name in ("16x16", "32x32")]
    assert grid_of({"rows": 15, "rows_per_chunk": 4}, about(sizes)) == ChunkGrid(15, 4)


def test_an_array_belongs_to_the_view_in_its_name() -> None:
    assert view_name((32, 16)) == "32x16"
    assert view_of_array("latent_std_32x16", VIEWS) == WIDE
    assert view_of_array(WIDE_FLIPPED.array("latent_std"), VIEWS) == WIDE_FLIPPED
    assert view_of_array("latent_mean_32x16_flipped_scale", VIEWS) == WIDE_FLIPPED
    assert view_of_array("latent_mean_16x32_scale", VIEWS) == HIGH
    assert view_of_array("caption", VIEWS) is None


def test_a_chunk_writes_the_arrays_of_its_own_bucket_only(store: ZarrStore) -> None:
    shards = {chunk.index: put(store, chunk, filled(chunk)) for chunk in GRID}
    keys = {index: {shard.key.partition("/")[0] for shard in made} for index, made in shards.items()}
    assert keys[0] == keys[1] == {"latent_mean_32x16", "latent_mean_32x16_flipped", "caption", "image_id"}
    assert keys[2] == keys[3] == {"latent_mean_16x32", "caption", "image_id"}
    assert store.read("image_id", 0, 15).tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 8, 9, 10, 11, 12, 13, 14]
    assert store.read("caption", 4, 9).tolist() == ["4", "5", "", "", "8"]
    assert np.isnan(store.read("latent_mean_16x32", 0, 8)).all()


def test_a_short_chunk_that_is_written_again_replaces_a_damaged_shard(store: ZarrStore) -> None:
    chunk = GRID[1]
    shards = put(store, chunk, filled(chunk))
    for shard in shards:
        store.folder.write(f"{store.name}/{shard.key}", b"damaged")
    assert put(store, chunk, filled(chunk)) == shards
    assert store.check(shards) is None


@pytest.mark.parametrize(
    ("chunk", "what"),
    [
        (Chunk(1, 4, 8), "rows 4 to 8 are not chunk 1"),
        (Chunk(4, 16, 17), "rows 16 to 17 are not chunk 4"),
    ],
    ids=["full where it is short", "after the last"],
)
def test_a_chunk_of_other_rows_is_refused(store: ZarrStore, chunk: Chunk, what: str) -> None:
    with pytest.raises(StoreError, match=re.escape(what)):
        put(store, chunk, filled(chunk))


def test_arrays_of_another_bucket_are_refused(store: ZarrStore) -> None:
    wrong = filled(GRID[0]).arrays
    with pytest.raises(StoreError, match=r"missing arrays.*latent_mean_16x32.*does not have.*latent_mean_32x16"):
        put(store, GRID[2], Encoded({name: array[:4] for name, array in wrong.items()}))


@pytest.mark.parametrize(
    "views", ["none", [{"name": "32x16"}], [{**WIDE.to_json(), "rows": "6"}]], ids=["text", "fields", "kinds"]
)
def test_damaged_views_are_one_sentence_set(views: Any) -> None:
    with pytest.raises(StoreError, match=r"The views .* are damaged\. The arrays are unchanged; restore this file"):
        views_of({"views": views})


def test_a_view_whose_chunks_are_all_full_has_no_short_chunk() -> None:
    assert short_chunks([dataclasses.replace(WIDE, rows=8)], 4) == {}
