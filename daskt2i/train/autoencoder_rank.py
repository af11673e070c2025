"""Train an autoencoder on one rank. The launcher starts this module as a rank (`daskt2i.launch.rank`).

Covers: a new or a pretrained AutoencoderKL, its loss on pictures of a source, PSNR on held-out pictures, sheets of
reconstructions, and writing the diffusers folder that `VaeEncoder` loads.
Does not cover: the choice and order of pictures (`loader.picture_dataset`), the terms of the loss
(`model.autoencoder_loss`), the loop (`loop`), starting ranks (`launch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.config.component import Component
from daskt2i.config.image_settings import ImageSettings
from daskt2i.config.settings import DatasetSettings, LaunchSettings, VaeSettings
from daskt2i.encode import gates
from daskt2i.errors import SourceError
from daskt2i.facts.selection import open_source
from daskt2i.images.read import Limits
from daskt2i.launch import rank as ranks
from daskt2i.loader.picture_dataset import PictureBatch, Pictures
from daskt2i.model import autoencoder_loss as vae_loss
from daskt2i.model.autoencoder import PretrainedAutoencoder, latent_of, new, new_config, reconstruct, save
from daskt2i.protocols import Source
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.figures.reconstructions import MOST as SHEET_PICTURES
from daskt2i.train.figures.reconstructions import reconstruction_sheet
from daskt2i.train.loop import fit
from daskt2i.train.resume import label
from daskt2i.train.upkeep.rank_needs import named, require_seen
from daskt2i.types import Pixels, Rejection

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = "train-vae"
"""Folder of checkpoints and figures inside the run folder."""

SEEN = f"{PREFIX}/seen"
"""An object of the run folder that each rank must see."""

SCALE_PICTURES = 512
"""Number of training pictures to measure the scaling factor."""

MEASURED_PICTURES = 256
"""Number of held-out pictures that rank 0 measures at the end, while the other ranks wait."""

STILL_BATCH = 16
"""Batch size when the model does not learn."""

MOST_TOLD = 100
"""Maximum number of unusable rows that a rank reports one by one. The figures hold the share of all of them."""


@dataclass(frozen=True, slots=True)
class AutoencoderJob:
    """The job that the launcher sends, as JSON.

    Attributes:
        folder: the run folder's address, with `storage_options` for fsspec.
        source: the source of the pictures.
        image, vae, launch: sections of the workflow (`image` is `dataset.image`).
        identity: the settings and data that decide the loss curve.
        cache_bytes: size of the decoded pictures that a rank keeps.
        batch: samples of one step over all ranks. The launcher needs it when there are fewer workers.
        readers: threads of a rank that read and decode.
        dataset: the section of the workflow if it has a `where`; else None.
        nonce: what a rank must find in the run folder (`hosts.sight`); "" for no check.
    """

    folder: str
    storage_options: Mapping[str, Any] | None
    source: Mapping[str, Any]
    image: Mapping[str, Any]
    vae: Mapping[str, Any]
    launch: Mapping[str, Any]
    identity: Mapping[str, Any]
    cache_bytes: int
    batch: int
    readers: int = 4
    dataset: Mapping[str, Any] | None = None
    nonce: str = ""


class Autoencoder:
    """The `loop.TrainTask` of an AutoencoderKL.

    Raises:
        ConfigError: the settings do not fit the model or the source.
        ModelMissing, ModelError: the pretrained model cannot be used.
        SourceMissing, SourceError: the source cannot be used.
    """

    def __init__(self, job: AutoencoderJob, me: ranks.Rank) -> None:
        self.settings = VaeSettings.model_validate(job.vae)
        self.label: Mapping[str, Any] = label(job.identity, self.settings.steps, ())  # see loop.KeepsLabel
        image = ImageSettings.model_validate(job.image)
        self.resolution = image.resolution
        given = self.settings.model
        self._given = None if given is None else PretrainedAutoencoder(given)
        self._config = new_config(self.settings.config, image.resolution)
        self._still = min(STILL_BATCH, max(1, self.settings.batch // me.world))
        self._device = "cpu"
        self._told = 0
        self._draws = bool(job.launch.get("grid_every"))
        self.pictures = Pictures(
            _source(job),
            image.resolution,
            Limits(image.min_side, image.max_pixels),
            seed=self.settings.seed,
            batch=self.settings.batch,
            heldout=self.settings.validation,
            crop=self.settings.crop,
            flip=self.settings.flip,
            latent=self._given.latent(image.resolution) if self._given else latent_of(self._config),
            rank=me.rank,
            world=me.world,
            cache_bytes=job.cache_bytes,
            threads=job.readers,
            tell=self._skipped,
        )

    def _skipped(self, rejection: Rejection) -> None:
        self._told += 1
        if self._told <= MOST_TOLD:
            ranks.tell("skipped", row=rejection.row, reason=str(rejection.reason), detail=rejection.detail)

    def build(self, device: str) -> nn.Module:
        """Encoder and decoder as one module, in channels_last: pretrained weights, or new weights from the seed."""
        import torch

        self._device = device
        vae = self._given.model_to_train() if self._given else new(self._config, self.settings.seed)
        vae = vae.requires_grad_(True).train().to(device).to(memory_format=torch.channels_last)
        return reconstruct(vae)

    def batches(self, position: int) -> Iterator[PictureBatch]:
        """This rank's part of each batch, from a stream position on."""
        return self.pictures.batches(position)

    def loss(self, model: nn.Module, batch: PictureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean of the weighted terms over this rank's part, and the mean of each term.

        An unreadable row has loss 0 but counts as a row. So the gradient does not depend on which rank read it.
        `skipped` is the share of such rows.
        """
        import torch

        pixels, noise = self._tensors(batch)
        made, mean, logvar = model(pixels, noise)
        weight = torch.from_numpy(batch.weight).to(pixels.device)
        found = vae_loss.terms(made, pixels, mean, logvar)
        figures = {name: (value * weight).mean() for name, value in found.items()}
        total = torch.stack([getattr(self.settings.loss, name) * figures[name] for name in vae_loss.TERMS]).sum()
        return total, {name: value.detach() for name, value in figures.items()} | {"skipped": 1 - weight.mean()}

    def heldout(self, model: nn.Module) -> tuple[float, int, dict[str, float]]:
        """The same loss, with the same noise each time, and PSNR in dB with the mean of the posterior."""
        import torch

        loss, db, count = 0.0, 0.0, 0
        with torch.no_grad():
            for batch in self.pictures.heldout_batches(self._still):
                loss += float(self.loss(model, batch)[0]) * len(batch)
                db += sum(self._db(model, batch.pixels))
                count += len(batch)
        return loss, count, {"psnr": db}

    def finish(self, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
        """Write the diffusers folder `vae/`, with the measured scale in its config.

        Returns:
            `vae` (its address), `scaling_factor`, `parameters`, `card_psnr` (dB on the encode stage's test card). With
            held-out rows also `psnr` and `psnr_worst`, and for a fine-tuned model `psnr_before`.

        Raises:
            StoreFull, StoreError: the folder cannot be written.
            SourceError: no picture could be read.
        """
        import torch

        vae: Any = model.vae
        found: dict[str, Any] = {"parameters": sum(p.numel() for p in vae.parameters())}
        with torch.no_grad():
            vae.register_to_config(**self._scale(vae), sample_size=self.resolution)
            found["scaling_factor"] = vae.config["scaling_factor"]
            found["card_psnr"] = round(self._db(model, gates.test_card(self.resolution))[0], 2)
            if values := self._heldout_db(model):
                found |= {"psnr": round(float(np.mean(values)), 2), "psnr_worst": round(min(values), 2)}
                if self._given is not None:  # measure before writing, which may overwrite the pretrained model
                    before = self._heldout_db(self.build(self._device).eval())
                    found["psnr_before"] = round(float(np.mean(before)), 2)
        if self._draws:  # the loop draws none after the last step
            ranks.tell("sheet", step=self.label["step"], file=self.sheet(model, int(self.label["step"]), folder))
        found["vae"] = save(vae, folder, self.label)
        if found["card_psnr"] < gates.CARD_PSNR:
            ranks.tell(
                "note",
                text=f"The autoencoder reconstructs the test card with {found['card_psnr']:.1f} dB PSNR, but encode "
                f"needs {gates.CARD_PSNR:.0f} dB and would refuse it. Train with more steps in another run folder.",
            )
        return found

    def sheet(self, model: nn.Module, step: int, folder: RunFolder) -> str | None:
        """Write pictures beside their reconstructions into `train-vae/sheets/`: the same ones at each step, of held-out
        rows if there are some. The file, or None if no picture can be read."""
        import torch

        heldout = bool(len(self.pictures.heldout))
        pictures, made, rows, values = list[Pixels](), list[Pixels](), list[int](), list[float]()
        with torch.no_grad():
            for batch in self.pictures.sight(SHEET_PICTURES, self._still, heldout=heldout):
                values += self._db(model, batch.pixels)
                back = ((model(self._normal(batch.pixels))[0].float() + 1) * 127.5).round().clamp(0, 255)
                made += list(back.permute(0, 2, 3, 1).byte().cpu().numpy())
                pictures += list(batch.pixels)
                rows += batch.rows.tolist()
        if not pictures:
            return None
        name = f"{PREFIX}/sheets/step-{step:07d}.png"
        folder.write(name, reconstruction_sheet(pictures, made, rows, values, step))
        return name

    def close(self) -> None:
        """End the reading threads."""
        self.pictures.close()

    def _tensors(self, batch: PictureBatch) -> tuple[Tensor, Tensor]:
        """Pictures from -1 to 1, and the noise, on the device."""
        import torch

        return self._normal(batch.pixels), torch.from_numpy(batch.noise).to(self._device, non_blocking=True)

    def _normal(self, pixels: Pixels) -> Tensor:
        """`uint8[n, height, width, 3]` -> `float32[n, 3, height, width]`, -1 to 1, in channels_last, on the device."""
        import torch

        # uint8 is sent to the device, a quarter of the bytes of fp32. The memory order is channels_last already.
        return torch.from_numpy(pixels).to(self._device, non_blocking=True).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _scale(self, vae: Any) -> dict[str, Any]:
        """Config entries that scale the latents to variance 1, as a denoiser needs.

        `scaling_factor` is 1 / standard deviation of the latents, drawn from the posterior (Rombach et al. 2022,
        arXiv:2112.10752, appendix G). Other such entries in the config of a fine-tuned model are measured too.
        """
        import torch

        config, parts = vae.config, []
        for batch in self.pictures.sight(SCALE_PICTURES, self._still):
            pixels, noise = self._tensors(batch)
            posterior = vae.encode(pixels).latent_dist
            parts.append((posterior.mean + posterior.std * noise).cpu())
        if not parts:
            raise SourceError(
                "No training picture could be read to measure the scale of the latents, so no autoencoder was written. "
                "The last checkpoint is kept. Make the images readable, and train again."
            )
        latents = torch.cat(parts)
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            by_channel = latents.transpose(0, 1).flatten(1)
            return {
                "latents_mean": [round(value, 5) for value in by_channel.mean(1).tolist()],
                "latents_std": [round(value, 5) for value in by_channel.std(1).tolist()],
            }
        found = {"scaling_factor": float(f"{1 / max(latents.std().item(), 1e-6):.5g}")}
        if config.get("shift_factor") is not None:
            found["shift_factor"] = round(latents.mean().item(), 5)
        return found

    def _heldout_db(self, model: nn.Module) -> list[float]:
        """PSNR of the first held-out pictures, over all ranks."""
        batches = self.pictures.sight(MEASURED_PICTURES, self._still, heldout=True)
        return [value for batch in batches for value in self._db(model, batch.pixels)]

    def _db(self, model: nn.Module, pixels: Pixels) -> list[float]:
        """PSNR of each picture, with the mean of the posterior."""
        import torch

        made, _, _ = model(self._normal(pixels))
        target = torch.from_numpy(pixels).to(made.device).permute(0, 3, 1, 2)
        return [float(value) for value in vae_loss.picture_psnr(made, target)]


def _source(job: AutoencoderJob) -> Source:
    """The source of the pictures. The driver has written the facts that `where` needs into the run folder."""
    if job.dataset is None:
        source: Source = Component.model_validate(job.source).build(Source, "dataset.source")
        return source
    dataset = DatasetSettings.model_validate(job.dataset)
    squares = dataset.image.model_copy(update={"buckets": None})  # it trains on squares, whatever the store has
    dataset = dataset.model_copy(update={"image": squares})
    return open_source(dataset, RunFolder(job.folder, job.storage_options), keep=False)


def locate_given(model: str | None, resolution: int) -> None:
    """Find the model of `vae.model`, if there is one.

    Raises:
        ConfigError, ModelMissing, ModelError: it is not here, or cannot be used.
    """
    if model is not None:
        PretrainedAutoencoder(model).info(resolution)


def main() -> None:
    """Run one rank, from its job to its end."""
    job = AutoencoderJob(**ranks.job())
    settings = VaeSettings.model_validate(job.vae)
    launch = LaunchSettings.model_validate(job.launch)
    folder = RunFolder(job.folder, job.storage_options)
    require_seen(folder, job.nonce, SEEN)
    with named(folder, lambda: locate_given(settings.model, ImageSettings.model_validate(job.image).resolution)):
        task = Autoencoder(job, ranks.rank())
    fit(task, settings, launch, folder, job.identity, PREFIX)


if __name__ == "__main__":
    main()
