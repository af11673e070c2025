"""Paths as users write them: `~`, empty texts, and characters that no path has.

Covers: turning the text of a setting into a path, with one sentence that names the setting if it cannot be one.
Does not cover: whether the file exists, addresses of object stores.
"""

from __future__ import annotations

import os
from pathlib import Path

from daskt2i.errors import ConfigError


def is_blank(value: object) -> bool:
    """Whether a path is an empty text, as from a variable of a script that is not set."""
    return isinstance(value, str | os.PathLike) and not str(value).strip()


def expanded(text: str | os.PathLike[str], setting: str) -> Path:
    """The path, with `~` as the home folder.

    Args:
        setting: the name of the setting or the argument, for the message.

    Raises:
        ConfigError: the text is empty, or no path can have it, or it names a user who does not exist.
    """
    given = os.fspath(text)
    if is_blank(given):
        raise ConfigError(f"{setting} is an empty text. Nothing was started; give a path ({setting}).")
    if "\0" in given:
        raise ConfigError(
            f"{setting} is {given!r}, and no path has a null character. Nothing was started; give a path ({setting})."
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{setting} is {given}, but this user is not known here, or has no home folder. Nothing was started; give "
            f"an absolute path ({setting})."
        ) from error
