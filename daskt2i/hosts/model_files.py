"""Models come to workers through the run folder, if they are only on the driver's machine.

    models = models_of(encoder_infos(encoders, 64))         # driver
    offer(folder, models)                                   # driver: models/index.json, models/SHA256
    bring_models(encoders, 64, folder)                      # worker or rank: fetches what is missing there

Covers: which files a model needs, writing them into the run folder once, fetching them once on each machine.
Does not cover: the copies of a machine and their limit (`encoders.finding.model_copies`), who lacks a model (`check`).

All workers reach the run folder, also those that join later and those behind a firewall. A broadcast through Dask would
reach only the workers that are there, and each byte would pass the scheduler or the driver's network once a worker.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from daskt2i.config.settings import EncoderSettings
from daskt2i.encoders.finding import model_copies
from daskt2i.encoders.finding.locate import Located, locating, without_download
from daskt2i.encoders.finding.model_copies import ModelFile
from daskt2i.encoders.finding.one_at_a_time import one_process_first
from daskt2i.encoders.weights import file_digest
from daskt2i.errors import Daskt2iError, ModelError, ModelMissing
from daskt2i.events import Listener, Note
from daskt2i.formatting import size
from daskt2i.protocols import ImageEncoder, TextEncoder
from daskt2i.store.run_folder import MODELS, RunFolder

INDEX = f"{MODELS}/index.json"

_OTHER_PRECISIONS = (".fp16.", ".non_ema.", ".bf16.")
_BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model of this machine.

    Attributes:
        model, revision: as the workflow names it.
        files: what a worker needs of it.
        paths: where they are here, in the order of `files`.
    """

    model: str
    revision: str | None
    files: tuple[ModelFile, ...]
    paths: tuple[Path, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.size for file in self.files)


def encoder_infos(encoders: EncoderSettings, resolution: int) -> Callable[[], tuple[str, str]]:
    """A function that finds the models of encoders, and returns the identities of their weights.

    Encoders of other packages are asked too, but only what they find by `locate` can be sent.

    Raises (the function):
        ConfigError, ModelMissing, ModelError: an encoder cannot be built, or its model is not here.
    """

    def find() -> tuple[str, str]:
        image = encoders.image.build(ImageEncoder, "dataset.encoders.image").info(resolution)
        text = encoders.text.build(TextEncoder, "dataset.encoders.text").info()
        return image.weights, text.weights

    return find


def models_of(find: Callable[[], object]) -> tuple[OfferedModel, ...]:
    """The models that a function finds on this machine, without those of the package.

    Raises:
        what the function raises.
    """
    with locating() as found:
        find()
    together: dict[tuple[str, str | None], dict[str, Path]] = {}
    for one in found:
        together.setdefault((one.model, one.revision), {}).update(_files(one))
    return tuple(
        OfferedModel(
            model,
            revision,
            tuple(ModelFile(name, path.stat().st_size, file_digest(path)) for name, path in sorted(files.items())),
            tuple(path for _, path in sorted(files.items())),
        )
        for (model, revision), files in together.items()
    )


def offer(folder: RunFolder, models: Sequence[OfferedModel]) -> None:
    """Write models into the run folder, each file once. The index comes last, so what it names is there.

    Raises:
        StoreFull, StoreError: the run folder cannot be written.
    """
    for model in models:
        for file, path in zip(model.files, model.paths, strict=True):
            if folder.size(_object(file)) == file.size and _is_right(folder, file):
                continue
            with folder.writing(_object(file)) as target, path.open("rb") as source:
                shutil.copyfileobj(source, target, _BLOCK)
    index = {
        "models": [{"model": m.model, "revision": m.revision, "files": [asdict(f) for f in m.files]} for m in models]
    }
    folder.write(INDEX, json.dumps(index, indent=1).encode())


def offer_within(limit: int, find: Callable[[], object], folder: RunFolder, listener: Listener) -> str:
    """Offer the models that a function finds, if they are not larger than the limit.

    Args:
        limit: bytes (`run.send_models`).

    Returns:
        "", or why they are not offered: a clause.
    """
    models = models_of(find)
    total = sum(model.bytes for model in models)
    if total > limit:
        return f"they have {size(total)}, which is more than run.send_models allows ({size(limit)})"
    listener(Note(f"The models ({size(total)}) go through the run folder to the hosts that lack them."))
    offer(folder, models)
    return ""


def fetch(folder: RunFolder) -> bool:
    """Copy the models that the run folder offers to this machine. One process of a machine copies, the others wait.

    A copy that is here and that a disk has changed is replaced.

    Returns:
        whether the run folder offers any.

    Raises:
        ModelError: a file is not what the index says.
        OSError: the disk is full, or a network failed.
    """
    offered = _index(folder)
    for model, revision, files in offered:
        with one_process_first(f"model {model_copies.content_of(files)}"):
            model_copies.remove_damaged(files, file_digest)
            model_copies.add(model, revision, files, lambda file, target: _get(folder, _object(file), target))
    return bool(offered)


def bring_models(
    encoders: EncoderSettings, resolution: int, folder: RunFolder, weights: tuple[str, str] | None = None
) -> None:
    """Fetch the models of the encoders if they are not on this machine, and the run folder offers them.

    Args:
        weights: the identities of the image and text weights that are wanted. A copy of an older version is replaced,
            and one that is damaged. None if any version will do.

    Raises:
        ConfigError, ModelError: an encoder cannot be built, or its model cannot be used.
        ModelMissing: never; who needs the model says it.
    """
    try:
        with without_download():
            if encoder_infos(encoders, resolution)() == weights or weights is None:
                return
    except ModelMissing:
        pass
    except ModelError:  # perhaps of a copy that is only half there
        if fetch(folder):
            return
        raise
    fetch(folder)


def _files(found: Located) -> dict[str, Path]:
    """Name in the copy -> path here."""
    before = f"{found.subfolder}/" if found.subfolder else ""
    paths = {path.name: path for pattern in found.patterns for path in found.folder.glob(pattern) if path.is_file()}
    plain = [name for name in paths if name.endswith(".safetensors") and not _is_other(name)]
    kept = {name: path for name, path in paths.items() if not (plain and _is_other(name))}
    return {before + name: path for name, path in kept.items() if model_copies.is_allowed(before + name)}


def _is_other(name: str) -> bool:
    return any(part in name for part in _OTHER_PRECISIONS)


def _is_right(folder: RunFolder, file: ModelFile) -> bool:
    """Whether an object of a run folder on a disk has the bytes of the file. Object stores look after theirs."""
    return not folder.is_local or folder.sha256(_object(file)) == file.sha256


def _object(file: ModelFile) -> str:
    return f"{MODELS}/{file.sha256}"


def _index(folder: RunFolder) -> list[tuple[str, str | None, list[ModelFile]]]:
    """What the run folder offers: model, revision, files. Empty if it offers nothing, or another version wrote it."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError, Daskt2iError):
        found = json.loads(folder.read(INDEX))["models"]
        return [
            (
                str(one["model"]),
                one["revision"],
                [ModelFile(f["name"], int(f["size"]), f["sha256"]) for f in one["files"]],
            )
            for one in found
        ]
    return []


def _get(folder: RunFolder, name: str, target: Path) -> None:
    if folder.is_local:
        shutil.copyfile(folder.local_path(name), target)
        return
    files = folder.filesystem()
    files.get_file(files._strip_protocol(folder.address(name)), str(target))
