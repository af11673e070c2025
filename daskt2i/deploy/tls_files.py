"""The certificates of a cluster that daskt2i started, as files that only the same user can read.

    Client("tls://127.0.0.1:40123", security=certificates_for("tls://127.0.0.1:40123"))

Covers: writing them when a cluster starts, finding them by the address of its scheduler, removing them at its end.
Does not cover: making certificates (`distributed.Security.temporary`, in `kinds`), certificates of the user's
own (`distributed.comm.tls` in Dask's configuration).

The files are in `$XDG_RUNTIME_DIR/daskt2i`, or in `daskt2i-UID` of the temporary folder. Each folder has mode 0700, and
each file 0600. A folder that somebody else made, or can read, is never used: then there are no files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask.config
from distributed.security import Security

FILES = {"tls_ca_file": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
"""Argument of `distributed.Security` -> name of the file."""


def keep_certificates(address: str, security: Mapping[str, Any]) -> Path | None:
    """Write the certificates of a cluster. Each file has mode 0600.

    Args:
        address: address of its scheduler.
        security: arguments of `distributed.Security` that hold PEM text.

    Returns:
        The folder of the files; None if there is no private place for them, or no PEM text.
    """
    texts = {name: security.get(name) for name in FILES}
    if not all(isinstance(text, str) and "\n" in text for text in texts.values()):
        return None  # the cluster file names its own files
    home = _home()
    if not _is_private(home, make=True):
        return None
    folder = home / _name(address)
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)  # of a killed process whose port is used again
        folder.mkdir(mode=0o700)
        for name, text in texts.items():
            handle = os.open(folder / FILES[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(str(text))
        return folder
    return None


def remove_certificates(folder: Path | None) -> None:
    """Remove what `keep_certificates` wrote."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def certificates_for(address: str) -> Security | None:
    """The certificates for a scheduler that this user started with daskt2i on this machine.

    Args:
        address: address of the scheduler, such as `tls://127.0.0.1:40123`.

    Returns:
        For the `security=` of `distributed.Client`. None if the address has no TLS, if Dask's configuration names the
        user's own certificates, or if there are no files for this address.
    """
    if not address.startswith("tls://") or has_own_certificates(dask.config.config):
        return None
    home = _home()
    folder = home / _name(address)
    if not (_is_private(home) and _is_private(folder)):
        return None
    found = {name: str(folder / file) for name, file in FILES.items() if (folder / file).is_file()}
    return Security(require_encryption=True, **found) if found.keys() == FILES.keys() else None


def has_own_certificates(config: Mapping[str, Any]) -> bool:
    """Whether a Dask configuration names certificates or asks for them."""
    comm = "distributed.comm"
    return bool(
        dask.config.get(f"{comm}.tls.ca-file", None, config=dict(config))
        or dask.config.get(f"{comm}.require-encryption", None, config=dict(config))
    )


def _home() -> Path:
    run = os.environ.get("XDG_RUNTIME_DIR")
    if run and Path(run).is_dir() and os.access(run, os.W_OK):
        return Path(run) / "daskt2i"
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"daskt2i-{user}"


def _name(address: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", address.partition("://")[2]).strip("-")


def _is_private(folder: Path, make: bool = False) -> bool:
    """Whether it is a folder of this user that nobody else can read or write. A link is none."""
    with contextlib.suppress(OSError):
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        mine = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
        return stat.S_ISDIR(found.st_mode) and mine
    return False
