"""What a sample of a denoiser costs in training: floating-point operations, counted, and samples per second here.

    python benchmarks/denoiser_cost.py [--preset uvit-s2] [--batch 8] [--steps 6] [--precision fp32 bf16]
        [--threads 1]

Latents of 32 x 32 x 4 (256 px) and 77 text states of 768 features, as in COCO by the protocol of U-ViT. Torch's
FlopCounterMode counts the operations of one forward and backward pass: matrix products, convolutions and attention, two
for each multiply and add. The rate is that of forward, backward and AdamW, the median step after one that does not
count; on a machine with other work take one thread, and the rate of a second of processor time. Weights and optimiser
stay in fp32; bf16 is autocast, as `launch.precision=bf16`. The last line counts what else a picture of an evaluation
takes: the decoder of Stable Diffusion's VAE at 256 px, and FID's Inception.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from daskt2i.evaluation.figures import inception
from daskt2i.model.denoisers.denoiser import StoreFacts
from daskt2i.model.denoisers.uvit import UViTKind

CHANNELS, SIDE, TOKENS, FEATURES = 4, 32, 77, 768


def per_picture() -> dict[str, float]:
    """GFLOP of the VAE's decoder and of Inception for one picture. No weights are made: shapes are enough."""
    blocks = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
    ways = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"), torch.no_grad():
        vae, network = AutoencoderKL(**blocks, **ways).eval(), inception.build().eval()
        with FlopCounterMode(display=False) as decoder:
            vae.decode(torch.empty(1, CHANNELS, SIDE, SIDE))
        with FlopCounterMode(display=False) as features:
            network(torch.empty(1, 3, 299, 299))
    counted = {"vae_decoder_gflop": decoder, "inception_gflop": features}
    return {name: round(one.get_total_flops() / 1e9, 2) for name, one in counted.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--preset", default="uvit-s2", choices=sorted(UViTKind.presets))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    kind = UViTKind()
    facts = StoreFacts(((CHANNELS, SIDE, SIDE),), FEATURES, TOKENS, 0, False, encoders=())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = kind.build(kind.config(given.preset, {}, facts), 0).to(device).train()
    latents = torch.randn(given.batch, CHANNELS, SIDE, SIDE, device=device)
    times = torch.randint(0, 1000, (given.batch,), device=device)
    states = torch.randn(given.batch, TOKENS, FEATURES, device=device)

    def loss() -> torch.Tensor:
        found = model(latents, times, states, return_dict=False)[0]
        return mse_loss(found.float(), latents)

    with FlopCounterMode(display=False) as forward, torch.no_grad():
        loss()
    with FlopCounterMode(display=False) as both:
        loss().backward()
    counted = {
        "preset": given.preset,
        "parameters": sum(value.numel() for value in model.parameters()),
        "forward_gflop": round(forward.get_total_flops() / given.batch / 1e9, 2),
        "forward_backward_gflop": round(both.get_total_flops() / given.batch / 1e9, 2),
    }
    sys.stdout.write(json.dumps(counted) + "\n")
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for precision in given.precision:
        seconds, processor = [], []
        for _ in range(given.steps + 1):
            begun, used = time.perf_counter(), time.process_time()
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                value = loss()
            value.backward()
            optimiser.step()
            optimiser.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
            processor.append(time.process_time() - used)
        rate = given.batch / statistics.median(seconds[1:])
        measured = {
            "precision": precision,
            "device": device,
            "threads": torch.get_num_threads(),
            "batch": given.batch,
            "samples_per_second": round(rate, 3),
            "samples_per_processor_second": round(given.batch / statistics.median(processor[1:]), 3),
            "tflop_per_second": round(rate * counted["forward_backward_gflop"] / 1000, 4),
            "load": round(os.getloadavg()[0], 1),
        }
        sys.stdout.write(json.dumps(measured) + "\n")
    sys.stdout.write(json.dumps(per_picture()) + "\n")


if __name__ == "__main__":
    main()
