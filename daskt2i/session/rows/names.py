"""The rows that a user names: image ids or file names, from a file or a list.

Covers: reading them.
Does not cover: which rows of a store they are (`encode.parts.new_rows`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from daskt2i.addresses import expanded
from daskt2i.errors import ConfigError
from daskt2i.store.parts.row_ids import plain_name


def names_of(ids: str | Path | Iterable[int | str]) -> tuple[str, ...]:
    """Different names in their order.

    Args:
        ids: a file with an image id or a file name in each line, or ids and names. Blank lines do not count.

    Raises:
        ConfigError: the file cannot be read, or there is no name.
    """
    if isinstance(ids, str | Path):
        texts = _lines(expanded(ids, "ids"))
    elif isinstance(ids, Iterable):
        texts = [str(one).strip() for one in ids]
    else:
        raise ConfigError(f"ids is {ids!r}, not a list or a file. Nothing was changed; give a list: [{ids!r}] (ids).")
    names = tuple(dict.fromkeys(plain_name(text) for text in texts if text))
    if not names:
        raise ConfigError(
            "No image id and no file name was given. Nothing was changed; give one in each line of the file (ids)."
        )
    return names


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise ConfigError(
            f"The file of ids {path} cannot be read ({said}). Nothing was changed; give a text file with an image id "
            "or a file name in each line (ids)."
        ) from error
