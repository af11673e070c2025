"""Drawn scenes with captions, as a source or as a COCO folder on disk. They need no download.

Covers: `ScenesSource` draws a picture when it is read. `write_scenes` writes the same pictures to a folder that
`CocoSource` reads. Users also find here the names that they need from `drawn.drawing` and `drawn.grammar`.
Does not cover: how scenes are drawn (`drawn.drawing`) and described (`drawn.grammar`), recognising the shapes of a
picture (`drawn.judge`).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from daskt2i import documents
from daskt2i.errors import ConfigError, SourceError
from daskt2i.events import Listener, Progress, ignore
from daskt2i.sources.drawn.drawing import CLOSE_VERSION, VERSION, Scene, Thing, draw, scene
from daskt2i.sources.drawn.grammar import Expectation, ExpectedShape, captions, describe, expected, parse_caption
from daskt2i.types import Row, SourceInfo

__all__ = [
    "Expectation",
    "ExpectedShape",
    "Scene",
    "ScenesSource",
    "Thing",
    "captions",
    "describe",
    "draw",
    "expected",
    "jpeg",
    "parse_caption",
    "scene",
    "write_scenes",
]

CAPTIONS = 5
COUNTED = 2_000
"""With more rows, the length of all captions is estimated from this many rows: counting takes 0.1 ms a row."""


class ScenesSource:
    """Scenes 0 to `rows` - 1 of a seed, drawn when they are read. Row i does not depend on `rows`.

    Args:
        rows: number of scenes, at least 1.
        seed: seed of the scenes.
        shapes: largest number of shapes in a scene, 1 or 2. With 1, the shapes are drawn larger.

    Raises:
        ConfigError: an argument is not a whole number in its range.
    """

    def __init__(self, rows: int = 1000, seed: int = 0, shapes: int = 2) -> None:
        self._identity = _identity(rows, seed, shapes)
        self._rows, self._seed, self._shapes = rows, seed, shapes

    def info(self) -> SourceInfo:
        """Counts and identity."""
        counted = min(self._rows, COUNTED)
        characters = sum(len(text) for i in range(counted) for text in captions(self._scene(i)))
        return SourceInfo(
            rows=self._rows,
            slots=CAPTIONS,
            captions=CAPTIONS * self._rows,
            caption_characters=characters * self._rows // counted,
            orphan_captions=0,
            blank_captions=0,
            content={"scenes": self._identity},
            label=f"drawn scenes ({self._rows} images, {CAPTIONS * self._rows} captions, seed {self._seed})",
        )

    def rows(self, start: int, stop: int) -> Sequence[Row]:
        """Rows `start <= index < stop`. Row numbers outside the source are left out."""
        return tuple(
            Row(i, i + 1, _file_name(self._identity, i), captions(self._scene(i)))
            for i in range(max(start, 0), min(stop, self._rows))
        )

    def read(self, row: Row) -> bytes:
        """The scene as a JPEG file: the same bytes that `write_scenes` writes."""
        return jpeg(self._scene(row.index))

    def _scene(self, index: int) -> Scene:
        return scene(self._seed, index, self._shapes)


def jpeg(scene: Scene) -> bytes:
    """The picture of a scene as a JPEG file of quality 95.

    The drawn pixels are the same on every machine. The bytes may differ between releases of the JPEG library.
    """
    buffer = io.BytesIO()
    Image.fromarray(draw(scene)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_scenes(folder: Path, rows: int, seed: int = 0, shapes: int = 2, listener: Listener = ignore) -> Path:
    """Write scenes as a COCO folder: first `images/*.jpg`, and at the end `captions.json`.

    If the folder already holds these scenes, only missing pictures are drawn again. After an interruption, the same
    call starts from the beginning and completes the folder. Nothing is ever deleted.

    Args:
        folder: the folder; it is made if it does not exist.
        rows: number of scenes, at least 1.
        seed: seed of the scenes.
        shapes: largest number of shapes in a scene, 1 or 2. With 1, the shapes are drawn larger.
        listener: gets the number of drawn pictures.

    Returns:
        The path of `captions.json`.

    Raises:
        ConfigError: a number is not in its range.
        SourceError: the folder holds something else (it was not changed), or it cannot be written.
    """
    identity = _identity(rows, seed, shapes)
    folder = Path(folder)
    listing, images = folder / "captions.json", folder / "images"
    names = [_file_name(identity, i) for i in range(rows)]
    try:
        there = _present(images)
        complete = _holds(listing, identity, folder)
        if not complete:
            _check_free(folder, there, set(names))
        images.mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            if not (complete and there.get(name)):
                (images / name).write_bytes(jpeg(scene(seed, i, shapes)))
            listener(Progress("scenes drawn", i + 1, rows))
        if not complete:
            document = _document(identity)
            part = listing.with_name("captions.json.part")
            part.write_text(json.dumps(document, indent=1), encoding="utf-8")
            part.replace(listing)
    except OSError as error:
        raise SourceError(
            f"The scenes cannot be written to {folder}: {error.strerror or error}. "
            "The folder is incomplete; solve this and run it again to complete it."
        ) from error
    return listing


def _identity(rows: int, seed: int, shapes: int) -> dict[str, int]:
    for name, value, least in (("rows", rows, 1), ("seed", seed, 0), ("shapes", shapes, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"Drawn scenes need a whole number of at least {least} for {name}, not {value!r}.")
    if shapes > 2:
        raise ConfigError(f"Drawn scenes need 1 or 2 for shapes, not {shapes}.")
    if shapes == 1:
        return {"rows": rows, "seed": seed, "version": CLOSE_VERSION, "shapes": 1}
    return {"rows": rows, "seed": seed, "version": VERSION}


def _file_name(identity: dict[str, int], index: int) -> str:
    """The file name of a picture. Scenes of one shape are different pictures, so they have another name."""
    kind = "single" if identity.get("shapes") == 1 else "scene"
    return f"{kind}-{identity['seed']}-{index:08d}.jpg"


def _present(images: Path) -> dict[str, int]:
    """Name -> size in bytes, for each file in the folder of images."""
    return {path.name: path.stat().st_size for path in images.iterdir()} if images.is_dir() else {}


def _document(identity: dict[str, int]) -> dict[str, Any]:
    """The caption file, in the format of COCO's `captions_train2014.json`."""
    images, annotations = [], []
    for i in range(identity["rows"]):
        picture = scene(identity["seed"], i, identity.get("shapes", 2))
        name = _file_name(identity, i)
        images.append({"id": i + 1, "width": picture.width, "height": picture.height, "file_name": name})
        for slot, text in enumerate(captions(picture)):
            annotations.append({"id": i * CAPTIONS + slot + 1, "image_id": i + 1, "caption": text})
    digest = _digest(images, annotations)
    info = {"description": "Drawn scenes of daskt2i", "daskt2i": {"scenes": identity, "sha256": digest}}
    return {"info": info, "images": images, "annotations": annotations}


