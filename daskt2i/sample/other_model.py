"""What draws besides the trained pipeline of a run folder: another pipeline, or a LoRA on top of either.

Covers: finding both on this machine, fetching them from the run folder where they are missing, what identifies them.
Does not cover: reading a LoRA (`model.pretrained.lora_files`), drawing (`painter`), who lacks what (`hosts.check`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from daskt2i.addresses import expanded
from daskt2i.encoders.finding.locate import locate, split_revision, without_download
from daskt2i.encoders.weights import file_digest
from daskt2i.errors import ConfigError, ModelMissing
from daskt2i.hosts.model_files import fetch
from daskt2i.model.pretrained import lora_files
from daskt2i.model.pretrained.pipeline_folder import DRAWS, PretrainedPipeline, whole_pipeline
from daskt2i.model.pretrained.tuning import require_finite
from daskt2i.store.run_folder import RunFolder

_MOST = 10.0


@dataclass(frozen=True, slots=True)
class Found:
    """What was found on this machine.

    Attributes:
        pipeline: None if that of the run folder draws.
        lora: its file; None without one.
    """

    pipeline: PretrainedPipeline | None
    lora: Path | None


@dataclass(frozen=True, slots=True)
class OtherModel:
    """What draws besides the pipeline of the run folder. Without values it is that pipeline alone.

    Attributes:
        pretrained: folder or hub id of a pipeline that draws in place of it.
        lora: safetensors file, its folder, or a hub id, of a LoRA that is added to the denoiser.
        lora_scale: what the change by the LoRA is multiplied by.
    """

    pretrained: str | None = None
    lora: str | None = None
    lora_scale: float = 1.0

    def __bool__(self) -> bool:
        """Whether it needs files besides those of the run folder."""
        return self.pretrained is not None or self.lora is not None

    def find(self) -> Found:
        """Find both on this machine.

        Raises:
            ModelMissing, ModelError: one of them is not here, or is of a kind that does not draw.
        """
        pipeline = None if self.pretrained is None else whole_pipeline(self.pretrained)
        return Found(pipeline, None if self.lora is None else _lora_file(self.lora))

    def brought(self, folder: RunFolder) -> Found:
        """Find both, and fetch them from the run folder if this machine lacks them.

        Raises:
            ModelMissing, ModelError: as `find`.
        """
        try:
            with without_download():
                return self.find()
        except ModelMissing:
            if not self or not fetch(folder):
                raise
        return self.find()

    def require(self) -> None:
        """Refuse what cannot draw, before a worker starts. It reads the whole LoRA, and all weights of the denoiser.

        Raises:
            ModelMissing, ModelError: as `find`; one of them holds values that are not finite, or the LoRA holds none.
            ConfigError: the scale is no number that can be used, or it has no LoRA.
        """
        if not -_MOST <= self.lora_scale <= _MOST or (self.lora is None and self.lora_scale != 1.0):
            raise ConfigError(
                f"The scale of the LoRA is {self.lora_scale:g}"
                f"{'' if self.lora else ', but there is no LoRA'}, so nothing was drawn. Give a LoRA (lora) and a "
                f"scale from {-_MOST:g} to {_MOST:g} (lora_scale); 1 is the LoRA as it was trained."
            )
        found = self.find()
        if found.pipeline is not None:
            require_finite(found.pipeline, DRAWS)
        if found.lora is not None:
            lora_files.read(found.lora)

    def drawn_by(self, fingerprint: str | None) -> str | None:
        """What identifies the model that draws.

        Args:
            fingerprint: of the pipeline of the run folder.
        """
        found = self.find()
        model = fingerprint if found.pipeline is None else found.pipeline.weights
        return model if found.lora is None else f"{model} with {file_digest(found.lora)} x {self.lora_scale:g}"


NO_OTHER = OtherModel()
"""The pipeline of the run folder alone."""


def _lora_file(place: str) -> Path:
    """The file of a LoRA, found as models are, so that it can be sent."""
    here = expanded(place, "lora")
    model, name = (str(here.parent), here.name) if here.suffix == ".safetensors" else (place, lora_files.FILE)
    model, revision = split_revision(model)
    return locate(model, None, revision, needs=(name,), setting="lora") / name
