"""What the wheel carries: a user without a checkout must find workflows, clusters and the demo's encoders."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CARRIED = [
    "daskt2i/workflow.py",
    "daskt2i/config/defaults.yaml",
    "daskt2i/facts/captions/rules.yaml",
    "daskt2i/py.typed",
    "daskt2i/clusters/local.yaml",
    "daskt2i/clusters/simulation.yaml",
    "daskt2i/clusters/slurm.yaml",
    "daskt2i/clusters/kubernetes/Dockerfile",
    "daskt2i/workflows/demo.yaml",
    "daskt2i/workflows/coco-sd15.yaml",
    "daskt2i/workflows/coco-sd15-random.yaml",
    "daskt2i/workflows/coco-sd3.yaml",
    "daskt2i/workflows/coco-sdxl.yaml",
    "daskt2i/workflows/coco-taesd.yaml",
    "daskt2i/workflows/coco-uvit.yaml",
    "daskt2i/encoders/configs/sd-vae-ft-mse.json",
    "daskt2i/encoders/configs/clip-vit-large-patch14.json",
    "daskt2i/demo/vae/diffusion_pytorch_model.safetensors",
    "daskt2i/demo/text/model.safetensors",
    "daskt2i/demo/text/tokenizer.json",
]


def test_the_wheel_carries_all_that_runs_without_a_checkout(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling", reason="the build backend is not installed (it comes with .[dev])")
    assert hatchling
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert [name for name in CARRIED if name not in names] == []
    assert not [name for name in names if name.startswith(("tests/", "runs/"))]


def test_the_demo_encoders_stay_small() -> None:
    size = sum(path.stat().st_size for path in (ROOT / "daskt2i" / "demo").rglob("*") if path.is_file())
    assert size <= 6_000_000
