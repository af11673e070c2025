"""Reads the files of a model: which they are, their headers, and their hash. It imports no torch.

Covers: which files hold the weights, sizes from safetensors headers, the fingerprint of weights, options of encoders,
the format of the numbers of a loaded model.
Does not cover: finding the folder (`finding`, whose names this module passes on), building the model (`vae`, `text`),
sizes of a model without weights (`footprint`).

Weights are read only from safetensors files. Files in .bin and .pt are pickles, and unpickling can run any code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from daskt2i import documents
from daskt2i.addresses import expanded
from daskt2i.encoders.finding.locate import locate as locate
from daskt2i.encoders.finding.locate import model_name as model_name
from daskt2i.encoders.finding.model_copies import TOKENIZER_FILES as TOKENIZER_FILES
from daskt2i.encoders.finding.one_at_a_time import one_process_first
from daskt2i.encoders.finding.quiet import first_line as first_line
from daskt2i.encoders.finding.quiet import quiet as quiet
from daskt2i.errors import ConfigError, ModelError
from daskt2i.types import Runtime

if TYPE_CHECKING:
    import torch

WeightsOption = Literal["pretrained", "random"]

VOCABULARIES = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",), ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
)  # fmt: skip
"""A folder holds a tokenizer if it has all files of one of these tuples."""

_SHIPPED = Path(__file__).parent / "configs"
_IRRELEVANT = ("_diffusers_version", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "sample_size")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The safetensors files of one model.

    Attributes:
        paths: one file, or its shards sorted by name.
        variant: `"fp16"` if the folder has only this variant, else None.
    """

    paths: tuple[Path, ...]
    variant: str | None


def check_weights_option(weights: str, seed: int) -> None:
    """Check the arguments `weights` and `seed` of an encoder.

    Raises:
        ConfigError: one of them is wrong. The message says what is accepted.
    """
    if weights not in ("pretrained", "random"):
        raise ConfigError(f"weights of an encoder is {weights!r}; give pretrained, or random (for speed tests).")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed of an encoder is {seed!r}; give a whole number of 0 or more.")


def weight_files(folder: Path, stem: str) -> WeightFiles:
    """The safetensors files of a model folder.

    Args:
        folder: the result of `locate`.
        stem: `diffusion_pytorch_model` for diffusers, `model` for transformers.

    Raises:
        ModelError: there are none, or a shard is missing. For pickled weights the message says how to convert them.
    """
    for variant in (None, "fp16"):
        dotted = f".{variant}" if variant else ""
        single, index = folder / f"{stem}{dotted}.safetensors", folder / f"{stem}.safetensors.index{dotted}.json"
        if single.is_file():
            return WeightFiles((single,), variant)
        if index.is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
            absent = [name for name in names if not (folder / name).is_file()]
            if absent or not names:
                raise ModelError(
                    f"{folder} lacks {absent[0] if absent else stem}, which {index.name} lists. Fetch the model again."
                )
            return WeightFiles(tuple(folder / name for name in names), variant)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".ckpt", ".pth"))
    if pickles:
        raise ModelError(
            f"{folder} holds {pickles[0]} but no {stem}.safetensors. Pickled weights are never opened, because they "
            "can run code. If you trust the file, convert it once: load it with from_pretrained, then call "
            "save_pretrained(FOLDER, safe_serialization=True)."
        )
    raise ModelError(f"{folder} holds no {stem}.safetensors. Copy the weights into the folder of its config.json.")


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        ModelError: the file is missing, cannot be read, or does not hold an object.
    """
    try:
        data = documents.read_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        whole = (path.parent / "model_index.json").is_file()
        advice = "it holds a whole pipeline: name the part with `subfolder`, e.g. vae" if whole else "it holds no model"
        raise ModelError(f"{path.parent} has no {path.name}; {advice}.") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}. Fetch the model again.") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} does not hold a JSON object, so it is not the {path.name} of a model.")
    return data


def random_config(model: str, subfolder: str | None, revision: str | None, setting: str) -> dict[str, Any]:
    """The config for random weights: of a local folder, else a shipped one by its last name part, else of the hub.

    Raises:
        ModelMissing, ModelError: there is none.
    """
    shipped = _SHIPPED / f"{model.rsplit('/', 1)[-1]}.json"
    if not expanded(model, setting).is_dir() and shipped.is_file():
        return read_json(shipped)
    return read_json(locate(model, subfolder, revision, needs=("config.json",), setting=setting) / "config.json")


def read_header(path: Path) -> dict[str, int]:
    """Tensor name -> number of elements, from the header of a safetensors file.

    The header is a little-endian uint64 length and then that many bytes of JSON (safetensors, "Format").

    Raises:
        ModelError: it is not a safetensors file, or it is incomplete (an interrupted copy, a git-lfs pointer).
    """
    broken = f"{path} is not a complete safetensors file. Fetch it again."
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length) if length <= min(size, 100_000_000) else b"")
        header.pop("__metadata__", None)
        if max((tensor["data_offsets"][1] for tensor in header.values()), default=0) + 8 + length != size:
            raise ModelError(broken)
        return {name: _product(tensor["shape"]) for name, tensor in header.items()}
    except (OSError, struct.error, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(broken) from error


def _product(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


LARGE_BYTES = 64 * 1024 * 1024
"""One worker of a machine reads larger files first. Smaller files take too little time to wait for."""

_digests: dict[tuple[str, int, int], str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits. The process remembers it by path, size and modification time."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        # The workers of a machine start together, and this is the first time that each reads the file.
        waits = one_process_first(key[0]) if stat.st_size >= LARGE_BYTES else contextlib.nullcontext()
        with waits, path.open("rb") as file:
            _digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[key]


def config_digest(config: Mapping[str, Any], tokenizer: Path | None = None) -> str:
    """SHA-256 (64 hex digits) of a config and the files of a tokenizer folder.

    Keys that do not change the model (versions, its former path) and missing tokenizer files are left out.
    """
    digest = hashlib.sha256()
    kept = {key: value for key, value in config.items() if key not in _IRRELEVANT}
    digest.update(json.dumps(kept, sort_keys=True).encode())
    for name in TOKENIZER_FILES if tokenizer is not None else ():
        path = tokenizer / name if tokenizer is not None else Path(name)
        if path.is_file():
            digest.update(f"\n{name} {file_digest(path)}".encode())
    return digest.hexdigest()


def weights_digest(files: WeightFiles, config: str) -> str:
    """`"sha256:…"` over the content of the weight files and the digest of their config."""
    digest = hashlib.sha256(config.encode())
    for path in files.paths:
        digest.update(file_digest(path).encode())
    return f"sha256:{digest.hexdigest()}"


def torch_dtype(runtime: Runtime) -> torch.dtype:
    """The format of the numbers of a model.

    Raises:
        ConfigError: fp16 on a CPU.
    """
    import torch

    if runtime.precision == "fp16" and runtime.device == "cpu":
        raise ConfigError("fp16 does not run on a CPU. Set dataset.precision to auto, fp32 or bf16.")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[runtime.precision]
