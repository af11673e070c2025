"""An environment of its own for each peer, so that its packages change nothing here.

Covers: making it with venv and pip, what a user is told if that fails.
Does not cover: what runs in it (`peer`).

The packages of this environment can be imported too. So all loaders use the same numpy and torch, and a peer needs no
second torch of several hundred megabytes.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from daskt2i.errors import ExecutorError

PACKAGES = {"litdata": "litdata", "mosaicml-streaming": "mosaicml-streaming", "webdataset": "webdataset"}
"""Peer -> its package. Memory-mapped numpy needs none."""

_SECONDS = 1200.0


def python_for(name: str, folder: Path) -> str:
    """The Python of a peer's environment. It is made if it is not there.

    Raises:
        ExecutorError: the package cannot be installed.
    """
    if name not in PACKAGES:
        return sys.executable
    place = folder / name
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = place / "installed.txt"
    if not done.exists():
        venv.create(place, with_pip=True, clear=True)
        packages = next(place.rglob("site-packages"))
        ours = {*(path for path in sys.path if path.endswith("site-packages")), sysconfig.get_path("purelib")}
        (packages / "ours.pth").write_text("\n".join(sorted(ours)) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGES[name]]
        try:
            got = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            said = got.stderr.strip().splitlines()
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
        else:
            if got.returncode == 0:
                done.write_text(PACKAGES[name] + "\n", encoding="utf-8")
                return str(python)
        why = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "pip said nothing")
        raise ExecutorError(
            f"{PACKAGES[name]} could not be installed ({why}), so {name} was not measured. The other loaders were."
        )
    return str(python)
