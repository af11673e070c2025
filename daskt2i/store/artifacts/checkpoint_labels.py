"""The JSON files of checkpoints, without their tensors: which there are, of which training, whether they can be used.

    train/checkpoints/step-0000300.safetensors    all tensors
    train/checkpoints/step-0000300.json           written last: step, position, settings; size and hash of the tensors

Covers: names and content of the JSON files, the newest intact one, marking a checkpoint as poisoned.
Does not cover: reading and writing tensors (`train.checkpoint`), which settings may change (`train.resume`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from daskt2i.errors import StoreError
from daskt2i.store.run_folder import RunFolder

POISONED = "poisoned"
"""Key of a JSON file: why training cannot continue from this checkpoint. Its size and hash may be right."""

NAME = re.compile(r"step-([0-9]{7,})\.json")

DAMAGED = (ValueError, KeyError, TypeError, OSError, StoreError, RecursionError)
"""Errors of a checkpoint that cannot be read."""


@dataclass(frozen=True, slots=True)
class CheckpointLabel:
    """The JSON file of a checkpoint.

    Attributes:
        step: number of finished optimiser steps.
        position: number of samples that all ranks together have used.
        size, sha256: of the tensors.
        about: the JSON values that were saved with the tensors.
        poisoned: why training cannot continue from it, one clause; or "".
    """

    step: int
    position: int
    size: int
    sha256: str
    about: Mapping[str, Any]
    poisoned: str = ""

    def to_json(self) -> bytes:
        """The content of the file."""
        tensors = {"size": self.size, "sha256": self.sha256}
        mark = {"poisoned": self.poisoned} if self.poisoned else {}
        said = {"step": self.step, "position": self.position, **tensors, **mark, "about": dict(self.about)}
        return json.dumps(said, indent=1).encode()


def stem(name: str, step: int) -> str:
    """Name of a checkpoint inside the run folder, without its ending.

    Args:
        name: folder of the checkpoints, e.g. `train/checkpoints`.
    """
    return f"{name}/step-{step:07d}"


def steps(folder: RunFolder, name: str) -> list[int]:
    """Steps of all checkpoints that have a JSON file, newest first."""
    names = (PurePosixPath(one).name for one in folder.list(name))
    return sorted((int(match[1]) for one in names if (match := NAME.fullmatch(one))), reverse=True)


def read(folder: RunFolder, name: str, step: int) -> CheckpointLabel:
    """Read the JSON file of a checkpoint, and compare the size of the tensors.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError, KeyError, TypeError: it is damaged.
    """
    found = json.loads(folder.read(f"{stem(name, step)}.json"))
    size = folder.size(f"{stem(name, step)}.safetensors")
    if size is None or size != found["size"]:
        raise ValueError(f"it has {size} bytes instead of {found['size']}")
    if not isinstance(found["about"], Mapping):
        raise ValueError("its JSON file has no values")
    if type(found["step"]) is not int or found["step"] != step:  # a copy under another name, or not our file
        raise ValueError(f"its JSON file is of step {found['step']}")
    if type(found["position"]) is not int:
        raise ValueError(f"its position is {found['position']}")
    said = {key: str(found.get(key) or "") for key in ("sha256", POISONED)}
    return CheckpointLabel(step, found["position"], size, about=found["about"], **said)


def newest(
    folder: RunFolder, name: str, tell: Callable[[str], object] = lambda text: None, before: int | None = None
) -> CheckpointLabel | None:
    """The newest intact label that is not poisoned; `tell` gets a sentence for each one that is skipped.

    Args:
        before: look only at earlier steps.
    """
    for step in steps(folder, name):
        if before is not None and step >= before:
            continue
        try:
            found = read(folder, name, step)
        except DAMAGED as error:
            tell(skipped(step, str(error)))
            continue
        if not found.poisoned:
            return found
        tell(skipped(step, found.poisoned))
    return None


def skipped(step: int, why: str) -> str:
    """The sentence about a checkpoint that is skipped."""
    return f"The checkpoint of step {step} is skipped: {why}."


def mark_poisoned(folder: RunFolder, name: str, step: int, why: str) -> None:
    """Mark a checkpoint, so that no training continues from it. Its tensors stay.

    Args:
        why: one clause.

    Raises:
        StoreFull, StoreError: the mark cannot be written.
    """
    label = f"{stem(name, step)}.json"
    folder.write(label, json.dumps({**json.loads(folder.read(label)), POISONED: why}, indent=1).encode())
