"""The settings of a workflow as typed models.

Covers: name, type, limits, default and meaning of each setting; those of pictures are in `image_settings`,
those of models in `training`.
Does not cover: reading files and `--set` (`workflow_file`), what the settings do.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import yaml
from dask.utils import parse_bytes
from pydantic import AfterValidator, Field, PrivateAttr

from daskt2i import redact
from daskt2i.config import plain_values
from daskt2i.config.component import Component
from daskt2i.config.image_settings import ImageSettings
from daskt2i.config.renamed import with_new_names
from daskt2i.config.store_settings import StoreSettings
from daskt2i.config.strict import Strict
from daskt2i.config.training.autoencoder import VaeLossSettings as VaeLossSettings
from daskt2i.config.training.autoencoder import VaeSettings as VaeSettings
from daskt2i.config.training.denoiser import ModelSettings as ModelSettings
from daskt2i.config.training.denoiser import TrainSettings as TrainSettings
from daskt2i.config.training.drawing import EvaluateSettings as EvaluateSettings
from daskt2i.config.training.drawing import SampleSettings as SampleSettings
from daskt2i.config.training.launch import LaunchSettings as LaunchSettings
from daskt2i.config.training.optimiser import OptimiserSettings as OptimiserSettings
from daskt2i.config.workflow_view import workflow_view
from daskt2i.errors import Reason
from daskt2i.view import View

_FOLDED = re.compile("[\x85\u2028\u2029\ufeff]")
"""Line breaks of Unicode, and the byte order mark."""

_Count = Annotated[int, Field(ge=1, strict=True)]
_Decay = Annotated[float, Field(ge=0, lt=1)]
_Size = Annotated[str, AfterValidator(plain_values.require_size)]


class EncoderSettings(Strict):
    """One image encoder and one text encoder."""

    image: Component
    text: Component


class FactSettings(Strict):
    """How to find the facts that `insights` reports and `where` uses. They are fingerprinted if `where` is set.

    Attributes:
        rules: a YAML file of word lists; null for the shipped file (`daskt2i/facts/captions/rules.yaml`).
        coco_instances: a COCO instance file, for the fact `persons`; null for none.
        near: largest number of bits, of 128, in which the signatures of near-duplicate pictures differ.
    """

    rules: str | None = None
    coco_instances: str | None = None
    near: int = Field(10, ge=0, le=12)


class DatasetSettings(Strict):
    """What is encoded. Every setting here changes stored arrays and is fingerprinted.

    `where` is an expression over the facts. It keeps the rows for which it is true. See docs/how-to/select-rows.md.
    `column` is the name of the column that is encoded, in `columns/` of the run folder of its store; null for a store.
    `add` sets it. See docs/how-to/columns.md. `part` is the same for rows in `parts/`; `append` and `replace` set it.
    """

    source: Component
    where: str | None = None
    column: str | None = None
    part: str | None = None
    facts: FactSettings = FactSettings()  # type: ignore[call-arg]
    image: ImageSettings = ImageSettings()  # type: ignore[call-arg]
    encoders: EncoderSettings
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    rows_per_chunk: int = Field(256, ge=1, le=65536)
    store: StoreSettings = StoreSettings()


class RunSettings(Strict):
    """How the encode runs. These settings may change on resume. `config/defaults.yaml` explains the defaults."""

    scheduler: str
    device: str
    workers: _Count | Literal["auto"]
    threads: _Count | Literal["auto"]
    batch: _Count | Literal["auto"]
    text_batch: int = Field(ge=1)
    reader_threads: _Count | Literal["auto"]
    retries: int = Field(ge=0)
    # Run folders of older versions do not have these two.
    transport_patience: float = Field(300.0, ge=0, le=7 * 86400, allow_inf_nan=False)
    read_timeout: float = Field(120.0, gt=0, le=7 * 86400, allow_inf_nan=False)
    gate_rows: int = Field(ge=0)
    min_psnr: float
    verify_on_resume: Literal["auto", "hash", "size"]
    on_missing_chunk: Literal["fail", "reject"]
    on_changed_images: Literal["fail", "encode"] = "fail"  # run folders of older versions do not have it
    retry_rejected: list[Reason]
    min_accepted: float = Field(0.2, ge=0, le=1, allow_inf_nan=False)  # nor this one
    check_disk: bool
    keep_memory: bool = True  # nor this one
    min_fit_workers: float = Field(0.5, ge=0, le=1, allow_inf_nan=False)  # nor this one
    send_models: _Size = "4 GiB"  # nor this one
    only: str = Field("all", min_length=1)  # nor this one
    storage_options: dict[str, Any] | None

    def send_bytes(self) -> int:
        """`send_models` in bytes."""
        return int(parse_bytes(self.send_models))


class SceneSettings(Strict):
    """A drawn data set, as in the demo. It is drawn into the run folder before the encode.

    Attributes:
        rows: number of scenes.
        seed: seed of the scenes.
        shapes: largest number of shapes in a scene.
    """

    rows: int = Field(ge=1)
    seed: int = Field(0, ge=0)
    shapes: Literal[1, 2] = 2


def completed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of an older training, in the form of this version.

    Settings that the older version did not have get their defaults, because the defaults give its behaviour. Renamed
    settings get their new names. Secrets, which older versions wrote, are left out.
    """
    found, _ = with_new_names(identity, "a checkpoint")
    for name, kind in (("train", TrainSettings), ("vae", VaeSettings)):
        if isinstance(found.get(name), Mapping):
            found[name] = {**json.loads(kind.model_validate({}).model_dump_json(by_alias=True)), **found[name]}
    return dict(redact.without_secrets(found))


