"""Features of finished parts, kept in the run folder, so that a killed driver goes on.

Covers: one safetensors file for each part, below a folder whose name is a hash of all that the features depend on.
Does not cover: computing features (`worker`), statistics (`statistics`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.store.run_folder import REPORTS, RunFolder

Arrays = dict[str, npt.NDArray[Any]]

FEATURES = f"{REPORTS}/features"


def key_of(made_of: Mapping[str, Any]) -> str:
    """A short hash of what features depend on."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


class KeptParts:
    """The parts of one set of pictures.

    Args:
        made_of: all that the features depend on, also how the pictures are cut into parts.
    """

    def __init__(self, folder: RunFolder, made_of: Mapping[str, Any]) -> None:
        self._folder, self._place = folder, f"{FEATURES}/{key_of(made_of)}"

    def read(self, start: int) -> Arrays | None:
        """The arrays of a part; None if it is not done, or if its file is damaged."""
        from safetensors.numpy import load

        try:
            return dict(load(self._folder.read(self._name(start))))
        except FileNotFoundError:
            return None
        except Exception:  # safetensors raises its own kinds on other bytes
            return None

    def write(self, start: int, arrays: Arrays) -> None:
        """Keep a part.

        Raises:
            StoreFull, StoreError: it cannot be written.
        """
        from safetensors.numpy import save

        self._folder.write(
            self._name(start), save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        )

    def remove(self) -> None:
        """Delete all parts."""
        for name in self._folder.list(self._place):
            self._folder.delete(name)

    def _name(self, start: int) -> str:
        return f"{self._place}/part-{start:07d}.safetensors"
