"""`run`, `train` and `train-vae` as a user types them: a whole run, plans, messages after Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders.command_line import long_lines, run
from builders.runs import SETS
from builders.waiting import wait_for
from builders.workflows import child_environment

from daskt2i import open_store


def here(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, to save the time of imports. A rank that it starts has its own."""
    done = run(*words)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def finished(command_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], str]:
    """One whole `run` on one Dask worker: a copy of its folder, its standard output, its standard error."""
    out = Path(shutil.copytree(command_run / "run", tmp_path_factory.mktemp("run") / "out"))
    return out, json.loads((command_run / "out.json").read_text("utf-8")), (command_run / "err.txt").read_text("utf-8")


def test_one_command_encodes_trains_and_draws(finished: tuple[Path, dict[str, dict[str, object]], str]) -> None:
    out, said, told = finished
    assert set(said) == {"encode", "train", "sample"}
    assert said["encode"]["accepted"] == 20
    assert said["train"]["steps"] == 3
    assert said["train"]["ranks"] == 1
    assert said["sample"]["pictures"] == 8
    for name in ("workflow.yaml", "latents.zarr", "manifest.parquet", "train/metrics.jsonl"):
        assert (out / name).exists()
    assert (out / "samples" / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in told
    assert told.count("dashboard http://127.0.0.1:") >= 1
    assert "requires torchvision" not in told


def test_the_same_command_again_has_nothing_to_do(finished: tuple[Path, dict[str, object], str]) -> None:
    out = finished[0]
    before = {path: path.stat().st_mtime_ns for path in (out / "train" / "checkpoints").iterdir()}
    done = here("run", "-s", "serial", "-o", str(out), *SETS)
    assert "nothing was left to do" in done.stdout
    assert "0 encoded now, 3 found done" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (out / "train" / "checkpoints").iterdir()}
    assert long_lines(done.stdout, out) == []


def test_a_run_without_prompts_draws_captions_that_were_not_learned_and_a_failure_tells_what_is_done(
    finished: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "run"))
    shutil.rmtree(out / "samples")
    (out / "samples").write_text("a file in the way")
    words = ["run", "-s", "serial", "-o", str(out), "--json", *SETS, "--set", "sample.prompts=[]"]
    done = here(*words, code=1)
    said = json.loads(done.stdout)
    assert set(said) == {"encode", "train", "error"}
    assert said["train"]["steps"] == 3
    assert said["error"].split(".")[0] in " ".join(done.stderr.split())
    (out / "samples").unlink()
    assert json.loads(here(*words).stdout)["sample"]["pictures"] == 4, "as many as there are validation rows"
    drawn = {wish[0] for wish in json.loads((out / "samples" / "samples.json").read_text())["made_from"]["wishes"]}
    assert drawn <= set(open_store(out)["caption"].values.ravel())


def test_plans_are_shown_and_nothing_is_started(finished: tuple[Path, dict[str, object], str], tmp_path: Path) -> None:
    plan = here("run", "--dry-run", "-o", str(tmp_path / "new"), *SETS).stdout
    assert "Plan of demo" in plan
    assert "Then train" in plan
    assert "Then draw" in plan
    assert not (tmp_path / "new").exists()
    out = finished[0]
    said = json.loads(here("train", "--dry-run", "--json", "-o", str(out), "-s", "serial", *SETS).stdout)
    assert said == {"rows": 20, "steps": 3, "batch": 4, "ranks": 1, "threads": said["threads"], "out": str(out)}


def test_training_without_a_store_gives_one_sentence(tmp_path: Path) -> None:
    done = here("train", "-s", "serial", "-o", str(tmp_path / "none"), *SETS, code=1)
    assert done.stderr.strip().startswith("error: There is no latent store in")
    assert "Traceback" not in done.stderr


def test_train_vae_writes_a_folder_that_encode_can_use(tmp_path: Path) -> None:
    settings = ("steps=2", "batch=4", "validation=4", "config={block_out_channels: [8, 8, 8], norm_num_groups: 4}")
    vae = [word for text in settings for word in ("--set", f"vae.{text}")]
    words = ["-s", "serial", "-o", str(tmp_path / "run"), *SETS, *vae]
    done = here("train-vae", *words, "--json")
    said = json.loads(done.stdout)
    assert said["steps"] == 2
    assert said["vae"] == str(tmp_path / "run" / "vae")
    assert "psnr" in said
    again = json.loads(here("train-vae", *words, "--json").stdout)
    assert (again["ranks"], again["vae"]) == (0, said["vae"])
    plan = here(
        "encode", "--dry-run", "-o", str(tmp_path / "b"), *SETS, "--set", f"dataset.encoders.image.model={said['vae']}"
    )
    assert "4x16x16" in plan.stdout


def test_ctrl_c_stops_training_and_names_the_last_checkpoint(
    finished: tuple[Path, dict[str, object], str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished[0], out, ignore=shutil.ignore_patterns("train", "pipeline", "samples"))
    command = [sys.executable, "-m", "daskt2i.workflow", "train", "-s", "serial", "-o", str(out), *SETS]
    driver = subprocess.Popen(
        [*command, "--set", "train.steps=2000"],
        env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: list((out / "train").glob("checkpoints/*.json")), seconds=120)
    os.killpg(driver.pid, signal.SIGINT)
    _, told = driver.communicate(timeout=60)
    assert driver.returncode == 130, told
    assert "Stopped, and no rank is left running. The checkpoint of step" in " ".join(told.split())
    assert "Traceback" not in told
