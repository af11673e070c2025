"""A pretrained pipeline is tuned: loss falls, its export draws the same everywhere, and the base stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import command_line
from builders.pipelines import PNDM, hashes, sd_folder
from builders.runs import encoded, tiny_workflow, trained, trained_here
from builders.waiting import wait_for

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.events import LaunchEvent
from daskt2i.model.pipeline import scheduler_for
from daskt2i.model.pretrained import lora_files
from daskt2i.model.pretrained.pipeline_folder import find
from daskt2i.model.pretrained.tuning import cost_of
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.metrics import read_metrics

TUNED = (
    *("train.steps=6", "train.objective=epsilon", "train.learning_rate=0.003", "train.final_rate=1", "train.ema=0.9"),
    *("train.model.config={}", "launch.threads=1"),
)
LORA = ("train.pretrained.method=lora", "train.pretrained.lora.rank=2", "train.pretrained.lora.alpha=4")
LAYERS = ("train.pretrained.method=layers", "train.pretrained.layers=['*attn2*']")
LOOK = SamplerSettings(steps=3, guidance=2.0, sampler="dpm++", batch=1)
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoded run folder. Tests copy it."""
    out = tmp_path_factory.mktemp("store") / "run"
    encoded(out)
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd_folder(tmp_path_factory.mktemp("base") / "tiny-sd")


@pytest.fixture(scope="module")
def lora(store: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a finished LoRA."""
    out = Path(shutil.copytree(store, tmp_path_factory.mktemp("lora") / "run"))
    trained_here(tuning(base, *LORA), out)
    return out


def tuning(base: Path, *more: str) -> Workflow:
    return tiny_workflow(*TUNED, f"train.pretrained.model={base}", *more)


def losses(out: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(RunFolder(out)) if "loss" in line}


def weights_of(out: Path) -> dict[str, Any]:
    """The weights, moments and averages after the last step."""
    found = Checkpoints(RunFolder(out), "train/checkpoints").newest()
    assert found is not None
    return dict(found.tensors)


def painted(place: Path) -> Any:
    """The picture that `sample` draws."""
    return next(iter(Painter(place).paint([SampleRequest(PROMPT, 7)], LOOK))).pixels / 255.0


def drawn_by_diffusers(place: Path, lora_file: Path | None = None) -> Any:
    """The picture of the plain pipeline, with the sampler of `sample`."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(place), safety_checker=None)
    pipe.scheduler = scheduler_for(pipe.scheduler.config, "dpm++")
    pipe.set_progress_bar_config(disable=True)
    if lora_file is not None:
        pipe.load_lora_weights(str(lora_file.parent), weight_name=lora_file.name)
    generator = torch.Generator().manual_seed(7)
    return pipe(PROMPT, num_inference_steps=3, guidance_scale=2.0, generator=generator, output_type="np").images[0]


@pytest.mark.parametrize("method", [(), LAYERS], ids=["full", "layers"])
def test_loss_falls_the_export_opens_in_diffusers_and_the_base_stays(
    store: Path, base: Path, tmp_path: Path, method: tuple[str, ...]
) -> None:
    before, out = hashes(base), tmp_path / "run"
    shutil.copytree(store, out)
    found = trained_here(tuning(base, *method), out)
    curve = losses(out)
    assert curve[6] < curve[1]
    assert hashes(base) == before
    assert (found.more["trained"] == found.more["parameters"]) == (not method)
    np.testing.assert_allclose(drawn_by_diffusers(out / "pipeline"), painted(out / "pipeline"), atol=1 / 255 + 1e-3)
    kept = {name.removeprefix("model/") for name in weights_of(out) if name.startswith("model/")}
    assert all("attn2" in name for name in kept) if method else len(kept) > 100


def test_a_lora_draws_the_same_merged_in_diffusers_form_and_in_kohyas(lora: Path, base: Path) -> None:
    curve, folder = losses(lora), lora / "lora"
    assert curve[6] < curve[1]
    sample, plain = painted(lora / "pipeline"), drawn_by_diffusers(lora / "pipeline")
    np.testing.assert_allclose(plain, sample, atol=1 / 255 + 1e-3)
    for name in (lora_files.FILE, lora_files.KOHYA):
        np.testing.assert_allclose(drawn_by_diffusers(base, folder / name), plain, atol=1e-3)
    assert np.abs(drawn_by_diffusers(base) - plain).max() > 0.01  # the adapter does something
    one, other = lora_files.read(folder), lora_files.read(folder / lora_files.KOHYA)
    for name, (down, up) in one.items():
        again = other["lora_unet_" + name.removeprefix("unet.").replace(".", "_")]
        assert torch.equal(down, again[0])
        torch.testing.assert_close(up, again[1])
    assert all(".lora_" in name for name in weights_of(lora) if name.startswith("model/"))


def test_the_cost_of_a_lora_is_what_a_training_trains(lora: Path, base: Path) -> None:
    cost = cost_of(find(tuning(base, *LORA).train.pretrained))  # type: ignore[arg-type]
    moments = {name: value for name, value in weights_of(lora).items() if "exp_avg" in name}
    assert cost.trained == sum(v.numel() for name, v in weights_of(lora).items() if name.startswith("model/"))
    assert cost.state_bytes == sum(value.nbytes for value in moments.values())


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    lora: Path, store: Path, base: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(store, tmp_path / "run"))
    trained_here(tuning(base, *LORA, "train.steps=4"), out)
    trained_here(tuning(base, *LORA), out)
    calm, mine = weights_of(lora), weights_of(out)
    assert calm.keys() == mine.keys()
    assert [name for name in calm if not torch.equal(calm[name], mine[name])] == []
    assert losses(out) == losses(lora)


