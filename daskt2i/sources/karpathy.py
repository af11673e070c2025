"""A source with the JSON files of Karpathy's splits: dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json.

Covers: parsing such a file, and keeping one of its splits.
Does not cover: COCO's own caption files (`coco`), rows and images (`listed.source`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from daskt2i import documents
from daskt2i.documents import BadDocument, shown
from daskt2i.errors import SourceError
from daskt2i.sources.files.packed import BadPacking, unpack
from daskt2i.sources.listed.index import RAW, Index, Rows
from daskt2i.sources.listed.source import ListedSource, bytes_of

_EXPECTED = "It must be a JSON object with `images`, each with `filename`, `split` and `sentences`"
_KEPT = ("filepath", "filename", "cocoid", "imgid", "split", "sentences")


class KarpathySource(ListedSource):
    """One row per entry of `images`, in file order, with the `raw` text of its `sentences`.

    Args:
        images: a folder, a zip archive, or an fsspec address of either. The path of an image below it is `filepath` and
            `filename` of its entry. Without `captions` it is the JSON file, and the images lie below its folder.
        captions: the JSON file; gzip, bzip2, xz and a zip archive with one JSON file are unpacked.
        storage_options: arguments of fsspec, for addresses.
        split: `train`, `restval`, `val` or `test`. None: all.

    The id of a row is `cocoid`, or else `imgid`.

    Raises:
        SourceError: `images` or `captions` is empty, or no path can be so.
    """

    kind = "karpathy"

    def __init__(
        self,
        images: str,
        captions: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        split: str | None = None,
    ) -> None:
        super().__init__(images, captions, storage_options)
        self.split = split

    def _place(self) -> str:
        return self.images if self.captions is not None else posixpath.dirname(self.images)

    def _label(self, index: Index) -> str:
        name = posixpath.basename(self.images if self.captions is None else self.captions)
        return name if self.split is None else f"{self.split} of {name}"

    def _read_index(self) -> Index:
        address, setting = (self.images, "images") if self.captions is None else (self.captions, "captions")
        raw = bytes_of(address, self._options(address), "caption file", setting)
        rows, splits = Rows(), dict[str, None]()
        for name, entry in _entries(raw, address):
            splits[str(entry.get("split"))] = None
            if self.split is None or entry.get("split") == self.split:
                rows.add(name, entry.get("sentences"), entry.get("cocoid", entry.get("imgid")))
        if not len(rows):
            raise SourceError(
                f"{address} has no image of the split {shown(self.split)} (dataset.source.split): its splits are "
                f"{', '.join(map(shown, splits))}. Nothing was read; name one of these, or none for all."
            )
        return rows.in_order()


def _entries(raw: bytes, address: str) -> Iterator[tuple[object, Mapping[str, Any]]]:
    """The path of each image, and its entry."""
    try:
        raw, _ = unpack(raw, address.partition("::")[0])
        document = documents.read_json(documents.text_of(raw), _thin)
    except (BadPacking, BadDocument) as error:
        raise SourceError(
            f"{address} is no file of Karpathy's splits: {error}. Nothing was read. {_EXPECTED}."
        ) from error
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list) or not images or not any("sentences" in one for one in images if _is_object(one)):
        raise SourceError(f"{address} is no file of Karpathy's splits. Nothing was read. {_EXPECTED}.")
    for position, entry in enumerate(images):
        if not _is_object(entry):
            raise SourceError(
                f"Entry {position:,} of `images` in {address} is {shown(entry)}, and no object. Nothing was read. "
                f"{_EXPECTED}."
            )
        folder, name = entry.get("filepath"), entry.get("filename")
        yield posixpath.join(folder, name) if isinstance(folder, str) and isinstance(name, str) else name, entry


def _is_object(entry: object) -> bool:
    return isinstance(entry, dict)


def _thin(item: dict[str, Any]) -> Any:
    """Of a sentence its text, of an image what is used: the tokens of all sentences need most of the memory."""
    if "filename" in item:
        return {key: item[key] for key in _KEPT if key in item}
    return next((item[key] for key in RAW if key in item), {})
