"""Short names of the shipped sources, and a guess which of them reads a place.

Covers: the names; a look at the endings of a place, and into the beginning of a caption file.
Does not cover: making a source (`config.component`), the names of your own classes: they are class paths.

The command line imports it for `--help`, so it imports fsspec and the sources inside functions.
"""

from __future__ import annotations

import difflib
import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from daskt2i import addresses
from daskt2i.errors import ConfigError, SourceError
from daskt2i.redact import without_secret

NAMES = {
    "coco": "daskt2i.sources.coco.CocoSource",
    "folder": "daskt2i.sources.folder.FolderSource",
    "jsonl": "daskt2i.sources.table.JsonlSource",
    "csv": "daskt2i.sources.table.CsvSource",
    "karpathy": "daskt2i.sources.karpathy.KarpathySource",
    "webdataset": "daskt2i.sources.webdataset.WebDatasetSource",
    "parquet": "daskt2i.sources.parquet.ParquetSource",
    "hf": "daskt2i.sources.hf.HfSource",
}
"""Name -> class path."""

READS = {
    "coco": "images and a caption file in COCO's format",
    "folder": "a folder or a zip of pictures, with .txt, .caption or .json files or a metadata.jsonl beside them",
    "jsonl": "a .jsonl file with a path and captions in each line",
    "csv": "a .csv or .tsv file with a header, a path and a caption in each line",
    "karpathy": "the JSON file of Karpathy's splits, such as dataset_coco.json",
    "webdataset": "tars, a folder of tars, or a list such as {00000..00099}.tar",
    "parquet": "Parquet files with images or their names in one column, and captions in another",
    "hf": "a folder of Arrow files that `save_to_disk` of Hugging Face's datasets wrote",
}
"""Name -> what it reads, for messages."""

ONE_PLACE = frozenset({"folder", "webdataset", "hf"})
"""Names of sources whose captions are in the place of their images: they take no caption file."""

_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".zip": "folder"}
_ENDINGS |= {".tar": "webdataset", ".parquet": "parquet", ".pq": "parquet", ".arrow": "hf"}
"""Ending of a file -> name of the source."""

IMG2DATASET = "img2dataset"
"""What img2dataset wrote is tars, Parquet files or a folder of pictures. So this name stands for a guess."""

_LARGE = {".tar": "webdataset", ".arrow": "hf", ".parquet": "parquet"}
"""Endings of files with many images. Beside tars, img2dataset writes Parquet files without images."""

_PATTERN = re.compile(r"[*?\[{]")

_LISTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
_PACKED = (".gz", ".bz2", ".xz")

_MOST = 10_000
"""Files of a folder that are looked at."""

_BEGINNING = 2**16
"""Bytes of a JSON file that are looked at."""


class Guess(NamedTuple):
    """The source that fits a place: its name, and why; a clause."""

    name: str
    why: str


def class_of(source: str) -> str:
    """The class path of a source by its name. A class path stays.

    Raises:
        ConfigError: there is no such name.
    """
    if "." in source:
        return source
    if source in NAMES:
        return NAMES[source]
    near = difflib.get_close_matches(source.lower(), NAMES, 1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"There is no source named {source!r}. Nothing was started; give one of {', '.join(NAMES)}, or a class path "
        f"(source).{hint}"
    )


def name_of(class_path: str) -> str:
    """The name of a source; its class path if it has none."""
    return next((name for name, path in NAMES.items() if path == class_path), class_path)


def guessed(images: str, captions: str | None = None, options: Mapping[str, Any] | None = None) -> Guess:
    """Guess which source reads a place.

    Args:
        images: the place; captions: the caption file, if there is one.
        options: arguments of fsspec, for addresses.

    Raises:
        ConfigError: nothing fits; the message lists what each source reads.
        SourceError: the place cannot be looked at.
    """
    from daskt2i.sources.files.opening import absolute

    options = options or {}
    if captions is not None:
        return _of_captions(absolute(captions, "captions"), options)
    place = absolute(images, "images")
    ending = _ending(place)
    if ending == ".json":
        if _is_karpathy(place, options):
            return Guess("karpathy", "its images have `sentences`")
        raise _unknown(
            images, "it is a JSON file without its images. If it is a caption file, give the images and it (captions)"
        )
    if _PATTERN.search(place) and ending in _LARGE and not Path(place).exists():
        return Guess(_LARGE[ending], f"it ends in {ending}")
    names = _names(place, options)
    if names is None and ending in _ENDINGS:
        return Guess(_ENDINGS[ending], f"it ends in {ending}")
    if names is None:
        raise _unknown(images, "its ending says nothing")
    return _of_folder(images, names)


