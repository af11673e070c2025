"""A model folder becomes visible in one step: it is written beside its destination, and then renamed.

    with publishing(folder, PIPELINE_FOLDER) as new:
        model.save_pretrained(new.place)
        new.label["identity"] = identity

    RUN/.pipeline.<32 hex digits>.partial             while it is written
    RUN/.pipeline.former.<32 hex digits>.partial      the model before it, between two renames
    RUN/pipeline                                      the model

Covers: space on the disk of the destination, the label with size and SHA-256 of each file, what a killed process left,
files that a user put beside the model (they stay); object stores, which cannot rename a folder.
Does not cover: the content (`model`), whether a folder is finished (`finished`).

In an object store the label is removed first and written last, so a model that is half written has none.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daskt2i.store.artifacts.finished import FILES, LABEL, ModelFolder
from daskt2i.store.artifacts.full_disk import temporary_folder
from daskt2i.store.partial_files import flush_folder, make_folders, partial_of, target_name
from daskt2i.store.run_folder import RunFolder

_FORMER = "former"
_USUAL = frozenset(
    {"unet", "transformer", "vae", "text_encoder", "tokenizer", "scheduler", "config.json", "model_index.json"}
    | {"diffusion_pytorch_model.safetensors"}
)
"""What a model folder of an older version may hold: parts and files that are not a user's."""


@dataclass(frozen=True, slots=True)
class NewFolder:
    """A model folder that is not visible yet.

    Attributes:
        place: where to write the files.
        label: values for the label. Sizes and hashes are added.
    """

    place: Path
    label: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def publishing(folder: RunFolder, model: ModelFolder) -> Iterator[NewFolder]:
    """A new model folder. It replaces the former one when the block ends without an error; else it is removed.

    Only one process may publish into a run folder at a time: the one that holds its lock.

    Raises:
        StoreFull, StoreError: it cannot be written. The former folder is unchanged.
    """
    doing = f"write {model.name}"
    if not folder.is_local:
        with temporary_folder(doing) as place:
            new = NewFolder(place)
            yield new
            _complete(new)
            _upload(folder, model, place)
        return
    target = folder.local_path(model.name)
    if target.is_symlink():  # a user keeps it on another disk
        target = target.resolve()
    with folder.explaining(doing):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file", str(target))
        _tidy(target)
        new = NewFolder(partial_of(target))
        try:
            make_folders(new.place)
            yield new
            _complete(new)
            _replace(new.place, target)
        finally:
            shutil.rmtree(new.place, ignore_errors=True)


def _complete(new: NewFolder) -> None:
    """Write the label, and flush everything to disk."""
    files = {path.relative_to(new.place).as_posix(): _content(path) for path in _files(new.place)}
    label = new.place / LABEL
    with label.open("w", encoding="utf-8") as file:
        file.write(json.dumps({**new.label, "files": files}, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    mode = label.stat().st_mode
    for name in files:
        (new.place / name).chmod(mode)  # safetensors makes files that other users cannot read
    for place, _, _ in os.walk(new.place, topdown=False):
        flush_folder(Path(place))


def _content(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, which is then on disk."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"size": path.stat().st_size, "sha256": digest}


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file() and path != place / LABEL)


def _replace(new: Path, target: Path) -> None:
    """Put the new folder into the place of the former one. Its label goes with the first rename."""
    former = partial_of(target.with_name(f"{target.name}.{_FORMER}"))
    try:
        target.rename(former)
    except FileNotFoundError:
        new.rename(target)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _fill(new, target)  # a mount, which cannot be renamed
    else:
        try:
            new.rename(target)
        except BaseException:
            former.rename(target)
            raise
        _drop(former, target)
    flush_folder(target.parent)


def _fill(new: Path, target: Path) -> None:
    """Copy the files into a folder that stays: the label is removed first and written last."""
    for name in (LABEL, *_own(target)):
        (target / name).unlink(missing_ok=True)
    for path in [*_files(new), new / LABEL]:
        goal = target / path.relative_to(new)
        make_folders(goal.parent)
        shutil.copyfile(path, goal)
        with goal.open("r+b") as file:
            os.fsync(file.fileno())


def _tidy(target: Path) -> None:
    """Remove what killed processes left, and finish or take back a replacement that was cut off."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(target.parent.iterdir()):
            name = target_name(path.name)
            if path.is_symlink() or not path.is_dir():
                continue
            if name == f"{target.name}.{_FORMER}":
                if target.exists():
                    _drop(path, target)
                else:
                    path.rename(target)
            elif name == target.name:
                shutil.rmtree(path, ignore_errors=True)


def _drop(former: Path, target: Path) -> None:
    """Remove a former model. Files that a user put beside it move to the new one."""
    own = _own(former)
    for path in _files(former):
        name = path.relative_to(former).as_posix()
        goal = target / name
        if name not in own and not goal.exists():
            try:
                goal.parent.mkdir(parents=True, exist_ok=True)
                path.rename(goal)
            except OSError:  # a full disk: the next training tries again
                return
    shutil.rmtree(former, ignore_errors=True)


def _own(place: Path) -> set[str]:
    """Names of the files that belong to the model in a folder."""
    names = {path.relative_to(place).as_posix() for path in _files(place)}
    try:
        files = json.loads((place / LABEL).read_text(encoding="utf-8"))[FILES]
        return names & set(files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {name for name in names if name.partition("/")[0] in _USUAL}


def _upload(folder: RunFolder, model: ModelFolder, place: Path) -> None:
    """Write all files to an object store. Its label is removed first and written last."""
    names = [path.relative_to(place).as_posix() for path in _files(place)]
    try:
        former = set(json.loads(folder.read(f"{model.name}/{LABEL}"))[FILES])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        former = set()
    for name in (LABEL, model.index, *sorted(former - set(names))):
        folder.delete(f"{model.name}/{name}")
    for name in [*sorted(set(names) - {model.index}), *({model.index} & set(names)), LABEL]:
        with (place / name).open("rb") as source, folder.writing(f"{model.name}/{name}") as file:
            shutil.copyfileobj(source, file)
