"""The nouns: what flows from a source to a store. Frozen, with shapes and units, no input or output.

    Row -> Chunk -> Record -> Encoded -> Receipt

Covers: the data that passes between modules, and how a receipt becomes JSON and back.
Does not cover: settings (`config`), how rows become chunks (`plan`), where arrays lie (`store.zarr_store`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.errors import Reason

Pixels = npt.NDArray[np.uint8]
"""Upright RGB, `uint8[height, width, 3]` or a stack of them `uint8[n, height, width, 3]`, 0 black to 255 white."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the upright source image; right and bottom are exclusive."""

Precision = Literal["fp32", "bf16", "fp16"]
"""The floating-point format in which a model runs."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image with its captions, as its source lists it. Row `index` of a source is row `index` of the store.

    Attributes:
        index: position in the source, from 0.
        image_id: the source's own number for the image.
        file_name: where the image lies below the source's image root.
        captions: all captions that are not blank, in file order, as they stand in the file.
        reason: why the row is rejected, where the index alone tells; None for a row worth reading.
        detail: one clause for a person beside `reason`.
        licence: the name of the image's licence, as the source says; "" where it says none.
        origin: row of the source where `index` is that of a selection from it (`facts.selection`); None elsewhere.
    """

    index: int
    image_id: int
    file_name: str
    captions: tuple[str, ...]
    reason: Reason | None = None
    detail: str = ""
    licence: str = ""
    origin: int | None = None

    @property
    def usable(self) -> bool:
        """Whether its image is worth reading: nothing speaks against it in the index, and it has a caption."""
        return self.reason is None and bool(self.captions)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows that are one task, one shard of every array, and one receipt.

    Attributes:
        index: position in the plan, from 0.
        start, stop: rows `start <= row < stop` of the source.
        rows: those rows; empty in a plan, filled when the chunk is sent out.
    """

    index: int
    start: int
    stop: int
    rows: tuple[Row, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Record:
    """One row, read: the image decoded, upright, at the wanted size.

    Attributes:
        row: what was read.
        pixels: `uint8[resolution, resolution, 3]`.
        source_size: (width, height) of the upright source image in pixels.
        crop_box: the part of the upright source image that `pixels` shows.
    """

    row: Row
    pixels: Pixels
    source_size: tuple[int, int]
    crop_box: Box


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that was not encoded, and why."""

    row: int
    image_id: int
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store, without its leading `row` dimension.

    Attributes:
        name: name of the Zarr array.
        dims: names of the dimensions after `row`, e.g. `("channel", "y", "x")`.
        shape: their lengths, e.g. `(4, 32, 32)`.
        dtype: numpy name, or `"string"` for variable-length text.
        fill: what a row that was never written reads as: `"nan"`, `0`, `False` or `""`.
        description: one line; goes into the attributes of the array.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: str | int | bool
    description: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row before compression (text: a guess of 64 bytes a string)."""
        itemsize = 64 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize


@dataclass(frozen=True, slots=True)
class Constant:
    """One array of a store that has no rows, e.g. the state of the empty prompt: its dimensions and its values."""

    name: str
    dims: tuple[str, ...]
    values: npt.NDArray[Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source says of itself before the first image is read.

    Attributes:
        rows: number of rows.
        slots: captions of the fullest row.
        captions: captions that are not blank, over all rows.
        caption_characters: length of all of them together, in characters.
        orphan_captions: captions of images that are not listed.
        blank_captions: empty, missing or white-space captions.
        content: what identifies the data, for the fingerprint: e.g. `{"captions_sha256": …}`. JSON values only.
        label: one line for a person, e.g. `"captions.json (80 images, 400 captions)"`.
        left_out: rows of the source that `dataset.where` leaves out; they are none of `rows`.
        where: what identifies that choice, for the fingerprint; None where nothing was chosen. JSON values only.
    """

    rows: int
    slots: int
    captions: int
    caption_characters: int
    orphan_captions: int
    blank_captions: int
    content: Mapping[str, Any]
    label: str
    left_out: int = 0
    where: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What an encoder says of itself before any weight is loaded.

    Attributes:
        arrays: what it makes, per row for an image encoder, per caption for a text encoder.
        weights: identifies the weights, for the fingerprint (`"sha256:…"`, `"seed:0"`, `"none"`).
        attributes: what a trainer needs to use the arrays (scaling factor, shift, reduction, …). JSON values only.
        random_weights: True when the weights were never trained; such a store is for speed tests alone.
        weight_bytes: size of the weights in fp32, bytes.
        item_bytes: working memory that one more item in a batch takes in fp32, bytes; an estimate for the plan.
    """

    arrays: tuple[ArraySpec, ...]
    weights: str
    attributes: Mapping[str, Any]
    random_weights: bool
    weight_bytes: int
    item_bytes: int


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model runs in one worker.

    Attributes:
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: the floating-point format of the model.
        threads: torch threads of this worker.
    """

    device: str
    precision: Precision
    threads: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """The arrays of one chunk, ready for the store.

    Attributes:
        arrays: name -> array whose first dimension is the chunk's rows; rejected rows hold the fill value.
    """

    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One object that a chunk wrote: its key below the store, its SHA-256 as 64 hex digits, its size in bytes."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a chunk is done: written last, and the only thing that travels back from a worker.

    Attributes:
        chunk, start, stop: as in `Chunk`.
        fingerprint: the store it belongs to.
        accepted: rows whose arrays are in the store.
        captions: captions of accepted rows.
        truncated: captions cut to the encoder's length.
        rejected: the other rows; `accepted + len(rejected) == stop - start`, or the receipt is refused.
        shards: every object that was written; empty while the chunk is not written yet.
        inputs: SHA-256 over the image bytes that were read, 64 hex digits.
        seconds: stage -> seconds: `read` (fetch the bytes), `decode`, `encode_image`, `encode_text`, `gate`, `write`,
            `total`.
        worker: `host:pid` of the process.
        loads: models that this process has loaded so far, per encoder; 1 each unless something is wrong.
        batch: images that went through the model at once.
        peak_bytes: largest resident size of the process so far, bytes.
        warnings: sentences for the user.
        versions: package -> version, of what decides bytes.
        psnr: decode-back of the sampled rows, dB; empty where nothing can be decoded.
    """

    chunk: int
    start: int
    stop: int
    fingerprint: str
    accepted: int
    captions: int
    truncated: int
    rejected: tuple[Rejection, ...]
    inputs: str
    seconds: Mapping[str, float]
    worker: str
    loads: Mapping[str, int]
    batch: int
    peak_bytes: int
    warnings: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    psnr: tuple[float, ...] = ()
    shards: tuple[Shard, ...] = ()

    def __post_init__(self) -> None:
        if self.accepted + len(self.rejected) != self.stop - self.start:
            raise ValueError(
                f"chunk {self.chunk} has {self.stop - self.start} rows, but {self.accepted} accepted "
                f"and {len(self.rejected)} rejected"
            )

    def to_json(self) -> str:
        """The receipt as one JSON object, indented for people."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Receipt:
        """The receipt that `to_json` wrote.

        Raises:
            ValueError: not a receipt (broken JSON, a field missing or unknown, counts that do not add up).
        """
        try:
            data = json.loads(text)
            data["rejected"] = tuple(Rejection(**{**r, "reason": Reason(r["reason"])}) for r in data["rejected"])
            data["shards"] = tuple(Shard(**s) for s in data["shards"])
            data["warnings"], data["psnr"] = tuple(data["warnings"]), tuple(data["psnr"])
            return cls(**data)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a receipt: {error!r}") from error
