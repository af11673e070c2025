"""What messages about stores in fewer bytes tell a user to do works."""

from __future__ import annotations

import json
from pathlib import Path

from builders.advice import told
from builders.workflows import small_settings

import daskt2i


def test_damaged_forms_of_a_store_are_restored_or_another_folder_is_taken(tmp_path: Path) -> None:
    def run_of(name: str) -> daskt2i.Run:
        settings = {"dataset.store.latents": "int8"}
        return daskt2i.Run(small_settings(), tmp_path / name, scheduler="serial", progress=False, settings=settings)

    run = run_of("run")
    run.encode()
    place = tmp_path / "run" / "latents.zarr" / "zarr.json"
    right = place.read_bytes()
    node = json.loads(right)
    del node["attributes"]["daskt2i"]["forms"]["latent_mean"]["shape"]
    place.write_text(json.dumps(node))
    with told("store/forms/form.py:read_forms StoreError"):
        _ = run.store
    assert run_of("other").encode().accepted == 4
    place.write_bytes(right)
    assert run.verify().ok
    assert float(run.store["latent_mean"].max()) <= 1


def test_a_store_with_captions_alone_is_encoded_with_text_states_and_then_exported(tmp_path: Path) -> None:
    def run_of(name: str, text: str) -> daskt2i.Run:
        settings = {"dataset.store.text": text}
        return daskt2i.Run(small_settings(), tmp_path / name, scheduler="serial", progress=False, settings=settings)

    run = run_of("run", "training")
    run.encode()
    with told("export/rows.py:Exported.of StoreError"):
        run.export(tmp_path / "files", "npy")
    other = run_of("other", "exact")
    other.encode()
    other.export(tmp_path / "files", "npy")
    assert (tmp_path / "files").is_dir()
