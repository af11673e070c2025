"""How fast training samples come out of a latent store: `python workflows/bench_loader.py` (docs/benchmarks/loader.md).

Covers: synthetic stores in the shapes of the demo and of Stable Diffusion 1.5, read warm, from the page cache, and from
the disk.
Does not cover: training, networks, several ranks.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from daskt2i.dataset import LatentDataset
from daskt2i.folder import STORE, RunFolder
from daskt2i.latents import ZarrStore
from daskt2i.layout import row_arrays
from daskt2i.plan import Plan
from daskt2i.receipts import Receipts
from daskt2i.types import ArraySpec, Constant, Encoded, Receipt

BATCH = 64
MARK = "synthetic"


@dataclass(frozen=True)
class Shape:
    """A store: channels and side of latents, captions x tokens x features of text, tokens in use, rows per chunk."""

    latent: tuple[int, int, int]
    text: tuple[int, int, int]
    used: tuple[int, int]
    pad: str
    rows_per_chunk: int
    rows: int


SHAPES = {
    "demo": Shape((4, 16, 16), (5, 24, 128), (24, 24), "full", 64, 1000),
    "sd15": Shape((4, 32, 32), (5, 77, 768), (9, 21), "length", 256, 2304),
    "sd15-full": Shape((4, 32, 32), (5, 77, 768), (9, 21), "full", 256, 2304),
}


def write(folder: RunFolder, shape: Shape) -> None:
    """The store with its receipts, of random numbers."""
    slots, tokens, features = shape.text
    arrays = (
        ArraySpec("latent_mean", ("channel", "y", "x"), shape.latent, "float16", "nan"),
        ArraySpec("latent_std", ("channel", "y", "x"), shape.latent, "float16", "nan"),
        ArraySpec("text_states", ("slot", "token", "feature"), shape.text, "float16", "nan"),
        ArraySpec("text_mask", ("slot", "token"), (slots, tokens), "bool", False),
        *(a for a in row_arrays(slots) if a.name == "valid"),
    )
    about: Mapping[str, Any] = {
        "fingerprint": MARK,
        "identity": {"encoders": {"text": {}}},
        "random_weights": False,
        "image_encoder": {"scaling_factor": 0.18215, "shift_factor": 0.0},
        "text_encoder": {"pad": shape.pad},
    }
    empty = (
        Constant("empty_text_states", ("token", "feature"), np.zeros((tokens, features), np.float16)),
        Constant("empty_text_mask", ("token",), np.arange(tokens) < 2),
    )
    store, receipts, plan = ZarrStore(folder), Receipts(folder), Plan(shape.rows, shape.rows_per_chunk)
    store.create(plan.rows, plan.rows_per_chunk, arrays, {"daskt2i": about}, empty)
    random = np.random.default_rng(0)
    for chunk in plan:
        n = len(chunk)
        lengths = random.integers(shape.used[0], shape.used[1] + 1, (n, slots))
        mask = np.arange(tokens) < lengths[..., None]
        states = np.zeros((n, *shape.text), np.float16)
        filled = mask if shape.pad == "length" else np.ones_like(mask)
        states[filled] = random.standard_normal((int(filled.sum()), features), np.float32)
        mean, std = (random.standard_normal((n, *shape.latent), np.float32).astype(np.float16) for _ in range(2))
        made = {"latent_mean": mean, "latent_std": np.abs(std), "text_states": states, "text_mask": mask}
        shards = store.write(chunk, Encoded({**made, "valid": np.ones(n, bool)}))
        counts = (chunk.index, chunk.start, chunk.stop, MARK, n, n * slots, 0, ())
        receipts.write(Receipt(*counts, "", {}, "", {}, BATCH, 0, shards=shards))


def forget(folder: RunFolder) -> None:
    """Take the store's files out of the page cache."""
    for path in folder.local_path(STORE).rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def epoch(dataset: LatentDataset, number: int) -> tuple[float, float]:
    """Samples/s by the clock, and by the seconds of processor that this process took, over one epoch."""
    steps = dataset.rows // BATCH
    begun, worked = time.perf_counter(), time.process_time()
    for _ in itertools.islice(dataset.batches(number * dataset.rows), steps):
        pass
    seconds, busy = time.perf_counter() - begun, time.process_time() - worked
    return steps * BATCH / seconds, steps * BATCH / busy


def measure(folder: RunFolder, cache: int, repeat: int, cold: bool) -> tuple[float, float]:
    """Medians of `epoch`. A cache that holds everything is filled before; a cold disk is made cold each time."""
    found = []
    dataset = LatentDataset(folder, seed=0, batch=BATCH, cache_bytes=cache)
    epoch(dataset, 0)
    for number in range(1, repeat + 1):
        if cold:
            forget(folder)
        found.append(epoch(dataset, number))
    dataset.close()
    return statistics.median(f[0] for f in found), statistics.median(f[1] for f in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=[], help=f"of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dir", help="where the stores are written; a temporary folder by default")
    arguments = parser.parse_args()
    print("| store | cache | from | samples/s | samples per second of processor |\n|---|---|---|---|---|")
    for name in arguments.shapes or SHAPES:
        with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="daskt2i-bench-") as place:
            folder = RunFolder(Path(place))
            write(folder, SHAPES[name])
            row = 2 * (2 * int(np.prod(SHAPES[name].latent)) + int(np.prod(SHAPES[name].text)))
            little = min(512 * 2**20, SHAPES[name].rows * row // 2)
            for text, cache, cold in (
                ("memory", 16 * 2**30, False),
                ("page cache", little, False),
                ("disk", little, True),
            ):
                rate, busy = measure(folder, cache, arguments.repeat, cold)
                print(f"| {name} | {cache / 2**20:,.0f} MiB | {text} | {rate:,.0f} | {busy:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
