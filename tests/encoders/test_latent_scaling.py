"""One function reads the scaling of latents from a VAE's config, for training and for export."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from daskt2i.encoders.latent_scaling import latent_scaling


@pytest.mark.parametrize(
    ("config", "mean", "std", "factor"),
    [
        ({}, [0, 0], [1, 1], 1.0),
        ({"scaling_factor": 0.5, "shift_factor": None}, [0, 0], [1, 1], 0.5),
        ({"scaling_factor": 0.36, "shift_factor": 0.25}, [0.25, 0.25], [1, 1], 0.36),
        ({"latents_mean": [1, 2], "latents_std": [3, 4], "shift_factor": 9.0}, [1, 2], [3, 4], 1.0),
        ({"latents_mean": [[[[1]], [[2]]]], "latents_std": [[[[3]], [[4]]]]}, [1, 2], [3, 4], 1.0),
        ({"latents_mean": [1, 2], "shift_factor": 0.5}, [0.5, 0.5], [1, 1], 1.0),
    ],
    ids=["nothing", "factor", "shift", "of each channel", "with empty axes", "half of a pair"],
)
def test_mean_std_and_factor_are_as_diffusers_reads_them(
    config: dict[str, Any], mean: list[float], std: list[float], factor: float
) -> None:
    found = latent_scaling(config, 2)
    np.testing.assert_array_equal(found[0], np.array(mean, np.float32))
    np.testing.assert_array_equal(found[1], np.array(std, np.float32))
    assert found[2] == factor
