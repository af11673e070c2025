"""The conformance suite on the Zarr store: on a disk, in memory, and on an S3 bucket that this machine serves."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from builders.stores import commit

from daskt2i.errors import StoreMissing
from daskt2i.store.dataset import open_store
from daskt2i.store.publishing.attempts import Attempt, begin_attempt
from daskt2i.store.publishing.lock import hold
from daskt2i.store.publishing.publication import publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import (
    ARRAYS,
    ATTRIBUTES,
    ROWS,
    ROWS_PER_CHUNK,
    LatentStoreSuite,
    chunks,
    encoded,
    same,
)
from daskt2i.types import Chunk


class ZarrStoreSuite(LatentStoreSuite):
    def attempt(self, store: ZarrStore, chunk: Chunk) -> Attempt:
        return begin_attempt(store.folder, "", chunk.index)

    def damage(self, store: ZarrStore, key: str, change: Callable[[bytes], bytes | None]) -> None:
        name = f"{store.name}/{key}"
        data = change(store.folder.read(name))
        if data is None:
            store.folder.delete(name)
        else:
            store.folder.write(name, data)


class TestOnDisk(ZarrStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ZarrStore:
        return ZarrStore(RunFolder(tmp_path / "a run [1]"))


class TestInMemory(ZarrStoreSuite):
    across_processes = False

    @pytest.fixture
    def store(self) -> ZarrStore:
        return ZarrStore(RunFolder(f"memory://{uuid.uuid4().hex}/run"))


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, dict[str, Any]]]:
    """A bucket on a loopback server, and the options that are needed to reach it."""
    moto_server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    assert host == "127.0.0.1"
    options: dict[str, Any] = {"endpoint_url": f"http://{host}:{port}", "key": "testing", "secret": "testing"}
    try:
        s3fs.S3FileSystem(**options).mkdir("store-tests")
        yield "s3://store-tests", options
    finally:
        server.stop()


class TestOnS3(ZarrStoreSuite):
    @pytest.fixture(autouse=True)
    def _nothing_leaves_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        connect = socket.socket.connect

        def guarded(self: socket.socket, address: Any) -> None:
            assert not isinstance(address, tuple) or address[0] == "127.0.0.1", f"a connection to {address}"
            connect(self, address)

        monkeypatch.setattr(socket.socket, "connect", guarded)

    @pytest.fixture
    def store(self, bucket: tuple[str, dict[str, Any]]) -> ZarrStore:
        address, options = bucket
        return ZarrStore(RunFolder(f"{address}/{uuid.uuid4().hex}/run", options))

    def test_the_whole_run_folder_works_on_a_bucket(self, made: ZarrStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daskt2i.store.publishing.lock.SETTLE_SECONDS", 0.05)
        folder = made.folder
        receipts = Receipts(folder)
        with hold(folder, "encode"):
            assert list(receipts.read()) == []
            with publishing(folder) as publication:
                for chunk in chunks():
                    commit(publication, chunk, encoded(chunk))
        assert [receipt.chunk for receipt in receipts.read()] == [0, 1, 2]
        assert folder.list("receipts") == [f"receipts/chunk-{i:07d}.json" for i in range(3)]
        assert not folder.exists("encode.lock")
        assert folder.list("attempts") == []
        for address in (folder.root, f"{folder.root}/latents.zarr"):
            with open_store(address, folder.storage_options) as dataset:
                assert same(dataset.latent_mean[8:16].values, encoded(chunks()[1]).arrays["latent_mean"])

    def test_the_endpoint_may_come_from_the_environment(
        self, bucket: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address, options = bucket
        monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = ZarrStore(RunFolder(f"{address}/{uuid.uuid4().hex}"))
        try:
            store.create(ROWS, ROWS_PER_CHUNK, ARRAYS, ATTRIBUTES)
            assert store.attributes() == ATTRIBUTES
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # the cache key, the options, is empty here

    def test_a_missing_bucket_is_named(self, bucket: tuple[str, dict[str, Any]]) -> None:
        folder = RunFolder("s3://no-such-bucket/run", bucket[1])
        assert ZarrStore(folder).attributes() is None
        with pytest.raises(StoreMissing, match="s3://no-such-bucket/run"):
            folder.write("workflow.yaml", b"x")
