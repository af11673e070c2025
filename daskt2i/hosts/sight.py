"""What one process sees of what a run needs: the run folder, an image of the source, the models.

    sight = look(Needs(folder, nonce, source, row, sha256, encoders, 64, weights))      # on a worker
    require_folder(folder, nonce)                                                       # on a rank

Covers: looking, and saying what is lacking in words that name this host.
Does not cover: asking all workers (`check`), versions (`encode.chunks.admission`).

A path that a worker lacks exists where the driver runs, so "no such folder" would mislead its reader. Each sentence
names the host that lacks it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from daskt2i.config.component import Component
from daskt2i.config.settings import EncoderSettings
from daskt2i.encoders.finding.locate import without_download
from daskt2i.encoders.finding.model_copies import find
from daskt2i.errors import (
    Daskt2iError,
    ModelError,
    ModelMissing,
    RowRejected,
    SourceError,
    StoreError,
    WorkerWithoutFiles,
    sentence,
)
from daskt2i.faults.kinds import passing_cause
from daskt2i.faults.time_limit import within
from daskt2i.protocols import ImageEncoder, Source, TextEncoder
from daskt2i.store.run_folder import CHECK, RunFolder
from daskt2i.types import Row

_LOOKS, _PAUSE = 3, 1.0
"""How often, and after which pause in seconds, a process looks again: NFS may show a new file late."""

READ_SECONDS = 10.0
"""A check of the source gives up after this time. The chunk itself then reports what is wrong."""

_FIRST_ROWS = 16

Thing = Literal["run folder", "images", "models"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must see. It can be pickled.

    Attributes:
        folder, nonce, name: an object of the run folder, and its content as the driver sees it.
        source: as the workers build it; None if they read no images.
        row, image: a row, and the SHA-256 of its image file; None and "" if the driver could not read one.
        encoders, resolution: the encoders of the run; None if the workers need none.
        weights: the driver's identities of the image and text weights.
        models: finds further models; None if the workers need none.
    """

    folder: RunFolder
    nonce: str = ""
    name: str = CHECK
    source: Component | None = None
    row: Row | None = None
    image: str = ""
    encoders: EncoderSettings | None = None
    resolution: int = 0
    weights: tuple[str, str] = ("", "")
    models: Callable[[], object] | None = None


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that a process does not see.

    Attributes:
        clause: what is wrong, without subject: `"does not see the run folder /data/run"`.
        missing: whether it is not there at all, so that a copy would help.
    """

    thing: Thing
    clause: str
    missing: bool = True


@dataclass(frozen=True, slots=True)
class Sight:
    """What a process lacks.

    Attributes:
        worker: `host:pid`.
    """

    worker: str
    lacks: tuple[Lack, ...] = ()

    @property
    def host(self) -> str:
        """The name of its host."""
        return self.worker.rpartition(":")[0]


def here() -> str:
    """`host:pid` of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def look(needs: Needs) -> Sight:
    """Look at everything that a worker needs. It downloads nothing."""
    lacks: list[Lack] = []
    if needs.nonce and (seen := _seen(needs.folder, needs.nonce, needs.name)) is not True:
        reason = f" ({sentence(seen).rstrip('.')})" if isinstance(seen, Exception) else ""
        lacks.append(Lack("run folder", f"does not see the run folder {needs.folder}{reason}"))
    lacks += _without_images(needs)
    lacks += _without_models(needs)
    return Sight(here(), tuple(lacks))


@contextlib.contextmanager
def visible(folder: RunFolder, name: str = CHECK) -> Iterator[str]:
    """In the block, the run folder has an object with the content that the block gets. Who reads it sees the folder.

    Args:
        name: of the object. Whoever holds the lock of a stage uses its own name.

    Raises:
        StoreFull, StoreError: the run folder cannot be written.
    """
    nonce = uuid4().hex
    folder.write(name, nonce.encode())
    try:
        yield nonce
    finally:
        with contextlib.suppress(StoreError, OSError):
            folder.delete(name)


def _seen(folder: RunFolder, nonce: str, name: str) -> bool | Exception:
    """Whether this process sees the run folder of the driver, or the error of reading it."""
    found: bool | Exception = False
    for again in range(_LOOKS):
        if again:
            time.sleep(_PAUSE)
        try:
            found = shown(folder, name) == nonce
        except Exception as error:  # libraries of object stores have many: no credentials, no connection
            found = error
        if found is True:
            break
    return found


