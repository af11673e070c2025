"""The method `export` of the front object.

Covers: its arguments.
Does not cover: exporting (`driver`), the other methods (`daskt2i.run`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from daskt2i.events import Listener
from daskt2i.session.verbs import verb

if TYPE_CHECKING:
    from daskt2i.export.result import ExportResult
    from daskt2i.session.run_settings import RunSettings


class RunExport:
    """The part of a run that writes other formats."""

    _found: RunSettings
    _listener: Listener

    @verb
    def export(
        self, dest: str | Path, to: str = "webdataset", *, where: str | None = None, unfinished: bool = False
    ) -> ExportResult:
        """Write the accepted rows as files of another format, into a new folder with a data card.

        Args:
            dest: the folder; it must not exist, or be empty.
            to: `webdataset`, `npy`, `parquet`, `hf`, `kohya-npz` or `mds`.
            where: an expression; only rows for which it is true are written.
            unfinished: export what is there of a store whose encode has not finished.

        Raises:
            ConfigError: there is no such format, the folder is not empty, or no row is left.
            StoreMissing, StoreError: there is no store, it is not finished, or a chunk is damaged.
            StoreFull: no space is left. Nothing is left of the export.
        """
        from daskt2i.export.driver import export

        return export(self._found.folder, to, dest, where=where, unfinished=unfinished, listener=self._listener)
