"""Small stores with views, as an encode with buckets, resolutions or mirrored pictures leaves them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from builders.workflows import fake_settings, finish
from daskt2i.store.layout import about_store
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import VIEWS, View, grid_of, view_name
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import receipt_for
from daskt2i.types import ArraySpec, Constant, Shard

CHUNK = 4
MIRRORED = 500
"""Is added to the number of a row in its mirrored latent."""

Size = tuple[int, int]


def bucketed(out: Path, rows: Mapping[Size, int], mirrored: bool = False, pooled: bool = False) -> Path:
    """A store with a bucket for each size: so many rows of latents whose values are the number of the row."""
    views, first = [], 0
    for (width, height), count in rows.items():
        chunks = -(-count // CHUNK)
        for flipped in (False, True)[: 1 + mirrored]:
            views.append(View(view_name((width, height), flipped), width, height, flipped, first, chunks, count))
        first += chunks
    return _shaped(out, views, (first - 1) * CHUNK + (count - 1) % CHUNK + 1, pooled)


def of_resolutions(out: Path, sizes: list[Size], rows: int) -> Path:
    """A store whose rows all have a latent of each size."""
    chunks = -(-rows // CHUNK)
    return _shaped(out, [View(view_name(size), *size, False, 0, chunks, rows) for size in sizes], rows)


def _shaped(out: Path, views: list[View], rows: int, pooled: bool = False) -> Path:
    """The store: latents of a view have the value row (+ 500 if mirrored), and a std of 0.5."""
    plain = out.with_name(f"{out.name}-plain")
    finish(fake_settings(rows=2, rows_per_chunk=CHUNK, text={"pooled": pooled}), plain)
    source = ZarrStore(RunFolder(plain))
    about, layout = about_store(source), source.layout()
    assert about is not None
    about = {**about, "fingerprint": "f" * 64, VIEWS: [view.to_json() for view in views]}
    arrays: dict[str, ArraySpec] = {}
    for name, one in layout["arrays"].items():
        if name not in ("latent_mean", "latent_std"):
            arrays[name] = ArraySpec(name, tuple(one["dims"]), tuple(one["shape"]), one["dtype"], one["fill"])
            continue
        for view in views:
            shape = (one["shape"][0], view.height // 8, view.width // 8)
            arrays[view.array(name)] = ArraySpec(view.array(name), tuple(one["dims"]), shape, one["dtype"], "nan")
    folder = RunFolder(out)
    store = ZarrStore(folder)
    constants = [Constant(name, _dims(source, name), values) for name, values in source.constants().items()]
    store.create(rows, CHUNK, list(arrays.values()), {"daskt2i": about}, constants)
    group: Any = zarr.open_group(out / "latents.zarr", mode="r+")
    for chunk in grid_of(store.layout(), about):
        numbers, here = np.arange(chunk.start, chunk.stop), slice(chunk.start, chunk.stop)
        for view in views:
            if view.covers(chunk.index):
                values = np.array(numbers + MIRRORED * view.flipped, np.float16)[:, None, None, None]
                shape = arrays[view.array("latent_mean")].shape
                group[view.array("latent_mean")][here] = np.broadcast_to(values, (len(numbers), *shape))
                group[view.array("latent_std")][here] = np.float16(0.5)
        group["text_mask"][here, 0, :3] = True
        group["text_states"][here] = np.float16(0)
        group["text_states"][here, 0, :3] = numbers[:, None, None].astype(np.float16)
        if pooled:
            group["text_pooled"][here, 0] = numbers[:, None].astype(np.float16)
        group["caption"][here, 0] = np.array([f"row {row}" for row in numbers])
        group["image_id"][here] = numbers + 100
        group["valid"][here] = True
        group["source_size"][here] = np.stack([numbers + 640, numbers + 480], 1)
        group["crop_box"][here] = np.stack([numbers, numbers + 1, numbers + 400, numbers + 300], 1)
        key = f"text_mask/c.{chunk.index}.0.0"
        content = (out / "latents.zarr" / key).read_bytes()
        shard = Shard(key, hashlib.sha256(content).hexdigest(), len(content))
        Receipts(folder).write(receipt_for(chunk, (shard,)))
    return out


def _dims(store: ZarrStore, name: str) -> tuple[str, ...]:
    about: Any = zarr.open_array(Path(store.address) / name, mode="r")
    return tuple(about.metadata.dimension_names)
