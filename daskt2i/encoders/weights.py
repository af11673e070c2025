"""Finds the files of a model, reads their headers, and computes their hash. It imports no torch.

Covers: hub ids and local folders, the lookup in the Hugging Face cache, the download of only the needed files, sizes
from safetensors headers, the fingerprint of weights, silencing a library while it loads.
Does not cover: building the model (`vae`, `text`), sizes of a model without weights (`footprint`).

Weights are read only from safetensors files. Files in .bin and .pt are pickles, and unpickling can run any code.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
import re
import shlex
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from daskt2i import documents
from daskt2i.addresses import expanded
from daskt2i.encoders.one_at_a_time import one_process_first
from daskt2i.errors import ConfigError, ModelError, ModelMissing

log = logging.getLogger(__name__)

WeightsOption = Literal["pretrained", "random"]

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip
"""All files that can change the token ids of a caption, in the layouts that transformers reads."""

VOCABULARIES = (
    ("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",), ("sentencepiece.bpe.model",),
    ("tokenizer.model",),
)  # fmt: skip
"""A folder holds a tokenizer if it has all files of one of these tuples."""

SHIPPED = "daskt2i:"
"""A model name with this prefix is a folder of this package: `daskt2i:demo/vae`."""

HUB_TIMEOUT = 5.0
"""Seconds to wait for the first answer of the hub. Measured: 0.3 s without a network, 8 s with a silent server."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")
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


def model_name(model: str, subfolder: str | None = None) -> str:
    """Name of the model in a store: its hub id, or the last part of its folder. It is never a path of this machine."""
    if model.startswith(SHIPPED):
        return model
    local = expanded(model, "model")
    name = local.resolve().name if local.is_dir() or not _HUB_ID.fullmatch(model) else model
    return f"{name}/{subfolder}" if subfolder else name


def check_weights_option(weights: str, seed: int) -> None:
    """Check the arguments `weights` and `seed` of an encoder.

    Raises:
        ConfigError: one of them is wrong. The message says what is accepted.
    """
    if weights not in ("pretrained", "random"):
        raise ConfigError(f"weights of an encoder is {weights!r}; give pretrained, or random (for speed tests).")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed of an encoder is {seed!r}; give a whole number of 0 or more.")


def locate(
    model: str,
    subfolder: str | None = None,
    revision: str | None = None,
    *,
    needs: Sequence[str],
    also: Sequence[str] = (),
    setting: str,
) -> Path:
    """The folder that holds a model's files: a local folder, else the Hugging Face cache, else a download.

    Args:
        model: a folder, a hub id such as `stabilityai/sd-vae-ft-mse`, or `daskt2i:demo/vae` for one in this package.
        subfolder: folder inside the model's folder, e.g. `vae`.
        revision: branch, tag or commit of a hub id.
        needs: file patterns. A cached copy is used only if each pattern matches a file. The first pattern is a name.
        also: further patterns to fetch. Nothing else is downloaded.
        setting: the setting that names the model, for messages.

    Raises:
        ModelMissing: the model is not here and cannot be downloaded. The message names the command that fetches it, and
            the setting for a folder.
    """
    if model.startswith(SHIPPED):
        return Path(__file__).parents[1] / model.removeprefix(SHIPPED)
    local = expanded(model, setting)
    if local.is_dir():
        folder = local / subfolder if subfolder else local
        if folder.is_dir():
            return folder
        raise ModelMissing(f"The folder {local} has no folder {subfolder!r} in it; {_pointer(setting)}.")
    if not _HUB_ID.fullmatch(model):
        raise ModelMissing(f"There is no folder {model}; {_pointer(setting)}.")
    cached = _cached(model, subfolder, revision, needs)
    return cached if cached is not None else _download(model, subfolder, revision, needs, also, setting)


def _pointer(setting: str) -> str:
    return f"set {setting} to a folder that holds the model"


