"""Latent stores of random numbers in the shapes of real stores, for benchmarks of reading and training.

Covers: a complete store with receipts, with as many captions, tokens and bytes as an encode would write.
Does not cover: reading them (`read`, `bench.train`).

| store | latents, mean and std, fp16 | text, fp16 | rows, rows per shard |
|---|---|---|---|
| demo | 4 x 16 x 16 | 5 captions x 24 tokens x 128, `pad: full` | 1,000, 64 |
| sd15 | 4 x 32 x 32 | 5 x 77 x 768, 9 to 21 tokens in use, `pad: length` | 2,304, 256 |
| sd15-full | 4 x 32 x 32 | 5 x 77 x 768, `pad: full` | 2,304, 256 |
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError
from daskt2i.plan import ChunkGrid
from daskt2i.store.layout import row_arrays
from daskt2i.store.publishing.attempts import begin_attempt
from daskt2i.store.publishing.publication import publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import STORE, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import ArraySpec, Constant, Encoded, Receipt, Staged

MARK = "random-numbers"
"""The fingerprint of a store of random numbers."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a store.

    Attributes:
        latent: channels, height, width.
        text: captions, tokens, features.
        used: smallest and largest number of tokens of a caption.
        pad: `length` or `full`, as in the text encoder.
        rows_per_chunk, rows: numbers of the store.
    """

    latent: tuple[int, int, int]
    text: tuple[int, int, int]
    used: tuple[int, int]
    pad: str
    rows_per_chunk: int
    rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a decoded row: mean, std and the states of all captions, in fp16."""
        return 2 * (2 * int(np.prod(self.latent)) + int(np.prod(self.text)))


SHAPES = {
    "demo": Shape((4, 16, 16), (5, 24, 128), (24, 24), "full", 64, 1000),
    "sd15": Shape((4, 32, 32), (5, 77, 768), (9, 21), "length", 256, 2304),
    "sd15-full": Shape((4, 32, 32), (5, 77, 768), (9, 21), "full", 256, 2304),
}


def shape_named(name: str) -> Shape:
    """A shape of `SHAPES`.

    Raises:
        ConfigError: there is no such shape.
    """
    if name not in SHAPES:
        raise ConfigError(f"There is no store shape {name!r}. Nothing was measured. Use one of {', '.join(SHAPES)}.")
    return SHAPES[name]


def write_random(folder: RunFolder, shape: Shape) -> None:
    """Write a store of seeded random numbers with its receipts. It is marked as random, so that training refuses it.

    Raises:
        StoreFull, StoreError: the store cannot be written.
    """
    for _ in write_rows(folder, shape):
        pass


def write_rows(folder: RunFolder, shape: Shape) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """`write_random` chunk by chunk. It gives the arrays of each chunk when they are written.

    Raises:
        StoreFull, StoreError: the store cannot be written.
    """
    slots, tokens, features = shape.text
    arrays = (
        ArraySpec("latent_mean", ("channel", "y", "x"), shape.latent, "float16", "nan"),
        ArraySpec("latent_std", ("channel", "y", "x"), shape.latent, "float16", "nan"),
        ArraySpec("text_states", ("slot", "token", "feature"), shape.text, "float16", "nan"),
        ArraySpec("text_mask", ("slot", "token"), (slots, tokens), "bool", False),
        *(array for array in row_arrays(slots) if array.name == "valid"),
    )
    about: Mapping[str, Any] = {
        "fingerprint": MARK,
        "identity": {"encoders": {"text": {}}},
        "random_weights": True,
        "image_encoder": {"scaling_factor": 0.18215, "shift_factor": 0.0},
        "text_encoder": {"pad": shape.pad},
    }
    empty = (
        Constant("empty_text_states", ("token", "feature"), np.zeros((tokens, features), np.float16)),
        Constant("empty_text_mask", ("token",), np.arange(tokens) < 2),
    )
    store, plan = ZarrStore(folder), ChunkGrid(shape.rows, shape.rows_per_chunk)
    store.create(plan.rows, plan.rows_per_chunk, arrays, {"daskt2i": about}, empty)
    random = np.random.default_rng(0)
    with publishing(folder) as publication:
        for chunk in plan:
            made, n = _random_chunk(random, shape, len(chunk)), len(chunk)
            attempt = begin_attempt(folder, publication.run, chunk.index)
            receipt = Receipt(
                chunk=chunk.index,
                start=chunk.start,
                stop=chunk.stop,
                fingerprint=MARK,
                accepted=n,
                captions=n * slots,
                truncated=0,
                rejected=(),
                inputs="",
                seconds={},
                worker="",
                loads={},
                batch=n,
                peak_bytes=0,
                shards=store.write(chunk, Encoded(made), attempt),
            )
            Receipts(folder).write(receipt, attempt)
            publication.publish(Staged(receipt, attempt.name))
            yield made


def _random_chunk(random: np.random.Generator, shape: Shape, n: int) -> dict[str, npt.NDArray[Any]]:
    slots, tokens, features = shape.text
    lengths = random.integers(shape.used[0], shape.used[1] + 1, (n, slots))
    mask = np.arange(tokens) < lengths[..., None]
    states = np.zeros((n, *shape.text), np.float16)
    filled = mask if shape.pad == "length" else np.ones_like(mask)
    states[filled] = random.standard_normal((int(filled.sum()), features), np.float32)
    mean, std = (random.standard_normal((n, *shape.latent), np.float32).astype(np.float16) for _ in range(2))
    made = {"latent_mean": mean, "latent_std": np.abs(std), "text_states": states, "text_mask": mask}
    return {**made, "valid": np.ones(n, np.bool_)}


def forget(folder: RunFolder) -> bool:
    """Remove the store's files from the page cache. Returns False if this system cannot do that."""
    return forget_files(folder.local_path(STORE))


def forget_files(folder: Path) -> bool:
    """Remove the files below a folder from the page cache. Returns False if this system cannot do that."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.sync()  # pages that are not on disk yet would stay
    for path in folder.rglob("*"):
        if path.is_file():
            with contextlib.suppress(OSError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True
