"""Source and store on an object store (a moto server on loopback), compared with a local run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import daskt2i
from daskt2i.sources.fake import FakeSource
from daskt2i.workflow import app

s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

ROWS = 12


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket that every process finds through environment variables, as users set them."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # it would remember the endpoint of another test
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    files.mkdir("bucket")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def put_data(files: Any) -> None:
    source, listed, captions = FakeSource(ROWS), [], []
    for row in source.rows(0, ROWS):
        files.pipe_file(f"bucket/images/{row.index}.png", source.read(row))
        listed.append({"id": row.index, "file_name": f"{row.index}.png"})
        captions += [{"id": len(captions), "image_id": row.index, "caption": c} for c in row.captions]
    listed.append({"id": ROWS, "file_name": "gone.png"})
    captions.append({"id": len(captions), "image_id": ROWS, "caption": "Gone."})
    files.pipe_file("bucket/captions.json", json.dumps({"images": listed, "annotations": captions}).encode())


def apart(*words: str) -> Any:
    """Output of the command line in its own process, as a user starts it."""
    done = subprocess.run(
        [sys.executable, "-m", "daskt2i.workflow", *words, "--json"],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=200,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def here(*words: str, code: int = 0) -> Any:
    """Output of the command line in this process, which has already imported its packages."""
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == code, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_source_and_store_on_s3_give_the_arrays_of_a_local_run(s3: Any, tmp_path: Path) -> None:
    put_data(s3)
    workflow = tmp_path / "s3.yaml"
    encoders = {
        "image": {"class": "daskt2i.encoders.fake.FakeImageEncoder"},
        "text": {"class": "daskt2i.encoders.fake.FakeTextEncoder"},
    }
    coco = {"class": "daskt2i.sources.coco.CocoSource", "images": "s3://bucket/images"}
    dataset = {
        "source": {**coco, "captions": "s3://bucket/captions.json"},
        "image": {"resolution": 32},
        "encoders": encoders,
        "precision": "fp32",
        "rows_per_chunk": 4,
    }
    workflow.write_text(json.dumps({"name": "s3", "dataset": dataset, "run": {"device": "cpu"}}))
    encode = ("encode", "-w", str(workflow), "-o", "s3://bucket/run")
    summary = apart(*encode, "-s", "serial")
    assert (summary["accepted"], summary["rejected"]) == (ROWS, {"missing-file": 1})
    assert summary["store"] == "s3://bucket/run/latents.zarr"

    assert here(*encode, "-s", "serial")["chunks"] == {"done": 0, "skipped": 4, "failed": 0}

    here("encode", "-w", str(workflow), "-o", str(tmp_path / "run"), "-s", "serial")
    remote = daskt2i.open_store("s3://bucket/run").load()
    local = daskt2i.open_store(tmp_path / "run").load()
    for name in local.variables:
        np.testing.assert_array_equal(remote[name].values, local[name].values, err_msg=str(name))

    key = next(k for k in s3.find("bucket/run/latents.zarr/latent_mean") if k.endswith("c.2.0.0.0"))
    data = bytearray(s3.cat_file(key))
    data[5] ^= 1
    s3.pipe_file(key, bytes(data))
    assert here("verify", "-o", "s3://bucket/run", code=1)["bad"] == [2]
    here(*encode, "-s", "serial", "--set", "run.verify_on_resume=hash")
    assert here("verify", "-o", "s3://bucket/run")["ok"]
    assert not s3.exists("bucket/run/encode.lock")
