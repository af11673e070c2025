"""Methods of a run about the columns of its store.

Covers: adding a column.
Does not cover: what a column is (`store.columns`), how it is encoded (`encode.columns`, `stages`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daskt2i.session.verbs import verb

if TYPE_CHECKING:
    from daskt2i.encode.summary import EncodeResult
    from daskt2i.session.stages import Stages


class RunColumns:
    """A run folder whose store may get columns."""

    def _stages(self) -> Stages:
        raise NotImplementedError

    @verb
    def add(self, column: str, encoder: str, *, arguments: Mapping[str, Any] | None = None) -> EncodeResult:
        """Encode another encoder's output for the rows of the store, as a column. It skips finished chunks.

        The store is not changed, and its arrays are not read. `store` has the arrays of a column when it is complete.

        Args:
            column: its name: small letters, digits and `_`.
            encoder: `"vae"`, `"text"`, or the dotted path of a class with the methods of `protocols.ImageEncoder` or of
                `protocols.TextEncoder`.
            arguments: of the constructor of the encoder, as `{"model": "stabilityai/sd-vae-ft-mse"}`.

        Raises:
            StoreMissing, StoreError: there is no store, or it is not complete.
            ConfigError: the name or the encoder is wrong.
            FingerprintMismatch: the source has changed, or the column was made with other settings.
        """
        return self._stages().add(column, encoder, arguments or {})
