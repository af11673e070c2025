"""Writing an HTML page into a file that a user names.

Covers: a page that is whole or not there, and one sentence if it cannot be written.
Does not cover: what is on the page (`html`, `insights.first_rows_page`).
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from daskt2i.errors import StoreError
from daskt2i.os_errors import meaning_of


@contextmanager
def writing_page(path: Path) -> Iterator[IO[str]]:
    """A file that becomes the page when the block ends without an error.

    Raises:
        StoreError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("x", encoding="utf-8", errors="replace") as file:
                yield file
            partial.replace(path.resolve() if path.is_symlink() else path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        why = meaning_of(error)
        raise StoreError(
            f"The page cannot be written to {path}: {why.says if why else error}. Nothing else changed. Give "
            "another file (html)."
        ) from error
