"""Objectives, schedules and samplers fit together: with a perfect model every sampler draws the right picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from daskt2i.config.training.denoiser import TimeSettings
from daskt2i.model.diffusion import Diffusion
from daskt2i.model.noise_schedule import SCHEDULE, STEPS, Objective, alphas_cumprod
from daskt2i.model.pipeline import scheduler_config, scheduler_for

OBJECTIVES: tuple[Objective, ...] = ("flow", "v", "epsilon")


def batch(rows: int = 64, seed: int = 0) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    latents, noise = torch.randn(2, rows, 4, 4, 4, generator=draw)
    return latents, noise, torch.rand(rows, generator=draw), torch.randn(rows, generator=draw)


def answer(objective: Objective, latent: torch.Tensor, seen: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The output of a perfect model, which knows the clean latent."""
    if objective == "flow":
        return (seen - latent) / (time.float() / STEPS)
    power = torch.as_tensor(alphas_cumprod(objective))[int(time)]
    a, s = power.sqrt().float(), (1 - power).sqrt().float()
    noise = (seen - a * latent) / s
    return noise if objective == "epsilon" else a * noise - s * latent


@pytest.mark.parametrize("sampler", ["dpm++", "ddim", "euler"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_perfect_model_draws_the_picture_with_each_sampler(objective: Objective, sampler: Any) -> None:
    latent, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    scheduler = scheduler_for(scheduler_config(objective), sampler)
    scheduler.set_timesteps(12)
    now = noise * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        seen = scheduler.scale_model_input(now, time)
        now = scheduler.step(answer(objective, latent, seen, time), time, now).prev_sample
    assert (now - latent).abs().max() < 0.05


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_training_target_is_the_output_that_the_sampler_expects(objective: Objective) -> None:
    latents, noise, uniform, normal = batch()
    diffusion = Diffusion(objective)
    lesson = diffusion.noised(latents, noise, uniform, normal)
    said = torch.cat(
        [answer(objective, latents[i : i + 1], lesson.inputs[i : i + 1], lesson.times[i]) for i in range(len(latents))]
    )
    assert diffusion.loss(said, lesson).max() < 1e-3
    assert diffusion.loss(torch.zeros_like(said), lesson).min() > 0
    assert lesson.times.min() >= 0
    assert lesson.times.max() <= STEPS


def test_schedules_equal_those_of_diffusers() -> None:
    theirs = DDPMScheduler(**SCHEDULE)
    np.testing.assert_allclose(alphas_cumprod("epsilon"), theirs.alphas_cumprod, rtol=1e-4)
    rescaled = 1 - rescale_zero_terminal_snr(theirs.betas)
    np.testing.assert_allclose(alphas_cumprod("v"), torch.cumprod(rescaled, 0), atol=1e-5)
    assert alphas_cumprod("v")[-1] == 0
    with pytest.raises(ValueError, match="flow has no"):
        alphas_cumprod("flow")


def test_the_last_step_of_v_is_pure_noise_and_its_target_the_latent() -> None:
    latents, noise, _, normal = batch(1)
    lesson = Diffusion("v").noised(latents, noise, torch.tensor([0.99999]), normal)
    assert torch.equal(lesson.inputs, noise)
    assert torch.equal(lesson.target, -latents)
    assert lesson.weight.item() == 0, "min(SNR, gamma) / (SNR + 1) with an SNR of 0"
    assert Diffusion("v", None).noised(latents, noise, torch.tensor([0.99999]), normal).weight.item() == 1


@pytest.mark.parametrize("objective", ["v", "epsilon"])
def test_min_snr_weights_equal_those_of_the_paper_and_can_be_left_out(objective: Objective) -> None:
    latents, noise, uniform, normal = batch()
    lesson = Diffusion(objective, snr_gamma=5.0).noised(latents, noise, uniform, normal)
    power = torch.as_tensor(alphas_cumprod(objective))[lesson.times.long()]
    snr = power / (1 - power)
    expected = torch.minimum(snr, torch.tensor(5.0)) / (snr if objective == "epsilon" else snr + 1)
    torch.testing.assert_close(lesson.weight.double(), expected.double(), rtol=1e-4, atol=1e-6)
    assert torch.equal(Diffusion(objective, None).noised(latents, noise, uniform, normal).weight, torch.ones(64))


def test_a_shift_moves_flow_to_noisier_times() -> None:
    given = batch()
    times = [Diffusion("flow", shift=shift).noised(*given).times for shift in (1.0, 3.0)]
    t = times[0] / STEPS
    torch.testing.assert_close(times[1] / STEPS, 3 * t / (1 + 2 * t))


def times_of(settings: dict[str, Any] | None, rows: int = 20_000, shift: float = 1.0) -> torch.Tensor:
    """Times from 0 to 1, sorted, of many samples."""
    draw = torch.Generator().manual_seed(3)
    latents, noise = torch.zeros(2, rows, 1, 1, 1)
    given = None if settings is None else TimeSettings.model_validate(settings)
    diffusion = Diffusion("flow", shift=shift, times=given)
    lesson = diffusion.noised(latents, noise, torch.rand(rows, generator=draw), torch.randn(rows, generator=draw))
    return (lesson.times / STEPS).sort().values


def test_times_that_are_not_given_are_logit_normal_to_the_bit() -> None:
    assert torch.equal(times_of(None), times_of({"kind": "logit_normal"}))
    assert torch.equal(times_of(None, shift=2.0), times_of({"mean": 0.0, "std": 1.0}, shift=2.0))
    normal = torch.randn(9)
    lesson = Diffusion("flow").noised(torch.zeros(9, 1, 1, 1), torch.zeros(9, 1, 1, 1), torch.rand(9), normal)
    assert torch.equal(lesson.times, 1000 * torch.sigmoid(normal))


@pytest.mark.parametrize(
    ("settings", "quantiles"),
    [
        # The time below which 10, 50 and 90 of 100 samples lie, from the formulas of the paper. 1.28155 is the normal
        # quantile of 90 %. Of `mode`: t(u) = 1 - u - s (cos^2(pi u / 2) - 1 + u) at u = 0.9, 0.5 and 0.1.
        ({"kind": "logit_normal", "mean": 0.5, "std": 1.5}, (0.19425, 0.62246, 0.91850)),
        ({"kind": "uniform"}, (0.1, 0.5, 0.9)),
        ({"kind": "mode", "scale": 1.29}, (0.19743, 0.5, 0.80257)),
        ({"kind": "mode", "scale": -0.8}, (0.03958, 0.5, 0.96042)),
    ],
    ids=["logit-normal", "uniform", "mode", "mode at the ends"],
)
def test_times_follow_the_density_that_was_asked_for(
    settings: dict[str, Any], quantiles: tuple[float, float, float]
) -> None:
    times = times_of(settings)
    assert times.min() >= 0
    assert times.max() <= 1
    found = [float(times[int(share * len(times))]) for share in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(found, quantiles, atol=0.01)


def test_a_shift_moves_times_of_each_kind() -> None:
    for kind in ("logit_normal", "uniform", "mode"):
        t = times_of({"kind": kind})
        torch.testing.assert_close(times_of({"kind": kind}, shift=3.0), 3 * t / (1 + 2 * t))


def test_times_do_not_change_objectives_with_steps_of_a_schedule() -> None:
    """As the shift of flow: a workflow that sets them can be trained with another objective."""
    given = batch()
    plain, timed = (Diffusion("v", times=times).noised(*given) for times in (None, TimeSettings(kind="uniform")))
    assert torch.equal(plain.times, timed.times)
