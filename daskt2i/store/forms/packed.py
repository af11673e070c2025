"""Text states without padding: the tokens of a chunk one after the other, those of equal captions once.

Covers: tokens in and out of the packed array of a chunk.
Does not cover: numbers of fewer bytes (`numbers`).

Zarr's shards have one shape. So the packed array has room for all tokens of a chunk, `[row, slot x token, feature]`,
and is filled from the front: token number k of a chunk lies at row k // room, place k % room. The rest is zeros, which
compress to nothing. A row of this array is therefore not a row of the store; `begin` says where a caption's tokens are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]


def lengths_of(mask: npt.NDArray[np.bool_], whole: bool) -> Lengths:
    """Number of stored tokens of each caption, `int64[row, slot]`; 0 for an unused slot.

    Args:
        mask: `bool[row, slot, token]`.
        whole: whether padding counts as text, so that all tokens of a used slot are stored.
    """
    used = mask.any(-1)
    last = mask.shape[-1] - mask[..., ::-1].argmax(-1)
    return np.where(used, mask.shape[-1] if whole else last, 0).astype(np.int64)


def pack(
    states: npt.NDArray[Any], lengths: Lengths, captions: npt.NDArray[Any] | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """The packed array of a chunk, and where each caption begins.

    Args:
        states: `[row, slot, token, feature]`.
        lengths: of `lengths_of`.
        captions: `str[row, slot]`. Equal captions have equal states, because a chunk encodes each caption once. None if
            they are not known; then all are stored.

    Returns:
        `[row, slot x token, feature]`, zeros behind the last token, and `int32[row, slot]`.
    """
    rows, slots, tokens, features = states.shape
    packed = np.zeros((rows, slots * tokens, features), states.dtype)
    flat = packed.reshape(-1, features)
    begin = np.zeros((rows, slots), np.int32)
    known: dict[str, int] = {}
    end = 0
    for row, slot in zip(*np.nonzero(lengths), strict=True):
        length = int(lengths[row, slot])
        if captions is not None:
            place = known.setdefault(str(captions[row, slot]), end)
            begin[row, slot] = place
            if place != end:
                continue
        begin[row, slot] = end
        flat[end : end + length] = states[row, slot, :length]
        end += length
    return packed, begin


def places_of(begin: npt.NDArray[Any], lengths: Lengths) -> npt.NDArray[np.int64]:
    """Place of each token in the packed array, caption by caption: `int64[sum of lengths]`.

    Args:
        begin, lengths: of the captions, one dimension.
    """
    ends = np.cumsum(lengths)
    return np.repeat(begin - (ends - lengths), lengths) + np.arange(int(lengths.sum()))


def unpack(flat: npt.NDArray[Any], begin: npt.NDArray[Any], lengths: Lengths, tokens: int) -> npt.NDArray[Any]:
    """Padded states `[row, slot, token, feature]` of some rows.

    Args:
        flat: all tokens of the chunk, `[token, feature]`.
        begin, lengths: `[row, slot]` of these rows.
        tokens: length of a slot.
    """
    made = np.zeros((*begin.shape, tokens, flat.shape[-1]), flat.dtype)
    made[np.arange(tokens) < lengths[..., None]] = flat[places_of(begin.ravel(), lengths.ravel())]
    return made
