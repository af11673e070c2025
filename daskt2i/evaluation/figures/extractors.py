"""Models that make features of pictures: FID's Inception, CLIP, or any image encoder of transformers.

Covers: which kind of model a folder has, the hash of its weights, loading, features of pictures and of texts.
Does not cover: which figure needs which kind (`request`), distances (`distances`).

Weights are safetensors only. FID's Inception is published as a pickle: docs/how-to/evaluate.md says how to convert it
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.weights import file_digest, first_line, locate, quiet, read_header, read_json
from daskt2i.errors import ModelError
from daskt2i.evaluation.figures import inception
from daskt2i.types import Pixels

Kind = Literal["inception", "clip", "vision"]

SETTING = "evaluate.weights"
_NEEDS = ("*.safetensors",)
_ALSO = ("*.json", "merges.txt")
_BATCH = 32


@dataclass(frozen=True, slots=True)
class FeatureModel:
    """A model as the driver found it; plain values for the workers.

    Attributes:
        model: folder or hub id, as it was given.
        kind: `inception`, `clip` (pictures and texts), or `vision` (any other image encoder).
        digest: hash of its weights and of how it prepares pictures.
        features: numbers in the features of a picture.
    """

    model: str
    kind: Kind
    digest: str
    features: int


def look(model: str) -> FeatureModel:
    """Find out what a folder or a hub id has. Reads JSON and headers of files, and hashes the weights.

    Raises:
        ModelMissing: there is no such model. ModelError: it makes no features of pictures.
    """
    folder = locate(model, None, None, needs=_NEEDS, also=_ALSO, setting=SETTING)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{model} has no weights as safetensors, and other kinds are not read, because reading a pickle can run "
            "its code. Nothing was drawn. docs/how-to/evaluate.md says how to convert FID's Inception once; give the "
            "folder of the converted file (weights)."
        )
    digest = "-".join(file_digest(file)[:16] for file in files)
    if inception.FIRST in {name for file in files for name in read_header(file)}:
        return FeatureModel(model, "inception", digest, inception.FEATURES)
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    if not config.get("model_type") or not (folder / "preprocessor_config.json").exists():
        raise ModelError(
            f"{model} is no Inception of FID, and has no config.json and preprocessor_config.json of an image encoder "
            "of transformers. Nothing was drawn; give another folder or hub id (weights)."
        )
    digest += "-" + file_digest(folder / "preprocessor_config.json")[:16]
    if config["model_type"] == "clip":
        return FeatureModel(model, "clip", digest, int(config.get("projection_dim", 512)))
    size = config.get("hidden_size") or (config.get("hidden_sizes") or [0])[-1]
    return FeatureModel(model, "vision", digest, int(size or config.get("vision_config", {}).get("hidden_size", 0)))


class Extractor:
    """A loaded model.

    Args:
        found: the result of `look`.
        device: torch device.
        threads: torch threads.

    Raises:
        ModelMissing, ModelError: the model is not on this machine, or cannot be loaded.
    """

    def __init__(self, found: FeatureModel, device: str, threads: int) -> None:
        self.found, self._device, self._threads = found, device, threads
        folder = locate(found.model, None, None, needs=_NEEDS, also=_ALSO, setting=SETTING)
        self._model: Any
        self._processor: Any
        try:
            self._model, self._processor = _inception(folder) if found.kind == "inception" else _of_transformers(folder)
        except Exception as error:  # transformers, torch and safetensors raise many kinds
            raise ModelError(
                f"{found.model} cannot be loaded to make features of pictures: {first_line(error)}. Finished parts are "
                "kept. Give another folder or hub id (weights)."
            ) from error
        self._model = self._model.to(device).eval().requires_grad_(False)

    def pictures(self, pictures: Sequence[Pixels]) -> npt.NDArray[np.float32]:
        """Features `float32[n, feature]` of pictures `uint8[y, x, 3]`. A batch changes them by rounding at most."""
        import torch

        torch.set_num_threads(self._threads)
        found = [np.empty((0, self.found.features), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(pictures), _BATCH):
                values = self._of_batch(np.stack(pictures[start : start + _BATCH]))
                found.append(values.float().cpu().numpy())
        return np.concatenate(found)

    def texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Features of texts, by CLIP alone. Long texts are cut."""
        import torch

        torch.set_num_threads(self._threads)
        found = [np.empty((0, self.found.features), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                given = self._processor(
                    text=list(texts[start : start + _BATCH]), return_tensors="pt", padding=True, truncation=True
                )
                found.append(_pooled(self._model.get_text_features(**given.to(self._device))).float().cpu().numpy())
        return np.concatenate(found)

    def _of_batch(self, pixels: npt.NDArray[np.uint8]) -> Any:
        import torch

        if self.found.kind == "inception":
            return self._model(inception.prepared(torch.from_numpy(pixels).to(self._device)))
        given = self._processor(images=list(pixels), return_tensors="pt", input_data_format="channels_last")
        if self.found.kind == "clip":
            return _pooled(self._model.get_image_features(pixel_values=given["pixel_values"].to(self._device)))
        return _pooled(self._model(pixel_values=given["pixel_values"].to(self._device)))


def _pooled(found: Any) -> Any:
    """One vector for each picture or text. transformers 5 returns them inside an object."""
    return getattr(found, "pooler_output", found)


def _inception(folder: Path) -> tuple[Any, None]:
    from safetensors.torch import load_file

    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    model = inception.build()
    # The classes of the last layer are not needed, and a file may count batches.
    wanted = {name: value for name, value in weights.items() if not name.startswith(("fc.", "AuxLogits."))}
    counted = [name for name in model.state_dict() if name.endswith("num_batches_tracked") and name not in wanted]
    missing, unknown = model.load_state_dict(wanted, strict=False)
    if unknown or set(missing) - set(counted):
        raise ValueError(f"tensors do not fit: {sorted({*unknown, *missing} - set(counted))[0]}")
    return model, None


def _of_transformers(folder: Path) -> tuple[Any, Any]:
    import transformers

    clip = read_json(folder / "config.json")["model_type"] == "clip"
    kind: Any = transformers.CLIPModel if clip else transformers.AutoModel
    tools: Any = transformers.CLIPProcessor if clip else transformers.AutoImageProcessor
    with quiet():
        model = kind.from_pretrained(  # a folder on this machine  # nosec B615
            str(folder), use_safetensors=True, local_files_only=True
        )
        processor = tools.from_pretrained(  # the same folder  # nosec B615
            str(folder), trust_remote_code=False, local_files_only=True
        )
    return model, processor