def _digest(images: Any, annotations: Any) -> str:
    text = json.dumps([images, annotations], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _holds(listing: Path, identity: dict[str, int], folder: Path) -> bool:
    """True if the caption file belongs to these scenes, False if there is none.

    Raises:
        SourceError: it belongs to other scenes, or somebody changed it.
    """
    try:
        document = documents.read_json(documents.text_of(listing.read_bytes()))
        mark = document["info"]["daskt2i"]
        found, digest = mark["scenes"], mark["sha256"]
        unchanged = digest == _digest(document["images"], document["annotations"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        found, unchanged = None, True
    if found == identity and unchanged:
        return True
    if found == identity:
        what = "these scenes, but its captions were changed"
    elif isinstance(found, dict):
        what = "other scenes (" + ", ".join(f"{key} {value}" for key, value in found.items()) + ")"
    else:
        what = "a caption file that is not of drawn scenes"
    raise SourceError(f"{folder} holds {what}. Nothing was changed; give another folder, or delete this one.")


def _check_free(folder: Path, there: dict[str, int], names: set[str]) -> None:
    """Raise SourceError unless the folder is missing, empty, or left by an interrupted write of these scenes."""
    if folder.is_dir():
        others = [p.name for p in folder.iterdir() if p.name not in ("images", "captions.json.part")]
        others += [f"images/{name}" for name in there if name not in names]
        if others:
            scenes = all(re.fullmatch(r"images/(scene|single)-\d+-\d{8,}\.jpg", name) for name in others)
            what = "part of another set of scenes" if scenes else f"something else ({min(others)})"
            raise SourceError(f"{folder} holds {what}. Nothing was changed; give an empty folder, or delete this one.")
