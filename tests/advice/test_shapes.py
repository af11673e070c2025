"""Stores of several shapes: what the messages tell a user to do."""

from __future__ import annotations

import json
from pathlib import Path

from builders.advice import told

from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import View, views_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec

VIEWS = (View("16x8", 16, 8, False, 0, 1, 2),)


def test_damaged_views_are_restored_or_another_folder_is_taken(tmp_path: Path) -> None:
    def make(name: str) -> ZarrStore:
        store = ZarrStore(RunFolder(tmp_path / name))
        store.create(2, 4, [ArraySpec("image_id", (), (), "int64", 0)], {"daskt2i": {"views": [VIEWS[0].to_json()]}})
        return store

    store, file = make("one"), tmp_path / "one" / "latents.zarr" / "zarr.json"
    whole = file.read_text()
    damaged = json.loads(whole)
    damaged["attributes"]["daskt2i"]["views"] = "lost"
    file.write_text(json.dumps(damaged))
    with told("store/views.py:views_of StoreError"):
        views_of((store.attributes() or {})["daskt2i"])
    file.write_text(whole)
    for other in (store, make("two")):
        assert views_of((other.attributes() or {})["daskt2i"]) == VIEWS
