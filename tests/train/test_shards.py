"""With `launch.sharding: full` each rank keeps a part of every weight, and the training is the same one."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from builders.pipelines import sd_folder
from builders.runs import encoded, tiny_workflow, trained, trained_here
from torch import nn

from daskt2i.config.settings import Workflow
from daskt2i.errors import ConfigError
from daskt2i.events import LaunchEvent
from daskt2i.model.denoisers.kinds import KINDS
from daskt2i.store.run_folder import PIPELINE, RunFolder
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.train.metrics import read_metrics
from daskt2i.train.optimisation.shards import blocks
from daskt2i.train.upkeep.rank_memory import RANK_BYTES, rank_bytes

UVIT = "train.model={class: daskt2i.model.denoisers.uvit.UViT, config: {width: 32, layers: 3, heads: 2}}"
PIXART = (
    "train.model={class: diffusers.PixArtTransformer2DModel, "
    "config: {num_attention_heads: 2, attention_head_dim: 16, num_layers: 2}}"
)
UNET = "train.model.config={block_out_channels: [16, 32, 32]}"
SIX = (
    *("train.steps=6", "train.ema=0.9", "train.emas=[0.5]", "train.validation=3", "train.learning_rate=0.001"),
    "train.schedule=constant",
    *("launch.checkpoint_every=3", "launch.validation_every=3", "launch.threads=1"),
)
SPREAD = "launch.sharding=full"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoded run folder. Tests copy it."""
    out = tmp_path_factory.mktemp("store") / "run"
    encoded(out)
    return out


def of(*more: str) -> Workflow:
    return tiny_workflow(*SIX, *more)


def copied(store: Path, place: Path) -> Path:
    return Path(shutil.copytree(store, place))


def figures(out: Path) -> dict[tuple[int, str], float]:
    """Every figure of every step."""
    lines = read_metrics(RunFolder(out))
    names = ("loss", "norm", "rate", "heldout_loss", "heldout_loss_ema0.5")
    return {(line["step"], name): line[name] for line in lines for name in names if name in line}


def tensors(out: Path) -> dict[str, torch.Tensor]:
    found = Checkpoints(RunFolder(out)).newest()
    assert found is not None
    return dict(found.tensors)


def assert_same_training(one: Path, other: Path, within: float = 1e-5, weights: bool = True) -> None:
    assert figures(one) == pytest.approx(figures(other), rel=within, abs=1e-7)
    if not weights:
        return
    mine, theirs = tensors(one), tensors(other)
    assert {name: value.shape for name, value in mine.items()} == {name: value.shape for name, value in theirs.items()}
    for name, value in mine.items():
        torch.testing.assert_close(value.float(), theirs[name].float(), rtol=1e-4, atol=1e-5, msg=name)


def test_two_ranks_with_shards_train_as_one_and_any_number_may_go_on(store: Path, tmp_path: Path) -> None:
    """Three steps with shards on two ranks, three more on one rank without: the training of one rank."""
    alone, spread = copied(store, tmp_path / "alone"), copied(store, tmp_path / "spread")
    trained_here(of(UVIT), alone)
    found = trained(of(UVIT, SPREAD, "train.steps=3"), spread, ranks=2)
    assert found.more["parameters"] == sum(
        one.numel() for name, one in tensors(spread).items() if name.startswith("model/")
    )
    assert (spread / PIPELINE / "daskt2i.json").exists()
    trained_here(of(UVIT), spread)
    assert_same_training(spread, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        pytest.param((UVIT, "train.optimiser=muon"), id="muon"),
        pytest.param((UVIT, "train.optimiser=adamw"), id="adamw"),
        pytest.param((UVIT, "launch.gradient_accumulation_steps=2"), id="in two parts"),
        pytest.param((PIXART,), id="pixart"),
        pytest.param((PIXART, "launch.gradient_checkpointing=true"), id="activations computed again"),
        pytest.param((UNET, "train.learning_rate=0.0001"), id="unet"),
    ],
)
def test_shards_change_no_training(more: tuple[str, ...], store: Path, tmp_path: Path) -> None:
    for name, sharding in (("none", "none"), ("full", "full")):
        trained(of(*more, f"launch.sharding={sharding}"), copied(store, tmp_path / name), ranks=2)
    # Convolutions with shards have another memory order. Where gradients are near 0, Adam makes steps of roundings.
    assert_same_training(tmp_path / "full", tmp_path / "none", within=1e-4, weights=UNET not in more)


@pytest.mark.slow
def test_shards_compute_in_bf16_too(store: Path, tmp_path: Path) -> None:
    for name in ("none", "full"):
        out = copied(store, tmp_path / name)
        trained(of(UVIT, "launch.precision=bf16", f"launch.sharding={name}"), out, ranks=2)
    full, none = figures(tmp_path / "full"), figures(tmp_path / "none")
    assert full.keys() == none.keys()
    assert full == pytest.approx(none, rel=0.02)


@pytest.mark.slow
def test_a_killed_rank_with_shards_changes_no_loss(store: Path, tmp_path: Path) -> None:
    calm, killed = copied(store, tmp_path / "calm"), copied(store, tmp_path / "killed")
    pids: dict[int, int] = {}

    def kill(event: LaunchEvent) -> None:
        if event.kind == "alive" and event.attempt == 1:
            pids[event.rank or 0] = event["pid"]
        if event.kind == "checkpoint" and event.attempt == 1:
            os.kill(pids[1], signal.SIGKILL)

    trained(of(UVIT, SPREAD), calm, ranks=2)
    assert trained(of(UVIT, SPREAD), killed, kill, ranks=2).attempts == 2
    assert_same_training(killed, calm, within=1e-6)


@pytest.mark.slow
def test_a_lora_is_tuned_with_shards(store: Path, tmp_path: Path) -> None:
    base = sd_folder(tmp_path / "base")
    lora = (f"train.pretrained.model={base}", "train.pretrained.method=lora", "train.pretrained.lora.rank=2")
    more = ("train.objective=epsilon", "train.model.config={}", *lora)
    for name in ("none", "full"):
        trained(of(*more, f"launch.sharding={name}"), copied(store, tmp_path / name), ranks=2)
    assert_same_training(tmp_path / "full", tmp_path / "none", within=1e-4)


def test_blocks_are_the_layers_of_a_transformer_and_the_inner_lists_of_a_unet() -> None:
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    inner = nn.ModuleList([nn.ModuleDict({"list": nn.ModuleList([nn.Linear(64, 64), nn.Linear(64, 64)])})])
    model = nn.ModuleDict({"layers": layers, "big": inner, "head": nn.Linear(8, 8)})
    assert blocks(model) == [*layers, *inner[0]["list"]]


def test_each_rank_needs_memory_for_its_part() -> None:
    workflow = tiny_workflow("train.model={preset: sd15, config: {}}", "train.emas=[0.99]")
    count = KINDS["diffusers.UNet2DConditionModel"].presets["sd15"]
    whole = rank_bytes(workflow.train, workflow.launch) - RANK_BYTES
    spread = rank_bytes(workflow.train, workflow.launch.model_copy(update={"sharding": "full"}), ranks=4) - RANK_BYTES
    assert whole == 24 * count
    assert spread == whole // 4


@pytest.mark.parametrize("other", ["launch.precision=fp16", "launch.profile_allreduce=true"])
def test_what_shards_cannot_do_is_refused(other: str) -> None:
    with pytest.raises(ConfigError, match=r"is not valid: launch: .*sharding: full"):
        of(SPREAD, other)
