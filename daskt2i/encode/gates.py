"""Gates: checks on the output of an encoder, before it is written.

Covers: shapes and types of arrays, finite values, the empty prompt, decode-back (decode latents and compare them with
the original pixels), of which chunks and rows, the test card that every model must reconstruct after loading.
Does not cover: calling the gates (`worker`, `model_cache`), whether stored bytes are intact (`store.zarr_store`).

Decode-back checks the pixel range. MLPerf's published latents were made from pixels in [0, 1] with a VAE that needs
[-1, 1] (mlcommons/training #721). Nobody noticed until models were trained on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from daskt2i.errors import GateError, LowPsnr, ModelError
from daskt2i.types import ArraySpec, EncoderInfo, Pixels

T = TypeVar("T")

RANGE_GAIN = 6.0
"""dB that correcting the range or channel order must gain before the message names it as the cause."""


CARD_PSNR = 15.0
"""dB that any working model reaches on the test card. The small demo VAE gives 34, and 9.7 with pixels in [0, 1]."""

LIKE_ENOUGH = 30.0
"""dB from which on the model's input must be right."""

LITTLE_CONTRAST = 16.0
"""Standard deviation of pixels below which a fit is useless: in any model a plain wall is off by a constant."""


_EXPONENT = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of the exponent. All are set in infinity and NaN, and in no other value."""

_SPARSE_ROWS = 512
"""After the first chunks, one row of so many is decoded back. SD's VAE decodes a row in up to 2.3 times the time of
encoding it, so this costs less than half a per cent. With the first chunks it is less than one per cent of a run of
4,096 rows for each row of `gate_rows`."""


def is_checked(chunk: int, rows_per_chunk: int, gate_rows: int) -> bool:
    """Whether rows of a chunk are decoded back: of chunks 0, 1, 2, 4, 8, 16, …, and of every n-th chunk.

    A mistake in a model shows in every chunk, so the first chunks are checked most. The choice depends on the chunk's
    number alone, so it is the same on every worker and in every run.
    """
    if gate_rows < 1:
        return False
    return chunk & (chunk - 1) == 0 or chunk % -(-_SPARSE_ROWS * gate_rows // max(1, rows_per_chunk)) == 0


def checked_share(chunks: int, rows_per_chunk: int, gate_rows: int) -> float:
    """The share of the chunks of a store of which rows are decoded back."""
    return sum(is_checked(chunk, rows_per_chunk, gate_rows) for chunk in range(chunks)) / max(1, chunks)


def mean_seconds(took: Iterable[float], chunks: int, rows_per_chunk: int, gate_rows: int) -> float:
    """Seconds for decoding rows back, as a mean over all chunks of a store.

    Args:
        took: seconds of some chunks; 0 for a chunk of which nothing was decoded back.
    """
    checked = [seconds for seconds in took if seconds]
    return checked_share(chunks, rows_per_chunk, gate_rows) * float(np.median(checked)) if checked else 0.0


class Sample(Generic[T]):
    """Chooses accepted rows of a chunk, spread evenly, while they pass by one after the other.

    It keeps at most twice as many items as it chooses. A row that was chosen and is not accepted is replaced by the
    next accepted row; at the end of the chunk, by the last accepted rows that were not chosen.

    Args:
        readable: the rows that may be accepted, ascending.
        count: how many rows to choose.
    """

    def __init__(self, readable: Sequence[int], count: int) -> None:
        self._count = min(count, len(readable))
        self._wanted = deque(readable[i * len(readable) // self._count] for i in range(self._count))
        self._chosen: dict[int, T] = {}
        self._spare: deque[tuple[int, T]] = deque(maxlen=self._count)

    def offer(self, row: int, item: T) -> None:
        """Give an accepted row. Rows come in ascending order."""
        if self._wanted and self._wanted[0] <= row:
            self._wanted.popleft()
            self._chosen[row] = item
        else:
            self._spare.append((row, item))

    def taken(self) -> dict[int, T]:
        """The chosen rows with their items, ascending."""
        lack = self._count - len(self._chosen)
        return dict(sorted({**self._chosen, **dict(list(self._spare)[-lack:] if lack else ())}.items()))


def require_empty_prompt(text: EncoderInfo, made: Mapping[str, npt.NDArray[Any]]) -> None:
    """Refuse an empty prompt that is not as promised, or not finite. Training uses it for caption dropout.

    Args:
        made: the result of the text encoder for one empty caption.

    Raises:
        ModelError: an array is missing or unknown, or it has another shape or dtype.
        GateError: a value is NaN or infinite.
    """
    require_promised(text.arrays, made, 1, "The text encoder, for the empty prompt,")
    if wrong := [name for name, array in made.items() if not finite_rows([array]).all()]:
        raise GateError(
            f"The text encoder gives NaN or infinity for the empty prompt ({', '.join(sorted(wrong))}). Nothing was "
            "encoded, because training needs the empty prompt. Correct the text encoder or its weights, or set "
            "dataset.precision=fp32."
        )


def finite_rows(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
    """Find the rows (first dimension) that are finite in all floating-point arrays: `bool[n]`.

    Integer arrays count as finite. All arrays have the same number of rows.
    """
    found = list(arrays)
    finite = np.ones(len(found[0]) if found else 0, dtype=bool)
    for array in found:
        if not array.size:
            continue
        if (exponent := _EXPONENT.get(array.dtype.name)) is not None:
            # As integers: no copy in fp32, a tenth of the time of `isfinite`. A set sign makes the number larger in
            # one of the two readings, and negative in the other.
            bits = np.ascontiguousarray(array).reshape(len(array), -1)
            finite &= bits.view(np.int16).max(axis=1) < exponent
            finite &= bits.view(np.uint16).max(axis=1) < exponent + 0x8000
        elif np.issubdtype(array.dtype, np.floating):
            finite &= np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return finite


def require_promised(arrays: Sequence[ArraySpec], made: Mapping[str, npt.NDArray[Any]], count: int, what: str) -> None:
    """Refuse arrays that differ from the encoder's `info`: numpy would broadcast and cast them silently.

    Args:
        arrays: `EncoderInfo.arrays` of the encoder.
        made: the result of its `encode` for `count` items.
        what: the encoder, for the message, e.g. `"The image encoder"`.

    Raises:
        ModelError: an array is missing or unknown, or it has another shape or dtype.
    """
    wanted = {a.name: f"{a.dtype} {(count, *a.shape)}" for a in arrays}
    found = {name: f"{array.dtype} {array.shape}" for name, array in made.items()}
    if found != wanted:
        wrong = [
            f"{name} is {found.get(name, 'missing')} instead of {wanted.get(name, 'nothing')}"
            for name in sorted(found.keys() | wanted.keys())
            if found.get(name) != wanted.get(name)
        ]
        raise ModelError(
            f"{what} made other arrays than its info() promises: {'; '.join(wrong)}. Nothing of this chunk was stored. "
            "Correct the class of the encoder; daskt2i.testing.encoder has tests for it."
        )


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255² / mean squared error); infinite for equal pictures."""
    error = np.mean((original.astype(np.float32) - decoded.astype(np.float32)) ** 2, dtype=np.float64)
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def test_card(resolution: int) -> Pixels:
    """A picture that uses the whole range: black to white ramps in each channel, `uint8[1, resolution, resolution, 3]`.

    It is smooth, so any working autoencoder reconstructs it well.
    """
    ramp = np.linspace(0, 255, resolution)
    across, down = np.meshgrid(ramp, ramp)
    ramps = np.stack([across, down, 255 - (across + down) / 2], axis=-1)
    return ramps.round().astype(np.uint8)[None]


