"""Train the two small encoders that the package carries: `python workflows/train_demo_encoders.py --out DIR --seed 0`.

`DIR/vae` is a diffusers `AutoencoderKL` (64 pixels -> 4 x 16 x 16), `DIR/text` a transformers `CLIPTextModel` with its
tokenizer, `DIR/figures.json` what was measured on scenes that neither has seen. Both learn from drawn scenes; the
autoencoder also from made-up textures, so that photographs, which it has never seen, survive it too. The text model
learns against a small image tower, which is measured here and then thrown away.

The autoencoder is trained by `daskt2i.train.autoencoder_rank`, with checkpoints in `DIR/training`: the same command
goes on from there. Takes about an hour on two cores. docs/reference/demo-encoders.md has the figures of ours.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import demo_text_model
import numpy as np
import torch
from demo_pictures import PIXELS, UNSEEN, different, picture, textures

from daskt2i.config.workflow_file import dask_settings, load_defaults
from daskt2i.encode import gates
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.events import LaunchEvent
from daskt2i.launch.launcher import LocalRankSpawner, launch
from daskt2i.model.autoencoder import SMALL
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.autoencoder_rank import PREFIX, AutoencoderJob
from daskt2i.train.checkpoint import Checkpoints
from daskt2i.types import Runtime

HERE = Path(__file__).resolve().parent
PEAK = 2e-3
"""Learning rate of the autoencoder."""


def stages(steps: int, seed: int) -> dict[str, dict[str, Any]]:
    """The settings (`daskt2i.config.settings.VaeSettings`) of the two parts of the autoencoder's training, by name.

    Three quarters of the steps see quarters of pictures, which is much cheaper; the rest see half as many whole ones,
    with a rate that goes on where the first part's ends on one half cosine over all steps.
    """
    first = steps * 3 // 4
    left = 0.5 + 0.5 * math.cos(math.pi * first / steps)
    common = {"seed": seed, "betas": (0.9, 0.99), "weight_decay": 1e-4, "validation": 64, "config": dict(SMALL)}
    quarters = {"steps": first, "batch": 16, "learning_rate": PEAK, "warmup": steps // 20, "final_rate": left}
    whole = {"steps": steps - first, "batch": 8, "learning_rate": PEAK * left, "warmup": min(20, (steps - first) // 10)}
    found = {"quarters": {**common, **quarters, "crop": PIXELS // 2}, "whole": {**common, **whole}}
    return {name: settings for name, settings in found.items() if settings["steps"]}


def fit(folder: Path, settings: Mapping[str, Any], scenes: int, threads: int, identity: Mapping[str, Any]) -> Path:
    """One part, in a rank of its own, from its newest checkpoint on; the diffusers folder that came out."""
    load_defaults()
    run = RunFolder(folder)
    newest = Checkpoints(run, f"{PREFIX}/checkpoints").newest(tensors=False)
    if newest is not None and newest.about["identity"] != identity:
        raise SystemExit(f"{folder} holds a training with other settings; remove it, or give another --out.")
    job = AutoencoderJob(
        folder=run.root,
        storage_options=None,
        source={"class": "demo_pictures.ScenesAndTextures", "scenes": scenes, "seed": settings["seed"]},
        image={"resolution": PIXELS},
        vae=settings,
        launch={**dask_settings("launch")[0], "precision": "fp32", "device": "cpu", "checkpoint_every": 250},
        identity=identity,
        cache_bytes=2**30,
        batch=settings["batch"],
        readers=2,
    )
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    spawner, env = LocalRankSpawner(), {"PYTHONPATH": paths}
    launched = launch(
        "daskt2i.train.autoencoder_rank",
        dataclasses.asdict(job),
        spawner,
        1,
        threads,
        Told(folder.name),
        gpus=False,
        env=env,
    )
    return Path(launched.last["done"]["vae"])


class Told:
    """Prints what a rank tells: every 50th step, and whatever is not a step."""

    def __init__(self, name: str) -> None:
        self.name, self.next, self.began = name, 0, time.monotonic()

    def __call__(self, event: LaunchEvent) -> None:
        kind, step = event.kind, event.get("step", 0)
        if kind == "step" and step < self.next:
            return
        if kind == "step":
            self.next = step + 50
            said = f"loss {event['loss']:.3f}  kl {event['kl']:.2f}  {event['samples_per_second']} pictures/s"
        elif kind == "heldout":
            said = f"held out: {event['heldout_psnr']:.1f} dB"
        elif kind in ("note", "failed", "skipped"):
            said = str(event.get("text") or dict(event.fields))
        else:
            return
        print(f"{self.name:8s} {step:5d}  {said}  {time.monotonic() - self.began:.0f} s", flush=True)


def run_vae(out: Path, scenes: int, steps: int, seed: int, threads: int) -> dict[str, Any]:
    """Train and measure the autoencoder."""
    began, made = time.monotonic(), None
    for name, settings in stages(steps, seed).items():
        settings["model"] = None if made is None else str(made)
        identity = {"scenes": scenes, "steps": steps, "seed": seed, "part": name}
        made = fit(out / "training" / name, settings, scenes, threads, identity)
    assert made is not None
    shutil.copytree(made, out / "vae", dirs_exist_ok=True)
    encoder = VaeEncoder(str(out / "vae"))
    encoder.load(Runtime("cpu", "fp32", threads))
    values = psnr_of(encoder, np.stack([picture(one) for one in different(UNSEEN, 512)]))
    return {
        "seed": seed,
        "parameters": encoder.info(PIXELS).weight_bytes // 4,
        "scaling_factor": encoder.info(PIXELS).attributes["scaling_factor"],
        "psnr_mean": round(float(np.mean(values)), 2),
        "psnr_worst": round(min(values), 2),
        "psnr_textures": round(float(np.mean(psnr_of(encoder, textures(128, np.random.default_rng(99))))), 2),
        "seconds": round(time.monotonic() - began),
    }


def psnr_of(encoder: VaeEncoder, pictures: np.ndarray) -> list[float]:
    """PSNR of each picture through the mean of its posterior and back to 8 bits, dB."""
    back = encoder.decode(encoder.encode(pictures, 32))
    return [gates.psnr(a, b) for a, b in zip(pictures, back, strict=True)]


def run_text(out: Path, scenes: int, steps: int, seed: int, threads: int) -> dict[str, Any]:
    """Train and measure the text model. It shares no random numbers with the autoencoder: each can be run alone."""
    torch.set_num_threads(threads)
    torch.manual_seed(1000 * seed + 2)
    return {"seed": seed, **demo_text_model.run(out / "text", scenes, steps, np.random.default_rng([seed, 2]))}


def note(out: Path, part: str, found: dict[str, Any]) -> None:
    """Add the figures of one part to `figures.json`."""
    file = out / "figures.json"
    figures = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps({**figures, part: found}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found), flush=True)


def main() -> None:
    """Train both, measure both, save both."""
    parser = argparse.ArgumentParser(description="Train the demo encoders.")
    parser.add_argument("--out", type=Path, required=True, help="folder for vae/, text/ and figures.json")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and textures (0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--scenes", type=int, default=4000, help="scenes to learn from, and as many twins (4000)")
    parser.add_argument(
        "--vae-steps", type=int, default=9000, help="steps of 16 quarters or 8 pictures; 0 trains none (9000)"
    )
    parser.add_argument("--text-steps", type=int, default=1000, help="steps of 128 captions; 0 trains none (1000)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.vae_steps:
        note(given.out, "vae", run_vae(given.out, given.scenes, given.vae_steps, given.seed, given.threads))
    if given.text_steps:
        note(given.out, "text", run_text(given.out, given.scenes, given.text_steps, given.seed, given.threads))


if __name__ == "__main__":
    main()