def shown(folder: RunFolder, name: str) -> str:
    """The content of an object, to compare it with what another process reads; "" if there is none."""
    try:
        return folder.read(name).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def require_folder(folder: RunFolder, nonce: str, who: str, done: str, name: str = CHECK) -> None:
    """Refuse a process that does not see the run folder of the driver.

    Args:
        who: begins the sentence: `"The worker node1:812"`.
        done: what it did not do, and what is kept.

    Raises:
        WorkerWithoutFiles: it does not see it.
        Exception: reading it failed; a network that is away now may come back.
    """
    seen = _seen(folder, nonce, name)
    if isinstance(seen, Exception):
        raise seen
    if not seen:
        raise WorkerWithoutFiles(
            f"{who} does not see the run folder {folder} of the driver, so {done}. Give a folder that all machines "
            "share under the same path, or an address such as s3://bucket/run (out)."
        )


def first_image(source: Source) -> tuple[Row | None, str]:
    """A row near the start, and the hash of its image file; None if the driver cannot read one."""
    rows = source.rows(0, min(_FIRST_ROWS, source.info().rows))
    row = next((row for row in rows if row.usable), None)
    if row is None:
        return None, ""
    found = within(READ_SECONDS, lambda: hashlib.sha256(source.read(row)).hexdigest())
    return (row, found) if isinstance(found, str) else (None, "")


def other_image(source: Source, row: Row, sha256: str, before: bool = False) -> tuple[str, str]:
    """What is wrong with an image here, and why, as two clauses; two empty texts if nothing is.

    Errors of the network or the disk are nothing: the chunk reports them.

    Args:
        before: whether no chunk was read yet. Then a folder that is not there was not there before: it is no outage.
    """
    found = within(READ_SECONDS, lambda: hashlib.sha256(source.read(row)).hexdigest())
    if isinstance(found, str) and found != sha256:
        return "reads other bytes for", ""
    if isinstance(found, RowRejected):
        return "cannot read", f" ({found})"
    if before and isinstance(found, SourceError) and passing_cause(found) is None:
        return "does not see the images, for example", ""  # its own sentence would name a path that the reader sees
    return "", ""


def _without_images(needs: Needs) -> Sequence[Lack]:
    if needs.source is None or needs.row is None:
        return ()
    try:
        source: Source = needs.source.build(Source, "dataset.source")
    except Daskt2iError:  # a class or an argument is wrong there: its chunks say so
        return ()
    what, why = other_image(source, needs.row, needs.image, before=True)
    return [Lack("images", f"{what} {needs.row.file_name!r}{why}")] if what else []


def _without_models(needs: Needs) -> Sequence[Lack]:
    found = list[Lack]()
    if needs.models is not None:
        try:
            with without_download():
                needs.models()
        except ModelMissing as error:
            found.append(Lack("models", f"lacks a model ({sentence(error).rstrip('.')})"))
        except Daskt2iError:  # loading says it, with more words
            pass
    if needs.encoders is None:
        return found
    for setting, weights in zip(("image", "text"), needs.weights, strict=True):
        component: Component = getattr(needs.encoders, setting)
        name = component.arguments.get("model", component.class_path)
        try:
            with without_download():
                if setting == "image":
                    image: ImageEncoder = component.build(ImageEncoder, "dataset.encoders.image")
                    own = image.info(needs.resolution).weights
                else:
                    text: TextEncoder = component.build(TextEncoder, "dataset.encoders.text")
                    own = text.info().weights
        except ModelMissing:
            found.append(Lack("models", f"lacks the {setting} model {name}"))
            continue
        except ModelError:
            if is_copied(component):
                found.append(Lack("models", f"has a damaged copy of the {setting} model {name}"))
            continue  # loading says it of others, with more words
        except Daskt2iError:
            continue
        if own != weights:  # a copy can be replaced, a folder of its own can not
            found.append(Lack("models", f"has other weights of the {setting} model {name}", is_copied(component)))
    return found


def is_copied(component: Component) -> bool:
    """Whether the model of an encoder is a copy that came through a run folder."""
    name = str(component.arguments.get("model", component.class_path))
    return find(name, component.arguments.get("revision")) is not None and not Path(name).is_dir()
