"""Turns captions into token ids, and groups captions into batches.

Covers: running the tokenizer, cutting to the limit (the end token is kept), batches of nearly equal length, and packs
of such batches.
Does not cover: choosing the tokenizer (`text`), the meaning of tokens.

COCO captions have 13.7 CLIP tokens on average. With padding to 77, a model would do five times the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ModelError

SLACK = 8
"""The captions of a batch may be shorter than its longest by 1 / SLACK (at least 2 tokens). This limits the padding."""


def tokenize(tokenizer: Any, captions: Sequence[str], limit: int) -> tuple[list[list[int]], npt.NDArray[np.bool_]]:
    """Token ids of each caption with special tokens, at most `limit`; and which captions were cut, `bool[n]`.

    Lone surrogates become question marks: JSON can hold them, UTF-8 cannot. A tokenizer without special tokens gives no
    token for an empty caption. Such a caption then gets one token, the tokenizer's padding, end or start token.
    """
    if not captions:
        return [], np.zeros(0, dtype=bool)
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in captions]
    whole: list[list[int]] = tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]
    truncated = np.array([len(ids) > limit for ids in whole], dtype=bool)
    cut = np.flatnonzero(truncated)
    if len(cut):
        # The tokenizer does the cutting, because it knows which special tokens must stay at the end.
        again = tokenizer([texts[i] for i in cut], add_special_tokens=True, truncation=True, max_length=limit)
        for index, ids in zip(cut, again["input_ids"], strict=True):
            whole[index] = ids
    return [list(ids) or [filler(tokenizer)] for ids in whole], truncated


def count(tokenizer: Any, captions: Sequence[str]) -> list[int]:
    """Number of tokens of each caption with special tokens, before it is cut."""
    if not captions:
        return []
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in captions]
    if hasattr(tokenizer, "encode_batch_fast"):
        return [len(found.ids) for found in tokenizer.encode_batch_fast(texts)]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=True, verbose=False)["input_ids"]]


def load_for_counting(folder: Path) -> Any | None:
    """The tokenizer of a folder, loaded without transformers and torch; None if the folder has no tokenizer.json.

    Raises:
        ModelError: the file is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ModelError(f"The tokenizer {path} cannot be loaded: {error}. Fetch it again.") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def filler(tokenizer: Any) -> int:
    """The token id for empty positions: padding, else end, else start, else 0."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((int(token) for token in found if token is not None), 0)


def always_ends(tokenizer: Any) -> bool:
    """Whether each text ends with the end token, and no token for empty positions has a higher number."""
    end = tokenizer.eos_token_id
    found = tokenizer("a", add_special_tokens=True)["input_ids"]
    return end is not None and bool(found) and found[-1] == end and filler(tokenizer) <= end


def groups(lengths: Sequence[int], batch: int) -> list[npt.NDArray[np.intp]]:
    """Indices of the captions of each batch, longest captions first, at most `batch` in each.

    The longest captions come first, so that a lack of memory shows in the first batch.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.intp), kind="stable")
    made: list[npt.NDArray[np.intp]] = []
    start = 0
    while start < len(order):
        longest = lengths[order[start]]
        shortest = longest - max(2, longest // SLACK)
        stop = start + 1
        while stop < len(order) and stop - start < batch and lengths[order[stop]] >= shortest:
            stop += 1
        made.append(order[start:stop])
        start = stop
    return made


def packs(
    batches: Sequence[npt.NDArray[np.intp]], lengths: Sequence[int], most: int
) -> list[list[tuple[list[int], int]]]:
    """Batches as packs of nearly equal numbers of tokens: at most `most`, and less than one caption more.

    Returns:
        for each pack its parts: the captions that belong to one batch, and the longest length of this whole batch.
    """
    total = sum(lengths[index] for batch in batches for index in batch)
    count = -(-total // most)
    made: list[list[tuple[list[int], int]]] = [[] for _ in range(count)]
    before = 0
    for batch in batches:
        parts: dict[int, list[int]] = {}
        for index in batch.tolist():
            parts.setdefault(before * count // total, []).append(index)
            before += lengths[index]
        for pack, part in parts.items():
            made[pack].append((part, lengths[batch[0]]))
    return [pack for pack in made if pack]
