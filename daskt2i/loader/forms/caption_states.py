"""Text states of captions that a store does not hold: a text encoder in the process of a rank, and a file of states.

Covers: loading the encoder when the first caption is drawn, one caption encoded once for all ranks of a machine and all
later trainings, the empty prompt.
Does not cover: which captions (`texts`), the file (`state_file`), rows in memory (`loader.memory`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.loader.forms.state_file import StateFile
from daskt2i.plan import CHARACTERS_PER_TOKEN
from daskt2i.protocols import TextEncoder
from daskt2i.store.forms.form import MASK, STATES
from daskt2i.types import Runtime

Mask = npt.NDArray[np.bool_]

State = tuple[Mask, npt.NDArray[Any]]
"""Mask `bool[token]`, and states `[kept token, feature]` without the zeros behind the last token."""

BATCH = 32
"""Captions in one batch of the model."""

AT_TRAINING = "training"
"""The value of `dataset.store.text` of such a store."""


def encodes_at_training(about: Mapping[str, Any]) -> bool:
    """Whether a store holds captions alone, so that training encodes them.

    Args:
        about: its attribute `daskt2i`.
    """
    store = about.get("identity", {}).get("store")
    return isinstance(store, dict) and store.get("text") == AT_TRAINING


def file_of(about: Mapping[str, Any]) -> str:
    """Name of a file for the states of a store's text encoder."""
    return f"{hashlib.sha256(_name(about)).hexdigest()[:24]}.sqlite"


def _name(about: Mapping[str, Any]) -> bytes:
    identity = about["identity"]
    return json.dumps([identity["encoders"]["text"], identity["precision"]], sort_keys=True).encode()


class CaptionStates:
    """Encodes captions. Several threads may call it; the model runs in one of them at a time.

    Args:
        encoder: not loaded yet.
        about: the attribute `daskt2i` of the store. The encoder has the settings and the weights that it names.
        runtime: device, precision and threads of the model when the first caption is drawn.
        kept: states that were made before; None for none.
    """

    def __init__(
        self, encoder: TextEncoder, about: Mapping[str, Any], runtime: Callable[[], Runtime], kept: StateFile | None
    ) -> None:
        self._encoder, self._runtime, self._kept = encoder, runtime, kept
        self._lock, self._loaded = threading.Lock(), False
        states = next(one for one in encoder.info().arrays if one.name == STATES)
        self.tokens, self.features = states.shape
        self.dtype = np.dtype(states.dtype)
        self._name = _name(about)

    def about_tokens(self, caption: str) -> int:
        """Number of tokens of a caption, guessed from its length; 0 for an unused slot."""
        return min(self.tokens, int(len(caption) / CHARACTERS_PER_TOKEN) + 2) if caption else 0

    def states(self, captions: Sequence[str]) -> dict[str, State]:
        """The states of captions, each once.

        Raises:
            ModelMissing, ModelError, ConfigError: the encoder cannot be loaded.
        """
        if not captions:
            return {}
        keys = {text: hashlib.sha256(self._name + text.encode()).digest() for text in captions}
        with self._lock:
            there = self._kept.get(list(keys.values())) if self._kept is not None else {}
            found = {text: self._unpacked(there[key]) for text, key in keys.items() if key in there}
            new = [text for text in keys if text not in found]
            made = self._encoded(new)
            if self._kept is not None:
                self._kept.put({keys[text]: self._packed(*state) for text, state in made.items()})
        return {**found, **made}

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._kept is not None:
            self._kept.close()

    def _encoded(self, captions: Sequence[str]) -> dict[str, State]:
        if not captions:
            return {}
        if not self._loaded:
            self._encoder.load(self._runtime())
            self._loaded = True
        found: dict[str, State] = {}
        for start in range(0, len(captions), BATCH):
            some = captions[start : start + BATCH]
            made = self._encoder.encode(some, BATCH)
            for text, mask, states in zip(some, made[MASK], made[STATES], strict=True):
                used = np.flatnonzero(states.any(-1))
                found[text] = mask.copy(), states[: int(used[-1]) + 1 if len(used) else 0].copy()
        return found

    def _packed(self, mask: Mask, states: npt.NDArray[Any]) -> bytes:
        return np.packbits(mask).tobytes() + states.tobytes()

    def _unpacked(self, data: bytes) -> State:
        size = -(-self.tokens // 8)
        mask = np.unpackbits(np.frombuffer(data, np.uint8, size), count=self.tokens).astype(np.bool_)
        return mask, np.frombuffer(data, self.dtype, offset=size).reshape(-1, self.features)
