"""The runs that the studio shows.

Covers: finding the run folders in a folder, opening them, short names for them.
Does not cover: what a run is (`daskt2i.Run`), what is shown of it (`app`).

A run is opened when it is first asked for. New folders are found when the list is asked for, so a training that starts
while the page is open appears. The studio watches runs that others started: it starts no workers of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from daskt2i.errors import Daskt2iError, StoreMissing
from daskt2i.run import Run, open_run

MARKER = "daskt2i-run.json"

_DEPTH = 3
"""Folders below a given one in which runs are looked for."""

_MOST = 500
"""Runs that are listed."""


class Library:
    """Runs by name.

    Args:
        places: run folders, folders of run folders, or fsspec addresses of run folders.
    """

    def __init__(self, places: Sequence[str]) -> None:
        self._places = tuple(places) or (".",)
        self._known: dict[str, str] = {}
        self._open: dict[str, Run] = {}
        self._turn = threading.Lock()

    def names(self) -> dict[str, str]:
        """Name -> address of every run that is there now, in the order of their names."""
        found: list[str] = []
        for place in self._places:
            found += [place] if "://" in place else _below(Path(place).expanduser())
        addresses = list(dict.fromkeys(found))[:_MOST]
        names: dict[str, str] = {}
        for address in addresses:
            short = address.rstrip("/").rpartition("/")[2] or "run"
            name, number = short, 2
            while name in names:
                name, number = f"{short}-{number}", number + 1
            names[name] = address
        self._known = dict(sorted(names.items()))
        return self._known

    def run(self, name: str) -> Run:
        """The run of this name.

        Raises:
            StoreMissing: there is no such run.
            ConfigError: its settings cannot be read.
        """
        address = self._known.get(name)
        if address is None or ("://" not in address and not (Path(address) / MARKER).is_file()):
            address = self.names().get(name)
        if address is None:
            raise StoreMissing(f"There is no run named {name} here. Go back to the list of runs.")
        with self._turn:
            if address not in self._open:
                self._open[address] = open_run(address, progress=False)
            return self._open[address]

    def close(self) -> None:
        """Close what was opened."""
        with self._turn:
            for run in self._open.values():
                run.close()
            self._open.clear()


def require_places(places: Sequence[str]) -> None:
    """Refuse a folder that does not exist. A folder without runs is no fault: one may come.

    Raises:
        StoreMissing: there is no such folder.
    """
    for place in places:
        if "://" not in place and not Path(place).expanduser().is_dir():
            raise StoreMissing(
                f"There is no folder {place}, so the studio was not started. Give a run folder, or one that holds runs."
            )


def problem(error: Exception) -> str:
    """An error as one sentence."""
    return " ".join(str(error).split()) if isinstance(error, Daskt2iError) else type(error).__name__


def _below(folder: Path, depth: int = _DEPTH) -> list[str]:
    """The run folders in a folder, itself included. Nothing is looked for inside a run folder."""
    if (folder / MARKER).is_file():
        return [str(folder.resolve())]
    if not depth:
        return []
    try:
        inside = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError:  # it may be somebody else's
        return []
    return [run for one in inside for run in _below(one, depth - 1)]
