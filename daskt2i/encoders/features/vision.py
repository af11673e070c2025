"""Images to features with SigLIP or DINOv2 of transformers.

Covers: states of the patches and a pooled state, of pictures in the size and range that the model expects; pretrained
or seeded random weights.
Does not cover: what the config says (`visionconfig`), comparing a denoiser with the features (training), drawing:
features do not become pictures again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders.features.visionconfig import VisionShape, vision_shape
from daskt2i.encoders.text_model import load_pretrained
from daskt2i.encoders.weights import (
    WeightFiles,
    WeightsOption,
    check_weights_option,
    config_digest,
    locate,
    model_name,
    quiet,
    random_config,
    read_header,
    read_json,
    torch_dtype,
    weight_files,
    weights_digest,
)
from daskt2i.errors import ConfigError
from daskt2i.types import ArraySpec, EncoderInfo, Pixels, Runtime

if TYPE_CHECKING:
    import torch

STEM = "model"
PROCESSOR = "preprocessor_config.json"

_SPARE = ("position_ids", "mask_token")
"""Tensors that a weight file may lack: the first is derived, the second is for training."""


class VisionEncoder:
    """One vision transformer.

    Args:
        model: hub id (`facebook/dinov2-base`, `google/siglip-base-patch16-224`) or folder.
        subfolder: folder inside the model's folder.
        revision: branch, tag or commit of the hub id.
        side: side of the pictures that the model gets, pixels; the pictures of the data set are resized to it. None:
            SigLIP's own size; for DINOv2 the largest one that is not larger than the pictures.
        weights: `pretrained`, or `random` for speed tests (marked in the store).
        seed: seed of the random weights.

    Raises:
        ConfigError: an argument has a wrong value.
    """

    setting = "dataset.encoders.image.model"

    def __init__(
        self,
        model: str,
        subfolder: str | None = None,
        revision: str | None = None,
        side: int | None = None,
        weights: WeightsOption = "pretrained",
        seed: int = 0,
    ) -> None:
        check_weights_option(weights, seed)
        if side is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
            raise ConfigError(
                f"dataset.encoders.image.side is {side!r}; give a whole number of pixels, or leave it out."
            )
        self.model = str(model)
        self.subfolder = subfolder
        self.revision = revision
        self.side = side
        self.weights = weights
        self.seed = seed
        self._loaded: tuple[Any, VisionShape, Runtime] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}

    def info(self, resolution: int) -> EncoderInfo:
        """What it makes from images of `resolution` x `resolution` pixels. It reads only JSON files and file headers.

        Raises:
            ConfigError: the side does not fit the model.
            ModelMissing, ModelError: there is no such model, or this class cannot use it.
        """
        config, files, shape = self._read()
        side = shape.side(resolution, self.side)
        grid = side // shape.patch
        digest = config_digest({**config, "image_mean": shape.mean, "image_std": shape.std})
        arrays = [
            ArraySpec(
                "image_features", ("patch", "image_feature"), (grid * grid, shape.hidden), "float16", "nan",
                "last states of the patches, row by row",
            ),
        ]  # fmt: skip
        if self._pools(shape):
            meaning = "the model's pooled state" if shape.is_siglip else "state of the class token"
            arrays.append(ArraySpec("image_pooled", ("image_feature",), (shape.hidden,), "float16", "nan", meaning))
        sizes = [size for path in files.paths for size in self._own(path, shape)] if files is not None else []
        return EncoderInfo(
            arrays=tuple(arrays),
            weights=f"seed:{self.seed}/config:{digest[:16]}" if files is None else weights_digest(files, digest),
            attributes={
                "class": shape.kind,
                "model": model_name(self.model, self.subfolder),
                "side": side,
                "patch": shape.patch,
                "grid": [grid, grid],
                "features": shape.hidden,
            },
            random_weights=files is None,
            weight_bytes=4 * (shape.parameters() if files is None else sum(sizes)),
            item_bytes=shape.item_bytes(side) + 12 * resolution**2,
        )

    def load(self, runtime: Runtime) -> None:
        """Build the model on `runtime.device` in `runtime.precision`, for inference.

        Raises:
            ConfigError: fp16 on a CPU.
            ModelMissing, ModelError: there is no such model, or files do not fit it.
        """
        import torch

        dtype = torch_dtype(runtime)
        torch.set_num_threads(runtime.threads)
        _, files, shape = self._read()
        if files is None:
            model = self._random(shape, dtype)
        else:
            name = model_name(self.model, self.subfolder)
            model = load_pretrained(
                shape.kind, self._folder(), files, dtype, name, lambda key: not key.endswith(_SPARE)
            )
        self._loaded = model.to(runtime.device).eval().requires_grad_(False), shape, runtime

    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Features of `uint8[n, height, width, 3]`, square pictures.

        `image_features` float16[n, patch, feature], and `image_pooled` float16[n, feature] if there is a pooled state.
        """
        import torch

        if self._loaded is None:
            raise RuntimeError("call load before encode")
        model, shape, runtime = self._loaded
        torch.set_num_threads(runtime.threads)  # a setting of each thread; another thread may have loaded
        side = shape.side(items.shape[1], self.side)
        count = (side // shape.patch) ** 2
        made = {"image_features": np.empty((len(items), count, shape.hidden), np.float16)}
        if self._pools(shape):
            made["image_pooled"] = np.empty((len(items), shape.hidden), np.float16)
        options = {"interpolate_pos_encoding": True} if shape.is_siglip and side != shape.image else {}
        with torch.inference_mode():
            for start in range(0, len(items), batch):
                part = slice(start, start + batch)
                pixels = torch.from_numpy(np.array(items[part])).to(runtime.device).permute(0, 3, 1, 2)
                out = model(pixel_values=self._expected(pixels, side, shape).to(torch_dtype(runtime)), **options)
                made["image_features"][part] = _half(out.last_hidden_state[:, shape.first :])
                if "image_pooled" in made:
                    made["image_pooled"][part] = _half(out.pooler_output)
        return made

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Pixels | None:
        """None: features do not become pictures again."""
        return None

    def _expected(self, pixels: torch.Tensor, side: int, shape: VisionShape) -> torch.Tensor:
        """Pixel values 0 to 255 in the size and range of the model, fp32."""
        import torch

        values = pixels.float()
        if values.shape[-1] != side:
            options: dict[str, Any] = {"mode": "bicubic", "antialias": True}
            values = torch.nn.functional.interpolate(values, (side, side), **options).clamp_(0, 255)
        mean, std = (torch.tensor(one, device=values.device)[:, None, None] for one in (shape.mean, shape.std))
        return (values / 255 - mean) / std

    def _pools(self, shape: VisionShape) -> bool:
        return not shape.is_siglip or bool(shape.config["vision_use_head"])

    def _read(self) -> tuple[dict[str, Any], WeightFiles | None, VisionShape]:
        """The config, the weight files (None for random weights), and the shape."""
        name = model_name(self.model, self.subfolder)
        if self.weights == "random":
            config = random_config(self.model, self.subfolder, self.revision, self.setting)
            return config, None, vision_shape(config, {}, name, self.setting)
        folder = self._folder()
        config = read_json(folder / "config.json")
        processor = read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}
        shape = vision_shape(config, processor, name, self.setting)
        return config, weight_files(folder, STEM), shape

    def _folder(self) -> Path:
        return locate(
            self.model,
            self.subfolder,
            self.revision,
            needs=("config.json", f"{STEM}*.safetensors"),
            also=(PROCESSOR, f"{STEM}*.safetensors.index.json"),
            setting=self.setting,
        )

    def _own(self, path: Path, shape: VisionShape) -> list[int]:
        return [size for key, size in read_header(path).items() if key.startswith(shape.prefix)]

    def _random(self, shape: VisionShape, dtype: torch.dtype) -> Any:
        import torch
        import transformers

        config = {key: value for key, value in shape.config.items() if key not in ("dtype", "torch_dtype")}
        built = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would also reseed the GPUs
            return getattr(transformers, shape.kind)(built).to(dtype)


def _half(values: torch.Tensor) -> npt.NDArray[np.float16]:
    import torch

    found: npt.NDArray[np.float16] = values.to(torch.float16).cpu().numpy()
    return found
