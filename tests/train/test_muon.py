"""Muon: orthogonal steps, the choice of weights, the same bits on one rank and on two, and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CHILD_PATH
from rank_modules.fitting import BATCH, Toy, fit, losses, settings
from torch import nn

from daskt2i.launch.launcher import LocalRankSpawner, launch
from daskt2i.model.denoisers.unet import build, unet_config
from daskt2i.train.optimisation.muon import _buckets, inner_matrices, muon, orthogonal
from daskt2i.train.optimisation.train_state import TrainState

WIDE = {"width": 16}
MUON: dict[str, Any] = {"optimiser": "muon", "steps": 12, "ema": 0.0}


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (32, 32)])
def test_an_update_is_orthogonal(shape: tuple[int, int]) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, v = torch.linalg.svd(drawn, full_matrices=False)
    steep = u @ torch.diag(torch.logspace(0, -1.5, len(s))) @ v
    values = torch.linalg.svdvals(orthogonal(steep))
    assert 0.5 < values.min() <= values.max() < 1.3
    assert torch.linalg.svdvals(steep).min() < 0.04


def test_updates_of_wide_matrices_are_orthogonal_too() -> None:
    """Their singular values are around 1/sqrt(640) = 0.04, and many are much smaller."""
    drawn = torch.randn((640, 640), generator=torch.Generator().manual_seed(0))
    assert (torch.linalg.svdvals(orthogonal(drawn)) > 0.6).float().mean() > 0.95


def test_it_chooses_the_inner_matrices_of_a_denoiser_and_no_other_weights() -> None:
    unet = build(unet_config("demo", {}, (4, 16, 16), 128), 0)
    matrices, others = inner_matrices(unet)
    names = {id(weight): name for name, weight in unet.named_parameters()}
    taken, left = ({names[id(weight)] for weight in found} for found in (matrices, others))
    assert len(taken) + len(left) == len(names)
    assert {"down_blocks.0.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"} <= taken
    assert {"conv_in.weight", "conv_out.weight", "conv_norm_out.weight", "mid_block.resnets.0.conv1.bias"} <= left
    assert sum(weight.numel() for weight in matrices) > 0.95 * sum(p.numel() for p in unet.parameters())


def test_embeddings_do_not_count_as_matrices() -> None:
    model = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 32, bias=False))
    matrices, others = inner_matrices(model)
    assert [weight.shape for weight in matrices] == [(32, 32)]
    assert [weight.shape for weight in others] == [(100, 32)]


def test_a_step_has_the_size_of_an_adamw_step() -> None:
    weight = nn.Parameter(torch.zeros(32, 16, 3, 3).to(memory_format=torch.channels_last))
    weight.grad = torch.randn_like(weight)
    muon([weight], lr=0.01, weight_decay=0.0).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.2)
    assert (weight.detach() * weight.grad).sum() < 0


def test_an_interrupted_run_resumes_with_the_same_losses(tmp_path: Path) -> None:
    fit(tmp_path / "calm", Toy(**WIDE), **MUON)
    with pytest.raises(StopIteration):
        fit(tmp_path / "cut", Toy(spoil={7: "end"}, **WIDE), **MUON)
    fit(tmp_path / "cut", Toy(**WIDE), **MUON)
    assert losses(tmp_path / "cut") == losses(tmp_path / "calm")
    assert losses(tmp_path / "calm")[-1] < 0.8 * losses(tmp_path / "calm")[0]
    fit(tmp_path / "adamw", Toy(**WIDE), **{**MUON, "optimiser": "adamw"})
    assert losses(tmp_path / "adamw") != losses(tmp_path / "calm")


@pytest.mark.slow
def test_two_ranks_share_the_work_and_change_the_weights_like_one(tmp_path: Path) -> None:
    """The bits are the same if the one rank accumulates the same parts.

    The single rank also runs in its own process: this process may use MKL without MKL_CBWR, which rounds differently.
    """
    env = {"PYTHONPATH": CHILD_PATH}
    for name, ranks, how in (("one", 1, {"gradient_accumulation_steps": 2}), ("two", 2, {})):
        (tmp_path / name).mkdir()
        job = {"folder": str(tmp_path / name), "batch": BATCH, "die_at": 0, "settings": MUON, "launch": how, **WIDE}
        launch("rank_modules.fitting", job, LocalRankSpawner(ranks), ranks, 1, lambda event: None, env=env)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert (tmp_path / "two/weights").read_bytes() == (tmp_path / "one/weights").read_bytes()


def test_updates_in_several_buckets_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path / "one", Toy(**WIDE), **MUON)
    monkeypatch.setattr("daskt2i.train.optimisation.muon.BUCKET", 600)
    weights = [nn.Parameter(torch.zeros(16, rows)) for rows in (16, 16, 64, 8)]
    assert [len(bucket) for bucket in _buckets(weights, {id(one): tuple(one.shape) for one in weights})] == [2, 1, 1]
    fit(tmp_path / "several", Toy(**WIDE), **MUON)
    assert losses(tmp_path / "several") == losses(tmp_path / "one")


def test_each_rank_makes_some_of_the_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank whose peers send nothing changes only the weights of its own part."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda updates: None)
    weights = [nn.Parameter(torch.zeros(16, 16)) for _ in range(4)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    muon(weights, 0.01, 0.0, ranks=2, rank=1).step()
    assert sum(bool(weight.any()) for weight in weights) == 2


def test_a_model_without_matrices_is_trained_by_adamw() -> None:
    state = TrainState(Toy().build("cpu"), settings(optimiser="muon"), "cpu", "fp32")
    assert [type(one) for one in state.optimisers] == [torch.optim.AdamW]


def test_in_fp16_a_gradient_that_overflows_changes_no_weight_of_either_optimiser() -> None:
    """One matrix overflows. AdamW's gradients are finite, and it has momentum from the step before."""
    task = Toy(**WIDE)
    state = TrainState(task.build("cpu"), settings(optimiser="muon"), "cpu", "fp16")
    state.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    batch = next(task.batches(0))
    state.learn([(batch, 1.0)], task.loss, 0.01)
    before = [weight.detach().clone() for weight in state.parameters]
    hook = state.parameters[0].register_hook(lambda gradient: gradient * float("inf"))
    state.learn([(batch, 1.0)], task.loss, 0.01)
    assert all(torch.equal(weight, old) for weight, old in zip(state.parameters, before, strict=True))
    assert state.scaler.get_scale() == 0.5
    hook.remove()
    state.learn([(batch, 1.0)], task.loss, 0.01)
    assert not any(torch.equal(weight, old) for weight, old in zip(state.parameters, before, strict=True))
