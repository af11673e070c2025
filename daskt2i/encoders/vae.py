"""Images to latents with an autoencoder of diffusers: `AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`.

Covers: any such model by its config (reduction, channels, with or without quant_conv), pretrained or seeded random;
fp32 where fp16 would overflow.
Does not cover: what the config says (`vaeconfig`), scaling and shifting latents (`loader.dataset`), drawing from the
posterior (training), gates and smaller batches when memory runs out (`encode.worker`), tiled coding of very large
pictures.

The stored values are raw: the output of the model's `encode`. The denoiser gets `(latent - shift_factor) *
scaling_factor`. An AutoencoderTiny was trained to give scaled latents; its scaling_factor is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from daskt2i.encoders import footprint, vaeconfig
from daskt2i.encoders.ncnn import choice
from daskt2i.encoders.ncnn.choice import EngineOption
from daskt2i.encoders.ncnn.engine import Engine
from daskt2i.encoders.weights import (
    WeightsOption,
    check_weights_option,
    config_digest,
    first_line,
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
from daskt2i.errors import ConfigError, ModelError
from daskt2i.inference.rewrite import rewrite_for_inference
from daskt2i.types import Chosen, EncoderInfo, Pixels, Runtime

if TYPE_CHECKING:
    import torch

STEM = "diffusion_pytorch_model"
"""Name of the weight file in a diffusers folder."""

_PATTERNS = ("config.json", f"{STEM}*.safetensors")


class VaeEncoder:
    """One image autoencoder.

    Args:
        model: hub id (`stabilityai/sd-vae-ft-mse`) or folder; for random weights also the name of a shipped config.
        subfolder: folder inside the model's folder, e.g. `vae` of a whole pipeline.
        revision: branch, tag or commit of a hub id.
        weights: `pretrained`, or `random` for speed tests (marked in the store).
        seed: seed of the random weights.
        engine: what computes the model. `torch`; `ncnn`: exact fp32 on a CPU with fewer multiplications; `auto`: the
            faster one, measured by the first worker of a run (elsewhere torch).

    Raises:
        ConfigError: weights, seed or engine has a wrong value.
    """

    setting = "dataset.encoders.image.model"
    same_arrays: ClassVar[Mapping[str, tuple[str, ...]]] = {"engine": ("auto", "torch")}
    """Values of arguments with which the stored arrays are those of versions without the argument (`Component`)."""

    def __init__(
        self,
        model: str,
        subfolder: str | None = None,
        revision: str | None = None,
        weights: WeightsOption = "pretrained",
        seed: int = 0,
        engine: EngineOption = "auto",
    ) -> None:
        check_weights_option(weights, seed)
        choice.check_engine(engine)
        self.model = str(model)
        self.subfolder = subfolder
        self.revision = revision
        self.weights = weights
        self.seed = seed
        self.engine = engine
        self._loaded: Any = None
        self._engine: Engine | None = None
        self._runtime: Runtime | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_engine": None, "_runtime": None}

    def info(self, resolution: int) -> EncoderInfo:
        """What it makes from images of `resolution` x `resolution` pixels. It reads only config.json and file headers.

        Raises:
            ConfigError: the resolution is not a multiple of the model's reduction.
            ModelMissing, ModelError: there is no such model, or this class cannot use it.
        """
        config, name = self._config(), model_name(self.model, self.subfolder)
        kind = config["_class_name"]
        choice.refuse_kind(self.engine, kind, name)
        reduction = footprint.vae_reduction(config)
        if resolution < reduction or resolution % reduction:
            lower = resolution // reduction * reduction
            good = " or ".join(str(n) for n in (lower, lower + reduction) if n)
            raise ConfigError(
                f"dataset.image.resolution is {resolution}, but {name} reduces each side {reduction} times; use {good}."
            )
        weight_bytes, item_bytes = self._weight_bytes(config), footprint.vae_item_bytes(config, resolution)
        engines: Mapping[str, tuple[int, int]] = {}
        if kind == "AutoencoderKL":
            of_setting, engines = choice.memory(self._asked(), config, resolution, weight_bytes, item_bytes)
            weight_bytes, item_bytes = of_setting
        return EncoderInfo(
            arrays=vaeconfig.arrays(config, resolution),
            weights=self._weights_name(config),
            attributes=vaeconfig.attributes(config, name),
            random_weights=self.weights == "random",
            weight_bytes=weight_bytes,
            item_bytes=item_bytes,
            engines=engines,
            upcast=vaeconfig.upcasts(config),
        )

    def kind(self) -> str:
        """The class of the model in diffusers. It reads only config.json; errors as in `info`."""
        return str(self._config()["_class_name"])

    def choose_engine(
        self, resolution: int, runtime: Runtime, free: bool, measure: bool = True
    ) -> tuple[Runtime, Chosen]:
        """See `protocols.ChoosesEngine`."""
        if self._asked() == "auto":
            return choice.faster(self._config(), resolution, runtime, free, measure)
        why = "the workflow names it" if self.engine != "auto" else "the class of the encoder has methods of its own"
        return runtime, Chosen("engine", self._asked(), why)

    def _asked(self) -> str:
        """The setting; torch for a class below this one, which may do more with the module than ncnn would."""
        own = all(getattr(type(self), name) is getattr(VaeEncoder, name) for name in ("load", "encode", "decode"))
        return self.engine if own or self.engine != "auto" else "torch"

    def load(self, runtime: Runtime) -> None:
        """Build the model on `runtime.device` in `runtime.precision`, in channels_last, for inference.

        A model whose config says `force_upcast` is built in fp32 if the precision is fp16.

        Raises:
            ConfigError: fp16 on a CPU; ncnn was asked for and cannot run here.
            ModelMissing, ModelError: there is no such model, or files do not fit it.
        """
        import torch
        import transformers  # noqa: F401  diffusers imports it later, inside `quiet`, which must know it before

        torch_dtype(runtime)  # refuses what cannot be before the config is read
        if runtime.precision == "fp16" and vaeconfig.upcasts(self._config()):
            runtime = replace(runtime, precision="fp32")
        engine = runtime.engine if self.engine == "auto" else self.engine
        choice.refuse_place(engine, runtime)
        torch.set_num_threads(runtime.threads)
        if runtime.precision == "fp32" and runtime.device != "cpu":
            # cuDNN computes fp32 convolutions in TF32 by default, with a mantissa of 10 bits.
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        model = self.plain(runtime)
        self._engine = choice.engine_for(engine, model, runtime)
        if self._engine is not None:
            model = model.to("meta")  # ncnn has the weights now
        else:
            rewrite_for_inference(model.eval().requires_grad_(False))
        self._loaded, self._runtime = model, runtime

    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Latents of `uint8[n, height, width, 3]`: `latent_mean`, and `latent_std` if there is a posterior.

        Both are `float16[n, channel, height / reduction, width / reduction]`. A value above 65,504 becomes infinite.

        Raises:
            ValueError: the shape or dtype is wrong, or a side is not a multiple of the reduction.
        """
        import torch
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        model, runtime = self._ready()
        torch.set_num_threads(runtime.threads)  # a setting of each thread; another thread may have loaded
        reduction, channels = footprint.vae_reduction(model.config), model.config["latent_channels"]
        if items.dtype != np.uint8 or items.ndim != 4 or items.shape[3] != 3:
            raise ValueError(f"encode needs uint8[n, height, width, 3], not {items.dtype}{list(items.shape)}")
        n, height, width, _ = items.shape
        if height % reduction or width % reduction:
            raise ValueError(f"the sides of {height} x {width} pixels are not multiples of {reduction}")
        shape = (n, channels, height // reduction, width // reduction)
        posterior = vaeconfig.has_posterior(model.config)
        names = ("latent_mean", "latent_std") if posterior else ("latent_mean",)
        made = {name: np.empty(shape, np.float16) for name in names}
        with torch.inference_mode():
            for start in range(0, n, batch):
                part = slice(start, min(start + batch, n))
                # Copying uint8 moves a quarter of the bytes of fp32. This memory order is already channels_last.
                pixels = _tensor(items[part]).to(runtime.device).permute(0, 3, 1, 2)
                if self._engine is not None:
                    parameters = torch.from_numpy(self._engine.encode(self.normalise(pixels).numpy()))
                else:
                    out = model.encode(self.normalise(pixels).to(torch_dtype(runtime)))
                    if not posterior:
                        made["latent_mean"][part] = _half(out[0])
                        continue
                    parameters = out.latent_dist.parameters.float()
                # std = exp(logvar / 2) loses bits in bf16, so the (small) posterior is computed again in fp32.
                distribution = DiagonalGaussianDistribution(parameters)
                made["latent_mean"][part] = _half(distribution.mean)
                made["latent_std"][part] = _half(distribution.std)
        return made

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixel values 0 to 255 in the range of the model: fp32, -1 to 1. In bf16, white would be rounded to 0.992."""
        return pixels.float().div_(127.5).sub_(1.0)

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """The pictures that `latent_mean` represents, `uint8[n, height, width, 3]`. NaN decodes like 0.

        It decodes one image at a time: decoding takes 1.4 times the memory of encoding, and few rows are decoded.
        """
        import torch

        model, runtime = self._ready()
        torch.set_num_threads(runtime.threads)
        reduction = footprint.vae_reduction(model.config)
        mean = arrays["latent_mean"]
        made = np.empty((len(mean), mean.shape[2] * reduction, mean.shape[3] * reduction, 3), np.uint8)
        with torch.inference_mode():
            for index in range(len(mean)):
                latent = torch.nan_to_num(_tensor(mean[index : index + 1]).float())
                if self._engine is not None:
                    picture = torch.from_numpy(self._engine.decode(latent.numpy())[0])
                else:
                    latent = latent.to(runtime.device, torch_dtype(runtime), memory_format=torch.channels_last)
                    picture = model.decode(latent).sample[0].float()
                values = torch.nan_to_num((picture + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
                made[index] = values.permute(1, 2, 0).cpu().numpy()
        return made

    def _ready(self) -> tuple[Any, Runtime]:
        if self._loaded is None or self._runtime is None:
            raise RuntimeError("call load before encode and decode")
        return self._loaded, self._runtime

    def _config(self) -> dict[str, Any]:
        if self.weights == "random":
            config = random_config(self.model, self.subfolder, self.revision, self.setting)
        else:
            config = read_json(self._folder() / "config.json")
        return vaeconfig.checked(config, model_name(self.model, self.subfolder), self.setting)

    def _folder(self) -> Any:
        needs = _PATTERNS
        return locate(
            self.model,
            self.subfolder,
            self.revision,
            needs=needs,
            also=(f"{STEM}*.safetensors.index.json",),
            setting=self.setting,
        )

    def _weights_name(self, config: Mapping[str, Any]) -> str:
        if self.weights == "random":
            # The config is part of the name: with the same seed, another architecture gets other weights.
            return f"seed:{self.seed}/config:{config_digest(config)[:16]}"
        return weights_digest(weight_files(self._folder(), STEM), config_digest(config))

    def _weight_bytes(self, config: Mapping[str, Any]) -> int:
        if self.weights == "random":
            return 4 * footprint.vae_parameters(config)
        return 4 * sum(sum(read_header(path).values()) for path in weight_files(self._folder(), STEM).paths)

    def plain(self, runtime: Runtime) -> Any:
        """The model as diffusers loads it, not rewritten for inference, in channels_last. Errors as in `load`."""
        import torch

        build = self._random if self.weights == "random" else self._pretrained
        model = build(torch_dtype(runtime)).to(runtime.device).to(memory_format=torch.channels_last)
        return model.eval().requires_grad_(False)

    def _random(self, dtype: torch.dtype) -> Any:
        import diffusers
        import torch

        config = self._config()
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)  # torch.manual_seed would also reseed the GPUs
            return getattr(diffusers, config["_class_name"]).from_config(config).to(dtype)

    def _pretrained(self, dtype: torch.dtype) -> Any:
        import diffusers

        config, folder = self._config(), self._folder()
        files, name = weight_files(folder, STEM), model_name(self.model, self.subfolder)
        for path in files.paths:
            read_header(path)
        try:
            with quiet():
                model, report = getattr(diffusers, config["_class_name"]).from_pretrained(
                    str(folder),
                    torch_dtype=dtype,
                    use_safetensors=True,
                    variant=files.variant,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
            raise ModelError(f"diffusers {diffusers.__version__} cannot load {name}: {first_line(error)}.") from error
        if report["missing_keys"]:
            # diffusers would fill them with random numbers and continue
            raise ModelError(
                f"The weights of {name} lack {len(report['missing_keys'])} tensors of its config.json, such as "
                f"{sorted(report['missing_keys'])[0]}. The two files do not belong together; fetch the model again."
            )
        return model


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor that shares an array's memory. It is a copy only if torch needs one (read-only or reversed arrays)."""
    import torch

    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _half(values: torch.Tensor) -> npt.NDArray[np.float16]:
    import torch

    return values.to(torch.float16).cpu().numpy()
