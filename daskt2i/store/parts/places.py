"""Where the parts of a store lie.

Covers: names of parts, the run folder of a part, the run folder of its store, which parts have begun.
Does not cover: which parts count (`rows_file`), the content of a run folder (`run_folder`).
"""

from __future__ import annotations

import re

from daskt2i.store.run_folder import PARTS, RunFolder

_NAME = re.compile(r"[0-9]{4,}")


def is_part_name(name: object) -> bool:
    """Whether a part can have this name: four digits or more."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def part_name(number: int) -> str:
    """The name of a part: `0001` is the first."""
    return f"{number:04d}"


def part_folder(folder: RunFolder, name: str) -> RunFolder:
    """The run folder of a part.

    Args:
        folder: the run folder of the store.
        name: of the part; "" for the store itself.
    """
    return RunFolder(f"{folder.root}/{PARTS}/{name}", folder.storage_options) if name else folder


def store_of_part(part: RunFolder) -> RunFolder:
    """The run folder of the store that a part belongs to; its own if it was moved out of there."""
    above, found, name = part.root.replace("\\", "/").rpartition(f"/{PARTS}/")
    return RunFolder(above, part.storage_options) if found and is_part_name(name) else part


def parts_begun(folder: RunFolder) -> list[str]:
    """Names of all parts that have begun, sorted by number. Not all of them count."""
    names = RunFolder(f"{folder.root}/{PARTS}", folder.storage_options).entries() or ()
    return sorted(filter(is_part_name, names), key=int)
