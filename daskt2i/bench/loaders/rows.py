"""The rows that all loaders read: random numbers in the shape of Stable Diffusion 1.5, with one caption each.

Covers: the rows as numpy files, the same rows as a run folder of ours, bytes on disk.
Does not cover: the formats of the peers (`peer`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from daskt2i.bench.stores import Shape, write_rows
from daskt2i.errors import ConfigError
from daskt2i.store.run_folder import STORE, RunFolder

ROWS = 2304
TEXTS = {
    "compact": Shape((4, 32, 32), (1, 77, 768), (9, 21), "length", 256, ROWS),
    "full": Shape((4, 32, 32), (1, 77, 768), (77, 77), "full", 256, ROWS),
}
"""Captions as COCO has them, without padding; and all 77 states of each."""


def shape_of(text: str, rows: int = ROWS) -> Shape:
    """The shape of a kind of text.

    Raises:
        ConfigError: there is no such kind.
    """
    if text not in TEXTS:
        raise ConfigError(f"There is no text {text!r}. Nothing was measured. Use one of {', '.join(TEXTS)}.")
    made = TEXTS[text]
    return Shape(made.latent, made.text, made.used, made.pad, min(made.rows_per_chunk, max(1, rows // 9)), rows)


def write(folder: Path, shape: Shape) -> None:
    """Write the rows as numpy files into `rows/`, and as a run folder into `daskt2i/`."""
    kept: dict[str, list[np.ndarray]] = {"mean": [], "std": [], "text": [], "lengths": []}
    for made in write_rows(RunFolder(folder / "daskt2i"), shape):
        lengths = made["text_mask"][:, 0].sum(1)
        kept["mean"].append(made["latent_mean"])
        kept["std"].append(made["latent_std"])
        kept["text"].append(made["text_states"][:, 0][made["text_mask"][:, 0]])
        kept["lengths"].append(lengths)
    place = folder / "rows"
    place.mkdir()
    for name in ("mean", "std", "text"):
        np.save(place / f"{name}.npy", np.concatenate(kept[name]))
    np.save(place / "ends.npy", np.concatenate([[0], np.cumsum(np.concatenate(kept["lengths"]))]))


def decoded_bytes(shape: Shape) -> float:
    """Mean bytes of a decoded sample: mean and std, and the tokens of its caption that count, all in fp16."""
    tokens = sum(shape.used) / 2
    return 2 * (2 * float(np.prod(shape.latent)) + tokens * shape.text[2])


def bytes_of(folder: Path, name: str) -> int:
    """Bytes on disk of what a loader reads."""
    place = {"numpy": folder / "rows", "daskt2i": folder / "daskt2i" / STORE}.get(name, folder / name)
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
