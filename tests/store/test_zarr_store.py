"""The Zarr store beyond the conformance suite: its files, kills and full disks, and opening it with xarray."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from builders import CHILD_PATH
from builders.stores import commit, put

from daskt2i.errors import FingerprintMismatch, StoreError, StoreFull, StoreMissing
from daskt2i.store.dataset import READING_ORDER, open_store
from daskt2i.store.publishing.publication import publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore, inner_rows
from daskt2i.testing.store import ARRAYS, ATTRIBUTES, ROWS, ROWS_PER_CHUNK, chunks, encoded, same
from daskt2i.types import ArraySpec, Chunk, Encoded


@pytest.fixture
def store(tmp_path: Path) -> ZarrStore:
    return made_at(tmp_path)


def made_at(path: Path) -> ZarrStore:
    store = ZarrStore(RunFolder(path))
    store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
    return store


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_any_xarray_opens_it_with_names_attributes_and_row_labels(store: ZarrStore) -> None:
    for chunk in chunks():
        put(store, chunk, encoded(chunk))
    with xr.open_zarr(store.address, consolidated=False) as dataset:
        assert dataset.latent_mean.dims == ("row", "channel", "y", "x")
        assert dataset.captions.dims == ("row", "slot")
        assert dataset.latent_mean.attrs["description"] == "posterior mean"
        assert dataset.attrs["scaling_factor"] == 0.5
        assert dataset.attrs["fingerprint"] == ATTRIBUTES["fingerprint"]
        assert "image_id" in dataset.coords
        assert str(dataset.captions[1, 0].values) == "a cat"


@pytest.mark.parametrize("below", ["", "latents.zarr"])
def test_open_store_takes_the_run_folder_or_the_store(store: ZarrStore, tmp_path: Path, below: str) -> None:
    for chunk in chunks():
        put(store, chunk, encoded(chunk))
    with open_store(tmp_path / below) as dataset:
        assert dataset.sizes["row"] == ROWS
        assert dataset.latent_mean.chunks[0] == (8, 8, 6), "one Dask chunk per shard"
        assert same(dataset.latent_mean[8:16].compute().values, encoded(chunks()[1]).arrays["latent_mean"])
        assert dataset.image_id.dtype == np.int64
        assert dataset.text_mask.dtype == bool


def test_a_listing_is_in_reading_order_and_long_attributes_are_one_short_line(store: ZarrStore, tmp_path: Path) -> None:
    for chunk in chunks():
        put(store, chunk, encoded(chunk))
    with open_store(tmp_path) as dataset:
        names = [str(name) for name in dataset.data_vars]
        known = [name for name in READING_ORDER if name in names]
        assert names == [*known, *sorted(set(names) - set(known))]
        assert set(names) | set(map(str, dataset.coords)) == set(map(str, dataset.variables))
        assert list(dataset.attrs) == ["daskt2i"]
        about = dataset.attrs["daskt2i"]
        assert about["layout"]["rows_per_chunk"] == 8
        assert len(repr(about)) < 200
        assert "fingerprint" in repr(about)
        assert json.loads(json.dumps(about)) == about, "it is a plain mapping for whoever writes it down"


def test_open_store_names_the_place_without_a_store(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "x.zarr"):
        with pytest.raises(StoreMissing, match="no latent store in"):
            open_store(path)
    with pytest.raises(StoreMissing):
        ZarrStore(RunFolder(tmp_path)).read("latent_mean", 0, 1)
    with pytest.raises(StoreMissing):
        ZarrStore(RunFolder(tmp_path)).write(chunks()[0], encoded(chunks()[0]))
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"


def test_attributes_come_back_as_given_without_importing_zarr(store: ZarrStore) -> None:
    assert store.attributes() == ATTRIBUTES
    code = (
        "import sys; from daskt2i.store.run_folder import RunFolder; from daskt2i.store.zarr_store import ZarrStore;"
        "assert ZarrStore(RunFolder(sys.argv[1])).attributes();"
        "assert not {'zarr', 'torch', 'xarray'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code, store.folder.root], check=True)


def test_a_store_can_be_pickled(store: ZarrStore) -> None:
    put(store, chunks()[0], encoded(chunks()[0]))
    store.read("latent_mean", 0, 1)
    assert len(pickle.dumps(store)) < 500
    copy = pickle.loads(pickle.dumps(store))
    assert same(copy.read("latent_mean", 0, 8), encoded(chunks()[0]).arrays["latent_mean"])


def test_two_stores_of_the_same_arrays_are_the_same_files(tmp_path: Path) -> None:
    first, second = made_at(tmp_path / "a"), made_at(tmp_path / "b")
    for chunk in chunks():
        put(first, chunk, encoded(chunk))
    for chunk in reversed(chunks()):
        put(second, chunk, encoded(chunk, seed=1))
        put(second, chunk, encoded(chunk))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_values_that_look_like_fill_keep_their_bits(store: ZarrStore) -> None:
    chunk = chunks()[0]
    odd = np.zeros((8, 4, 4, 4), np.uint16)
    odd.flat[:6] = [0x8000, 0x7C00, 0xFC00, 0x0001, 0x7E01, 0x7FFF]  # -0, two infinities, smallest, two NaN payloads
    arrays = {**encoded(chunk).arrays, "latent_mean": odd.view(np.float16)}
    put(store, chunk, Encoded(arrays))
    assert np.array_equal(store.read("latent_mean", 0, 8).view(np.uint16), odd)


def test_arrays_in_any_memory_order_are_the_same_bytes(store: ZarrStore) -> None:
    chunk = chunks()[0]
    arrays = dict(encoded(chunk).arrays)
    shards = put(store, chunk, Encoded(arrays))
    arrays["latent_mean"] = np.asfortranarray(arrays["latent_mean"])
    arrays["captions"] = arrays["captions"].astype(np.dtypes.StringDType())
    arrays["image_id"] = arrays["image_id"].copy()
    arrays["image_id"].flags.writeable = False
    assert put(store, chunk, Encoded(arrays)) == shards


@pytest.mark.parametrize("rows", [1, 7, 8, 9])
def test_fewer_rows_than_a_chunk_and_one_more(tmp_path: Path, rows: int) -> None:
    store = ZarrStore(RunFolder(tmp_path))
    store.create(rows, 8, ARRAYS, {})
    for chunk in chunks(rows, 8):
        assert store.check(put(store, chunk, encoded(chunk))) is None
        for name, wanted in encoded(chunk).arrays.items():
            assert same(store.read(name, chunk.start, chunk.stop), wanted)
    with open_store(tmp_path) as dataset:
        assert dataset.sizes["row"] == rows


@pytest.mark.parametrize(
    ("rows", "per_chunk", "arrays"),
    [(0, 8, ARRAYS), (8, 0, ARRAYS), (8, 8, ()), (8, 8, ARRAYS[:1] * 2)],
    ids=["no rows", "no rows per chunk", "no arrays", "a name twice"],
)
def test_create_refuses_arguments_that_make_no_store(
    tmp_path: Path, rows: int, per_chunk: int, arrays: tuple[ArraySpec, ...]
) -> None:
    with pytest.raises(StoreError, match="Nothing was made"):
        ZarrStore(RunFolder(tmp_path)).create(rows, per_chunk, arrays, {})
    assert list(tmp_path.iterdir()) == []


def test_create_names_what_differs(store: ZarrStore) -> None:
    with pytest.raises(FingerprintMismatch, match=r"scaling_factor.*\(out\)"):
        store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, {**ATTRIBUTES, "scaling_factor": 1.0})


def test_an_interrupted_creation_is_repeated(tmp_path: Path) -> None:
    store = made_at(tmp_path / "whole")
    whole = files(tmp_path / "whole")
    for left in range(len(ARRAYS) + 1):
        folder = RunFolder(tmp_path / str(left))
        other = [ArraySpec("latent_mean", ("c",), (2,), "float32", 0), *ARRAYS[1:]]
        store = ZarrStore(folder)
        store.create(3, 3, other, {})
        folder.write("latents.zarr/zarr.json", b'{"attributes": {}, "zarr_format": 3, "node_type": "group"}')
        if left == len(ARRAYS):
            folder.delete("latents.zarr/zarr.json")
        for spec in ARRAYS[left:]:
            folder.delete(f"latents.zarr/{spec.name}/zarr.json")
        assert store.attributes() is None
        with pytest.raises(StoreMissing):
            put(store, chunks()[0], encoded(chunks()[0]))
        store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
        assert files(tmp_path / str(left)) == whole


def test_lost_metadata_of_an_array_is_named_and_made_again(store: ZarrStore) -> None:
    chunk = chunks()[0]
    shards = put(store, chunk, encoded(chunk))
    store.folder.delete("latents.zarr/latent_mean/zarr.json")
    with pytest.raises(StoreError, match="latent_mean"):
        store.read("latent_mean", 0, 8)
    with pytest.raises(StoreError, match="latent_mean"):
        put(store, chunk, encoded(chunk))
    store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
    assert store.check(shards) is None
    assert same(store.read("latent_mean", 0, 8), encoded(chunk).arrays["latent_mean"])


def test_attributes_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    store = ZarrStore(RunFolder(tmp_path))
    for attributes, error in (({"layout": 1}, StoreError), ({"x": float("nan")}, ValueError), ({"x": {1}}, TypeError)):
        with pytest.raises(error):
            store.create(8, 8, ARRAYS, attributes)
    assert list(tmp_path.iterdir()) == []


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"attributes": 3}', b"\xff\xfe", DEEP], ids=range(6))
def test_damaged_metadata_is_one_clear_error(store: ZarrStore, text: bytes) -> None:
    store.folder.write("latents.zarr/zarr.json", text)
    for call in (store.attributes, store.layout, lambda: store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)):
        with pytest.raises(StoreError, match=r"zarr\.json"):
            call()


def test_damaged_metadata_of_an_array_is_one_clear_error(store: ZarrStore) -> None:
    for text in (b"{", b"{}", b"[]", b"5", DEEP):
        store.folder.write("latents.zarr/latent_mean/zarr.json", text)
        with pytest.raises(StoreError, match="metadata of the array latent_mean"):
            store.read("latent_mean", 0, 1)


def test_a_store_of_another_program_is_not_changed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    text = json.dumps({"attributes": {"mine": 1}, "zarr_format": 3, "node_type": "group"}).encode()
    folder.write("latents.zarr/zarr.json", text)
    with pytest.raises(StoreError, match="daskt2i did not make"):
        ZarrStore(folder).create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
    assert folder.read("latents.zarr/zarr.json") == text


def test_a_store_of_another_layout_is_refused(store: ZarrStore) -> None:
    metadata = json.loads(store.folder.read("latents.zarr/zarr.json"))
    metadata["attributes"]["layout"]["version"] = 99
    store.folder.write("latents.zarr/zarr.json", json.dumps(metadata).encode())
    with pytest.raises(StoreError, match="version 99"):
        store.read("latent_mean", 0, 1)


def test_reading_a_damaged_shard_says_what_to_do(store: ZarrStore) -> None:
    shards = put(store, chunks()[0], encoded(chunks()[0]))
    for shard in shards:
        path = store.folder.local_path(f"latents.zarr/{shard.key}")
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(StoreError, match="verify"):
            store.read(shard.key.split("/")[0], 0, 8)


def test_check_of_a_key_outside_the_store_is_refused(store: ZarrStore) -> None:
    (shard, *_) = put(store, chunks()[0], encoded(chunks()[0]))
    with pytest.raises(StoreError):
        store.check([type(shard)("../../secret", shard.sha256, shard.size)])


@pytest.mark.parametrize(
    ("per_chunk", "row_bytes", "wanted"),
    [
        pytest.param(256, 8 * 1024, 64, id="latents of 32x32"),
        pytest.param(256, 5 * 77 * 768 * 2, 16, id="five captions of 77 tokens"),
        pytest.param(256, 8, 256, id="numbers"),
        pytest.param(256, 20 * 1024 * 1024, 1, id="a row larger than the bound"),
        pytest.param(101, 8 * 1024, 101, id="a prime"),
        pytest.param(1, 8, 1, id="one row"),
        pytest.param(16, 8 * 1024, 16, id="few rows"),
    ],
)
def test_inner_chunks_divide_the_shard_and_are_neither_tiny_nor_huge(
    per_chunk: int, row_bytes: int, wanted: int
) -> None:
    assert inner_rows(per_chunk, row_bytes) == wanted


@pytest.mark.parametrize("older", [False, True])
def test_text_states_are_not_compressed_beyond_their_padding_but_a_store_of_before_goes_on_as_it_was(
    tmp_path: Path, older: bool
) -> None:
    store, rows = ZarrStore(RunFolder(tmp_path)), np.random.default_rng(0)
    store.create(16, 16, [ArraySpec("text_states", ("slot", "token", "feature"), (2, 40, 64), "float16", "nan")], {})
    about = tmp_path / "latents.zarr" / "text_states" / "zarr.json"
    assert '"level": -1' in about.read_text()
    if older:
        about.write_text(about.read_text().replace('"level": -1', '"level": 1'))
        store = ZarrStore(RunFolder(tmp_path))
    states = rows.standard_normal((16, 2, 40, 64)).astype(np.float16)
    states[:, :, 10:] = 0
    (shard,) = put(store, Chunk(0, 0, 16), Encoded({"text_states": states}))
    used = states.nbytes // 4
    assert 0.85 * used < shard.size < 0.95 * used if older else used < shard.size < 1.05 * used
    assert same(store.read("text_states", 0, 16), states)


def test_every_shard_and_then_its_name_are_flushed_before_it_is_published(
    store: ZarrStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see what is flushed")
    flushed: list[Path] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{handle}").readlink())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    shards = put(store, chunks()[0], encoded(chunks()[0]))
    for shard in shards:
        path = store.folder.local_path(f"latents.zarr/{shard.key}")
        written = flushed.index(next(p for p in flushed if p.name == shard.key.replace("/", ".")))
        assert path.parent in flushed[written:]


_ENCODES = """
import itertools, sys
import numpy as np
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.store.publishing.publication import begin
from daskt2i.testing.store import ARRAYS, ROWS, ROWS_PER_CHUNK, chunks, encoded
from builders.stores import commit
folder = RunFolder(sys.argv[1])
warm = ZarrStore(RunFolder("memory://warm"))
warm.create(ROWS, ROWS_PER_CHUNK, ARRAYS, {})
warm.write(chunks()[0], encoded(chunks()[0]))
publication = begin(folder)
print("ready", flush=True)
for turn in itertools.count():
    for chunk in chunks():
        commit(publication, chunk, encoded(chunk, seed=turn % 5))
