"""Credentials for object stores: `storage_options` as they are given, and as fsspec gets them.

    run:
      storage_options: {key: env:MY_KEY, secret: env:MY_SECRET, endpoint_url: "https://s3.example.org"}
      storage_options: {anon: true}                 # a public bucket

Covers: `env:NAME`, which each process replaces by its own environment variable at the moment of use; hiding what was
used from all text of this process.
Does not cover: hiding secrets in text and settings (`redact`), the configuration that fsspec itself reads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from daskt2i import redact
from daskt2i.errors import ConfigError

_PREFIX = "env:"


def for_use(options: Mapping[str, Any], address: str = "") -> dict[str, Any]:
    """The options with the values of the environment variables that they name. Never write or print the result.

    Args:
        address: the address that they are for; its secrets are hidden too.

    Raises:
        ConfigError: such a variable is not set in this process.
    """
    found: dict[str, Any] = _resolved(options, "storage_options")
    redact.remember(found)
    redact.remember_address(address)
    return found


def _resolved(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _resolved(one, f"{name}.{key}") for key, one in value.items()}
    if not (isinstance(value, str) and value.startswith(_PREFIX)):
        return value
    variable = value.removeprefix(_PREFIX)
    try:
        return os.environ[variable]
    except KeyError:
        raise ConfigError(
            f"{name} is {value}, but the environment variable {variable} is not set in a process on "
            f"{socket.gethostname()}. Nothing was read or written there; set it where the driver and the workers start."
        ) from None
