"""One step of a transformer on one and two ranks, in one part and in two, has the gradient of a plain loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from builders.denoisers import TRANSFORMERS, disturbed, plain_loss
from builders.shaped import bucketed

from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.denoiser import Conditions
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.samples import check_sizes
from train.test_sizes import settings, task

SHIFT = 2.0


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose padding is no text, with pooled states."""
    return bucketed(tmp_path_factory.mktemp("masked") / "run", {(64, 64): 22}, pooled=True)


@pytest.fixture(scope="module")
def whole(masked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose padding is text."""
    out = Path(shutil.copytree(masked, tmp_path_factory.mktemp("whole") / "run"))
    path = out / "latents.zarr" / "zarr.json"
    node = json.loads(path.read_text())
    node["attributes"]["daskt2i"]["text_encoder"]["pad"] = "full"
    path.write_text(json.dumps(node))
    return out


def gradient(model: torch.nn.Module) -> torch.Tensor:
    """All gradients as one vector. It raises if a weight has none."""
    return torch.cat([values.grad.flatten() for values in model.parameters()])  # type: ignore[union-attr]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_step_on_ranks_and_in_parts_has_the_gradient_of_a_plain_loop(
    masked: Path, whole: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, padded = (whole, True) if name.startswith("SD3") else (masked, False)
    changes = {"model": {"class": f"diffusers.{name}", "config": TRANSFORMERS[name]}, "shift": SHIFT, "batch": 8}
    one = task(store, monkeypatch, **changes)
    model = disturbed(one.build("cpu"))
    batch = next(one.batches(0))
    theirs = getattr(diffusers, name)(**model.config)
    theirs.load_state_dict(model.state_dict())
    latents, noise, normal = (torch.from_numpy(values) for values in (batch.latents, batch.noise, batch.normal))
    states, mask = torch.from_numpy(batch.text_states).float(), torch.from_numpy(batch.text_mask)
    pooled = None if batch.sized is None else torch.from_numpy(batch.sized.pooled).float()
    assert (pooled is not None) == name.startswith("SD3")
    loss = plain_loss(theirs, latents, noise, normal, SHIFT, Conditions(states, None if padded else mask, pooled))
    loss.backward()
    wanted = gradient(theirs)
    for world, parts in ((1, 1), (1, 2), (2, 1), (2, 2)):
        model.zero_grad()
        total = 0.0
        for rank in range(world):
            mine = task(store, monkeypatch, rank, world, **changes)
            mine.build("cpu")
            share = next(mine.batches(0))
            size = len(share) // parts
            for part in range(parts):
                found = mine.loss(model, share[part * size : (part + 1) * size])[0] / (world * parts)
                found.backward()
                total += found.item()
            mine.close()
        assert total == pytest.approx(loss.item(), rel=1e-5)
        assert (gradient(model) - wanted).norm() <= 1e-5 * wanted.norm()
    one.close()


def test_a_store_that_lacks_what_sd3_needs_is_refused_before_a_rank_starts(masked: Path, whole: Path) -> None:
    model = {"class": "diffusers.SD3Transformer2DModel", "config": TRANSFORMERS["SD3Transformer2DModel"]}
    with pytest.raises(ConfigError, match=r"pad=full"):
        check_sizes(settings(model=model), RunFolder(masked))
    check_sizes(settings(model=model), RunFolder(whole))
    with pytest.raises(ConfigError, match=r"set train\.objective to flow"):
        check_sizes(settings(model=model, objective="v"), RunFolder(whole))
