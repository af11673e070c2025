"""Training a denoiser on one device: samples/s of the real trainer, of its step alone, and of a plain loop.

    trainer   `bench train` with one rank: the real trainer in its own process, with its loader, on a random store
    daskt2i   the step of the trainer alone (`TrainState`), on one batch that stays on the device
    plain     forward, backward and AdamW as in torch's tutorials, on the same batch and the same model

The last two take turns on one model. Each keeps its own optimiser.

Covers: the presets of the sizes, AdamW without a moving average everywhere, fp32 and what the device has besides.
Does not cover: several ranks (`bench train`), what is learned: the numbers are random.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daskt2i.bench.device.clock import NO_TIME, Clock, Way, operations, why_not
from daskt2i.bench.device.parts.encoders import write
from daskt2i.bench.device.recorder import Recorder
from daskt2i.bench.device.sizes import Denoiser, Sizes
from daskt2i.bench.report import Value
from daskt2i.bench.train import bench_train
from daskt2i.config.settings import TrainSettings
from daskt2i.config.workflow_file import load_workflow
from daskt2i.machine.precision import resolve
from daskt2i.model.denoisers import unet as model
from daskt2i.train.optimisation.train_state import TrainState
from daskt2i.types import Precision

RATE = 1e-4
"""Learning rate. It does not change the speed."""


def measure(sizes: Sizes, clock: Clock, record: Recorder, folder: Path) -> None:
    """Record the lines of each denoiser. `folder` gets the random stores, which are removed again."""
    for wanted in sizes.denoisers:
        key: dict[str, Value] = {"model": wanted.preset, "unit": "samples", "batch": wanted.batch}
        if record.left() <= 0:
            record.cell(key, NO_TIME)
            continue
        precisions: list[Precision] = list(dict.fromkeys((resolve("auto", clock.device), "fp32")))
        for precision in precisions:
            ways = _ways(key, wanted, precision, clock)
            clock.take_turns(ways, sizes.rounds, sizes.sample_seconds, record.left)
            write(ways, record)
            del ways
            clock.free()
        _trainer(key, wanted, precisions[0], clock, record, folder)


def _ways(key: dict[str, Value], wanted: Denoiser, precision: Precision, clock: Clock) -> list[Way]:
    names = ("daskt2i", "plain")
    values: list[dict[str, Value]] = [{**key, "way": name, "precision": precision} for name in names]
    try:
        ours, plain, forward = steps(wanted, precision, clock.device)
        flop = 3 * operations(forward)  # the backward pass does two products for each one of the forward pass
    except Exception as error:
        clock.free()
        return [Way(one, lambda: None, 1, flag=why_not(error)) for one in values]
    calls = zip(values, (ours, plain), strict=True)
    return [Way(one, call, wanted.batch, flop=flop / wanted.batch) for one, call in calls]


def steps(wanted: Denoiser, precision: Precision, device: str) -> tuple[Callable[[], Any], ...]:
    """A step of the trainer, a plain step, and the forward pass alone, on the same model and the same batch."""
    import torch

    config = model.unet_config(wanted.preset, {}, wanted.latent, wanted.features)
    unet: Any = model.build(config, 0).to(device)
    draw = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn((wanted.batch, *shape), generator=draw, device=device)

    noisy = normal(*wanted.latent).contiguous(memory_format=torch.channels_last)
    target, states, times = normal(*wanted.latent), normal(wanted.tokens, wanted.features), 1000 * normal().sigmoid()

    def loss_of(unet: Any, part: Any) -> tuple[Any, dict[str, Any]]:
        predicted = unet(noisy, times, states, return_dict=False)[0]
        return torch.nn.functional.mse_loss(predicted.float(), target), {}

    settings = TrainSettings.model_validate({"steps": 1, "batch": wanted.batch, "optimiser": "adamw", "ema": 0})
    state = TrainState(unet, settings, device, precision)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE)
    scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=precision == "fp16")

    def ours() -> None:
        state.learn([(None, 1.0)], loss_of, RATE)

    def plain() -> None:
        optimiser.zero_grad(set_to_none=True)
        with state.autocast():
            loss = loss_of(unet, None)[0]
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    def forward() -> None:
        with torch.no_grad(), state.autocast():
            loss_of(unet, None)

    return ours, plain, forward


def _trainer(
    key: dict[str, Value], wanted: Denoiser, precision: Precision, clock: Clock, record: Recorder, folder: Path
) -> None:
    values: dict[str, Value] = {**key, "way": "trainer", "precision": precision}
    if record.left() < wanted.launch_seconds:
        record.cell(values, NO_TIME)
        return
    workflow = load_workflow("demo", {"launch.device": clock.device, "launch.precision": precision})
    changes = {"model": {"preset": wanted.preset}, "batch": wanted.batch, "optimiser": "adamw", "ema": 0}
    train = TrainSettings.model_validate({**workflow.train.model_dump(), **changes})
    try:
        report = bench_train(
            [1],
            train,
            workflow.launch,
            shape=wanted.shape,
            rows=wanted.rows,
            steps=wanted.steps,
            threads=clock.threads,
            repeats=1,
            place=str(folder),
            tell=record.tell,
        )
    except Exception as error:
        record.cell(values, why_not(error))
        return
    cell = report.cells[0]
    rate = cell.values.get("rate")
    found: dict[str, Value] = {"rate": rate, "each_s": 1 / rate} if isinstance(rate, float) and rate else {}
    waiting = cell.values.get("waiting")
    if isinstance(waiting, float):
        found["waiting"] = waiting
    record.cell({**values, **found}, *cell.flags)
