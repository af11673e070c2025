"""The index of one source: made at its first use, kept where the driver says, and dropped by pickling.

Covers: what sources in parts share.
Does not cover: reading images, what is in a file (the sources).
"""

from __future__ import annotations

import json
import posixpath
import threading
from collections.abc import Sequence
from typing import Any

from daskt2i.protocols import IndexFolder
from daskt2i.sources.index.build import Scan, build
from daskt2i.sources.index.places import Place
from daskt2i.sources.index.row_index import RowIndex
from daskt2i.sources.index.shelf import Shelf
from daskt2i.types import Row, SourceInfo


class Indexed:
    """Rows of a source in parts. Several threads may ask.

    Args:
        place: the files.
        scan: gives the rows of a file.
        kind: name of the kind of source, for `content`.
        arguments: arguments of the source that its rows depend on; JSON values.
    """

    def __init__(self, place: Place, scan: Scan, kind: str, arguments: Sequence[Any]) -> None:
        self._place, self._scan, self._kind = place, scan, kind
        self._key = json.dumps([kind, *arguments])
        self._shelf, self._lock = Shelf(), threading.Lock()
        self._built: RowIndex | None = None

    def keep(self, folder: IndexFolder, write: bool) -> None:
        """See `protocols.IndexedSource.keep_index`."""
        self._shelf = Shelf(folder, write)

    def info(self) -> SourceInfo:
        """Counts and identity.

        Raises:
            SourceMissing, SourceError: as in `build.build`.
        """
        return self.index().info(self._kind, posixpath.basename(self._place.address.rstrip("/")))

    def rows(self, start: int, stop: int) -> list[Row]:
        """Rows `start <= index < stop`. Row numbers after the last row are left out.

        Raises:
            SourceMissing, SourceError: as in `info`; a file changed after the index was made.
        """
        return self.index().rows(start, stop)

    def index(self) -> RowIndex:
        """The index itself."""
        with self._lock:
            if self._built is None:
                self._built = build(self._place, self._scan, self._shelf, self._key)
            return self._built