def test_a_checkpoint_of_another_base_or_method_is_refused(lora: Path, base: Path, tmp_path: Path) -> None:
    other = sd_folder(tmp_path / "other", seed=1)
    for workflow in (tuning(other, *LORA), tuning(base), tuning(base, *LORA, "train.pretrained.lora.rank=3")):
        with pytest.raises(FingerprintMismatch, match=r"train\.pretrained"):
            trained_here(workflow, lora)


def test_a_base_that_moved_is_the_same_training(lora: Path, base: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(base, tmp_path / "elsewhere"))
    assert trained_here(tuning(moved, *LORA), lora).attempts == 0


def test_train_takes_a_pipeline_a_rank_and_steps(store: Path, base: Path, tmp_path: Path) -> None:
    """The run folder's own objective is flow; that of the pipeline takes its place, and what contradicts is refused."""
    out = Path(shutil.copytree(store, tmp_path / "run"))
    with daskt2i.open_run(out) as run:
        plan = run.with_training(pretrained=base, lora=4, steps=5).plan("train")
        said = plan.to_json()
        assert (said["steps"], said["method"], said["trained"]) == (5, "lora", 11_264)
        assert said["optimiser_bytes"] == 8 * 11_264
        assert "epsilon" in str(plan)
    with (
        daskt2i.Run(None, out, settings={"train.objective": "flow"}, progress=False) as run,
        pytest.raises(ConfigError, match=r"train\.objective=epsilon"),
    ):
        run.train(pretrained=base)


def test_settings_of_tuning_go_together_with_the_option_that_names_the_pipeline(store: Path, base: Path) -> None:
    layers = [word for setting in LAYERS for word in ("--set", setting)]
    done = command_line.run("train", "--out", str(store), "--pretrained", str(base), *layers, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["method"] == "layers"


def test_sample_draws_with_a_pipeline_that_no_run_trained(base: Path, tmp_path: Path) -> None:
    """The picture of the plain pipeline, without a store and without a training."""
    with daskt2i.Run("demo", tmp_path / "run", scheduler="serial", progress=False) as run:
        drawn = run.sample(PROMPT, seed=7, steps=3, guidance=2.0, pretrained=base)
        again = run.sample(PROMPT, seed=7, steps=3, guidance=2.0, pretrained=base)
    plain = drawn_by_diffusers(base)
    np.testing.assert_allclose(np.asarray(drawn.images[0]) / 255.0, plain, atol=1 / 255 + 1e-3)
    assert again.seconds == 0  # they were there


def test_the_noise_levels_are_those_of_the_pipelines_scheduler() -> None:
    import diffusers

    from daskt2i.model.pretrained.schedule import alphas_of

    for more in (
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"rescale_betas_zero_snr": True, "_class_name": "DDIMScheduler"},
    ):
        config: dict[str, Any] = {**PNDM, **more}
        theirs = diffusers.DDIMScheduler.from_config({**config, "set_alpha_to_one": False})
        np.testing.assert_allclose(alphas_of(config, "x"), theirs.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-7)


@pytest.mark.slow
def test_two_ranks_tune_as_one_and_a_killed_rank_changes_nothing(
    lora: Path, store: Path, base: Path, tmp_path: Path
) -> None:
    two = Path(shutil.copytree(store, tmp_path / "two"))
    trained(tuning(base, *LORA), two, ranks=2)
    assert losses(two) == pytest.approx(losses(lora), abs=1e-4)
    out, pids = Path(shutil.copytree(store, tmp_path / "killed")), dict[int, int]()

    def kill(event: LaunchEvent) -> None:
        if event.kind == "alive":
            pids[event.attempt] = event["pid"]
        if event.kind == "checkpoint" and event["step"] >= 2 and event.attempt == 1:
            os.kill(pids[1], signal.SIGKILL)

    assert trained(tuning(base, *LORA), out, kill).attempts == 2
    calm, mine = weights_of(lora), weights_of(out)
    assert [name for name in calm if not torch.equal(calm[name], mine[name])] == []


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_same_bits(lora: Path, store: Path, base: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    from builders.workflows import child_environment

    out = Path(shutil.copytree(store, tmp_path / "run"))
    workflow = tmp_path / "tuning.yaml"
    workflow.write_text(tuning(base, *LORA).to_yaml())
    command = [sys.executable, "-m", "daskt2i.workflow", "train", "-w", str(workflow), "-o", str(out), "-s", "serial"]
    driver = subprocess.Popen(command, env=child_environment(), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(
        lambda: Checkpoints(RunFolder(out), "train/checkpoints").newest(tensors=False) or driver.poll() is not None
    )
    driver.kill()
    driver.wait()
    subprocess.run(command, env=child_environment(), check=True, capture_output=True)
    calm, mine = weights_of(lora), weights_of(out)
    assert [name for name in calm if not torch.equal(calm[name], mine[name])] == []
    assert json.loads((out / "lora" / "daskt2i.json").read_text())["base"] == "tiny-sd"
