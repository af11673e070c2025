"""A path on this machine, or an fsspec address: one place that tells them apart and reads both.

Covers: what an address is; `~`, empty texts and characters that no path has, with one sentence that names the setting;
absolute paths; the bytes of a file at either.
Does not cover: folders of images (`sources.coco`), the run folder (`store.run_folder`).

A path is never given to fsspec: it would take `run::1/images` for a chain of addresses, and `file:x` for `x`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daskt2i.errors import ConfigError
from daskt2i.redact import without_secret

_ADDRESS = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")
_OF_THIS_MACHINE = re.compile(r"^(?:file|local)://(?=/)")


def is_address(text: str) -> bool:
    """Whether text is an fsspec address: `s3://bucket/x`, `zip://a::s3://x.zip`, `simplecache::https://…`.

    All other text is a path: `run::1/images`, `file:x`, `C:/x`, `/data/a://b`. One letter is a drive, not a protocol.
    """
    return _ADDRESS.match(text) is not None


def absolute(text: str) -> str:
    """An absolute path, so that a worker in another working directory finds it; an address stays as it is.

    A leading `~` is the home folder, if there is such a user and no file of this very name. `file:///x` is the path
    `/x`.

    Raises:
        ValueError: the text is empty, or has a NUL character, which no path can have. The message is a clause.
    """
    if not text.strip():
        raise ValueError("it is empty")
    if "\0" in text:
        raise ValueError("it has a NUL character")
    text = _OF_THIS_MACHINE.sub("", text)
    if is_address(text):
        return text
    try:
        return str(with_home(text).absolute())
    except OSError as error:  # the working directory was removed
        raise ValueError(f"the folder that it is relative to is gone ({error})") from error


def with_home(text: str) -> Path:
    """A path with the home folder in place of a leading `~` or `~user`. Without such a user the path stays."""
    if text.startswith("~") and not os.path.lexists(text):
        return Path(os.path.expanduser(text))  # noqa: PTH111  # the one of pathlib raises an error without such a user
    return Path(text)


def is_blank(value: object) -> bool:
    """Whether a path is an empty text, as from a variable of a script that is not set."""
    return isinstance(value, str | os.PathLike) and not str(value).strip()


def expanded(text: str | os.PathLike[str], setting: str) -> Path:
    """The path, with `~` as the home folder.

    Args:
        setting: the name of the setting or the argument, for the message.

    Raises:
        ConfigError: the text is empty, no path can have it, it is an address, or it names a user who does not exist.
    """
    given = _OF_THIS_MACHINE.sub("", os.fspath(text))
    if is_blank(given):
        raise ConfigError(f"{setting} is an empty text. Nothing was started; give a path ({setting}).")
    if "\0" in given:
        raise ConfigError(
            f"{setting} is {given!r}, and no path has a null character. Nothing was started; give a path ({setting})."
        )
    if os.path.lexists(given):
        return Path(given)
    if is_address(given):
        raise ConfigError(
            f"{setting} is {without_secret(given)}, and it cannot be an address. Nothing was started; give a path on "
            f"this machine ({setting})."
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{setting} is {given}, but this user is not known here, or has no home folder. Nothing was started; give "
            f"an absolute path ({setting})."
        ) from error


def read_file(path: Path) -> bytes:
    """All bytes of a file on this machine. A pipe is read to its end; a device may have none, and is refused.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty():
            raise OSError(errno.EINVAL, "it is a device, and not a file", str(path))
        return stream.read()


def read_bytes(address: str, options: Mapping[str, Any] | None = None) -> bytes:
    """All bytes of the file at a path or an address.

    Args:
        options: arguments of fsspec, for an address.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read. Libraries of object stores have many errors of their own; they become this one.
    """
    try:
        place = absolute(address)
        if not is_address(place):
            return read_file(Path(place))
        import fsspec

        files, path = fsspec.core.url_to_fs(place, **(options or {}))
        return bytes(files.cat_file(path))  # `open` says of a web server that does not answer: there is no such file
    except (OSError, MemoryError, KeyboardInterrupt):  # `Interrupted` is a KeyboardInterrupt and an Exception
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise OSError(f"{kind}{error}") from error
