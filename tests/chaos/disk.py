"""A disk of a few MiB that can be filled. It needs the right to mount a tmpfs; without it, the disk is never full."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path


class Disk:
    """A folder, on a file system of its own if that can be mounted.

    Attributes:
        place: the folder.
        can_fill: whether `fill` has an effect.
    """

    def __init__(self, place: Path, mebibytes: int) -> None:
        place.mkdir(parents=True)
        self.place = place
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)]
        self.can_fill = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Take all free space."""
        if not self.can_fill:
            return
        with (self.place / "filler").open("ab", buffering=0) as file:
            for size in (2**16, 2**12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Give the space back."""
        with contextlib.suppress(FileNotFoundError):
            (self.place / "filler").unlink()

    def close(self) -> None:
        """Unmount it."""
        if self.can_fill:
            subprocess.run(["umount", "-l", str(self.place)], check=False)
