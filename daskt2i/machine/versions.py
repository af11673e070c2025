"""The versions of this process that decide the bytes of a store: of daskt2i, and of the libraries below it.

Covers: stating them, and comparing the statements of two processes.
Does not cover: what pictures come out (`encode.chunks.admission`), whether a version is good.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import daskt2i

CODE = "daskt2i code"

CODE_FOLDER = str(Path(__file__).parents[1])
"""The folder from which this process imports daskt2i."""

_LIBRARIES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "numpy": "numpy",
    "pillow": "PIL",
    "zarr": "zarr",
    "numcodecs": "numcodecs",
}
"""Package -> the module that it installs."""

OPTIONAL = {"ncnn": "ncnn"}
"""The same for packages that decide bytes only if an encoder uses them."""

_BESIDE = ("clusters", "workflows")


def versions(used: Collection[str] = ()) -> dict[str, str]:
    """Package -> version, for daskt2i and the libraries that decide bytes. Packages that are missing are left out.

    Args:
        used: names in `OPTIONAL` that count too.

    `CODE` is a hash of the source files as they were at the first call: two checkouts may have one version and
    different code, and a process goes on with what it has loaded when somebody edits the files.
    """
    found = {"daskt2i": daskt2i.__version__, CODE: _code()}
    optional = {package: module for package, module in OPTIONAL.items() if package in used}
    for package, module in (_LIBRARIES | optional).items():
        if version := _installed(package):
            # A library that was upgraded under a running process: what is loaded counts.
            loaded = str(getattr(sys.modules.get(module), "__version__", version))
            found[package] = _public(version if _public(loaded) == _public(version) else loaded)
    return found


def version_differences(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """The differences of two statements, one clause each: `"pillow 12.0.0 there, 11.3.0 here"`."""
    return [
        f"{name} {there.get(name, 'missing')} there, {here.get(name, 'missing')} here"
        for name in dict.fromkeys([*here, *there])
        if there.get(name) != here.get(name)
    ]


def _public(version: str) -> str:
    """The version without its local part: `2.13.0+cpu` and `2.13.0+cu130` are builds of the same source."""
    return version.partition("+")[0]


@cache
def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@cache
def _code() -> str:
    return code_of(Path(__file__).parents[1])


def code_of(folder: Path) -> str:
    """The first 12 hex digits of the SHA-256 of all source files of a copy of daskt2i.

    An installed package also holds `clusters` and `workflows`, which are beside the package in a checkout. Their
    scripts encode nothing, so both copies have one code.

    Returns:
        "unknown" if the files cannot be read (a zip).
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if name.parts[0] not in _BESIDE:
                digest.update(name.as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    except OSError:
        return "unknown"
    return digest.hexdigest()[:12]
