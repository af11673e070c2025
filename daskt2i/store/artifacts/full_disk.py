"""A full disk that is not that of the run folder: the folder for temporary files, or another one.

Covers: a temporary folder whose errors name it; a full disk in any block, as one sentence that names the folder.
Does not cover: a full run folder (`run_folder`), what an error number means (`os_errors`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from daskt2i.errors import Daskt2iError, StoreFull
from daskt2i.os_errors import FULL, meaning_of, place_of
from daskt2i.store.artifacts.words import plainly


@contextlib.contextmanager
def temporary_folder(doing: str) -> Iterator[Path]:
    """A new folder for temporary files. It is removed when the block ends.

    Args:
        doing: what the block does, for the message: `"write manifest.parquet"`.

    Raises:
        StoreFull: no space is left in it.
    """
    with explaining_full_disk(doing), tempfile.TemporaryDirectory(prefix="daskt2i-") as place:
        yield Path(place)


@contextlib.contextmanager
def explaining_full_disk(doing: str) -> Iterator[None]:
    """Turn a full disk in the block into an error that names the folder. Errors of daskt2i pass unchanged.

    Raises:
        StoreFull: no space is left on a disk.
    """
    try:
        yield
    except Daskt2iError:
        raise
    except Exception as error:
        if meaning_of(error) is not FULL:
            raise
        named = place_of(error) if isinstance(error, OSError) else ""
        here = tempfile.gettempdir()
        where = str(Path(named).parent) if named and not named.startswith(here) else f"{here}, for temporary files"
        raise StoreFull(
            f"No space is left in {where} (could not {plainly(doing)}). What is in the run folder stays. Free some "
            "space there, or set TMPDIR to a folder with more, and run it again."
        ) from error
