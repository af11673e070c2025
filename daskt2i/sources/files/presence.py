"""Whether the place of the images, a folder or an archive, is still there, and the same.

Covers: the error for a place that went away or was exchanged, empty folders, web pages in place of images, what a
listing says about a file.
Does not cover: reading (`folders`, `zipped`), what follows from the error (`faults`).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def gone(place: str) -> OSError:
    """The error for a file that is missing together with its folder or archive. It may pass; no row is rejected."""
    return OSError(
        errno.ESTALE, "the images are not there now, because their place was renamed, removed or unmounted", place
    )


def exchanged(place: str) -> OSError:
    """The error for an archive that was exchanged while it was read. No row is rejected."""
    return OSError(errno.ESTALE, "another archive was put in the place of the one that is being read", place)


def is_empty(folder: Path) -> bool:
    """Whether a folder has no entries. One that may not be listed counts as not empty."""
    try:
        return next(folder.iterdir(), None) is None
    except PermissionError:
        return False


_TOLD = (
    "ETag",
    "etag",
    "md5Hash",
    "content_settings",
    "generation",
    "mtime",
    "LastModified",
    "last_modified",
    "created",
)
"""What file systems of fsspec say about the content of a file or about its last change."""


def is_page(data: bytes) -> bool:
    """Whether bytes are a web page (the first tags that browsers look for, WHATWG MIME Sniffing 7.1)."""
    return data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower().startswith((b"<!doctype html", b"<html", b"<head"))


def told(entry: Mapping[str, Any]) -> str:
    """The stamp of a file in a listing; "" for a folder.

    Raises:
        LookupError: the listing says nothing about content or change.
    """
    if entry.get("type") == "directory":
        return ""
    found = [str(entry[key]) for key in _TOLD if entry.get(key) is not None]
    if not found:
        raise LookupError("the listing has sizes alone")
    return " ".join([str(entry.get("size")), *found])
