"""Train the denoiser on one rank. The launcher starts this module as a rank (`daskt2i.launch.rank`).

Covers: batches as tensors, loss, held-out loss, sheets of pictures during training, the final pipeline.
Does not cover: the loop (`loop`), starting ranks (`launch`), the driver's checks and the result (`driver`).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from daskt2i.config.settings import DatasetSettings, LaunchSettings, SampleSettings, TrainSettings
from daskt2i.launch import rank as ranks
from daskt2i.loader.batch_arrays import Batch
from daskt2i.loader.dataset import SAMPLES, LatentDataset
from daskt2i.model import pipeline
from daskt2i.model.denoisers.denoiser import Conditions
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.model.diffusion import Diffusion, NoisedBatch
from daskt2i.model.own_encoders import OwnEncoders, cannot_draw
from daskt2i.model.pipeline_forms import form_of
from daskt2i.model.pretrained.rank_model import TunedModel
from daskt2i.sample.image_grid import image_grid, png
from daskt2i.sample.painter import Painter, SampleRequest, SamplerSettings
from daskt2i.store.run_folder import PIPELINE, TRAIN, RunFolder
from daskt2i.train.figures.by_time import LossByTime
from daskt2i.train.loop import fit
from daskt2i.train.resume import label
from daskt2i.train.samples import facts_of
from daskt2i.train.upkeep.caption_encoder import caption_encoder, needs_encoder
from daskt2i.train.upkeep.checked_store import CheckedStore
from daskt2i.train.upkeep.rank_needs import require_seen
from daskt2i.train.upkeep.shard_copies import AUTO, ShardCopies

if TYPE_CHECKING:
    from torch import Tensor, nn

SEEN = f"{TRAIN}/seen"
"""An object of the run folder that each rank must see."""

EXAMPLES = 16
"""Number of latents to fit the map to colours."""


@dataclass(frozen=True, slots=True)
class DenoiserJob:
    """The job that the launcher sends, as JSON.

    Attributes:
        folder: the run folder's address, with `storage_options` for fsspec.
        train, launch: sections of the workflow.
        identity: the settings and data that decide the loss curve.
        cache_bytes: size of the decoded shards that a rank keeps.
        vae, text: components of the encoders, for the pipeline.
        sample: section of the workflow, for sheets during training.
        batch: samples of one step over all ranks. The launcher needs it when there are fewer workers.
        allow_random: allow a store of random weights, only to measure speed.
        dataset: section of the workflow, to draw sheets through encoders that diffusers cannot load; None: no sheets.
        nonce: what a rank must find in the run folder (`hosts.sight`); "" for no check.
    """

    folder: str
    storage_options: Mapping[str, Any] | None
    train: Mapping[str, Any]
    launch: Mapping[str, Any]
    identity: Mapping[str, Any]
    cache_bytes: int
    vae: Mapping[str, Any]
    text: Mapping[str, Any]
    sample: Mapping[str, Any]
    batch: int
    allow_random: bool = False
    dataset: Mapping[str, Any] | None = None
    nonce: str = ""


class Denoiser:
    """The `loop.TrainTask` of text-to-image training."""

    def __init__(self, job: DenoiserJob) -> None:
        me = ranks.rank()
        self.job = job
        self.settings = TrainSettings.model_validate(job.train)
        self.folder = RunFolder(job.folder, job.storage_options)
        self._device = "cpu"
        require_seen(self.folder, job.nonce, SEEN, job.dataset, every=needs_encoder(self.folder))
        limit = str(job.launch.get("disk_cache", AUTO))
        self._sharded = LaunchSettings.model_validate(job.launch).is_sharded(me.world)
        self.kind = kind_of(self.settings.model)
        takes = self.kind.takes(self.settings.model.preset, self.settings.model.config)
        self._copies = ShardCopies.opened(self.folder, limit, _note)
        self._encoder = caption_encoder(self.folder, job.text, limit, lambda: self._device, _note)
        self.dataset = LatentDataset(
            self.folder,
            seed=self.settings.seed,
            batch=self.settings.batch,
            rank=me.rank,
            world=me.world,
            window=self.settings.shuffle_window,
            heldout=self.settings.validation,
            where=self.settings.where,
            weights=self.settings.caption_weights,
            dropout=self.settings.caption_dropout,
            posterior=self.settings.posterior,
            cache_bytes=job.cache_bytes,
            allow_random=job.allow_random,
            sized=bool(takes),
            view=self.settings.view,
            open_as=lambda folder: CheckedStore(folder, self._copies),
            encoder=self._encoder,
            older=SAMPLES not in job.identity,
        )
        asked = self.settings
        self._tuned = None if asked.pretrained is None else TunedModel(asked.pretrained)
        alphas = None if self._tuned is None else self._tuned.alphas()
        self.diffusion = Diffusion(asked.objective, asked.snr_gamma, asked.shift, asked.times, alphas)
        self.label: Mapping[str, Any] = label(job.identity, self.settings.steps, ())  # see loop.KeepsLabel
        self._heldout: list[Batch] | None = None

    def build(self, device: str) -> nn.Module:
        """The denoiser of the settings, fitted to the store."""
        given, data = self.settings.model, self.dataset
        facts = facts_of(data, data.latent_shapes)
        self._device = device
        config = self.kind.config(given.preset, given.config, facts, self._least())
        self._new = partial(self.kind.build, config, self.settings.seed)
        made = self._new()
        whole = made if self._tuned is None else self._tuned.begin(made, self.settings.seed)
        return whole if self._sharded else whole.to(device)  # its parts go to the device, where the whole may not fit

    def _least(self) -> int:
        """The fewest samples that the model gets at once: in a part of a batch, or in the last validation batch."""
        me = ranks.rank()
        parts = int(self.job.launch.get("gradient_accumulation_steps", 1))
        share = max(1, self.settings.batch // me.world // parts)
        return min(share, self.dataset.least_heldout(min(64, self.settings.batch)))

    def batches(self, position: int) -> Iterator[Batch]:
        """This rank's part of each batch, from a stream position on."""
        stop = self.settings.steps * self.settings.batch
        return self.dataset.batches(position, stop if position < stop else None)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean weighted squared error of the denoiser's output."""
        return self._losses(model, batch).mean(), {}

    def _losses(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.diffusion.loss(*self.predicted(model, batch))

    def predicted(self, model: nn.Module, batch: Batch) -> tuple[Tensor, NoisedBatch]:
        """The denoiser's output for each sample, `float[b, c, y, x]`, and what it was asked.

        Apart from rounding, the output for a sample does not depend on the other samples of the batch.
        """
        import torch

        def tensor(array: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(self._device, non_blocking=True)

        noised = self.diffusion.noised(
            tensor(batch.latents), tensor(batch.noise), tensor(batch.uniform), tensor(batch.normal)
        )
        sized = batch.sized
        conditions = Conditions(
            tensor(batch.text_states).float(),
            tensor(batch.text_mask) if self.dataset.masked else None,
            None if sized is None else tensor(sized.pooled).float(),
            None if sized is None else tensor(sized.time_ids()),
        )
        predicted = self.kind.predict(model, noised.inputs, noised.times, conditions)
        return predicted, noised

    def heldout(self, model: nn.Module) -> tuple[float, int, Mapping[str, tuple[float, int]]]:
        """The same loss on validation rows, with the same noise each time; also by the time that the model gets."""
        if self._heldout is None:  # these are few rows, and they are used often
            self._heldout = list(self.dataset.heldout_batches(min(64, self.settings.batch)))
        total, count, by_time = 0.0, 0, LossByTime()
        for batch in self._heldout:
            predicted, noised = self.predicted(model, batch)
            losses = self.diffusion.loss(predicted, noised)
            total += float(losses.sum())
            count += len(batch.latents)
            by_time.add(noised.times, losses)
        if self._sharded:
            self._keep_in_step(model)
        return total, count, by_time.sums()

    def _keep_in_step(self, model: nn.Module) -> None:
        """Compute as often as the rank with most validation batches: with shards a rank needs the others' parts."""
        size = min(64, self.settings.batch)
        missing = self.dataset.most_heldout_batches(size) - len(self._heldout or ())
        if missing:
            batch = self._heldout[-1] if self._heldout else next(self.batches(0))
            for _ in range(missing):
                self.predicted(model, batch)

    def finish(self, model: nn.Module, folder: RunFolder) -> dict[str, Any]:
        """Write the diffusers pipeline into `pipeline/`. Returns its address, and a note if it has a limitation."""
        more = {} if self._tuned is None else self._tuned.finish(model, folder, self.label)
        address, why = self._publish(model, folder)
        note = None
        if why is not None:
            note = (
                f"{address} holds the denoiser without encoders, because {why}. sample and evaluate draw through the "
                "encoders of the workflow; diffusers alone cannot load it."
            )
        elif not form_of(self.kind.pipeline).clip:
            note = (
                f"The {self.kind.pipeline} in {address} reads states of prompts (prompt_embeds), not prompts. sample "
                "and evaluate have them from the text encoder beside it."
            )
        elif self.dataset.masked:
            note = (
                "The denoiser was trained without padding (pad: length). sample and evaluate mask the padding. A "
                f"{self.kind.pipeline} has no mask, so it gives the denoiser padding that it never saw. To use it, "
                "encode with dataset.encoders.text.pad=full into another run folder, and train there."
            )
        return {"pipeline": address, "note": note, "parameters": sum(p.numel() for p in model.parameters()), **more}

    def sheet(self, model: nn.Module, step: int, folder: RunFolder) -> str | None:
        """Draw `sample.prompts` with the current weights into `train/sheets/`. The file, or None without prompts."""
        wanted = SampleSettings.model_validate(self.job.sample)
        if not wanted.prompts:
            return None
        with tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
            here = RunFolder(place)
            encoders, threads = None, ranks.rank().threads
            if self._publish(model, here)[1] is not None:
                if self.job.dataset is None:
                    return None
                dataset = DatasetSettings.model_validate(self.job.dataset)
                if cannot_draw(dataset):
                    return None
                encoders = OwnEncoders(dataset, self._device, threads)
            painter = Painter(here.local_path(PIPELINE), self._device, threads, encoders)
        look = SamplerSettings(wanted.steps, wanted.guidance, wanted.sampler, wanted.batch)
        pictures = list(painter.paint([SampleRequest(prompt, wanted.seed) for prompt in wanted.prompts], look))
        made = image_grid([picture.pixels for picture in pictures], wanted.prompts)
        name = f"{TRAIN}/sheets/step-{step:07d}.png"
        folder.write(name, png(made, {"Step": step, "Software": "daskt2i"}))
        return name

    def _publish(self, model: nn.Module, folder: RunFolder) -> tuple[str, str | None]:
        batches = self.dataset.heldout_batches(EXAMPLES)
        first = next(itertools.chain(batches, self.dataset.batches(0)))
        own = {} if self.settings.model.class_path is None else {pipeline.SIDES: list(self.dataset.latent_shape[1:])}
        said = {
            **self.label,
            **own,
            "objective": self.settings.objective,
            "masked": self.dataset.masked,
            **{name: self.job.identity[name] for name in (pipeline.POOLED,) if name in self.job.identity},
        }
        scheduler = pipeline.scheduler_config(self.settings.objective, self.settings.shift)
        if self._tuned is not None:
            model, scheduler = self._tuned.plain(model, self._new), self._tuned.scheduler()
        return pipeline.publish(
            folder,
            model,
            self.job.vae,
            self.job.text,
            scheduler,
            said,
            first.latents[:EXAMPLES],
            self.kind,
        )

    def close(self) -> None:
        """End the reading threads. The last rank of this machine removes the copies of shards."""
        self.dataset.close()
        if self._copies is not None:
            self._copies.close()
        if self._encoder is not None:
            self._encoder.close()


def _note(text: str) -> None:
    ranks.tell("note", text=text)


def main() -> None:
    """Run one rank, from its job to its end."""
    job = DenoiserJob(**ranks.job())
    settings = TrainSettings.model_validate(job.train)
    launch = LaunchSettings.model_validate(job.launch)
    fit(Denoiser(job), settings, launch, RunFolder(job.folder, job.storage_options), job.identity)


if __name__ == "__main__":
    main()
