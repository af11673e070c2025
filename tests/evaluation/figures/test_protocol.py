"""The workflow `coco-uvit`: the protocol of U-ViT, and its published figures beside the measured one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders.advice import told
from builders.runs import tiny_workflow
from builders.workflows import child_environment
from safetensors.torch import save_file

import daskt2i
from daskt2i.evaluation.figures import inception
from daskt2i.evaluation.figures.result import Figure, Figures
from daskt2i.session.data.choice import load_workflow


def test_it_draws_30_000_captions_of_the_other_split_and_compares_with_the_published_figures() -> None:
    workflow = load_workflow("coco-uvit")
    wanted = workflow.evaluate
    assert (wanted.metrics, wanted.samples, workflow.sample.steps) == (["fid"], 30_000, 50)
    assert wanted.reference != workflow.dataset.source.arguments["images"]
    figures = Figures((Figure("fid", 6.1),), 30_000, 40_504, published=wanted.published)
    assert figures.rows()[0] == ("fid", "6.1; published: U-ViT-S/2 5.95, U-ViT-S/2, Deep 5.48")
    assert figures.to_json()["published"]["fid"]["U-ViT-S/2"] == 5.95


def test_it_trains_the_papers_model() -> None:
    train = load_workflow("coco-uvit").train
    assert (train.model.class_path, train.model.preset) == ("daskt2i.model.denoisers.uvit.UViT", "uvit-s2")
    assert (train.batch, train.steps, train.betas, train.ema) == (256, 1_000_000, (0.9, 0.9), 0.9999)
    assert train.steps * train.batch == 256_000_000


def inception_folder(folder: Path) -> Path:
    """FID's Inception in its real size, with weights from sines: random ones make all pictures alike."""
    state = inception.build().state_dict()
    for name, value in state.items():
        if "num_batches" in name:
            continue
        values = torch.sin(torch.arange(value.numel()) * 0.7 + len(name)).reshape(value.shape)
        if "running_var" in name or name.endswith("bn.weight"):
            values = values.abs() + 0.5
        elif "bn" not in name and value.dim() == 4:
            values = values / value[0].numel() ** 0.5 * 1.4
        state[name] = values
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    return folder


SMALL = {
    "dataset.image.resolution": 64,
    "dataset.encoders.image.model": "daskt2i:demo/vae",
    "dataset.encoders.text.model": "daskt2i:demo/text",
    "dataset.encoders.text.max_tokens": 26,
    "dataset.rows_per_chunk": 16,
    "run.device": "cpu",
    "run.gate_rows": 0,
    "launch.device": "cpu",
    "train.model.preset": None,
    "train.model.config": {"width": 64, "layers": 3, "heads": 2},
    "train.steps": 20,
    "train.batch": 8,
    "train.warmup": 2,
    "train.validation": 8,
    "sample.steps": 4,
    "sample.batch": 8,
    "evaluate.samples": 24,
}
"""The protocol in minutes: the encoders of the demo, a small model, few steps and few pictures."""


@pytest.mark.slow
def test_one_command_goes_from_photographs_to_figures_beside_the_published_ones(
    coco_mini: Path, tmp_path: Path
) -> None:
    weights = inception_folder(tmp_path / "inception")
    place = {"images": coco_mini / "images", "captions": coco_mini / "captions.json"}
    settings = {
        **SMALL,
        "evaluate.reference": str(place["images"]),
        "evaluate.reference_captions": str(place["captions"]),
    }
    settings |= {"evaluate.weights": [str(weights)], "evaluate.metrics": ["fid", "kid"]}
    command = [
        sys.executable,
        "-m",
        "daskt2i.workflow",
        "run",
        "--workflow",
        "coco-uvit",
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--images", str(place["images"]), "--captions", str(place["captions"]), "--scheduler", "local:2"]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], capture_output=True, text=True, env=child_environment())

    refused = run()
    assert refused.returncode != 0
    assert "FID means nothing with 24 drawn pictures" in refused.stderr
    assert not (tmp_path / "out").exists(), "it was said before an image was encoded"
    few = ("--set", "evaluate.few_samples=true", "--json")
    done = run(*few)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["encode"]["accepted"] == 80
    assert (found["evaluate"]["drawn"], found["evaluate"]["real"]) == (24, 80)
    assert found["evaluate"]["fid"] > 0
    assert found["evaluate"]["published"]["fid"] == {"U-ViT-S/2": 5.95, "U-ViT-S/2, Deep": 5.48}
    again = run(*few)
    assert json.loads(again.stdout)["evaluate"]["fid"] == found["evaluate"]["fid"]
    assert "24 of 24 were done before" in again.stderr, "what is finished is skipped"


def test_a_run_whose_figures_lack_something_is_refused_before_it_encodes(tmp_path: Path) -> None:
    workflow = tiny_workflow("evaluate.metrics=[kid]", "evaluate.weights=[]")
    run = daskt2i.Run(workflow, tmp_path / "out", scheduler="serial", progress=False)
    for attempt in (run.run_all, lambda: run.plan("run")):
        with told("evaluation/figures/request.py:figure_request ConfigError"):
            attempt()
    assert not (tmp_path / "out/latents.zarr").exists()


def test_the_plan_of_a_run_names_its_figures(tmp_path: Path) -> None:
    run = daskt2i.Run(tiny_workflow("evaluate.metrics=[judge]"), tmp_path / "out", scheduler="serial", progress=False)
    plan = run.plan("run")
    assert "measure: figures" in plan.view().text()
    assert "judge over 256 drawn pictures" in plan.view().text()
    assert plan.to_json()["evaluate"]["metrics"] == ["judge"]
