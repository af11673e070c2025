"""One loader in its own process, which runs epochs when it is told to. It is a script: it imports nothing of daskt2i
but for our own loader, because a peer's environment has only the peer, numpy and torch.

Covers: writing the rows in a loader's own format, reading them in random order, the same work for each loader.
Does not cover: which loaders, order and repeats (`driver`).

Each batch of 64 is what a trainer gets: rows are decoded, a latent is drawn from the posterior and scaled, captions are
padded to a multiple of 8 tokens. Peers draw the numbers of a whole batch with one call of torch, the fastest that we
found. Ours belong to seed, epoch and row.

    python peer.py NAME ROWS PLACE [CACHE_BYTES CACHE_FOLDER]

NAME is numpy, litdata, mosaicml-streaming, webdataset or daskt2i; ROWS the folder of the rows as numpy files; PLACE the
folder for the loader's own files. It prints a line of JSON when it is ready, and one for each line that it gets.
"""

from __future__ import annotations

import importlib.machinery
import json
import pathlib
import resource
import sys
import time
import types
from collections.abc import Iterable, Iterator
from typing import Any

BATCH, SCALE, TOKENS = 64, 0.18215, 8
LATENT = (4, 32, 32)
PARTS = ("mean", "std", "text")


def collated(samples: list[tuple[Any, Any, Any]]) -> tuple[Any, ...]:
    """A batch of (mean, std, text): latents, text, mask."""
    import numpy as np
    import torch

    mean, std = (torch.from_numpy(np.stack([sample[part] for sample in samples])).float() for part in (0, 1))
    latents = mean.add_(std.mul_(torch.randn(mean.shape))).mul_(SCALE)
    lengths = [len(sample[2]) for sample in samples]
    width = -(-max(lengths) // TOKENS) * TOKENS
    text = np.empty((len(samples), width, samples[0][2].shape[1]), np.float16)
    mask = np.zeros((len(samples), width), np.bool_)
    for target, marks, (_, _, one), length in zip(text, mask, samples, lengths, strict=True):
        target[:length] = one
        target[length:] = 0
        marks[:length] = True
    return latents, torch.from_numpy(text), torch.from_numpy(mask)


def batched(samples: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Batches of samples; the rest is left out."""
    some: list[Any] = []
    for sample in samples:
        some.append(sample)
        if len(some) == BATCH:
            yield collated(some)
            some = []


class Rows:
    """The rows as numpy files, memory-mapped."""

    def __init__(self, folder: str) -> None:
        import numpy as np

        self.mean, self.std, self.text, self.ends = (
            np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in (*PARTS, "ends")
        )

    def __len__(self) -> int:
        return len(self.mean)

    def __getitem__(self, row: int) -> tuple[Any, Any, Any]:
        return self.mean[row], self.std[row], self.text[int(self.ends[row]) : int(self.ends[row + 1])]

    def packed(self, row: int) -> dict[str, bytes]:
        """The parts of a row as bytes."""
        return {name: part.tobytes() for name, part in zip(PARTS, self[row], strict=True)}


def unpacked(sample: Any) -> tuple[Any, Any, Any]:
    """(mean, std, text) of a sample of bytes."""
    import numpy as np

    mean, std, text = (np.frombuffer(sample[name], np.float16) for name in PARTS)
    return mean.reshape(LATENT), std.reshape(LATENT), text.reshape(-1, 768)


class MemoryMapped:
    """Rows of memory-mapped numpy files."""

    def __init__(self, rows: Rows, place: str) -> None:
        self._rows = rows

    def batches(self, epoch: int) -> Iterator[Any]:
        import numpy as np

        order = np.random.default_rng(epoch).permutation(len(self._rows))
        return batched(self._rows[int(row)] for row in order)


class LitData:
    """litdata's StreamingDataset on a local folder."""

    def __init__(self, rows: Rows, place: str) -> None:
        import litdata
        from litdata.streaming.cache import Cache

        if not pathlib.Path(place, "index.json").exists():
            cache = Cache(input_dir=place, chunk_bytes="64MB")
            for row in range(len(rows)):
                cache[row] = rows.packed(row)
            cache.done()
            cache.merge()
        self._data = litdata.StreamingDataset(place, shuffle=True, seed=0)

    def batches(self, epoch: int) -> Iterator[Any]:
        return batched(map(unpacked, self._data))


class Mosaic:
    """mosaicml-streaming's StreamingDataset on a local folder (MDS)."""

    def __init__(self, rows: Rows, place: str) -> None:
        _without_torchvision()
        from streaming import MDSWriter, StreamingDataset

        if not pathlib.Path(place, "index.json").exists():
            with MDSWriter(out=place, columns=dict.fromkeys(PARTS, "bytes"), size_limit="64mb") as writer:
                for row in range(len(rows)):
                    writer.write(rows.packed(row))
        self._data = StreamingDataset(local=place, shuffle=True, batch_size=BATCH)

    def batches(self, epoch: int) -> Iterator[Any]:
        return batched(map(unpacked, self._data))


def _nothing(name: str) -> type:
    """A class for any name that a module of torchvision has."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


def _without_torchvision() -> None:
    """Let `import streaming` find an empty torchvision. One for CUDA cannot be imported beside a torch for CPUs, and
    nothing here uses it."""
    for name in ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".io"):
        empty = types.ModuleType(f"torchvision{name}")
        empty.__path__, empty.__spec__ = [], importlib.machinery.ModuleSpec(empty.__name__, None)
        empty.__getattr__ = _nothing  # type: ignore[method-assign]
        sys.modules[f"torchvision{name}"] = empty


class WebDataset:
    """webdataset: shards of 256 rows, a shuffle buffer of 1,000."""

    def __init__(self, rows: Rows, place: str) -> None:
        import webdataset

        if not list(pathlib.Path(place).glob("*.tar")):
            with webdataset.ShardWriter(f"{place}/%06d.tar", maxcount=256, verbose=0) as writer:
                for row in range(len(rows)):
                    writer.write({"__key__": f"{row:06d}", **{f"{k}.bin": v for k, v in rows.packed(row).items()}})
        shards = sorted(map(str, pathlib.Path(place).glob("*.tar")))
        self._data = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(1000)

    def batches(self, epoch: int) -> Iterator[Any]:
        names = {name: f"{name}.bin" for name in PARTS}
        return batched(unpacked({name: sample[key] for name, key in names.items()}) for sample in self._data)


class Ours:
    """daskt2i's `torch_dataset` on a run folder. That function refuses a store of random numbers."""

    def __init__(self, rows: Rows, place: str, cache_bytes: int, cache_folder: str = "", threads: int = 2) -> None:
        from daskt2i.loader.own_trainer.selection import select
        from daskt2i.loader.own_trainer.torch_dataset import LatentBatches

        selection = select(
            place,
            columns=None,
            captions="random",
            posterior="sample",
            seed=0,
            where=None,
            unfinished=False,
            cache_bytes=cache_bytes,
            cache_folder=cache_folder or None,
            threads=threads,
            storage_options=None,
            allow_random=True,
        )
        self._data = LatentBatches(selection, BATCH, 0, 1, shuffle=True, drop_last=True)

    def batches(self, epoch: int) -> Iterator[Any]:
        self._data.set_epoch(epoch)
        return iter(self._data)


LOADERS = {"numpy": MemoryMapped, "litdata": LitData, "mosaicml-streaming": Mosaic, "webdataset": WebDataset}


def peak_bytes() -> int:
    """Peak memory of this process. On Linux `ru_maxrss` may be that of the process that started it."""
    try:
        lines = pathlib.Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str, folder: str, place: str, *more: str) -> None:
    """Run epochs until the input ends."""
    import torch

    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # loaders print

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    rows = Rows(folder)
    loader: Any = (
        Ours(rows, place, int(more[0]), "".join(more[1:])) if name == "daskt2i" else LOADERS[name](rows, place)
    )
    answer({"ready": True})
    for epoch, _ in enumerate(sys.stdin):
        begun, worked, samples = time.perf_counter(), time.process_time(), 0
        for batch in loader.batches(epoch):
            samples += len(batch[0] if isinstance(batch, tuple) else batch["latents"])
        seconds, busy = time.perf_counter() - begun, time.process_time() - worked
        answer({"samples": samples, "seconds": seconds, "busy": busy, "peak": peak_bytes()})


if __name__ == "__main__":
    main(*sys.argv[1:])
