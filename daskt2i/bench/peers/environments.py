"""An environment of its own for each peer, so that its packages change nothing here.

Covers: making it with venv and pip, the version in it, what a user is told if that fails.
Does not cover: what runs in it (`peer`, `bench.loaders.peer`).

The packages of this environment can be imported too. So all use the same numpy and torch, and a peer needs no second
torch of several hundred megabytes.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from daskt2i.errors import ExecutorError

_SECONDS = 1200.0


def python_for(name: str, package: str | None, folder: Path, others: str) -> str:
    """The Python of a peer's environment. It is made if it is not there.

    Args:
        name: of the peer, and of the folder of its environment.
        package: what pip installs; None: the peer runs in this environment.
        folder: the folder of all environments.
        others: what the other peers are, for the message.

    Raises:
        ExecutorError: the package cannot be installed.
    """
    if package is None:
        return sys.executable
    place = folder / name
    python = place / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    done = place / "installed.txt"
    if not done.exists():
        venv.create(place, with_pip=True, clear=True)
        packages = next(place.rglob("site-packages"))
        ours = {*(path for path in sys.path if path.endswith("site-packages")), sysconfig.get_path("purelib")}
        (packages / "ours.pth").write_text("\n".join(sorted(ours)) + "\n", encoding="utf-8")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]
        try:
            got = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            said = got.stderr.strip().splitlines()
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
        else:
            if got.returncode == 0:
                done.write_text(package + "\n", encoding="utf-8")
                return str(python)
        why = next((line for line in said if line.startswith("ERROR")), said[-1] if said else "pip said nothing")
        raise ExecutorError(
            f"{package} could not be installed ({why}), so {name} was not measured. The other {others} were."
        )
    return str(python)


def version_in(python: str, package: str) -> str:
    """The version of a package in the environment of a Python; "" if it is not there."""
    asked = f"import importlib.metadata as m; print(m.version({package.partition('[')[0]!r}))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
