"""Where the columns of a store lie.

Covers: valid names, the run folder of a column, the run folder of its store, which columns are complete.
Does not cover: the content of a run folder (`run_folder`).
"""

from __future__ import annotations

import re

from daskt2i.errors import ConfigError
from daskt2i.store.run_folder import MANIFEST, RunFolder

COLUMNS = "columns"
"""Folder of the columns in a run folder."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def column_folder(folder: RunFolder, name: str) -> RunFolder:
    """The run folder of a column.

    Raises:
        ConfigError: a column cannot have this name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of a column. Nothing was started; give up to 40 small letters, digits and _, "
            "with a letter first (column)."
        )
    return RunFolder(f"{folder.root}/{COLUMNS}/{name}", folder.storage_options)


def folder_of_store(column: RunFolder, name: str) -> RunFolder:
    """The run folder of the store that a column belongs to.

    Raises:
        ConfigError: the column was moved out of its run folder.
    """
    below = f"/{COLUMNS}/{name}"
    root = column.root.replace("\\", "/")
    if not root.endswith(below):
        raise ConfigError(
            f"{column} is the column {name} of a store, but it is not in the folder {COLUMNS} of a run folder. Nothing "
            f"was started; move it back to {COLUMNS}/{name} of its run folder."
        )
    return RunFolder(root.removesuffix(below), column.storage_options)


def columns_of(folder: RunFolder) -> list[str]:
    """Names of all columns of a store that have begun, sorted."""
    names = RunFolder(f"{folder.root}/{COLUMNS}", folder.storage_options).entries() or ()
    return [name for name in names if _NAME.fullmatch(name)]


def is_complete(column: RunFolder) -> bool:
    """Whether a column is encoded to its end."""
    return column.exists(MANIFEST)