"""


def test_a_process_killed_at_any_moment_leaves_only_true_receipts(store: ZarrStore) -> None:
    """Each turn writes different bytes, so a receipt of other bytes would be found."""
    rng = random.Random(0)
    seen = 0
    for _ in range(6):
        command, paths = [sys.executable, "-c", _ENCODES, store.folder.root], {**os.environ, "PYTHONPATH": CHILD_PATH}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=paths)
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(0.15 + rng.random() * 0.25)
            process.kill()
        for receipt in Receipts(store.folder).read(on_problem=pytest.fail):
            assert store.check(receipt.shards) is None
            seen += 1
    assert seen > 6, "the processes were killed before they wrote anything"
    with publishing(store.folder) as publication:
        for chunk in chunks():
            commit(publication, chunk, encoded(chunk))
    for chunk in chunks():
        for name, wanted in encoded(chunk).arrays.items():
            assert same(store.read(name, chunk.start, chunk.stop), wanted)
    assert not [path for path in files(Path(store.folder.root)) if "partial" in path or "attempts" in path]


def test_a_full_disk_is_a_clear_error_and_the_run_continues_after_it(tmp_path: Path) -> None:
    """It uses a real disk of 2 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False
    with contextlib.suppress(FileNotFoundError):
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if not mounted:
        pytest.skip("cannot mount a small disk here (needs root)")
    try:
        _fill_and_go_on(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _fill_and_go_on(disk: Path) -> None:
    noise = ArraySpec("noise", ("byte",), (40_000,), "uint8", 0)
    rng = np.random.default_rng(0)
    data = [rng.integers(0, 256, (8, 40_000), dtype=np.uint8) for _ in range(4)]
    todo = [Chunk(i, i * 8, i * 8 + 8) for i in range(4)]
    (disk / "somebody else's").write_bytes(b"x" * 1_000_000)
    folder = RunFolder(disk / "run")
    store, receipts = ZarrStore(folder), Receipts(folder)
    store.create(32, 8, [noise], {})

    def encode(some: list[Chunk]) -> None:
        with publishing(folder) as publication:
            for chunk in some:
                commit(publication, chunk, Encoded({"noise": data[chunk.index]}))

    with pytest.raises(StoreFull, match="free some space") as caught:
        encode(todo)
    assert str(folder) in str(caught.value)
    done = list(receipts.read(on_problem=pytest.fail))
    assert 1 <= len(done) < 4
    for receipt in done:
        assert store.check(receipt.shards) is None
        assert same(store.read("noise", receipt.start, receipt.stop), data[receipt.chunk])
    assert not list(disk.rglob("*.partial"))
    (disk / "somebody else's").unlink()
    encode(todo[len(done) :])
    assert len(list(receipts.read())) == 4
    assert same(store.read("noise", 0, 32), np.concatenate(data))
