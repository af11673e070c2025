"""A file of bytes by key, with a limit: the states of captions that ranks of a machine have encoded.

Covers: reading and writing by several processes at once (SQLite), the limit, damage.
Does not cover: what the bytes are (`caption_states`).

When the limit is reached, what came first stays, and nothing more is kept. Each epoch needs most captions once, in
another order. So a file that drops the longest unused would drop most states just before they are needed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

_WAIT = 60.0
"""Seconds to wait for another process that writes."""

_AT_ONCE = 500
"""Keys of one question: SQLite takes 999 or more."""


class StateFile:
    """The file. It is made if it is not there. A file that cannot be used is left alone, and nothing is kept.

    Args:
        path: of the file; its folder is made.
        limit: bytes of all values.
        tell: gets a sentence, at most once, if the file cannot be used.
    """

    def __init__(self, path: Path, limit: int, tell: Callable[[str], object]) -> None:
        self._path, self._limit, self._tell = path, limit, tell
        self._base: sqlite3.Connection | None = None
        with self._giving_up():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            base = sqlite3.connect(path, timeout=_WAIT, check_same_thread=False, isolation_level=None)
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=OFF")  # each value has a checksum; what is lost is made again
            base.execute("CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, crc INTEGER, value BLOB)")
            base.execute("CREATE TABLE IF NOT EXISTS total (bytes INTEGER)")
            self._base = base

    def get(self, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are there and whole."""
        found: dict[bytes, bytes] = {}
        wanted = list(keys)
        with self._giving_up():
            for start in range(0, len(wanted) if self._base is not None else 0, _AT_ONCE):
                some = wanted[start : start + _AT_ONCE]
                marks = ",".join("?" * len(some))
                assert self._base is not None
                for key, crc, value in self._base.execute(
                    f"SELECT key, crc, value FROM states WHERE key IN ({marks})",
                    some,
                ):
                    if zlib.crc32(value) == crc:
                        found[key] = value
        return found

    def put(self, values: Mapping[bytes, bytes]) -> None:
        """Keep these values, as long as there is room."""
        if self._base is None or not values:
            return
        with self._giving_up():
            self._base.execute("BEGIN IMMEDIATE")
            ((held,),) = self._base.execute("SELECT COALESCE(SUM(bytes), 0) FROM total")
            added = 0
            for key, value in values.items():
                if held + added + len(value) > self._limit:
                    break
                row = key, zlib.crc32(value), value
                added += self._base.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?)", row).rowcount * len(value)
            self._base.execute("DELETE FROM total")
            self._base.execute("INSERT INTO total VALUES (?)", (held + added,))
            self._base.execute("COMMIT")

    def close(self) -> None:
        """Close the file. May be called twice."""
        base, self._base = self._base, None
        if base is not None:
            with contextlib.suppress(sqlite3.Error):
                base.close()

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()
            self._tell(
                f"States of captions are not kept in {self._path} ({error}). They are encoded again in each epoch, "
                "which takes longer; free some space or remove this file, and train again to keep them."
            )
