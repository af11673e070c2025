"""Which engine computes an autoencoder: torch or ncnn.

Covers: the setting `engine`, and the error if an engine that was asked for by name cannot run.
Does not cover: running the model (`engine`), measuring which engine is faster.

ncnn and torch give other last bits, so the engine changes stored arrays. If the workflow names ncnn, a worker that
cannot run it is refused: with torch it would write other bits under the same fingerprint.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from daskt2i.encoders.ncnn.engine import Engine, Refused, reason_against
from daskt2i.errors import ConfigError
from daskt2i.types import Runtime

EngineOption = Literal["auto", "torch", "ncnn"]
"""Values of the setting. `auto` is torch until engines are measured."""

SETTING = "dataset.encoders.image.engine"

WEIGHTS = 5.5
"""Memory of both networks in ncnn while they are loaded, as a multiple of the weights in fp32.

Winograd's algorithm keeps transformed weights. Measured for Stable Diffusion's VAE (335 MB of weights): 1,499 MB, and
the weights of torch, which are freed after the load (ncnn 1.0.20261020)."""


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
        raise ConfigError(_words(f"ncnn runs AutoencoderKL only, and {name} is an {kind}"))


def refuse_place(engine: str, runtime: Runtime) -> None:
    """Refuse a process or a runtime that ncnn cannot use, before the model is loaded.

    Raises:
        ConfigError: the workflow asks for ncnn, and it cannot run here.
    """
    if engine == "ncnn" and (reason := reason_against(None, runtime)) is not None:
        raise ConfigError(_words(reason, runtime))


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


def attention_bytes(resolution: int, reduction: int) -> int:
    """Memory of the attention weights of one image: ncnn keeps the whole matrix, fp32. torch keeps none."""
    return 4 * (resolution // reduction) ** 4


def _words(reason: str, runtime: Runtime | None = None) -> str:
    advice = f"set {SETTING} to torch"
    if runtime is not None and runtime.precision != "fp32" and runtime.device == "cpu":
        advice = f"set dataset.precision to fp32, or {advice}"
    elif "package" in reason:
        advice = f'install "daskt2i[fast-cpu]" where the workers run, or {advice}'
    return f"{SETTING} is ncnn, but {reason}. Nothing was encoded; {advice}."
