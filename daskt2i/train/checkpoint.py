"""Checkpoints of a training run: a checkpoint is saved completely or not at all, and the newest intact one is loaded.

    train/checkpoints/step-0000300.safetensors    all tensors
    train/checkpoints/step-0000300.json           written last: step, position, settings; size and hash of the tensors

Covers: writing, keeping the newest few, skipping damaged checkpoints.
Does not cover: which tensors there are (`train_state`), whether they belong to this run (`loop`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from daskt2i.errors import StoreError
from daskt2i.store.run_folder import RunFolder

if TYPE_CHECKING:
    import torch

CHECKPOINTS = "train/checkpoints"
"""Folder of the denoiser's checkpoints, inside the run folder."""

_NAME = re.compile(r"step-([0-9]{7,})\.json")


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

    def save(self, step: int, position: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Write a checkpoint. Then remove checkpoints older than the newest `keep`, and checkpoints of later steps.

        Args:
            tensors: on any device and in any memory order; at most one at a time is copied.

        Raises:
            StoreFull, StoreError: the checkpoint could not be written; the earlier ones stay.
        """
        stem = self._stem(step)
        try:
            with self.folder.writing(f"{stem}.safetensors") as file:
                size, digest = _write(file, tensors)
            label = {"step": step, "position": position, "size": size, "sha256": digest, "about": dict(about)}
            self.folder.write(f"{stem}.json", json.dumps(label, indent=1).encode())
        except BaseException:
            with contextlib.suppress(OSError, StoreError):  # tensors without their JSON file are useless
                self.folder.delete(f"{stem}.safetensors")
            raise
        steps = self._steps()
        # A checkpoint of a later step was skipped as damaged when this run resumed. It must not displace a good one.
        kept = [other for other in steps if other <= step][: self.keep]
        for old in sorted(set(steps) - set(kept)):
            self.folder.delete(f"{self._stem(old)}.json")
            self.folder.delete(f"{self._stem(old)}.safetensors")

    def sweep(self) -> None:
        """Remove partial files of killed processes. Only the process that saves calls this, before it saves."""
        whole = {self._stem(step) for step in self._steps()}
        for name in self.folder.list(self.name):
            if Path(name).name.startswith("step-") and name.rpartition(".")[0] not in whole:
                self.folder.delete(name)
        if self.folder.is_local:
            for partial in self.folder.local_path(self.name).glob(".step-*"):  # see RunFolder.writing
                partial.unlink(missing_ok=True)

    def newest(self, tell: Callable[[str], None] = lambda text: None, tensors: bool = True) -> Checkpoint | None:
        """The newest intact checkpoint; `tell` gets a sentence for each one that is skipped.

        Args:
            tensors: False reads only the JSON file, and checks only the size of the tensors.
        """
        for step in self._steps():
            try:
                return self.load(step, tensors)
            except (ValueError, KeyError, TypeError, RecursionError, OSError, StoreError) as error:
                tell(f"The checkpoint of step {step} is skipped: {error}.")
        return None

    def load(self, step: int, tensors: bool = True) -> Checkpoint:
        """Load the checkpoint of a step.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError, KeyError, TypeError, RecursionError: the checkpoint is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        stem = self._stem(step)
        label = json.loads(self.folder.read(f"{stem}.json"))
        size = self.folder.size(f"{stem}.safetensors")
        if size != label["size"]:
            raise ValueError(f"it has {size} bytes instead of {label['size']}")
        found: Mapping[str, torch.Tensor] = {}
        if tensors:
            with self._local(f"{stem}.safetensors") as path:
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != label["sha256"]:
                        raise ValueError("its bytes have changed: the SHA-256 is different")
                try:
                    found = load_file(path)
                except SafetensorError as error:
                    raise ValueError(f"it cannot be read ({error})") from error
        return Checkpoint(int(label["step"]), int(label["position"]), label["about"], found)

    @contextlib.contextmanager
    def _local(self, name: str) -> Iterator[Path]:
        """The object as a file on this machine."""
        if self.folder.is_local:
            yield self.folder.local_path(name)
            return
        import tempfile

        with tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
            path = Path(place) / "state.safetensors"
            path.write_bytes(self.folder.read(name))
            yield path

    def clear(self) -> None:
        """Remove all checkpoints."""
        for name in self.folder.list(self.name):
            self.folder.delete(name)

    def _steps(self) -> list[int]:
        """Steps of all checkpoints, newest first."""
        names = (Path(name).name for name in self.folder.list(self.name))
        return sorted((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), reverse=True)

    def _stem(self, step: int) -> str:
        return f"{self.name}/step-{step:07d}"


_DTYPES = {
    "float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16", "bfloat16": "BF16",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def _write(file: IO[bytes], tensors: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """Write tensors as safetensors, and return the size in bytes and the SHA-256.

    The package's own `save_file` holds all tensors twice in memory, refuses weights that share memory, and reports a
    full disk only in the text of its error. The format: header size as a little-endian u64, header as JSON, data.
    """
    import torch

    # Tensors with the largest elements come first, so that each tensor starts at a multiple of its element size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
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
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        put(flat.view(torch.uint8).numpy().data)
    return 8 + len(text) + end, digest.hexdigest()
