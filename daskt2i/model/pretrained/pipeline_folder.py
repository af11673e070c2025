"""A pretrained pipeline on this machine: where it is, and what its JSON files say. It imports no torch.

    given = find(settings)          # PretrainedSettings -> PretrainedPipeline; a folder, the hub's cache or a download
    given.objective, given.weights  # "epsilon", "sha256:…"

Covers: finding the parts, the denoiser's config and the identity of its weights, scheduler, length of the tokenizer,
settings that follow the pipeline.
Does not cover: whether it fits a store (`fit`), loading its weights (`tuning`), its encoders (`same_encoders`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daskt2i.config.settings import ModelSettings, TrainSettings
from daskt2i.config.training.denoiser import UNET
from daskt2i.config.training.pretrained import PretrainedSettings
from daskt2i.encoders.finding.locate import split_revision
from daskt2i.encoders.weights import (
    TOKENIZER_FILES,
    WeightFiles,
    config_digest,
    locate,
    model_name,
    read_json,
    weight_files,
    weights_digest,
)
from daskt2i.errors import ConfigError, ModelError
from daskt2i.model.noise_schedule import Objective
from daskt2i.model.pipeline_parts import refuse_foreign_parts
from daskt2i.model.pretrained.schedule import objective_of, shift_of
from daskt2i.model.pretrained.tunables import SETTING, TUNABLES, Tunable

INDEX = "model_index.json"
STEM = "diffusion_pytorch_model"


@dataclass(frozen=True, slots=True)
class PretrainedPipeline:
    """A pipeline folder of diffusers.

    Attributes:
        name: hub id, or the last part of its folder.
        given: the setting that names it.
        folder: of model_index.json.
        kind: what is to know of its class.
        config, scheduler: the content of their JSON files.
        files: weights of the denoiser.
        tokens: length of a prompt in tokens; None if its tokenizer does not say.
        masked: whether its denoiser was trained by daskt2i without padding.
    """

    name: str
    given: PretrainedSettings
    folder: Path
    kind: Tunable
    config: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    files: WeightFiles
    tokens: int | None
    masked: bool

    @property
    def part(self) -> str:
        """Name of the denoiser's folder."""
        return self.kind.part

    @property
    def objective(self) -> Objective:
        """See `schedule.objective_of`."""
        return objective_of(self.scheduler, self.name)

    @property
    def weights(self) -> str:
        """Identifies the denoiser: `"sha256:…"` over its weights and its config."""
        return weights_digest(self.files, config_digest(self.config))


def find(given: PretrainedSettings, setting: str = SETTING) -> PretrainedPipeline:
    """Find a pipeline, and read its JSON files. Each part is found by itself, so that it can be sent to other hosts.

    Args:
        setting: what names the pipeline, for messages.

    Raises:
        ModelMissing: it is not here and cannot be downloaded.
        ModelError: it is of a kind that cannot be tuned, a part of it is missing, or it could run code.
    """
    name = model_name(given.model)

    def part(subfolder: str | None, *needs: str) -> Path:
        return locate(given.model, subfolder, given.revision, needs=needs, setting=setting)

    folder = part(None, INDEX)
    class_name = str(read_json(folder / INDEX).get("_class_name"))
    if class_name not in TUNABLES:
        raise ModelError(
            f"{name} is a {class_name}, which daskt2i does not tune. Nothing was started; give a "
            f"{' or '.join(TUNABLES)} ({setting})."
        )
    kind = TUNABLES[class_name]
    refuse_foreign_parts(folder)
    denoiser = part(kind.part, "config.json", f"{STEM}*.safetensors")
    config = read_json(denoiser / "config.json")
    if why := kind.refused(config):
        raise ModelError(
            f"{name} cannot be tuned, because {why}. Nothing was started, and it is unchanged; give another pipeline "
            f"of this class ({setting})."
        )
    scheduler = part("scheduler", "scheduler_config.json")
    tokenizer = folder / "tokenizer" / "tokenizer_config.json"
    tokens = read_json(tokenizer).get("model_max_length") if kind.one_length and tokenizer.is_file() else None
    label = folder / "daskt2i.json"
    return PretrainedPipeline(
        name,
        given,
        folder,
        kind,
        config,
        read_json(scheduler / "scheduler_config.json"),
        weight_files(denoiser, STEM),
        tokens if isinstance(tokens, int) and tokens < 1 << 20 else None,  # transformers writes 1e30 for no limit
        bool(read_json(label).get("masked")) if label.is_file() else kind.masks,
    )


def named(model: str) -> PretrainedSettings:
    """The settings of a pipeline by its folder or hub id, perhaps with a revision: `org/name@main`."""
    name, revision = split_revision(model)
    return PretrainedSettings(model=name, revision=revision)


DRAWS = "pretrained"
"""The argument that names a pipeline that draws."""


def whole_pipeline(model: str) -> PretrainedPipeline:
    """Find a pipeline with all parts that draw.

    Args:
        model: see `named`.

    Raises:
        ModelMissing, ModelError: as `find`.
    """
    found = find(named(model), DRAWS)
    name, revision = found.given.model, found.given.revision
    locate(name, "vae", revision, needs=("config.json", "*.safetensors"), setting=DRAWS)
    for part in found.kind.text_parts:
        locate(name, part, revision, needs=("config.json", "*.safetensors"), setting=DRAWS)
        tokenizer = part.replace("text_encoder", "tokenizer")
        locate(name, tokenizer, revision, needs=("tokenizer_config.json",), also=TOKENIZER_FILES, setting=DRAWS)
    return found


def followed(settings: TrainSettings, given: PretrainedPipeline) -> TrainSettings:
    """The settings of a training with what follows from its pipeline: denoiser, objective and shift.

    Raises:
        ConfigError: `train.objective` is given and contradicts the pipeline.
    """
    objective = given.objective
    if "objective" in settings.model_fields_set and settings.objective != objective:
        raise ConfigError(
            f"train.objective is {settings.objective}, but {given.name} was trained with {objective}, and goes on with "
            f"it. Nothing was started; set train.objective={objective}."
        )
    decided = given.kind.sizes
    config = {key: value for key, value in given.config.items() if not key.startswith("_") and key not in decided}
    shift = shift_of(given.scheduler) if objective == "flow" else settings.shift
    named = {} if given.kind.denoiser == UNET else {"class": given.kind.denoiser}
    model = ModelSettings.model_validate({"preset": None, "config": config, **named})
    return settings.model_copy(update={"objective": objective, "shift": shift, "model": model})


def following(settings: TrainSettings) -> TrainSettings:
    """`followed` for settings that may name no pipeline."""
    return settings if settings.pretrained is None else followed(settings, find(settings.pretrained))


def tuning_identity(given: PretrainedPipeline) -> dict[str, Any]:
    """What decides the loss curve of a tuning besides other settings: the weights, and how they are tuned."""
    how = given.given
    found: dict[str, Any] = {"weights": given.weights, "method": how.method}
    if how.method == "lora":
        found["lora"] = how.lora.model_dump(mode="json")
    if how.method == "layers":
        found["layers"] = list(how.layers)
    return found
