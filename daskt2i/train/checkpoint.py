"""Checkpoints of a training run: saved whole or not at all, and the newest that is intact is loaded.

    train/checkpoints/step-0000300.safetensors    all tensors
    train/checkpoints/step-0000300.json           written last: step, position, size and SHA-256 of the other, settings

Covers: writing, keeping the newest few, passing over what is torn or altered.
Does not cover: which tensors there are (`train_state`), whether they are of this run (`loop`).
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
"""Where the denoiser's lie, below the run folder."""

_NAME = re.compile(r"step-([0-9]{7,})\.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that is intact.

    Attributes:
        step: optimiser steps done.
        position: samples consumed by all ranks together.
        about: the JSON values that were saved beside the tensors.
        tensors: by name, on the CPU; empty when only the label was asked for.
    """

    step: int
    position: int
    about: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]


class Checkpoints:
    """The checkpoints in one folder of a run folder.

    Args:
        name: that folder, e.g. `train/checkpoints`.
        keep: how many stay.
    """

    def __init__(self, folder: RunFolder, name: str = CHECKPOINTS, keep: int = 2) -> None:
        self.folder = folder
        self.name = name
        self.keep = keep

    def save(self, step: int, position: int, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Put one on disk; those older than the newest `keep`, and any of later steps, go then.

        Args:
            tensors: on any device, and in any memory order; no more than one at a time is copied.

        Raises:
            StoreFull, StoreError: it could not be written; those that were there stay.
        """
        stem = self._stem(step)
        try:
            with self.folder.writing(f"{stem}.safetensors") as file:
                size, digest = _write(file, tensors)
            label = {"step": step, "position": position, "size": size, "sha256": digest, "about": dict(about)}
            self.folder.write(f"{stem}.json", json.dumps(label, indent=1).encode())
        except BaseException:
            with contextlib.suppress(OSError, StoreError):  # without its label it would only fill the disk
                self.folder.delete(f"{stem}.safetensors")
            raise
        steps = self._steps()
        # One of a later step was passed over when this run went on; it must not push a good one out.
        kept = [other for other in steps if other <= step][: self.keep]
        for old in sorted(set(steps) - set(kept)):
            self.folder.delete(f"{self._stem(old)}.json")
            self.folder.delete(f"{self._stem(old)}.safetensors")

    def sweep(self) -> None:
        """Remove what killed processes left half-written. For the one that saves, before anything else."""
        whole = {self._stem(step) for step in self._steps()}
        for name in self.folder.list(self.name):
            if Path(name).name.startswith("step-") and name.rpartition(".")[0] not in whole:
                self.folder.delete(name)
        if self.folder.is_local:
            for partial in self.folder.local_path(self.name).glob(".step-*"):  # see RunFolder.writing
                partial.unlink(missing_ok=True)

    def newest(self, tell: Callable[[str], None] = lambda text: None, tensors: bool = True) -> Checkpoint | None:
        """The newest one that is whole; `tell` gets a sentence for each that was passed over.

        Args:
            tensors: False reads the label alone, and trusts the size.
        """
        for step in self._steps():
            try:
                return self.load(step, tensors)
            except (ValueError, KeyError, TypeError, OSError, StoreError) as error:
                tell(f"The checkpoint of step {step} is passed over: {error}.")
        return None

    def load(self, step: int, tensors: bool = True) -> Checkpoint:
        """That of this step.

        Raises:
            FileNotFoundError: there is none.
            ValueError, KeyError, TypeError: it is torn or altered.
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
                        raise ValueError("its bytes have changed: the SHA-256 is another")
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
        """Remove all of them."""
        for name in self.folder.list(self.name):
            self.folder.delete(name)

    def _steps(self) -> list[int]:
        """Newest first."""
        names = (Path(name).name for name in self.folder.list(self.name))
        return sorted((int(match[1]) for name in names if (match := _NAME.fullmatch(name))), reverse=True)

    def _stem(self, step: int) -> str:
        return f"{self.name}/step-{step:07d}"


_DTYPES = {
    "float64": "F64", "int64": "I64", "float32": "F32", "int32": "I32", "float16": "F16", "bfloat16": "BF16",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def _write(file: IO[bytes], tensors: Mapping[str, torch.Tensor]) -> tuple[int, str]:
    """Write tensors as safetensors; bytes and SHA-256.

    The package's own `save_file` holds all of them twice before it writes, refuses weights that share memory, and tells
    a full disk in words alone. The format: bytes of the header as a little-endian u64, the header as JSON, the data.
    """
    import torch

    # Largest elements first, so that each tensor lies on a multiple of its own.
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
