"""The conditions under which a worker may write into a store, checked once in each process before its first chunk.

    with open_to_workers(prepared.folder, prepared.source, asked) as terms:       # driver
        job = replace(job, terms=terms)
    admit(job.terms, job.folder, job.runtime)                                     # worker
    admit_source(job.terms, source)

Covers: the versions of daskt2i and its libraries, what comes out of a test picture, the run folder, an image of the
source, the precision that this kind of worker would choose.
Does not cover: the weights, which `model_cache` compares; a worker that changes later.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from daskt2i.config.workflow_file import LAYOUT
from daskt2i.errors import WorkerMismatch, WorkerWithoutFiles
from daskt2i.hosts.sight import first_image, here, other_image, require_folder, visible
from daskt2i.images import read as images
from daskt2i.machine.precision import default_device, kind_of, resolve
from daskt2i.machine.versions import CODE, CODE_FOLDER, version_differences, versions
from daskt2i.protocols import Source
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row, Runtime


@dataclass(frozen=True, slots=True)
class Terms:
    """What the driver states, and what a worker must find.

    Attributes:
        versions: of the driver; see `statement`.
        nonce: content of `CHECK` in the run folder.
        row, image: a row, and the SHA-256 of its image file; None and "" if the driver could not read one.
        asked: the precision that was asked for; `auto` means that each kind of worker could choose another one.
        kind: the kind of worker that chose the precision of the store; "" until it is known.
        code: the folder from which the driver imports daskt2i.
    """

    versions: Mapping[str, str]
    nonce: str
    row: Row | None
    image: str
    asked: str
    kind: str = ""
    code: str = ""

    def with_packages(self, packages: Collection[str]) -> Terms:
        """The terms with the driver's versions of packages that decide bytes only if an encoder uses them."""
        return replace(self, versions=statement(packages))


_admitted: set[tuple[str, str]] = set()
_seen_source: set[str] = set()


@contextlib.contextmanager
def open_to_workers(folder: RunFolder, source: Source, asked: str) -> Iterator[Terms]:
    """The terms of this run. `CHECK` is in the run folder while the block runs."""
    row, image = first_image(source)
    with visible(folder) as nonce:
        yield Terms(statement(), nonce, row, image, asked, code=CODE_FOLDER)


def admit(terms: Terms, folder: RunFolder, runtime: Runtime) -> None:
    """Check this process against the terms, once.

    Raises:
        WorkerMismatch: this process has other versions, makes other pixels, does not see the run folder, or would
            choose another precision than the worker that chose the precision of the store.
    """
    if (terms.nonce, terms.kind) in _admitted:
        return
    _same_versions(terms)
    require_folder(folder, terms.nonce, f"The worker {here()}", "it encoded nothing; finished chunks are kept")
    _same_precision(terms, runtime)
    _admitted.add((terms.nonce, terms.kind))


def admit_source(terms: Terms, source: Source) -> None:
    """Check once that this process reads the same image as the driver.

    Raises:
        WorkerMismatch: the image is missing here, or it has other bytes.
    """
    row = terms.row
    if row is None or terms.nonce in _seen_source:
        return
    what, why = other_image(source, row, terms.image)
    if what:
        raise WorkerWithoutFiles(
            f"The worker {here()} {what} the image {row.file_name!r} of row {row.index}, which the driver can read"
            f"{why}. It encoded nothing; finished chunks are kept. Give all machines the same images under the same "
            "path (images)."
        )
    _seen_source.add(terms.nonce)  # other errors are of the network or the disk, and the chunk reports them


def statement(packages: Collection[str] = ()) -> dict[str, str]:
    """The versions of this process, the version of the store's layout, and what becomes of a test picture here."""
    transform = json.dumps(images.TRANSFORM, sort_keys=True)
    return {
        **versions(packages),
        "store layout": str(LAYOUT),
        "reading of pictures": transform,
        "test picture": _pixels(),
    }


def _same_versions(terms: Terms) -> None:
    own = statement(terms.versions)
    if differ := version_differences(own, terms.versions):
        only_code = own == {**terms.versions, CODE: own[CODE]}
        copies = f"The worker imports daskt2i from {CODE_FOLDER}, the driver from {terms.code}"
        if only_code and terms.code == CODE_FOLDER:
            cause = (
                f"{copies}. The files there were changed after one of the two had started, or these are two disks: "
                "start the workers (client.restart()) and the notebook again, from the same files"
            )
        elif only_code:
            cause = (
                f"{copies}, and these are two different copies. Start both from the same environment and the same "
                "folder (a checkout in the current folder comes before an installed package)"
            )
        else:
            cause = "Install the same packages for workers and driver, start the workers again"
        raise WorkerMismatch(
            f"The worker {here()} does not have the versions of the driver: {'; '.join(differ)}. It encoded nothing, "
            f"because its rows could differ; finished chunks are kept. {cause}, and encode again."
        )


def _same_precision(terms: Terms, runtime: Runtime) -> None:
    """Workers of another kind (GPU and CPU) may choose another precision, but a store has one.

    A worker of the same kind is not asked: the choice is measured, and may differ by chance.
    """
    if terms.asked != "auto" or not terms.kind:
        return
    device = default_device() if runtime.device == "auto" else runtime.device
    kind = kind_of(device)
    if kind == terms.kind or (own := resolve("auto", device)) == runtime.precision:
        return
    raise WorkerMismatch(
        f"The worker {here()} ({kind}) would encode in {own}, but this store is made in {runtime.precision}, which a "
        f"worker of another kind ({terms.kind}) chose. A store has one precision. Finished chunks are kept; set "
        f"dataset.precision={runtime.precision} for all workers, or use workers of one kind."
    )


@cache
def _test_picture() -> bytes:
    """A PNG of 48 x 36 pixels. Reading it crops and resizes."""
    y, x = np.mgrid[0:36, 0:48]
    pixels = np.stack([x * 5, y * 7, (x * y) % 256], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _pixels() -> str:
    """A short hash of the test picture as this process reads it."""
    made: Any = images.read(_test_picture(), 24, images.Limits(min_side=1))
    return hashlib.sha256(made.pixels.tobytes() + repr(tuple(map(int, made.crop_box))).encode()).hexdigest()[:12]
