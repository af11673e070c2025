"""The settings of the ranks: `launch:` of a workflow file.

Covers: name, type and limits of each. `defaults.yaml` has the defaults and their meaning.
Does not cover: what is trained (`denoiser`, `autoencoder`), starting ranks (`launch`).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from dask.utils import parse_bytes
from pydantic import AfterValidator, Field, model_validator

from daskt2i.config import plain_values
from daskt2i.config.strict import Strict

_Count = Annotated[int, Field(ge=1, strict=True)]
_Size = Annotated[str, AfterValidator(plain_values.require_size)]


class LaunchSettings(Strict):
    """How training runs. These settings may change on resume. `daskt2i/config/defaults.yaml` explains the defaults."""

    ranks: _Count | Literal["auto"]
    threads: _Count | Literal["auto"]
    max_restarts: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    gradient_accumulation_steps: int = Field(ge=1)
    gradient_checkpointing: bool
    compile: bool
    sharding: Literal["none", "full"] = "none"
    checkpoint_every: int = Field(ge=1)
    keep_checkpoints: int = Field(ge=1)
    validation_every: int = Field(ge=1)
    grid_every: int = Field(ge=0)
    cache: _Size
    profile_allreduce: bool = False  # run folders of older versions have neither it nor those below
    checkpoint_minutes: float = Field(30.0, ge=0, allow_inf_nan=False)
    stall_minutes: float = Field(10.0, ge=0, allow_inf_nan=False)
    walltime_minutes: float = Field(0.0, ge=0, allow_inf_nan=False)
    keep_memory: bool = True
    disk_cache: Literal["auto"] | _Size = "auto"
    only: str = Field("all", min_length=1)
    trackers: list[Literal["wandb", "mlflow"]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Shards have no gradients that are exchanged whole, and a loss scale would have to be shared."""
        if self.sharding == "full" and self.precision == "fp16":
            raise ValueError("with sharding: full, precision can be auto, fp32 or bf16")
        if self.sharding == "full" and self.profile_allreduce:
            raise ValueError("profile_allreduce measures the exchange of whole gradients, which sharding: full has not")
        return self

    def is_sharded(self, ranks: int) -> bool:
        """Whether so many ranks hold parts of the weights."""
        return self.sharding == "full" and ranks > 1

    def unsharded(self) -> LaunchSettings:
        """The same with whole weights on every rank."""
        return self.model_copy(update={"sharding": "none"})

    def cache_bytes(self) -> int:
        """`cache` in bytes."""
        return int(parse_bytes(self.cache))
