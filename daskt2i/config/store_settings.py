"""The section `dataset.store`: how arrays of the encoders are stored.

Covers: names, values, defaults and meaning of its settings.
Does not cover: what a form does to the numbers (`store.forms`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from daskt2i.config import plain_values


class StoreSettings(BaseModel):
    """How arrays of the encoders are stored. The defaults lose nothing. See docs/how-to/smaller-stores.md.

    Attributes:
        latents: `exact` as the image encoder makes them (float16), `bfloat16`, or `int8` with an offset and a step for
            each row and channel.
        std: whether the std of the VAE's posterior is stored. Without it training takes the mean.
        text: `exact` as the text encoder makes them (float16), `bfloat16`, `int8` with an offset and a step for each
            token, or `training`: the store has captions alone, and training encodes them.
        packed: whether text states are stored without padding, and those of equal captions of a chunk once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    latents: Literal["exact", "bfloat16", "int8"] = "exact"
    std: bool = True
    text: Literal["exact", "bfloat16", "int8", "training"] = "exact"
    packed: bool = False

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        plain_values.check(value, number=False)
        return value

    def identity(self) -> dict[str, Any]:
        """`{"store": …}` with the settings that differ from the defaults, for the fingerprint; else nothing. So stores
        of versions without these settings keep their fingerprint."""
        changed = self.model_dump(exclude_defaults=True)
        return {"store": changed} if changed else {}