def require_psnr(
    original: Pixels, decoded: Pixels, minimum: float, what: str, known: bool = False
) -> tuple[float, ...]:
    """Compare pictures with the pictures that their latents decode to.

    Args:
        original, decoded: `uint8[n, height, width, 3]`, n >= 1.
        minimum: dB that the median of the rows must reach.
        what: the name of the pictures in the message, e.g. `"chunk 0"`.
        known: any working model reconstructs these pictures well (the test card).

    Returns:
        dB of each row.

    Raises:
        GateError: a linear map or exchanged channels explain the error, so every chunk has it. This is raised above the
            minimum too: bright pictures in a wrong range have a small error. Or known pictures are below the minimum.
        LowPsnr: other pictures are below the minimum, and no cause was found.
    """
    if decoded.shape != original.shape:
        raise GateError(
            f"The image encoder decodes {what} to shape {decoded.shape[1:]}, but its pictures have shape "
            f"{original.shape[1:]}. Nothing of it was stored. Check the encoder's decode method."
        )
    values = tuple(psnr(a, b) for a, b in zip(original, decoded, strict=True))
    median = float(np.median(values))
    clue = _clue(original, decoded, median)
    if median >= minimum and not clue:
        return values
    wrong_everywhere = bool(clue) or known
    if decoded.std() < 1e-6:
        clue = "; the decoded pictures have only one colour"
    found = (
        f"The latents of {what} decode to pictures with {median:.1f} dB PSNR, and the minimum is {minimum:.1f} "
        f"dB{clue}. Nothing of it was stored. "
    )
    if wrong_everywhere:  # no lower run.min_psnr lets these pass
        raise GateError(f"{found}Correct the encoder's pixel range, order of channels or weights.")
    raise LowPsnr(f"{found}Check the encoder's weights, or lower run.min_psnr if such pictures are expected.")


def _clue(original: Pixels, decoded: Pixels, found: float) -> str:
    """Find a correction that brings the decoded pictures much closer: then the input is wrong, not the model.

    It tries the channels in reverse order, and a linear change of range, `original = gain * decoded + offset`.
    """
    if found >= LIKE_ENOUGH or original.std() < LITTLE_CONTRAST:
        return ""
    swapped = psnr(original, decoded[..., ::-1])
    if swapped >= found + RANGE_GAIN:
        return f" (with red and blue exchanged it would be {swapped:.1f} dB: the model got blue, green, red)"
    x, y = decoded.astype(np.float64).ravel(), original.astype(np.float64).ravel()
    if x.std() < 1e-6:
        return ""
    gain, offset = np.polyfit(x, y, 1)
    mapped = np.clip(gain * x + offset, 0, 255).round().astype(np.uint8).reshape(original.shape)
    better = psnr(original, mapped)
    if better < found + RANGE_GAIN or 0.9 < gain < 1.1:
        return ""
    return f" (pixels x {gain:.2f} {offset:+.0f} would give {better:.1f} dB: the model got a wrong pixel range)"
