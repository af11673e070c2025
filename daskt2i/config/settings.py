"""The settings of a workflow as typed models: which there are, of what kind, and what they mean.

Covers: names, kinds, limits and defaults.
Does not cover: reading files and `--set` (`workflow_file`), what the settings do.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from dask.utils import parse_bytes
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from daskt2i.config.component import Component
from daskt2i.config.renamed import with_new_names
from daskt2i.errors import ConfigError, Reason

_Count = Annotated[int, Field(ge=1, strict=True)]
_Decay = Annotated[float, Field(ge=0, lt=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ImageSettings(_Strict):
    """How pictures are read.

    Attributes:
        resolution: side of the square that is encoded, pixels.
        min_side: shorter side, in source pixels, below which an image is rejected.
        max_pixels: width x height above which an image is rejected unread.
    """

    resolution: int = Field(256, ge=8, le=8192)
    min_side: int = Field(32, ge=1)
    max_pixels: int = Field(67_108_864, ge=1)


class EncoderSettings(_Strict):
    """One image encoder and one text encoder."""

    image: Component
    text: Component


class FactSettings(_Strict):
    """How the facts are found that `insights` reports and `where` names. Part of the fingerprint where `where` is set.

    Attributes:
        rules: a YAML file of word lists; null for ours (`daskt2i/facts/captions/rules.yaml`).
        coco_instances: a COCO instance file, for the fact `persons`; null for none.
        near: bits of 128 in which the signatures of near-duplicate pictures may differ.
    """

    rules: str | None = None
    coco_instances: str | None = None
    near: int = Field(10, ge=0, le=12)


class DatasetSettings(_Strict):
    """What is encoded: everything here decides bytes and is fingerprinted.

    `where` keeps the rows of which it is true: an expression over the facts, see docs/how-to/select-rows.md.
    """

    source: Component
    where: str | None = None
    facts: FactSettings = FactSettings()  # type: ignore[call-arg]
    image: ImageSettings = ImageSettings()  # type: ignore[call-arg]
    encoders: EncoderSettings
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    rows_per_chunk: int = Field(256, ge=1, le=65536)


class RunSettings(_Strict):
    """How it is encoded: free to change on resume. Defaults and their reasons: `daskt2i/config/defaults.yaml`."""

    scheduler: str
    device: str
    workers: _Count | Literal["auto"]
    threads: _Count | Literal["auto"]
    batch: _Count | Literal["auto"]
    text_batch: int = Field(ge=1)
    reader_threads: int = Field(ge=1)
    retries: int = Field(ge=0)
    gate_rows: int = Field(ge=0)
    min_psnr: float
    verify_on_resume: Literal["auto", "hash", "size"]
    on_missing_chunk: Literal["fail", "reject"]
    retry_rejected: list[Reason]
    check_disk: bool
    storage_options: dict[str, Any] | None


class SceneSettings(_Strict):
    """Draw a data set into the run folder before it is encoded (the demo's data).

    Attributes:
        rows: how many scenes.
        seed: another seed, other scenes.
        shapes: most shapes in a scene.
    """

    rows: int = Field(ge=1)
    seed: int = 0
    shapes: Literal[1, 2] = 2


class ModelSettings(_Strict):
    """The denoiser: a preset of `model.PRESETS`, a diffusers UNet2DConditionModel config, or both."""

    preset: str | None = "demo"
    config: dict[str, Any] = {}


class OptimiserSettings(_Strict):
    """How weights are fitted: everything here decides the loss curve.

    Attributes:
        steps: optimiser steps.
        batch: samples of one step, over all ranks together.
        optimiser: `adamw`, or `muon` for the matrices inside the model and AdamW for the rest: more work a step, which
            the ranks share, and with large batches fewer steps.
        learning_rate: peak of the schedule.
        warmup: steps in which the rate rises to it; after them a half cosine falls to `final_rate` times the peak.
        max_grad_norm: largest norm of the gradient; null leaves it as it is.
        ema: decay of the moving average of the weights, which is what comes out; 0 for none. The first steps decay
            faster, as `(1 + step) / (10 + step)`.
        validation: rows that training never sees.
        seed: of weights, order, captions and noise.
    """

    steps: int = Field(1000, ge=1)
    batch: int = Field(64, ge=1)
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0)
    warmup: int = Field(100, ge=0)
    final_rate: float = Field(0.0, ge=0, le=1)
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    weight_decay: float = Field(0.01, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)
    validation: int = Field(64, ge=0)
    seed: int = Field(0, ge=0)


class TrainSettings(OptimiserSettings):
    """A text-to-image denoiser on the latents of the store.

    Attributes:
        objective: `flow` (rectified flow, logit-normal times), `v` (zero terminal SNR) or `epsilon`.
        snr_gamma: min-SNR weight of `v` and `epsilon` (Hang et al. 2023, arXiv:2303.09556); null for none.
        shift: of flow's times: `t -> s t / (1 + (s - 1) t)`; more than 1 for larger latents (arXiv:2403.03206, 5.3.2).
        caption_dropout: share of captions replaced by the empty prompt, which guidance needs.
        posterior: `sample` draws from the VAE's posterior anew each time, `mean` takes its mean.
        shuffle_window: shards whose rows are shuffled together.
    """

    model: ModelSettings = ModelSettings()
    objective: Literal["flow", "v", "epsilon"] = "flow"
    snr_gamma: float | None = Field(5.0, gt=0)
    shift: float = Field(1.0, gt=0)
    caption_dropout: float = Field(0.1, ge=0, le=1)
    posterior: Literal["sample", "mean"] = "sample"
    shuffle_window: int = Field(8, ge=1)


class VaeLossSettings(_Strict):
    """Weights of the terms: absolute and squared error, differences between neighbouring pixels, KL."""

    l1: float = Field(1.0, ge=0)
    l2: float = Field(2.0, ge=0)
    edges: float = Field(0.5, ge=0)
    kl: float = Field(3e-5, ge=0)


class VaeSettings(OptimiserSettings):
    """An AutoencoderKL on the images of the source, for `train-vae`.

    Attributes:
        model: folder or hub id to start from (fine-tuning); null starts from random weights.
        config: diffusers AutoencoderKL config of a new model; changes nothing of one that is fine-tuned.
        crop: side in pixels of random crops to train on; null for whole images.
        flip: mirror images at random.
    """

    model: str | None = None
    config: dict[str, Any] = {}
    crop: int | None = Field(None, ge=8)
    flip: bool = True
    loss: VaeLossSettings = VaeLossSettings()  # type: ignore[call-arg]


def completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity of a training as this version would write it.

    Settings that its version did not have yet are at their defaults, since so it worked. Settings that had another name
    then have their new one.
    """
    found, _ = with_new_names(identity, "a checkpoint")
    for name, kind in (("train", TrainSettings), ("vae", VaeSettings)):
        if isinstance(found.get(name), Mapping):
            found[name] = {**json.loads(kind.model_validate({}).model_dump_json(by_alias=True)), **found[name]}
    return found


class LaunchSettings(_Strict):
    """How training runs: free to change on resume. Defaults and their reasons: `daskt2i/config/defaults.yaml`."""

    ranks: _Count | Literal["auto"]
    threads: _Count | Literal["auto"]
    max_restarts: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    gradient_accumulation_steps: int = Field(ge=1)
    gradient_checkpointing: bool
    compile: bool
    checkpoint_every: int = Field(ge=1)
    keep_checkpoints: int = Field(ge=1)
    validation_every: int = Field(ge=1)
    grid_every: int = Field(ge=0)
    cache: str
    profile_allreduce: bool = False  # run folders from before it name the others

    def cache_bytes(self) -> int:
        """`cache` in bytes.

        Raises:
            ConfigError: it is no size.
        """
        try:
            return int(parse_bytes(self.cache))
        except ValueError as error:
            raise ConfigError(f"launch.cache is {self.cache!r}; give a size such as 512 MiB.") from error


class SampleSettings(_Strict):
    """Pictures from prompts.

    Attributes:
        prompts: what to draw when the command line names none.
        steps: of the sampler.
        guidance: weight of the prompt against the empty one; 1 for none.
        sampler: `dpm++`, `ddim` or `euler`.
        batch: pictures at once.
    """

    prompts: list[str] = []
    seed: int = Field(0, ge=0)
    steps: int = Field(20, ge=1)
    guidance: float = Field(3.0, ge=0)
    sampler: Literal["dpm++", "ddim", "euler"] = "dpm++"
    batch: int = Field(16, ge=1)


class EvaluateSettings(_Strict):
    """Prompt fidelity.

    Attributes:
        prompts: how many unseen prompts.
        seeds: pictures of each.
        clip_model: hub id or folder of a CLIP model, for data that is not drawn; null where the judge reads.
    """

    prompts: int = Field(64, ge=1)
    seeds: int = Field(4, ge=1)
    clip_model: str | None = None


class InstanceSettings(_Strict):
    """One machine that can be had for a price.

    Attributes:
        device: `cpu` or `cuda`: what encodes there.
        per_hour: its price, in the table's currency.
        cores, gpus: that it has.
        memory_gib: its memory; null where it is no limit.
        images_per_second: a rate that was measured there with this workflow; null to take it from the calibration.
    """

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    per_hour: float = Field(ge=0)
    cores: int = Field(1, ge=1)
    gpus: int = Field(1, ge=1)
    memory_gib: float | None = Field(None, gt=0)
    images_per_second: float | None = Field(None, gt=0)


class PriceSettings(_Strict):
    """What machines cost: yours to fill in, for `estimate`. There are no defaults, since prices change.

    Attributes:
        currency: of all prices.
        source: where they were read.
        date: when.
    """

    currency: str
    source: str
    date: datetime.date
    instances: list[InstanceSettings] = Field(min_length=1)


class Workflow(_Strict):
    """A workflow file, resolved. Two are equal if their settings are; notes do not count."""

    name: str
    scenes: SceneSettings | None = None
    dataset: DatasetSettings
    run: RunSettings
    train: TrainSettings = TrainSettings()  # type: ignore[call-arg]
    vae: VaeSettings = VaeSettings()  # type: ignore[call-arg]
    launch: LaunchSettings
    sample: SampleSettings = SampleSettings()  # type: ignore[call-arg]
    evaluate: EvaluateSettings = EvaluateSettings()  # type: ignore[call-arg]
    prices: PriceSettings | None = None
    _notes: tuple[str, ...] = PrivateAttr(default=())

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for whoever wrote the settings: old names that were read. Copies have them too."""
        return self._notes

    def with_notes(self, notes: Iterable[str]) -> Workflow:
        """A copy with these notes, each once."""
        copy = self.model_copy()
        copy._notes = tuple(dict.fromkeys(notes))
        return copy

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Workflow) else NotImplemented

    def to_yaml(self) -> str:
        """The settings as a workflow file that gives them again."""
        # Not exclude_none: an argument that is null on purpose must not become its default.
        data = self.model_dump(mode="json", by_alias=True)
        return yaml.safe_dump({k: v for k, v in data.items() if v is not None}, sort_keys=False, allow_unicode=True)