class InstanceSettings(Strict):
    """One kind of machine with its price.

    Attributes:
        device: the device that encodes: `cpu` or `cuda`.
        per_hour: price of an hour, in the currency of the table.
        cores, gpus: number of cores and GPUs.
        memory_gib: memory in GiB; null for no limit.
        images_per_second: a rate that was measured on this machine with this workflow; null takes it from the
            calibration.
    """

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    per_hour: float = Field(ge=0)
    cores: int = Field(1, ge=1)
    gpus: int = Field(1, ge=1)
    memory_gib: float | None = Field(None, gt=0)
    images_per_second: float | None = Field(None, gt=0)


class PriceSettings(Strict):
    """Prices of machines, for `estimate`. There are no defaults, because prices change. Fill in your own.

    Attributes:
        currency: currency of all prices.
        source: where the prices come from.
        date: date of the prices.
    """

    currency: str
    source: str
    date: datetime.date
    instances: list[InstanceSettings] = Field(min_length=1)


class Workflow(Strict):
    """All settings of a workflow. Two workflows are equal if their settings are equal; notes do not count."""

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
        """Sentences for the user, such as a note for each old name in the settings. Copies keep them."""
        return self._notes

    def with_notes(self, notes: Iterable[str]) -> Workflow:
        """A copy with these notes, each once."""
        copy = self.model_copy()
        copy._notes = tuple(dict.fromkeys(notes))
        return copy

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Workflow) else NotImplemented

    def view(self) -> View:
        """The settings that a reader looks for first; in a notebook also all settings."""
        return workflow_view(self.model_dump(mode="json", by_alias=True, exclude_none=True))

    def __repr__(self) -> str:
        return self.view().text()

    def _repr_html_(self) -> str:
        return self.view().html()

    def to_yaml(self) -> str:
        """The settings as a workflow file. Reading the file gives the same settings."""
        # Not exclude_none: an argument that the user set to null must not become its default.
        data = {k: v for k, v in self.model_dump(mode="json", by_alias=True).items() if v is not None}
        text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        if _FOLDED.search(text):  # PyYAML would read these characters as spaces or not at all
            text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False)
        return text
