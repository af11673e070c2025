"""A short chaos, and proof that its judge finds what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from builders.workflows import fake_settings, finish

from chaos.judge import differences, rows_counted, torn_receipts
from chaos.run import chaos


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm") / "run"
    finish(fake_settings(rows=12, rows_per_chunk=4, resolution=32), out)
    return out


@pytest.fixture
def found(calm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(calm, tmp_path / "run"))


def test_a_copy_has_no_differences(calm: Path, found: Path) -> None:
    assert list(differences(calm, found)) == []
    assert rows_counted(found) == 12
    assert torn_receipts(found) == []


def test_a_flipped_bit_is_a_difference(calm: Path, found: Path) -> None:
    shard = next((found / "latents.zarr").glob("latent_mean/c.1.*"))
    data = bytearray(shard.read_bytes())
    data[3] ^= 4
    shard.write_bytes(data)
    assert list(differences(calm, found)) == [f"the object latent_mean/{shard.name} differs"]


def test_a_lost_row_and_a_file_that_was_left_behind_are_differences(calm: Path, found: Path) -> None:
    path = found / "receipts" / "chunk-0000002.json"
    receipt = json.loads(path.read_bytes())
    receipt["accepted"] -= 1
    path.write_text(json.dumps(receipt))
    (found / "latents.zarr" / ".x.partial").touch()
    assert rows_counted(found) == 11
    assert list(differences(calm, found)) == [
        "the object .x.partial should not be there",
        "the receipt chunk-0000002.json differs",
        "latents.zarr/.x.partial was left behind",
    ]


def test_a_receipt_without_its_shard_is_torn(found: Path) -> None:
    next((found / "latents.zarr").glob("latent_mean/c.1.*")).unlink()
    assert len(torn_receipts(found)) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_disturbed_encode_gives_the_store_of_a_calm_one(tmp_path: Path) -> None:
    report = chaos(seed=1, minutes=0.5, rows=640, workers=2, keep=tmp_path / "chaos")
    assert report.problems == []
    assert sum(report.done.values()) >= 3
