"""Check a store and its parts.

Covers: the findings of all stores of a run folder in one result, with chunks counted on.
Does not cover: checking one store (`encode.verify`).
"""

from __future__ import annotations

from dataclasses import replace

from daskt2i.config.settings import Workflow
from daskt2i.encode.saved_workflow import settings_of, strangers
from daskt2i.encode.verify import VerifyResult, verify
from daskt2i.events import Listener, ignore
from daskt2i.store.layout import checked_layout
from daskt2i.store.parts.rows_file import Member, members
from daskt2i.store.run_folder import PARTS, RunFolder
from daskt2i.store.zarr_store import ZarrStore


def verify_all(
    folder: RunFolder,
    workflow: Workflow | None = None,
    listener: Listener = ignore,
    trusted: bool = False,
    deep: bool = True,
) -> VerifyResult:
    """Check all stores of a run folder. Each part has its own settings.

    Args:
        folder, workflow, listener, trusted, deep: as in `encode.verify.verify`.

    Raises:
        StoreMissing: there is no store, or a part that counts is missing.
        StoreError: metadata are damaged.
    """
    found = verify(folder, workflow, listener, trusted, deep)
    for store in members(folder)[1:]:
        own = None if workflow is None else settings_of(store.folder)
        known = trusted and _names_no_more(own, store.folder, workflow, folder)
        of_part = verify(store.folder, own, listener, known, deep)
        found = _with(found, store, of_part, tell=workflow is not None)
    return found


def _names_no_more(own: Workflow | None, part: RunFolder, workflow: Workflow | None, folder: RunFolder) -> bool:
    """Whether the settings of a part name no class and no address that the workflow of the user does not name too."""
    if own is None or workflow is None:
        return False
    return {*strangers(own, part)} <= {*strangers(workflow, folder)}


def _with(found: VerifyResult, store: Member, of_part: VerifyResult, *, tell: bool) -> VerifyResult:
    """Both results as one. The chunks of a part have the numbers that their rows have."""
    first = store.offset // int(checked_layout(ZarrStore(store.folder))["rows_per_chunk"])
    name = f"{PARTS}/{store.name}"
    shared = [one for one in (found.shared, of_part.shared and f"{name}: {of_part.shared}") if one]
    return replace(
        found,
        rows=found.rows + of_part.rows,
        chunks=found.chunks + of_part.chunks,
        problems={**found.problems, **{first + chunk: f"{name}: {why}" for chunk, why in of_part.problems.items()}},
        notes=(*found.notes, *(f"{name}: {note}" for note in of_part.notes if tell)),
        psnr=(*found.psnr, *of_part.psnr),
        shared="; ".join(shared) or None,
        unfinished=(*found.unfinished, *(first + chunk for chunk in of_part.unfinished)),
        exchanged=(*found.exchanged, *(first + chunk for chunk in of_part.exchanged)),
    )
