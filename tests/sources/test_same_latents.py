"""One data set in many formats: equal rows have equal latents, bit for bit, also after an encode was killed."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders.formats import FORMATS, Photo, written
from builders.runs import arrays
from builders.tables import picture
from builders.waiting import wait_for
from builders.workflows import child_environment, fake_data

import daskt2i
from daskt2i.config.workflow_file import load_workflow

PHOTOS = [Photo(f"{n:03d}.bmp", picture(n), [f"number {n}", "again"][: 1 + n % 2]) for n in range(23)]

OWN = {"image_id", "file_name"}
"""Arrays that differ between formats: the name says where an image lies, and the id is made from it."""


def workflow(source: dict[str, Any], path: Path, **settings: Any) -> Path:
    data = fake_data(**settings)
    data["dataset"]["source"] = source
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def encoded(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_workflow(str(workflow(source, folder / "fake.yaml")))
    run = daskt2i.Run(settings, folder / "out", scheduler="serial", progress=False)
    result = run.encode()
    assert (result.accepted, dict(result.rejected)) == (len(PHOTOS), {})
    return arrays(folder / "out")


@pytest.fixture(scope="module")
def of_coco(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("coco")
    return encoded(written("coco", PHOTOS, folder / "data"), folder)


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_gives_the_latents_of_coco(form: str, tmp_path: Path, of_coco: dict[str, Any]) -> None:
    found = encoded(written(form, PHOTOS, tmp_path / "data"), tmp_path)
    assert found.keys() == of_coco.keys()
    for name in found.keys() - OWN:
        np.testing.assert_array_equal(found[name], of_coco[name], err_msg=name)


def _encode(path: Path, out: Path) -> list[str]:
    command = [sys.executable, "-m", "daskt2i.workflow", "encode", "-w", str(path), "-o", str(out)]
    return [*command, "-s", "serial", "--json"]


def _has_gone_on(driver: subprocess.Popen[Any], out: Path, receipts: int) -> bool:
    there = (out / "daskt2i-run.json").exists() and len(list((out / "receipts").glob("*"))) >= receipts
    return there or driver.poll() is not None


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_kills_of_an_encode_over_tars_change_nothing(kills: int, tmp_path: Path) -> None:
    photos = [Photo(f"{n:04d}.bmp", picture(n), [f"number {n}"]) for n in range(16 * (kills + 4))]
    source = written("tars", photos, tmp_path / "data")
    calm = workflow(source, tmp_path / "calm.yaml", rows_per_chunk=8)
    done = subprocess.run(_encode(calm, tmp_path / "calm"), capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr
    slow = workflow(source, tmp_path / "slow.yaml", rows_per_chunk=8, image={"seconds": 0.02})
    out, dice = tmp_path / "out", random.Random(kills)
    for _ in range(kills):
        before = len(list((out / "receipts").glob("*"))) if out.exists() else 0
        driver = subprocess.Popen(
            _encode(slow, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=child_environment()
        )
        more = dice.choice((0, 1, 2))  # also while the index is made
        wait_for(functools.partial(_has_gone_on, driver, out, before + more), 200)
        driver.kill()
        driver.wait(60)
    done = subprocess.run(_encode(slow, out), capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0, done.stderr
    chunks = json.loads(done.stdout)["chunks"]
    assert chunks["done"] + chunks["skipped"] == 2 * (kills + 4)
    found, wanted = arrays(out), arrays(tmp_path / "calm")
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
