"""A source with COCO captions, and images in a folder, in a zip archive or at an fsspec address.

Covers: the arguments, and how the source is named.
Does not cover: parsing the caption file (`coco_index`), rows and images (`listed.source`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any

from daskt2i.sources.coco_index import parse
from daskt2i.sources.listed.index import Index
from daskt2i.sources.listed.source import ListedSource


class CocoSource(ListedSource):
    """One row per entry of `images`, in file order, with all its captions in the order of `annotations`.

    Args:
        images: a folder, a zip archive (read in place), or an fsspec address of either (`s3://…`, `memory://…`,
            `https://…`; an address is a zip if it ends in `.zip`). The folder may itself be a symbolic link. A file
            name must not lead out of the folder.
        captions: the caption file, at a path or an fsspec address; gzip, bzip2, xz and a zip archive with one JSON file
            are unpacked.
        storage_options: arguments of fsspec. They are used for `images` and `captions` if these are addresses.

    In a zip, the image is the entry with the name `file_name`. If there is none, it is the only entry that ends in
    `/` + `file_name` (COCO's own archives have a folder `train2014/`). A base name is never matched alone: `val/1.jpg`
    is not `train/1.jpg`.

    macOS writes accented letters as two characters (NFD). A name is found in either form, in a folder and in a zip.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.

    The object is small, because pickling drops the parsed data. A copy that only reads images never parses the caption
    file.
    """

    kind = "coco"

    def __init__(self, images: str, captions: str, storage_options: Mapping[str, Any] | None = None) -> None:
        super().__init__(images, captions, storage_options)

    def _read_index(self) -> Index:
        assert self.captions is not None
        return parse(self.captions, self._options(self.captions))

    def _content(self, index: Index) -> dict[str, Any]:
        return {"source": self.kind, "captions_sha256": index.sha256}

    def _label(self, index: Index) -> str:
        inside = f"{posixpath.basename(index.member)} in " if index.member else ""
        return f"{inside}{posixpath.basename(str(self.captions))}"
