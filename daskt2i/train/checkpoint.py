"""Checkpoints of a training run: a checkpoint is saved completely or not at all, and the newest intact one is loaded.

    train/checkpoints/step-0000300.safetensors    all tensors
    train/checkpoints/step-0000300.json           written last: step, position, settings; size and hash of the tensors

Covers: writing, keeping the newest few, skipping damaged and poisoned checkpoints.
Does not cover: the JSON files alone (`store.artifacts.checkpoint_labels`), which tensors there are (`optimisation`),
whether they belong to this run (`resume`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from daskt2i.errors import StoreError
from daskt2i.store.artifacts import checkpoint_labels
from daskt2i.store.artifacts.checkpoint_labels import DAMAGED, NAME, CheckpointLabel, skipped, stem
from daskt2i.store.artifacts.full_disk import temporary_folder
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.optimisation.shards import Spread

if TYPE_CHECKING:
    import torch

    Savable = torch.Tensor | Spread

CHECKPOINTS = "train/checkpoints"
"""Folder of the denoiser's checkpoints, inside the run folder."""

_NAME = NAME


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An intact checkpoint.

    Attributes:
        step: number of finished optimiser steps.
        position: number of samples that all ranks together have used.
        about: the JSON values that were saved with the tensors.
        tensors: by name, on the CPU; empty if only the JSON file was read.
    """

    step: int
    position: int
    about: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


class Checkpoints:
    """The checkpoints in one folder inside a run folder.

    Args:
        name: the folder, e.g. `train/checkpoints`.
        keep: number of checkpoints to keep.
    """

    def __init__(self, folder: RunFolder, name: str = CHECKPOINTS, keep: int = 2) -> None:
        self.folder = folder
        self.name = name
        self.keep = keep

    def save(self, step: int, position: int, tensors: Mapping[str, Savable], about: Mapping[str, Any]) -> None:
        """Write a checkpoint. Then remove checkpoints older than the newest `keep`, and checkpoints of later steps.

        Args:
            tensors: on any device and in any memory order; at most one at a time is copied. Of a tensor that is spread
                over ranks the other ranks call `give` meanwhile.

        Raises:
            StoreFull, StoreError: the checkpoint could not be written; the earlier ones stay.
        """
        name = self._stem(step)
        try:
            with self.folder.writing(f"{name}.safetensors") as file:
                size, digest = _write(file, tensors)
            self.folder.write(f"{name}.json", CheckpointLabel(step, position, size, digest, about).to_json())
        except BaseException:
            with contextlib.suppress(OSError, StoreError):  # tensors without their JSON file are useless
                self.folder.delete(f"{name}.safetensors")
            raise
        steps = self._steps()
        # A checkpoint of a later step was skipped as damaged when this run resumed. It must not displace a good one.
        # A poisoned one must not do so either.
        kept = [other for other in steps if other <= step and not self._is_poisoned(other)][: self.keep]
        for old in sorted(set(steps) - set(kept)):
            self.folder.delete(f"{self._stem(old)}.json")
            self.folder.delete(f"{self._stem(old)}.safetensors")

    def give(self, tensors: Mapping[str, Savable]) -> None:
        """On the other ranks: give their parts of tensors that rank 0 saves."""
        for name in _in_order(tensors):
            whole(tensors[name])

    def sweep(self) -> None:
        """Remove partial files of killed processes. Only the process that saves calls this, before it saves."""
        whole = {self._stem(step) for step in self._steps()}
        for name in self.folder.list(self.name):
            if Path(name).name.startswith("step-") and name.rpartition(".")[0] not in whole:
                self.folder.delete(name)
        if self.folder.is_local:
            for partial in self.folder.local_path(self.name).glob(".step-*"):  # see RunFolder.writing
                partial.unlink(missing_ok=True)

    def newest(
        self, tell: Callable[[str], object] = lambda text: None, tensors: bool = True, before: int | None = None
    ) -> Checkpoint | None:
        """The newest intact checkpoint that is not poisoned; `tell` gets a sentence for each one that is skipped.

        Args:
            tensors: False reads only the JSON file, and checks only the size of the tensors.
            before: look only at earlier steps.
        """
        if not tensors:
            label = checkpoint_labels.newest(self.folder, self.name, tell, before)
            return None if label is None else Checkpoint(label.step, label.position, label.about, {})
        for step in (step for step in self._steps() if before is None or step < before):
            try:
                if why := checkpoint_labels.read(self.folder, self.name, step).poisoned:
                    tell(skipped(step, why))
                    continue
                return self.load(step)
            except DAMAGED as error:
                tell(skipped(step, str(error)))
        return None

    def poisoned(self) -> list[int]:
        """Steps of the intact checkpoints that are marked as poisoned, newest first."""
        return [step for step in self._steps() if self._is_poisoned(step)]

    def mark_poisoned(self, step: int, why: str) -> None:
        """Mark a checkpoint, so that no training continues from it. Its tensors stay until newer ones displace it.

        Args:
            why: one clause.

        Raises:
            StoreFull, StoreError: the mark cannot be written.
        """
        checkpoint_labels.mark_poisoned(self.folder, self.name, step, why)

    def load(self, step: int, tensors: bool = True) -> Checkpoint:
        """Load the checkpoint of a step, poisoned or not.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError, KeyError, TypeError, RecursionError: the checkpoint is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        label = checkpoint_labels.read(self.folder, self.name, step)
        found: Mapping[str, torch.Tensor] = {}
        if tensors:
            with self._local(f"{self._stem(step)}.safetensors") as path:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != label.sha256:
                        raise ValueError("its bytes have changed: the SHA-256 is different")
                try:
                    found = load_file(path)
                except SafetensorError as error:
                    raise ValueError(f"it cannot be read ({error})") from error
        return Checkpoint(label.step, label.position, label.about, found)

    @contextlib.contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """The object as a file on this machine."""
        if self.folder.is_local:
            yield self.folder.local_path(name)
            return
        with temporary_folder(f"copy {name}") as place:
            path = place / "state.safetensors"
            path.write_bytes(self.folder.read(name))
            yield path

    def clear(self) -> None:
        """Remove all checkpoints."""
        for name in self.folder.list(self.name):
            self.folder.delete(name)

    def _steps(self) -> list[int]:
        """Steps of all checkpoints, newest first."""
        return checkpoint_labels.steps(self.folder, self.name)

    def _is_poisoned(self, step: int) -> bool:
        try:
            return bool(checkpoint_labels.read(self.folder, self.name, step).poisoned)
        except DAMAGED:
            return False

    def _stem(self, step: int) -> str:
        return stem(self.name, step)


