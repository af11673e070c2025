"""The loss of an autoencoder: the difference between the decoded and the original picture, and the KL divergence.

Covers: the terms of each picture, and PSNR.
Does not cover: the weights of the terms (`config.settings`), the batches (`train.autoencoder_rank`).

No term needs another network. LPIPS would have to be downloaded, and it was trained on photographs only. The term
`edges` compares the differences between neighbouring pixels: a mean over pixels hardly sees outlines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TERMS = ("l1", "l2", "edges", "kl")
"""Names of the terms, the same as in `VaeLossSettings`."""

LEAST_ERROR = 1e-3
"""Mean squared error, in squared steps of 8 bits, below which a picture counts as equal: 78 dB, a finite number."""


def terms(made: Tensor, clean: Tensor, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
    """Compute the terms of each picture, `float32[n]` by name.

    Args:
        made, clean: decoded and original pictures, `[n, 3, height, width]`, -1 to 1.
        mean, logvar: of the posterior, `[n, channel, y, x]`.

    `l1` and `l2` are mean absolute and squared error. `edges` is the mean absolute error of the differences between
    neighbours, down and across. `kl` is the divergence of the posterior from a standard normal distribution (Kingma and
    Welling 2014, appendix B). It is a mean over the elements of the latent, so one weight fits every picture size.
    """
    error = made.float() - clean.float()
    down, across = error.diff(dim=2).abs().flatten(1).mean(1), error.diff(dim=3).abs().flatten(1).mean(1)
    mean, logvar = mean.float(), logvar.float()
    return {
        "l1": error.abs().flatten(1).mean(1),
        "l2": error.square().flatten(1).mean(1),
        "edges": (down + across) / 2,
        "kl": 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).mean(1),
    }


def picture_psnr(made: Tensor, pixels: Tensor) -> Tensor:
    """PSNR of each picture, rounded to 8 bits first: dB, `float32[n]`, 10 log10(255² / mean squared error).

    Args:
        made: decoded pictures, `[n, 3, height, width]`, -1 to 1.
        pixels: the original pictures, the same shape, 0 to 255.
    """
    back = ((made.float() + 1) * 127.5).round().clamp(0, 255)
    error = (back - pixels.float()).square().flatten(1).mean(1)
    return 10 * (255.0**2 / error.clamp(min=LEAST_ERROR)).log10()
