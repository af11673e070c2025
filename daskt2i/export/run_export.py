"""The methods `export` and `push` of the front object.

Covers: their arguments.
Does not cover: exporting (`driver`), pushing (`hub`), the other methods (`daskt2i.run`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from daskt2i.events import Listener
from daskt2i.session.verbs import verb

if TYPE_CHECKING:
    from daskt2i.export.hub.result import PushResult
    from daskt2i.export.result import ExportResult
    from daskt2i.session.run_settings import RunSettings


class RunExport:
    """The part of a run that gives the store to others."""

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

    @verb
    def push(self, to: str, *, public: bool = False, dry_run: bool = False) -> PushResult:
        """Send the store with receipts, settings and a data card to a dataset repository of the Hugging Face hub.

        The token is that of `hf auth login` or of the environment variable `HF_TOKEN`. A push that was stopped goes on
        where it was. Readers there see the whole store or none.

        Args:
            to: `OWNER/NAME`.
            public: whether a new repository is public. A repository that is there stays as it is.
            dry_run: list the files, and send nothing.

        Raises:
            StoreMissing, StoreError: there is no store, or it is not finished.
            ConfigError: the name is wrong, there is no token, or the repository has files of somebody else.
            AccessRefused, TransportFailed: the hub refuses, or does not answer. What was sent stays.
        """
        from daskt2i.export.hub.driver import push

        return push(self._found.folder, to, public=public, dry_run=dry_run, listener=self._listener)
