"""FID's Inception has the tensors and the arithmetic of the published network."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional

from daskt2i.evaluation.figures import inception

TENSORS = "b628bc492e0cd5a5ea154bb78c4637db2a10ffa3c528519b65fb723b9bb5a5ac"
"""SHA-256 of names and shapes of the tensors of torch-fidelity 0.4 (weights-inception-2015-12-05-6726825d.pth), without
`fc` and without counts of batches."""


def test_its_tensors_have_the_names_and_shapes_of_the_published_file() -> None:
    with torch.device("meta"):
        state = inception.build().state_dict()
    lines = sorted(f"{name} {list(value.shape)}" for name, value in state.items() if "num_batches" not in name)
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == TENSORS


def test_it_gives_what_torch_fidelity_gives() -> None:
    """Weights from sines, so that the expected features could be written down: torch-fidelity 0.4, the same input."""
    model = inception.build().eval()
    state = model.state_dict()
    with torch.inference_mode():
        for name, value in state.items():
            if "num_batches" not in name:
                value.copy_(pattern(name, value.shape))
        pixels = torch.sin(torch.arange(3 * 299 * 299) / 1000).reshape(1, 3, 299, 299)
        found = model(pixels)[0].numpy()
    np.testing.assert_allclose(found[[0, 500, 1000, 1500, 2047]], EXPECTED, rtol=1e-3)


EXPECTED = [214.028931, 12.423844, 11.618085, 7.076058, 672.480347]


def pattern(name: str, shape: torch.Size) -> torch.Tensor:
    """Numbers that follow from the name and the shape of a tensor."""
    values = torch.sin(torch.arange(shape.numel(), dtype=torch.float64) * 0.7 + len(name)).reshape(shape).float()
    if "running_var" in name or name.endswith("bn.weight"):
        return values.abs() + 0.5
    if "bn" in name:
        return values * 0.1
    return values / (shape[1] * shape[2] * shape[3]) ** 0.5 * 1.4


def test_pictures_are_scaled_as_pytorch_fid_does_it() -> None:
    pixels = torch.arange(2 * 8 * 8 * 3, dtype=torch.uint8).reshape(2, 8, 8, 3)
    found = inception.prepared(pixels)
    plain = functional.interpolate(pixels.permute(0, 3, 1, 2) / 255, (299, 299), mode="bilinear")
    assert found.shape == (2, 3, 299, 299)
    torch.testing.assert_close(found, 2 * plain - 1)