def not_finite(tensors: Mapping[str, Savable]) -> str:
    """Name of a tensor with NaN or infinity, or "". Only the weights may have minus infinity: a mask that is one.

    Of a tensor that is spread over ranks, it looks at this rank's part.
    """
    import torch

    for name, given in tensors.items():
        tensor = given.part.detach() if isinstance(given, Spread) else given
        if not tensor.is_floating_point():
            continue
        bad = ~torch.isfinite(tensor)
        if name.startswith("model/"):
            bad &= tensor != -torch.inf
        if bool(bad.any()):
            return name
    return ""


_DTYPES = {
    "float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16", "bfloat16": "BF16",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def whole(tensor: Savable) -> torch.Tensor:
    """A tensor, gathered if it is spread over ranks; then every rank calls it."""
    return tensor.whole() if isinstance(tensor, Spread) else tensor


def _in_order(tensors: Mapping[str, Savable]) -> list[str]:
    """Those with the largest elements come first, so that each tensor starts at a multiple of its element size."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _write(file: IO[bytes], tensors: Mapping[str, Savable]) -> tuple[int, str]:
    """Write tensors as safetensors, and return the size in bytes and the SHA-256.

    The package's own `save_file` holds all tensors twice in memory, refuses weights that share memory, and reports a
    full disk only in the text of its error. The format: header size as a little-endian u64, header as JSON, data.
    """
    import torch

    order = _in_order(tensors)
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        dtype = _DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()

    def put(data: bytes | memoryview) -> None:
        file.write(data)
        digest.update(data)

    put(len(text).to_bytes(8, "little") + text)
    for name in order:
        flat = whole(tensors[name]).detach().cpu().contiguous().reshape(-1)
        put(flat.view(torch.uint8).numpy().data)
    return 8 + len(text) + end, digest.hexdigest()
