"""The data classes that pass from a source to a store. They are frozen, and they read and write nothing.

    Row -> Chunk -> Record -> Encoded -> Receipt

Covers: the data that modules hand to each other, with shapes and units; a receipt as JSON.
Does not cover: settings (`config`), how rows become chunks (`plan`), where arrays are stored (`store.zarr_store`).
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
from daskt2i.redact import without_secret

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
        image_id: the number that the source gives to the image.
        file_name: the path of the image below the source's image root.
        captions: all captions that are not blank, unchanged, in file order.
        reason: why the row is rejected, if the index alone shows it; None for a row whose image should be read.
        detail: one clause that explains `reason` to a person.
        licence: the name of the image's licence, as the source gives it; "" if the source gives none.
        origin: the row number in the full source, if `index` counts the rows of a selection (`facts.selection`); else
            None.
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
        """Whether its image should be read: the index gives no reason to reject the row, and it has a caption."""
        return self.reason is None and bool(self.captions)


class FileBytes(bytes):
    """The bytes of an image file, and the stamp of the very file that was opened.

    A source may return it from `read`, if it also has `stamps` (`protocols.StampedSource`). A stamp that is taken by
    name, before the read, may belong to another file: a folder can be exchanged in between.

    Attributes:
        stamp: the text that `stamps` gives for this file.
    """

    stamp: str

    def __new__(cls, data: bytes, stamp: str) -> FileBytes:
        made = super().__new__(cls, data)
        made.stamp = stamp
        return made


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows. A chunk is one task, one shard of every array, and one receipt.

    Attributes:
        index: position in the plan, from 0.
        start, stop: rows `start <= row < stop` of the source.
        rows: these rows. They are empty in a plan; the driver fills them when it sends the chunk to a worker.
        stamps: what their image files look like, 8 hexadecimal digits a row; "" if the source cannot tell.
    """

    index: int
    start: int
    stop: int
    rows: tuple[Row, ...] = ()
    stamps: str = ""

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Record:
    """One row whose image was read: decoded, turned upright and resized.

    Attributes:
        row: the row that was read.
        pixels: `uint8[height, width, 3]`; `more`: the same part of the image in the other sizes of the run.
        source_size: (width, height) of the upright source image in pixels.
        crop_box: the part of the upright source image that `pixels` shows.
    """

    row: Row
    pixels: Pixels
    source_size: tuple[int, int]
    crop_box: Box
    more: tuple[Pixels, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejection:
    """One row that was not encoded, and why."""

    row: int
    image_id: int
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", without_secret(self.detail))  # it goes into receipt and manifest


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of a store, without its leading `row` dimension.

    Attributes:
        name: name of the Zarr array.
        dims: names of the dimensions after `row`, e.g. `("channel", "y", "x")`.
        shape: their lengths, e.g. `(4, 32, 32)`.
        dtype: numpy name, or `"string"` for variable-length text.
        fill: the value of a row that was never written: `"nan"`, `0`, `False` or `""`.
        description: one line, stored in the attributes of the array.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    fill: str | int | bool
    description: str = ""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row before compression. For text it assumes 64 bytes a string."""
        itemsize = 64 if self.dtype == "string" else np.dtype(self.dtype).itemsize
        return int(np.prod(self.shape, dtype=np.int64)) * itemsize


@dataclass(frozen=True, slots=True)
class Constant:
    """One array of a store that has no rows, such as the state of the empty prompt."""

    name: str
    dims: tuple[str, ...]
    values: npt.NDArray[Any]
    description: str = ""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source reports about itself before any image is read.

    Attributes:
        rows: number of rows.
        slots: largest number of captions that a row has.
        captions: number of captions that are not blank, over all rows.
        caption_characters: length of these captions together, in characters.
        orphan_captions: number of captions whose image is not listed.
        blank_captions: number of empty, missing or white-space captions.
        content: identifies the data, for the fingerprint, e.g. `{"captions_sha256": …}`. JSON values only.
        label: one line for a person, e.g. `"captions.json (80 images, 400 captions)"`.
        left_out: number of rows that `dataset.where` leaves out. `rows` does not count them.
        where: identifies the choice of rows, for the fingerprint; None if `dataset.where` is not set. JSON values only.
        notes: what a user should know about the data, as sentences.
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
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", without_secret(self.label))  # it may hold an address


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """What an encoder reports about itself before it loads its weights.

    Attributes:
        arrays: the arrays that it makes, for each row (image encoder) or for each caption (text encoder).
        weights: identifies the weights, for the fingerprint (`"sha256:…"`, `"seed:0"`, `"none"`).
        attributes: what a trainer needs to use the arrays (scaling factor, shift, reduction, …). JSON values only.
        random_weights: True if the weights were never trained. Such a store is only for speed tests.
        weight_bytes: size of the weights in fp32, bytes.
        item_bytes: working memory that one more item in a batch needs in fp32, bytes; an estimate for the plan.
        engines: another engine that may run the model -> its `weight_bytes` and `item_bytes`.
        upcast: True if the model computes in fp32 where the run has fp16, because fp16 would overflow.
    """

    arrays: tuple[ArraySpec, ...]
    weights: str
    attributes: Mapping[str, Any]
    random_weights: bool
    weight_bytes: int
    item_bytes: int
    engines: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    upcast: bool = False

    def by(self, engine: str) -> EncoderInfo:
        """The info with the memory of an engine."""
        weight_bytes, item_bytes = self.engines.get(engine, (self.weight_bytes, self.item_bytes))
        return dataclasses.replace(self, weight_bytes=weight_bytes, item_bytes=item_bytes)


MEASURED_LATER = "measured at the start of the encode"
"""Why a setting has no value yet."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A setting that daskt2i chose, or would choose.

    Attributes:
        setting: `engine`, `precision`, `batch` or `threads`.
        value: what was chosen; `auto` if that is not known yet.
        why: a clause.
        seconds: option -> seconds, as measured on this kind of machine; empty if nothing was measured.
        of: of what the seconds are: `an image`.
        missing: the package that another choice needs, and that is not installed; "" mostly.
        notes: sentences for the user.
    """

    setting: str
    value: str
    why: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    of: str = ""
    missing: str = ""
    notes: tuple[str, ...] = ()

    def words(self) -> str:
        """Value, figures and reason in one line."""
        told = ", ".join(f"{name} {seconds:.3g}" for name, seconds in self.seconds.items())
        return f"{self.value}: {self.why}{f' (seconds {self.of}: {told})' if told else ''}"

    def to_json(self) -> dict[str, Any]:
        """The values, as JSON."""
        return {
            "setting": self.setting,
            "value": self.value,
            "why": self.why,
            "seconds": dict(self.seconds),
            "of": self.of,
        }


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model runs in one worker.

    Attributes:
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: the floating-point format of the model.
        threads: number of torch threads in this worker.
        engine: what computes the image encoder, if its own setting leaves it open: `"torch"` or `"ncnn"`.
    """

    device: str
    precision: Precision
    threads: int
    engine: str = "torch"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The arrays of one chunk, ready for the store.

    Attributes:
        arrays: name -> array. The first dimension is the rows of the chunk. Rejected rows hold the fill value.
    """

    arrays: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Shard:
    """One object that a worker wrote for a chunk: key in the store, SHA-256 (64 hex digits), size (bytes)."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a chunk is done. A worker writes it last, and sends nothing else back.

    Attributes:
        chunk, start, stop: as in `Chunk`.
        fingerprint: fingerprint of the store that the chunk belongs to.
        accepted: number of rows whose arrays are in the store.
        captions: number of captions of accepted rows.
        truncated: number of captions that were cut to the encoder's length.
        rejected: the other rows. `accepted + len(rejected)` must equal `stop - start`.
        shards: every object that was written; empty before the chunk is written.
        inputs: SHA-256 over the image bytes that were read, 64 hex digits.
        seconds: stage -> seconds: `read` (fetch the bytes), `decode`, `encode_image`, `encode_text`, `gate`, `write`,
            `total`.
        worker: `host:pid` of the process.
        loads: how often this process has loaded each encoder; 1 each unless something is wrong.
        batch: images in one batch of the image encoder.
        peak_bytes: largest resident size of the process so far, bytes.
        warnings: sentences for the user.
        versions: package -> version, for the packages that change stored arrays.
        psnr: PSNR of the sampled rows after decoding, dB; empty if the encoder cannot decode, or if none was sampled.
        stamps: as in `Chunk`, but of the files that were opened, where the source tells it. Receipts of older versions
            have none.
        contents: the first 8 hexadecimal digits of the SHA-256 of each row's image file; zeros if none was read.
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
    stamps: str = ""
    contents: str = ""

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
            ValueError: the text is not a receipt: broken JSON, a missing or unknown field, or counts that disagree.
        """
        try:
            data = json.loads(text)
            data["rejected"] = tuple(Rejection(**{**r, "reason": Reason(r["reason"])}) for r in data["rejected"])
            data["shards"] = tuple(Shard(**s) for s in data["shards"])
            data["warnings"], data["psnr"] = tuple(data["warnings"]), tuple(data["psnr"])
            return cls(**data)
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a receipt: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Staged:
    """A chunk that a worker has written, and that the driver has not published yet.

    Attributes:
        receipt: the receipt of the chunk.
        attempt: name of the place that holds its shards and its receipt, in the folder of the run.
    """

    receipt: Receipt
    attempt: str
