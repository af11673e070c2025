"""Which prompts are longer than what the text encoder reads, before a picture is drawn.

Covers: counting the tokens of prompts with the tokenizer of the pipeline folder, or with the encoder of the workflow.
Does not cover: cutting prompts (`painter`, by the tokenizer itself), the tokens of captions (`facts`).

It loads no weights. It imports transformers only for a long prompt and a tokenizer without a tokenizer.json.
"""

from __future__ import annotations

import bisect
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daskt2i.config.settings import DatasetSettings
from daskt2i.encoders import tokens
from daskt2i.encoders.weights import TOKENIZER_FILES, quiet
from daskt2i.model.own_encoders import built
from daskt2i.store.artifacts.full_disk import temporary_folder
from daskt2i.store.run_folder import PIPELINE, RunFolder

_TOKENIZER = f"{PIPELINE}/tokenizer"

_ENDS = 2
"""The start token and the end token of a prompt."""


def too_long(folder: RunFolder, prompts: Sequence[str], dataset: DatasetSettings | None) -> dict[str, str]:
    """The prompts that will be cut, in their order, with the whole words of the first one that count; "" for others.

    Empty if this cannot be known before: `DrawnPicture.cut` tells it.

    Args:
        dataset: section of the workflow whose encoders draw; None if the pipeline has encoders of its own.
    """
    try:
        return _by_pipeline(folder, prompts) if dataset is None else _by_encoder(dataset, prompts)
    except Exception:  # of any library; what is damaged is told with its own error when the pipeline is loaded
        return {}


def _by_encoder(dataset: DatasetSettings, prompts: Sequence[str]) -> dict[str, str]:
    count: Callable[[Sequence[str]], tuple[list[int], int]] | None = getattr(built(dataset)[1], "count_tokens", None)
    if count is None:
        return {}
    _, limit = count(prompts[:1])
    return _above(prompts, lambda texts: count(texts)[0], limit)


def _by_pipeline(folder: RunFolder, prompts: Sequence[str]) -> dict[str, str]:
    limit = json.loads(folder.read(f"{_TOKENIZER}/tokenizer_config.json"))["model_max_length"]
    long = [prompt for prompt in prompts if _most_tokens(prompt) > limit]
    if not long:
        return {}
    with _tokenizer_folder(folder) as place:
        tokenizer = tokens.load_for_counting(place) or _by_transformers(place)
        return _above(long, lambda texts: tokens.count(tokenizer, texts), limit)


def _above(prompts: Sequence[str], count: Callable[[Sequence[str]], Sequence[int]], limit: int) -> dict[str, str]:
    long = [prompt for prompt, tokens in zip(prompts, count(prompts), strict=True) if tokens > limit]
    return {prompt: "" if number else _kept(prompt, count, limit) for number, prompt in enumerate(long)}


def _kept(prompt: str, count: Callable[[Sequence[str]], Sequence[int]], limit: int) -> str:
    """The most whole words from the begin of a prompt that the text encoder reads."""
    words = prompt.split()[:limit]  # each word is a token or more
    fitting = bisect.bisect_right(range(len(words) + 1), limit, key=lambda n: count([" ".join(words[:n])])[0])
    return " ".join(words[: fitting - 1])


def _most_tokens(prompt: str) -> int:
    """The most tokens that a prompt can have: CLIP's tokenizer makes at least one byte of lower-case text a token."""
    return len(unicodedata.normalize("NFC", prompt).lower().encode("utf-8", "replace")) + _ENDS


def _by_transformers(place: Path) -> Any:
    import transformers

    with quiet():
        return transformers.CLIPTokenizer.from_pretrained(  # a folder on this machine  # nosec B615
            str(place), local_files_only=True
        )


@contextmanager
def _tokenizer_folder(folder: RunFolder) -> Iterator[Path]:
    """The tokenizer on this machine. That of a remote folder is copied, and the copy lasts as long as the block."""
    if folder.is_local:
        yield folder.local_path(_TOKENIZER)
        return
    with temporary_folder(f"copy {_TOKENIZER}") as place:
        for name in TOKENIZER_FILES:
            if folder.exists(f"{_TOKENIZER}/{name}"):
                (place / name).write_bytes(folder.read(f"{_TOKENIZER}/{name}"))
        yield place
