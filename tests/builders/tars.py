"""Tars as WebDataset has them, made on the spot."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from daskt2i.sources.fake import bitmap, colour

Member = tuple[str, bytes]


def write_tar(path: Path, members: Iterable[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    """An uncompressed tar with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def picture(number: int) -> bytes:
    """A BMP of one colour; each number has another size too."""
    return bitmap(33 + number % 5, 32, colour(number))


def sample(key: str, number: int, *captions: str) -> list[Member]:
    """An image with captions in a text file."""
    return [(f"{key}.bmp", picture(number)), (f"{key}.txt", "\n".join(captions).encode())]


def as_json(**values: object) -> bytes:
    """A JSON member."""
    return json.dumps(values).encode()


def two_tars(folder: Path, rows: int = 6) -> Path:
    """Good images in two tars, and what goes wrong: an orphan, a blank, no caption, a doubled key."""
    first = [one for n in range(rows) for one in sample(f"{n:05d}", n, f"number {n}", "again")]
    odd: list[Member] = [
        ("orphan.txt", b"nobody's"),
        ("alone.bmp", picture(91)),
        *sample("blank", 92, " "),
        *sample("twice", 93, "first"),
        ("twice.bmp", picture(94)),
        ("told.bmp", picture(95)),
        ("told.json", as_json(caption="from JSON", image_id=77, license="CC0")),
        ("readme.md", b"not for us"),
    ]
    write_tar(folder / "00000.tar", first)
    write_tar(folder / "00001.tar", odd)
    return folder
