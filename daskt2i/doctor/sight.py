"""What a worker with daskt2i sees of a workflow: versions, an image of the source, the models, the run folder.

Covers: looking, with a time limit for each part; writing one small object and reading it.
Does not cover: what follows (`rules`), what a worker must have before its first chunk (`encode.chunks.admission`).

Each part runs in a thread of its own: a mount whose server is gone never answers, and the event loop of a worker that
encodes must not wait for it. Nothing is downloaded, and no model is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from daskt2i.config.component import Component
from daskt2i.doctor.bare import private
from daskt2i.encode.chunks.admission import statement
from daskt2i.encoders.finding.locate import locate, without_download
from daskt2i.errors import Daskt2iError, ModelError, ModelMissing
from daskt2i.hosts.sight import is_copied
from daskt2i.machine.precision import default_device, kind_of, resolve
from daskt2i.machine.versions import OPTIONAL
from daskt2i.protocols import ImageEncoder, Source, TextEncoder
from daskt2i.store.run_folder import CHECK, RunFolder
from daskt2i.types import Row

SEE_SECONDS = 10.0
"""Time for each part."""

_LOOKS, _PAUSE = 3, 0.5
"""How often, and after which pause in seconds, a worker looks for the object again: NFS may show a new file late."""

_HUB = ("huggingface.co", 443)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker looks for. Parts that are None are left out.

    Attributes:
        source: as in the workflow.
        row, image: a row, and the SHA-256 of its image as the driver reads it.
        image_encoder, text_encoder: as in the workflow.
        resolution: of the images, pixels.
        folder: the run folder, with an object of the driver: its name and its content.
        models: whether the weights are read and compared; else only whether they are there.
        precision: whether to choose a precision, as `dataset.precision: auto` does.
    """

    source: Component | None = None
    row: Row | None = None
    image: str = ""
    image_encoder: Component | None = None
    text_encoder: Component | None = None
    resolution: int = 0
    folder: RunFolder | None = None
    name: str = ""
    content: bytes = b""
    models: bool = False
    precision: bool = False


async def see(wanted: Wanted) -> dict[str, Any]:
    """Look at everything. Name of a part -> what was found; each has an `error`, "" if all is well."""
    parts: dict[str, Callable[[], Mapping[str, Any]]] = {"versions": lambda: {"versions": statement(tuple(OPTIONAL))}}
    source, row, folder = wanted.source, wanted.row, wanted.folder
    if source is not None and row is not None:
        parts["source"] = lambda: _source(source, row, wanted.image)
    if wanted.image_encoder is not None:
        parts["image_model"] = lambda: _model(wanted, wanted.image_encoder, True)
    if wanted.text_encoder is not None:
        parts["text_model"] = lambda: _model(wanted, wanted.text_encoder, False)
    if folder is not None:
        parts["folder"] = lambda: _folder(folder, wanted.name, wanted.content)
    if wanted.precision:
        parts["precision"] = _precision
    return await _each(parts)


async def folder_speed(folder: RunFolder, prefix: str, size: int) -> dict[str, Any]:
    """Write and read objects of the run folder, and remove them.

    Returns:
        `small`: seconds to write one of 100 bytes, the median of three; `write`, `read`: bytes a second.
    """
    return (await _each({"speed": lambda: _speed(folder, prefix, size)}))["speed"]


def object_name(prefix: str) -> str:
    """A new name in the run folder. A run ignores such a name, and its sweep removes what a killed process left.

    Args:
        prefix: 16 hex digits, the same for all objects of one look.
    """
    return f".{CHECK}.{prefix}{uuid4().hex[:16]}.partial"