def _of_captions(captions: str, options: Mapping[str, Any]) -> Guess:
    ending = _ending(captions)
    if ending in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".pq"):
        return Guess(_ENDINGS[ending], f"its captions end in {ending}")
    if _is_karpathy(captions, options):
        return Guess("karpathy", "the images of its captions have `sentences`")
    return Guess("coco", "it has a caption file")


def _of_folder(images: str, names: list[str]) -> Guess:
    """The guess for a folder with these files."""
    from daskt2i.sources.folder import METADATA, PICTURES, TEXTS

    kinds = Counter(_ending(name) for name in names)
    pictures = sum(kinds[ending] for ending in PICTURES)
    if kinds[".tar"]:
        return Guess("webdataset", "it has tars")
    metadata = [name for name in names if posixpath.basename(name) in METADATA]
    if metadata:
        return Guess("folder", f"it has a {posixpath.basename(metadata[0])}")
    stems = {posixpath.splitext(name)[0] for name in names if _ending(name) in PICTURES}
    beside = Counter(_ending(n) for n in names if _ending(n) in TEXTS and posixpath.splitext(n)[0] in stems)
    if beside:
        return Guess("folder", f"its pictures have {beside.most_common(1)[0][0]} files beside them")
    for ending, name in _LARGE.items():
        if kinds[ending]:
            return Guess(name, f"it has {ending} files")
    lists = [name for name in names if _ending(name) in _LISTS]
    if lists:
        some = ", ".join(lists[:3]) + ", …" * (len(lists) > 3)
        raise _unknown(
            images, f"it has no captions beside its pictures, but {some}. If one lists them, give it too (captions)"
        )
    if pictures:
        return Guess("folder", "it is a folder of pictures")
    raise _unknown(images, f"it has {len(names):,} files, and none is a picture" if names else "it is empty")


def _unknown(images: str, why: str) -> ConfigError:
    kinds = "; ".join(f"{name}: {what}" for name, what in READS.items())
    return ConfigError(
        f"It is not clear how to read {without_secret(images)}: {why}. Nothing was started; name the source (source). "
        f"There are {kinds}."
    )


def _ending(name: str) -> str:
    """The ending of a name in small letters, without that of a packing."""
    stem, ending = posixpath.splitext(name.lower())
    return posixpath.splitext(stem)[1] if ending in _PACKED else ending


def _names(place: str, options: Mapping[str, Any]) -> list[str] | None:
    """Some paths of files below a folder, sorted; None if it is a file.

    Raises:
        ConfigError: there is nothing.
        SourceError: it cannot be looked at.
    """
    nothing = f"There is nothing at {without_secret(place)}. Nothing was started; give a place of images (images)."
    from daskt2i.sources.files.folders import Folder, is_hidden

    if not addresses.is_address(place):
        path = Path(place)
        if not path.exists():
            raise ConfigError(nothing)
        return sorted(itertools.islice(Folder(path.resolve()).names(), _MOST)) if path.is_dir() else None
    import fsspec

    from daskt2i.sources.files.opening import options_for

    try:
        files, path_there = fsspec.core.url_to_fs(place, **options_for(options, place))
        if _ending(path_there) in _ENDINGS or "http" in files.protocol or "https" in files.protocol:
            return None
        if not files.exists(path_there):
            raise ConfigError(nothing)
        if not files.isdir(path_there):
            return None
        names = [str(name).removeprefix(f"{path_there.rstrip('/')}/") for name in files.ls(path_there, detail=False)]
    except (ConfigError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # libraries of object stores have errors of their own
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise SourceError(
            f"{without_secret(place)} cannot be looked at: {said}. Nothing was started; check the address (images)."
        ) from error
    return sorted(itertools.islice((name for name in names if not is_hidden(posixpath.basename(name))), _MOST))


def _is_karpathy(address: str, options: Mapping[str, Any]) -> bool:
    """Whether a JSON file begins as those of Karpathy's splits. One that cannot be read is none."""
    from daskt2i.sources.files.opening import options_for
    from daskt2i.sources.files.packed import unpack_beginning

    try:
        if addresses.is_address(address):
            import fsspec

            files, path = fsspec.core.url_to_fs(address, **options_for(options, address))
            raw = bytes(files.cat_file(path, start=0, end=_BEGINNING))
        else:
            path_here = Path(address)
            if not path_here.is_file():  # a pipe can be read once
                return False
            with path_here.open("rb") as stream:
                raw = stream.read(_BEGINNING)
        text = unpack_beginning(raw, address).decode("utf-8", "replace")
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception:  # the source itself says what is wrong with the file
        return False
    return re.search(r'"sentences"\s*:\s*\[', text) is not None and re.search(r'"filename"\s*:', text) is not None
