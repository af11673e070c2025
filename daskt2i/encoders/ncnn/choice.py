"""Which engine computes an autoencoder: torch or ncnn.

Covers: the setting `engine`, which engine `auto` is, and the error if the engine of a store cannot run.
Does not cover: running the model (`engine`), the measurement (`probe`).

ncnn and torch give other last bits, so the engine changes stored arrays. If the workflow names ncnn, a worker that
cannot run it is refused: with torch it would write other bits under the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal, get_args

from daskt2i.encoders.ncnn.engine import MISSING, Engine, Refused, reason_against
from daskt2i.encoders.ncnn.probe import seconds_for
from daskt2i.errors import ConfigError
from daskt2i.types import MEASURED_LATER, Chosen, Runtime

EngineOption = Literal["auto", "torch", "ncnn"]
"""Values of the setting. With `auto` the run decides, by a measurement (`faster`)."""

GAIN = 1.15
"""`auto` takes ncnn if it is at least this many times faster than torch: it needs more memory."""

LARGEST_LATENT = 48
"""Side of the largest latent for which `auto` may take ncnn: its attention keeps the whole matrix. With 64 (Stable
Diffusion's VAE at 512 px) it gained nothing, and needed 2.4 times the memory."""

SETTING = "dataset.encoders.image.engine"

WEIGHTS = 6.5
"""Memory of both networks in ncnn while they are loaded, as a multiple of the weights in fp32.

Winograd's algorithm keeps transformed weights, 4 times as large. Measured for Stable Diffusion's VAE (335 MB of
weights): 1,500 MB for the networks, and 2,160 MB at the peak of the load, when torch's copy is there too."""

MAPS = 2.2
"""Working memory of one image, as a multiple of torch's.

Measured for Stable Diffusion's VAE at 512 px: encoding took 1.4 GB (2.1 times), decoding 4.2 GB (3 times as much as
encoding, with memory kept or not; torch takes 1.5 times). At 256 px 0.3 and 0.9 GB. A plan with kept memory covers
both, because it counts 3 times the memory of an image. Without kept memory it counts 1.5 times, which is too little at
512 px."""


def check_engine(engine: str) -> None:
    """Check the argument `engine` of an encoder.

    Raises:
        ConfigError: it is wrong. The message says what is accepted.
    """
    if engine not in get_args(EngineOption):
        raise ConfigError(f"{SETTING} is {engine!r}; give auto, torch or ncnn.")


def refuse_kind(engine: str, kind: str, name: str) -> None:
    """Refuse a kind of model that ncnn cannot run, before anything is loaded.

    Raises:
        ConfigError: the workflow asks for ncnn, and the model is no `AutoencoderKL`.
    """
    if engine == "ncnn" and kind != "AutoencoderKL":
        reason = f"ncnn runs AutoencoderKL only, and {name} is an {kind}"
        raise ConfigError(_words(reason)) from Refused(reason)


def refuse_place(engine: str, runtime: Runtime) -> None:
    """Refuse a process or a runtime that ncnn cannot use, before the model is loaded.

    Raises:
        ConfigError: the workflow asks for ncnn, and it cannot run here.
    """
    if engine == "ncnn" and (reason := reason_against(None, runtime)) is not None:
        raise ConfigError(_words(reason, runtime)) from Refused(reason)


def memory(
    engine: str, config: Mapping[str, Any], resolution: int, weight_bytes: int, item_bytes: int
) -> tuple[tuple[int, int], dict[str, tuple[int, int]]]:
    """Memory of a model by its engine, and by each other engine that a store may have.

    It depends on the model alone: the machine that makes the plan may not be the one that encodes.

    Args:
        engine: the setting.
        weight_bytes, item_bytes: with torch, as in `types.EncoderInfo`.
    """
    by_ncnn = int(WEIGHTS * weight_bytes), _item_bytes(item_bytes, _latent(config, resolution))
    if engine == "ncnn":
        return by_ncnn, {}
    return (weight_bytes, item_bytes), {"ncnn": by_ncnn} if engine == "auto" else {}


def faster(
    config: Mapping[str, Any], resolution: int, runtime: Runtime, free: bool, measure: bool = True
) -> tuple[Runtime, Chosen]:
    """The runtime with the faster engine, and why. See `protocols.ChoosesEngine`."""
    exact = replace(runtime, precision="fp32")

    def by_torch(why: str, *notes: str, missing: str = "") -> tuple[Runtime, Chosen]:
        return runtime, Chosen("engine", "torch", why, missing=missing, notes=notes)

    if config["_class_name"] != "AutoencoderKL":
        return by_torch("ncnn runs AutoencoderKL only")
    if not (free or runtime.precision == "fp32"):
        return by_torch(f"ncnn computes in fp32 only, and {runtime.precision} is named")
    if not _fits(config, resolution):
        most, side = LARGEST_LATENT, _latent(config, resolution)
        return by_torch(f"ncnn is not faster for latents above {most} x {most}, and these are {side} x {side}")
    if measure and find_spec("ncnn") is None:  # it is not loaded here: one that is damaged would end this process
        return by_torch(MISSING, missing="ncnn")
    found = seconds_for(config, resolution, runtime, measure)
    if not measure and (found.failure or not found.seconds):
        return runtime, Chosen("engine", "auto", MEASURED_LATER)
    if found.failure:
        why = f"ncnn was not measured ({found.failure})"
        return by_torch(why, f"{why}, so torch computes the image encoder.")
    ours, plain = found.seconds["ncnn"], found.seconds["torch"]
    faster = plain >= GAIN * ours
    name, verb = ("ncnn", "it is faster") if faster else ("torch", "ncnn is not faster")
    words = f"(measured: {ours:.3g} s an image in fp32; torch {plain:.3g} s in {runtime.precision})"
    chosen = Chosen(
        "engine",
        name,
        f"ncnn is {plain / ours:.3g} times as fast as torch, and {GAIN:g} times is the least",
        {"ncnn fp32": ours, f"torch {runtime.precision}": plain},
        "an image",
        notes=(f"{name} computes the image encoder, because {verb} {words}.", *found.notes),
    )
    return (replace(exact, engine="ncnn") if faster else runtime), chosen


def engine_for(engine: str, model: Any, runtime: Runtime) -> Engine | None:
    """The loaded engine; None if torch computes the model.

    Raises:
        ConfigError: the workflow asks for ncnn, and it cannot run this model, or computes something else than torch.
    """
    if engine != "ncnn":
        return None
    try:
        return Engine(model, runtime)
    except Refused as error:
        raise ConfigError(_words(str(error), runtime)) from error


def _latent(config: Mapping[str, Any], resolution: int) -> int:
    """Side of the latent."""
    return int(resolution // 2 ** (len(config["block_out_channels"]) - 1))


def _fits(config: Mapping[str, Any], resolution: int) -> bool:
    """Whether ncnn may be faster for this model, so that a measurement is worth its time."""
    return config["_class_name"] == "AutoencoderKL" and _latent(config, resolution) <= LARGEST_LATENT


def _item_bytes(by_torch: int, latent: int) -> int:
    """Working memory of one image, bytes: the feature maps, and the whole matrix of attention, which torch never has.

    Args:
        by_torch: the working memory of one image with torch, bytes.
        latent: side of the latent.
    """
    return int(MAPS * by_torch) + 4 * latent**4


def _words(reason: str, runtime: Runtime | None = None) -> str:
    advice = f"set {SETTING} to torch; a store that was begun with ncnn needs ncnn, or another run folder (out)"
    if runtime is not None and runtime.precision != "fp32" and runtime.device == "cpu":
        advice = f"set dataset.precision to fp32, or {advice}"
    elif "package" in reason:
        advice = f'install "daskt2i[fast-cpu]" where it is missing, or {advice}'
    return (
        f"{SETTING} is ncnn (in the settings, or in the store), but {reason}, so the image encoder was not loaded; "
        f"{advice}."
    )
