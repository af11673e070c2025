"""`export`: the accepted rows of a store as files of another format, complete or not there.

Covers: which rows, the folder, what a full disk or a kill leaves, the data card.
Does not cover: the files of a format (its module).

Files are written into a hidden folder beside DEST, which is renamed when all is written. So a folder with the name DEST
is always whole. An export that was stopped begins again from the first row, and removes what was left of it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daskt2i.errors import ConfigError, Daskt2iError, StoreError, StoreFull
from daskt2i.events import Listener, Progress, ignore
from daskt2i.export.card import about_export, card, reading
from daskt2i.export.columns import refuse_column
from daskt2i.export.hf import HfWriter
from daskt2i.export.kohya import KohyaWriter
from daskt2i.export.mds import MdsWriter
from daskt2i.export.npy import NpyWriter
from daskt2i.export.parquet import ParquetWriter
from daskt2i.export.result import ExportResult
from daskt2i.export.rows import Exported, Writer
from daskt2i.export.webdataset import WebDatasetWriter
from daskt2i.loader.joined.chosen_rows import rows_where
from daskt2i.loader.joined.joined_reader import open_reader
from daskt2i.loader.own_trainer.selection import readable_rows
from daskt2i.os_errors import FULL, meaning_of
from daskt2i.store.partial_files import flush_folder, partial_of, target_name
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.views import views_of
from daskt2i.store.zarr_store import ZarrStore

FORMATS: dict[str, Callable[[Path, Exported], Writer]] = {
    "webdataset": WebDatasetWriter,
    "npy": NpyWriter,
    "parquet": ParquetWriter,
    "hf": HfWriter,
    "kohya-npz": KohyaWriter,
    "mds": MdsWriter,
}

ABOUT = "daskt2i-export.json"

_ABANDONED = 3600.0
"""Seconds without a change after which a partial folder belongs to nobody."""


def export(
    folder: RunFolder,
    to: str,
    dest: str | os.PathLike[str],
    *,
    where: str | None = None,
    unfinished: bool = False,
    listener: Listener = ignore,
) -> ExportResult:
    """Write the accepted rows into a new folder.

    Args:
        to: a name in `FORMATS`.
        dest: the folder; it must not exist, or be empty.
        where: an expression; only rows for which it is true are written.
        unfinished: export what is there of a store whose encode has not finished.

    Raises:
        ConfigError: there is no such format, the folder is not empty, no row is left, the run folder is a column, or
            its latents have several sizes.
        StoreMissing, StoreError: there is no store, it is not finished, or a chunk is damaged.
        StoreFull: no space is left. Nothing is left of the export.
    """
    if to not in FORMATS:
        raise ConfigError(f"There is no format {to!r}. Nothing was written; choose from {', '.join(FORMATS)}.")
    target = _free(dest)
    refuse_column(folder)
    store = ZarrStore(folder)
    if views := views_of((store.attributes() or {}).get("daskt2i") or {}):
        have = f"have several sizes ({views[0].name}, …)"
        if len({view.size for view in views}) == 1:
            have = "are there mirrored too" if len(views) > 1 else f"are not square ({views[0].name})"
        raise ConfigError(
            f"The latents of {folder} {have}, and export writes one square latent for each row. Nothing was written; "
            "read them with daskt2i.torch_dataset, or encode with dataset.image.resolution and without "
            "dataset.image.flip into another run folder (out)."
        )
    numbers = readable_rows(open_reader(folder, 0, True), folder, unfinished)
    if where is not None:
        numbers = rows_where(folder, numbers, where)
    if not len(numbers):
        raise ConfigError(
            f"No row of {folder} is left to export. Nothing was written; give another where, or encode more rows."
        )
    exported = Exported.of(store, numbers)
    with _whole(target) as partial:
        _write(FORMATS[to](partial, exported), exported, listener)
        about = about_export(exported, to, where)
        (partial / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card(about, _tars(partial)), encoding="utf-8")
    sizes = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
    read_by = reading(to, _tars(target), os.fspath(dest))
    return ExportResult(folder.root, to, str(target), len(numbers), len(sizes), sum(sizes), read_by)


def _tars(place: Path) -> int:
    return len(list(place.glob("*.tar")))


def _write(writer: Writer, exported: Exported, listener: Listener) -> None:
    done, rows = 0, len(exported.numbers)
    try:
        listener(Progress("rows exported", 0, rows))
        for part in exported.parts():
            writer.write(part)
            done += len(part)
            listener(Progress("rows exported", done, rows))
        writer.close()
    except BaseException:
        with suppress(Exception):  # of a full disk: the error that is raised already says more
            writer.discard()
        raise


def _free(dest: str | os.PathLike[str]) -> Path:
    """The folder, which is not there or is empty.

    Raises:
        ConfigError: it is an address, a file, or it holds something.
    """
    if "://" in os.fspath(dest):
        raise ConfigError(
            f"{os.fspath(dest)} is an address, and export writes folders of this machine. Nothing was written; export "
            "to a folder, and copy it there."
        )
    target = Path(dest).expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        what = "is a file" if target.is_file() else "is not empty"
        raise ConfigError(f"{target} {what}. It was not changed; give another folder, or remove this one first.")
    return target


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A hidden folder that becomes the target when the block ends without an error; else it is removed.

    Raises:
        StoreFull, StoreError: it cannot be written.
    """
    partial = partial_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        partial.replace(target)
        flush_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, Daskt2iError) or not isinstance(error, Exception):
            raise
        why = meaning_of(error)
        if why is FULL:
            raise StoreFull(
                f"No space is left in {target.parent} for the export. The store is unchanged, and nothing was left of "
                "the export; free some space, or give another folder."
            ) from error
        if why is None:
            raise
        raise StoreError(
            f"{target} cannot be written: {why.says}. The store is unchanged; give another folder, or {why.advice}."
        ) from error


def _remove_abandoned(target: Path) -> None:
    """Remove what killed exports to this folder have left."""
    for path in target.parent.iterdir():
        if target_name(path.name) == target.name and path.is_dir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(path)