def _cached(model: str, subfolder: str | None, revision: str | None, needs: Sequence[str]) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    anchor = f"{subfolder}/{needs[0]}" if subfolder else needs[0]
    try:
        found = try_to_load_from_cache(model, anchor, revision=revision)
    except ValueError:  # the name is not a valid hub id
        return None
    if not isinstance(found, str):  # None, or a mark that the repository does not have this file
        return None
    folder = Path(found).parent
    return folder if all(any(folder.glob(pattern)) for pattern in needs) else None


def _download(
    model: str, subfolder: str | None, revision: str | None, needs: Sequence[str], also: Sequence[str], setting: str
) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""
    log.info("looking for %s on the Hugging Face hub", model)
    try:
        with quiet():
            # This first request has a timeout: with a server that never answers, snapshot_download tried for minutes.
            HfApi().model_info(model, revision=revision, timeout=HUB_TIMEOUT)
            root = snapshot_download(
                model,
                revision=revision,
                allow_patterns=[prefix + pattern for pattern in (*needs, *also)],
                # Other precisions and training files would double the download, and are never read.
                ignore_patterns=["*.fp16.safetensors", "*.non_ema.safetensors", "*.bin", "*.pt", "*.ckpt"],
                etag_timeout=HUB_TIMEOUT,
            )
    except Exception as error:  # errors of the client, of its HTTP library (they changed names), or of the disk
        raise ModelMissing(_missing(model, subfolder, revision, setting, error)) from error
    folder = Path(root) / prefix
    if not folder.is_dir():
        raise ModelMissing(f"The model {model} on the hub has no folder {subfolder!r}; {_pointer(setting)}.")
    # Without a network the client returns an old copy, which may be incomplete.
    absent = [pattern for pattern in needs if not any(folder.glob(pattern))]
    if absent:
        raise ModelMissing(
            f"The copy of {model} in the Hugging Face cache has no {absent[0]} (weights must be safetensors). Fetch it "
            f"with `{_command(model, subfolder, revision)}`, or {_pointer(setting)}."
        )
    return folder


def _missing(model: str, subfolder: str | None, revision: str | None, setting: str, error: Exception) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        why = "the hub gives it only to users who accepted its licence (`hf auth login`)"
    elif "RevisionNotFoundError" in kinds:
        why = f"the hub has no revision {revision!r} of it"
    elif "RepositoryNotFoundError" in kinds:
        why = "the hub has no public model with this name"
    elif isinstance(error, OSError) and error.errno is not None and "ConnectionError" not in kinds:
        why = f"it could not be written to the cache: {error.strerror}"
    else:
        why = "the hub could not be reached"
    return (
        f"The model {model} is not a folder here and not in the Hugging Face cache, and {why}. "
        f"Fetch it with `{_command(model, subfolder, revision)}` where there is a network, or {_pointer(setting)}."
    )


def _command(model: str, subfolder: str | None, revision: str | None) -> str:
    command = ["hf", "download", model]
    command += ["--revision", revision] if revision else []
    command += ["--include", f"{subfolder}/*"] if subfolder else []
    return shlex.join(command)


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


def first_line(error: BaseException) -> str:
    """First line of a library's error message; the class of the error if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def quiet(*needs: str) -> Iterator[None]:
    """Silence log lines, progress bars and Python warnings of the model libraries, and restore them afterwards.

    Args:
        needs: libraries that the block imports, such as `"diffusers"`. What is not imported yet cannot be silenced, so
            they are imported first.

    Loading one tower of a full CLIP repository would print about thirty lines about the other tower. Exceptions are not
    affected. The switches belong to the process, so other threads are silent during this time too.
    """
    for name in needs:
        importlib.import_module(f"{name}.utils.logging")  # this import resets loggers
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = []
    for name in ("transformers.utils.logging", "diffusers.utils.logging"):
        if name.split(".")[0] in sys.modules:
            module = importlib.import_module(name)
            bars += [module] if module.is_progress_bar_enabled() else []
    hub = importlib.import_module("huggingface_hub.utils")
    hub_bars = not hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for module in bars:
            module.disable_progress_bar()
        hub.disable_progress_bars()
        try:
            yield
        finally:
            if hub_bars:
                hub.enable_progress_bars()
            for module in bars:
                module.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
