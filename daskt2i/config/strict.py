"""The base of all settings models.

Covers: what holds for every setting: no unknown names, plain values, no secret in `repr`.
Does not cover: the settings (`settings`, `image_settings`), which values are plain (`plain_values`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from daskt2i import redact
from daskt2i.config import plain_values


class Strict(BaseModel):
    """Settings that take no unknown name and no value that JSON cannot hold. They cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        plain_values.check(value, number=plain_values.takes_numbers(cls.model_fields[info.field_name].annotation))
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """What `repr` shows: no secrets."""
        yield from redact.without_secrets({str(name): value for name, value in super().__repr_args__()}).items()