async def _each(parts: Mapping[str, Callable[[], Mapping[str, Any]]]) -> dict[str, Any]:
    answers: dict[str, Any] = {}

    def run(name: str, part: Callable[[], Mapping[str, Any]]) -> None:
        try:
            answers[name] = {"error": "", **part()}
        except Exception as error:
            answers[name] = {"error": _words(error)}

    threads = [threading.Thread(target=run, args=one, daemon=True, name="daskt2i-doctor") for one in parts.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + SEE_SECONDS
    while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
        await asyncio.sleep(0.005)
    return {name: answers.get(name, {"error": f"it did not answer in {SEE_SECONDS:.0f} s"}) for name in parts}


def _words(error: Exception) -> str:
    """An error as a clause. Of one of ours, the first sentence: the others say what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, Daskt2iError) and text:
        return str(private(text.partition(". ")[0].rstrip(".")))
    return str(private(f"{type(error).__name__}: {text}"))


def _source(component: Component, row: Row, image: str) -> Mapping[str, Any]:
    source: Source = component.build(Source, "dataset.source")
    found = hashlib.sha256(source.read(row)).hexdigest()
    return {"error": "" if found == image else "it has other bytes"}


def _model(wanted: Wanted, component: Component | None, image: bool) -> Mapping[str, Any]:
    """Whether the model is here, and the identity of its weights. Nothing is downloaded."""
    assert component is not None
    if why := _not_here(component):
        return {"error": why, "missing": True, "fetches": _hub_answers()}
    if not wanted.models:
        return {}
    try:
        with without_download():
            if image:
                encoder = component.build(ImageEncoder, "dataset.encoders.image")
                weights = encoder.info(wanted.resolution).weights
            else:
                weights = component.build(TextEncoder, "dataset.encoders.text").info().weights
    except ModelMissing as error:
        return {"error": _words(error), "missing": True, "fetches": _hub_answers()}
    except ModelError as error:
        return {"error": _words(error), "missing": is_copied(component)}
    return {"weights": weights, "copied": is_copied(component)}


def _not_here(component: Component) -> str:
    """Why a model is not where a worker of an encode would find it; "" if it is. Encoders of others tell it later."""
    arguments = component.arguments
    model, weights = arguments.get("model"), arguments.get("weights", "pretrained")
    ours = component.class_path.startswith("daskt2i.encoders.")
    if not ours or not isinstance(model, str) or weights != "pretrained":
        return ""
    subfolder, revision = arguments.get("subfolder"), arguments.get("revision")
    try:
        with without_download():
            locate(model, subfolder, revision, needs=("config.json",), setting="model")
    except ModelMissing as error:
        return _words(error) if model.startswith(("/", ".", "~")) else "it is not here"
    return ""


def _hub_answers() -> bool:
    """Whether this machine reaches the hub of Hugging Face."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    with contextlib.suppress(OSError), socket.create_connection(_HUB, timeout=3.0):
        return True
    return False


def _folder(folder: RunFolder, name: str, content: bytes) -> Mapping[str, Any]:
    """Read the object of the driver. If it is there, write another one: else it might be another disk."""
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        with contextlib.suppress(FileNotFoundError):
            if folder.read(name) == content:
                break
    else:
        return {"error": "it is not there", "sees": False}
    prefix = name.removeprefix(f".{CHECK}.")[:16]
    made = object_name(prefix)
    try:
        folder.write(made, content)
    except Exception as error:
        return {"error": _words(error), "sees": True}
    return {"sees": True, "made": made}


def _precision() -> Mapping[str, Any]:
    device = default_device()
    return {"kind": kind_of(device), "precision": resolve("auto", device)}


def _speed(folder: RunFolder, prefix: str, size: int) -> Mapping[str, Any]:
    data, seconds = os.urandom(size), []
    for _ in range(3):
        name, begun = object_name(prefix), time.perf_counter()
        folder.write(name, data[:100])
        seconds.append(time.perf_counter() - begun)
        folder.delete(name)
    name = object_name(prefix)
    try:
        begun = time.perf_counter()
        folder.write(name, data)
        written = time.perf_counter()
        same = folder.read(name) == data
        read = time.perf_counter()
    finally:
        with contextlib.suppress(Exception):
            folder.delete(name)
    error = "" if same else "it read other bytes than it had written"
    rates = {"write": size / max(written - begun, 1e-9), "read": size / max(read - written, 1e-9)}
    return {"small": sorted(seconds)[1], **rates, "error": error}
