"""Width and height of every image of a source, from the headers of their files.

Covers: reading them in threads, keeping them in the run folder for the next command.
Does not cover: parsing headers (`images.read`), what follows from a size (`images.buckets`).

The sizes in an index (as COCO's `width` and `height`) are not used: for an image that its EXIF turns they are those of
the stored image. Once they are kept, no image is read for them again, also if it is another file then.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from daskt2i.config.settings import DatasetSettings
from daskt2i.config.workflow_file import fingerprint
from daskt2i.errors import Reason, RowRejected, SourceError
from daskt2i.faults.patience import fetched_patiently
from daskt2i.images.read import Limits, upright_size
from daskt2i.protocols import Source
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

Sizes = npt.NDArray[np.int32]
"""`int32[row, 2]`: width and height of the upright image, pixels; 0 where they are not known."""

_NAME = "index/image-sizes.bin"
_THREADS, _ROWS = 8, 1024


def image_sizes(dataset: DatasetSettings, source: Source, folder: RunFolder | None, *, keep: bool) -> Sizes:
    """The sizes of all images.

    Args:
        source: the rows, with `dataset.where`.
        folder: the run folder that may have them; `keep`: whether new ones are written there.

    Raises:
        SourceError: of no image the size could be read.
        AccessRefused, TransportFailed, ReadStalled: an image cannot be read now.
    """
    key, rows = _key(dataset, source), source.info().rows
    if folder is not None and (kept := _kept(folder, key, rows)) is not None:
        return kept
    limits = Limits(min_side=dataset.image.min_side, max_pixels=dataset.image.max_pixels)
    found, missing = np.zeros((rows, 2), np.int32), dict[int, str]()

    def look(row: Row) -> tuple[int, int]:
        if not row.usable:
            return 0, 0
        try:
            return upright_size(fetched_patiently(source, row), limits)
        except RowRejected as error:  # the row keeps its place, and is rejected when it is read
            if error.reason is Reason.MISSING_FILE:
                missing[row.index] = row.file_name
            return 0, 0

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="daskt2i-sizes") as pool:
        for start in range(0, rows, _ROWS):
            part = source.rows(start, start + _ROWS)
            found[start : start + len(part)] = list(pool.map(look, part))
    if not found.any():
        gone = f", and {missing[min(missing)]} is not there" if missing else ""
        raise SourceError(
            f"The size of none of {rows:,} images could be read{gone}, so no row has a bucket. Nothing was started; "
            "check that the images are where the settings say (images)."
        )
    if folder is not None and keep:
        claim(folder)
        folder.write(_NAME, key.encode() + _digest(found) + found.astype("<i4").tobytes())
    return found


def _kept(folder: RunFolder, key: str, rows: int) -> Sizes | None:
    """Sizes that were kept, if they are those of this source, and whole."""
    try:
        data = folder.read(_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mark, digest, values = data[:64], data[64:96], data[96:]
    if mark != key.encode() or len(values) != 8 * rows:
        return None
    found = np.frombuffer(values, "<i4").astype(np.int32).reshape(rows, 2)
    return found if _digest(found) == digest else None


def _digest(sizes: Sizes) -> bytes:
    return hashlib.sha256(sizes.astype("<i4").tobytes()).digest()


def _key(dataset: DatasetSettings, source: Source) -> str:
    """A hash of everything that the sizes depend on, 64 hexadecimal digits."""
    info = source.info()
    return fingerprint(
        {
            "source": {**dataset.source.identity(), **info.content},
            "images": str(dataset.source.arguments.get("images", "")),
            "where": None if info.where is None else info.where["rows"],
            "limits": [dataset.image.min_side, dataset.image.max_pixels],
        }
    )
