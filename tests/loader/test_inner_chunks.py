"""Reading a shard inner chunk by inner chunk gives what zarr gives; what it cannot read, zarr reads or refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from daskt2i.errors import StoreError
from daskt2i.loader.inner_chunks import ShardedArray
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec

ROWS, CHUNK = 300, 128
SPECS = (
    ArraySpec("latent_mean", ("channel", "y", "x"), (4, 32, 32), "float16", "nan"),
    ArraySpec("text_mask", ("slot", "token"), (2, 5), "bool", False),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 300 rows, without receipts. A shard of `latent_mean` has two inner chunks of 64 rows."""
    out = tmp_path_factory.mktemp("inner")
    store, draw = ZarrStore(RunFolder(out)), np.random.default_rng(0)
    store.create(ROWS, CHUNK, SPECS, {})
    there = zarr.open_group(out / "latents.zarr", mode="r+")
    there["latent_mean"][:] = draw.standard_normal((ROWS, 4, 32, 32), np.float32).astype(np.float16)
    there["text_mask"][:] = draw.random((ROWS, 2, 5)) < 0.5
    return out


def rows_by_block(array: ShardedArray, start: int, stop: int, rows: list[int]) -> dict[int, Any]:
    found = {}
    for first, block in array.blocks(start, stop, rows):
        found |= {row: block[row - first].copy() for row in rows if first <= row < first + len(block)}
    return found


@pytest.mark.parametrize("name", ["latent_mean", "text_mask"])
@pytest.mark.parametrize("known", [True, False])
def test_rows_are_those_that_zarr_reads(made: Path, name: str, known: bool) -> None:
    store = ZarrStore(RunFolder(made))
    array = ShardedArray(store, name)
    assert array._known is not None
    if not known:
        array._known = None
    for start, stop, rows in ((0, 128, [0, 5, 127]), (128, 256, [200]), (256, 300, [256, 299])):
        found = rows_by_block(array, start, stop, rows)
        assert list(found) == rows
        for row, values in found.items():
            np.testing.assert_array_equal(values, store.read(name, row, row + 1)[0])


def test_only_inner_chunks_with_a_wanted_row_are_decoded(made: Path) -> None:
    array = ShardedArray(ZarrStore(RunFolder(made)), "latent_mean")
    assert [first for first, _ in array.blocks(0, 128, [70, 90])] == [64]


def test_another_layout_is_read_by_zarr(made: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "copy"))
    path = out / "latents.zarr" / "latent_mean" / "zarr.json"
    about = json.loads(path.read_text())
    about["codecs"][0]["configuration"]["codecs"][1]["name"] = "another"
    path.write_text(json.dumps(about))
    assert ShardedArray(ZarrStore(RunFolder(out)), "latent_mean")._known is None


@pytest.mark.parametrize("place", [0.25, 0.75, 1.0])
def test_a_flipped_bit_is_an_error(made: Path, tmp_path: Path, place: float) -> None:
    out = Path(shutil.copytree(made, tmp_path / "copy"))
    path = out / "latents.zarr" / "latent_mean" / "c.0.0.0.0"
    held = bytearray(path.read_bytes())
    held[int((len(held) - 1) * place)] ^= 1
    path.write_bytes(held)
    with pytest.raises(StoreError, match=r"latent_mean in .* cannot be read"):
        rows_by_block(ShardedArray(ZarrStore(RunFolder(out)), "latent_mean"), 0, 128, list(range(128)))
