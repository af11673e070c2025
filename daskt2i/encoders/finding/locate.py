"""Finds the folder that holds the files of a model. It imports no torch.

Covers: local folders, copies that came from another machine, the Hugging Face cache, the download of only the needed
files; the name of a model in a store; a revision behind a hub id.
Does not cover: what is in the files (`encoders.weights`), making copies (`model_copies`).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import re
import shlex
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from daskt2i.addresses import expanded
from daskt2i.encoders.finding import model_copies
from daskt2i.encoders.finding.quiet import quiet
from daskt2i.errors import ModelMissing

log = logging.getLogger(__name__)

SHIPPED = "daskt2i:"
"""A model name with this prefix is a folder of this package: `daskt2i:demo/vae`."""

HUB_TIMEOUT = 5.0
"""Seconds to wait for the first answer of the hub. Measured: 0.3 s without a network, 8 s with a silent server."""

_seen: contextvars.ContextVar[list[Located] | None] = contextvars.ContextVar("daskt2i-located", default=None)
_offline: contextvars.ContextVar[bool] = contextvars.ContextVar("daskt2i-offline", default=False)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


@dataclass(frozen=True, slots=True)
class Located:
    """A model that `locate` found on this machine.

    Attributes:
        model, subfolder, revision: as they were asked for.
        folder: where its files are; those of its subfolder, if it has one.
        patterns: of the files that are read there.
    """

    model: str
    subfolder: str | None
    revision: str | None
    folder: Path
    patterns: tuple[str, ...]


@contextlib.contextmanager
def locating() -> Iterator[list[Located]]:
    """What `locate` finds in the block, without the models of this package."""
    found: list[Located] = []
    before = _seen.set(found)
    try:
        yield found
    finally:
        _seen.reset(before)


@contextlib.contextmanager
def without_download() -> Iterator[None]:
    """In the block, a model that is not on this machine is missing, also if the hub has it."""
    before = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(before)


def model_name(model: str, subfolder: str | None = None) -> str:
    """Name of the model in a store: its hub id, or the last part of its folder. It is never a path of this machine."""
    if model.startswith(SHIPPED):
        return model
    local = expanded(model, "model")
    name = local.resolve().name if local.is_dir() or not _HUB_ID.fullmatch(model) else model
    return f"{name}/{subfolder}" if subfolder else name


def split_revision(model: str) -> tuple[str, str | None]:
    """`"org/name@main"` -> `("org/name", "main")`, as addresses `hf://` write it. A folder has no revision."""
    name, at, revision = model.rpartition("@")
    if not at or not revision or not _HUB_ID.fullmatch(name) or expanded(model, "model").exists():
        return model, None
    return name, revision


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
        return Path(__file__).parents[2] / model.removeprefix(SHIPPED)
    folder = _found(model, subfolder, revision, needs, also, setting)
    if (seen := _seen.get()) is not None:
        seen.append(Located(model, subfolder, revision, folder, (*needs, *also)))
    return folder


def _found(
    model: str, subfolder: str | None, revision: str | None, needs: Sequence[str], also: Sequence[str], setting: str
) -> Path:
    local = expanded(model, setting)
    if local.is_dir():
        folder = local / subfolder if subfolder else local
        if folder.is_dir():
            return folder
        raise ModelMissing(f"The folder {local} has no folder {subfolder!r} in it; {_pointer(setting)}.")
    is_hub_id = _HUB_ID.fullmatch(model) is not None
    cached = _cached(model, subfolder, revision, needs) if is_hub_id else None
    if cached is None and (copy := model_copies.find(model, revision)) is not None:
        folder = copy / subfolder if subfolder else copy
        if all(any(folder.glob(pattern)) for pattern in needs):
            return folder
    if not is_hub_id:
        raise ModelMissing(f"There is no folder {model} on {socket.gethostname()}; {_pointer(setting)}.")
    if cached is None and _offline.get():
        raise ModelMissing(f"The model {model} is not on this machine, and it was not downloaded; {_pointer(setting)}.")
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
