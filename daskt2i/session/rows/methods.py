"""Methods of a run that change the rows of its store.

Covers: their arguments.
Does not cover: what they do (`change`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from daskt2i.config.changes import Changes
from daskt2i.config.workflow_file import changed
from daskt2i.errors import ConfigError
from daskt2i.events import Listener, Note
from daskt2i.session.data.choice import choose_source
from daskt2i.session.rows.names import names_of
from daskt2i.session.run_columns import RunColumns
from daskt2i.session.verbs import verb

if TYPE_CHECKING:
    from daskt2i.encode.parts.result import RowsResult
    from daskt2i.session.stages import Stages


class RunRows(RunColumns):
    """A run folder whose store may get and lose rows, and get columns."""

    _listener: Listener

    @verb
    def append(
        self,
        images: str | Path | None = None,
        captions: str | Path | None = None,
        source: str | None = None,
        *,
        dry_run: bool = False,
    ) -> RowsResult:
        """Encode the rows of a source that the store does not have, by their image id. It skips finished chunks.

        The store is not changed, and its arrays are not read. Readers see the new rows when all of them are encoded.

        Args:
            images, captions, source: where the rows are, and how they are read; as in `daskt2i.look`. None: the source
                of the store, which has grown.
            dry_run: only count the rows.

        Raises:
            StoreMissing, StoreError: there is no complete store, or another change of its rows was not ended.
            FingerprintMismatch: the settings differ from those of the store.
            StoreBusy: another process works on the run folder.
        """
        from daskt2i.session.rows.change import append

        return append(self._with_data(images, captions, source), dry_run=dry_run)

    @verb
    def remove(
        self,
        ids: str | Path | Iterable[int | str] | None = None,
        *,
        where: str | None = None,
        dry_run: bool = False,
    ) -> RowsResult:
        """Remove rows from the store. Readers do not see them any more; no array is changed.

        Args:
            ids: image ids or file names, or a file with one in each line.
            where: an expression; rows for which it is true are removed. Give `ids` or `where`.
            dry_run: only count the rows.

        Raises:
            ConfigError: no rows were named, or the expression is wrong.
            StoreMissing, StoreError: there is no complete store.
            StoreBusy: another process works on the run folder.
        """
        from daskt2i.session.rows.change import remove

        if (ids is None) == (where is None):
            raise ConfigError(
                "Which rows are to be removed is said by ids or by where. Nothing was changed; give one of them "
                "(ids, where)."
            )
        return remove(self._stages(), None if ids is None else names_of(ids), where, dry_run=dry_run)

    @verb
    def replace(
        self,
        ids: str | Path | Iterable[int | str],
        images: str | Path | None = None,
        captions: str | Path | None = None,
        source: str | None = None,
        *,
        dry_run: bool = False,
    ) -> RowsResult:
        """Encode rows of a source again, and put them in the place of those with the same image id or file name.

        Readers see the old rows until all new ones are encoded. A row whose new picture is rejected stays as it was.

        Args:
            ids: image ids or file names, or a file with one in each line.
            images, captions, source, dry_run: as in `append`.

        Raises:
            ConfigError: no rows were named.
            StoreMissing, StoreError, FingerprintMismatch, StoreBusy: as in `append`.
        """
        from daskt2i.session.rows.change import replace_rows

        return replace_rows(self._with_data(images, captions, source), names_of(ids), dry_run=dry_run)

    def _with_data(self, images: str | Path | None, captions: str | Path | None, source: str | None) -> Stages:
        """The stages with another source, if one is given."""
        stages = self._stages()
        place, texts = (None if one is None else str(one) for one in (images, captions))
        chosen, notes = choose_source(place, texts, source, {})
        for note in notes:
            self._listener(Note(note))
        changes = Changes({}, place, texts, None, chosen)
        return stages if changes.none else stages.at(changed(stages.workflow, changes, stages.workflow.name))
