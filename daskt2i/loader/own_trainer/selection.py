"""The rows and columns of a store that a trainer reads, and how.

Covers: opening the store, rows that `where` keeps, an unfinished store, memory for decoded rows.
Does not cover: the facts of a row (`facts.stored`), batches (`epochs`), single rows (`map_style`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from daskt2i.errors import ConfigError, StoreError
from daskt2i.formatting import many
from daskt2i.loader.caption_weights import check_weights, require_captions
from daskt2i.loader.joined.chosen_rows import rows_where
from daskt2i.loader.joined.joined_reader import DEFAULT, AnyReader, Choice, open_reader
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.memory.mapped_rows import MappedRows, mapped_rows
from daskt2i.loader.own_trainer.columns import LATENTS, wanted_columns, wanted_of
from daskt2i.loader.own_trainer.sample_tensors import SampleTensors
from daskt2i.loader.sample_order import Weights, Whole, key_of
from daskt2i.loader.shards import Captions, Wanted
from daskt2i.machine.machine import this_machine
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

Posterior = Literal["sample", "mean"]

_PART_OF_MEMORY = 4
"""Decoded rows take at most one of so many parts of the memory, shared by the ranks of this machine."""


@dataclass(frozen=True)
class Selection:
    """What is read of a store. It can be pickled.

    Attributes:
        folder: the run folder.
        rows: numbers of the rows, `int64[n]`, ascending.
        columns: the columns of a sample.
        captions: which captions of a row.
        posterior: `sample` draws from the VAE's posterior, `mean` takes its mean.
        seed: seed of the order, the captions and the posterior.
        fingerprint: that of the store.
        cache_bytes: memory for decoded rows in one process.
        threads: threads that decode, and that make batches.
        cache_folder: folder for decoded rows; None for none.
        choice: which latents of a row.
        buckets: the rows of each size of latents, `int64[n]`, ascending.
        rows_per_chunk: rows of a shard.
        weights: how often each caption slot is drawn; None for equally often.
    """

    folder: RunFolder
    rows: Whole = field(repr=False)
    columns: tuple[str, ...]
    captions: Captions
    posterior: Posterior
    seed: int
    fingerprint: str
    cache_bytes: int
    threads: int
    cache_folder: Path | None = None
    choice: Choice = DEFAULT
    buckets: tuple[Whole, ...] = field(default=(), repr=False)
    rows_per_chunk: int = 1
    weights: Weights | None = None

    @property
    def key(self) -> int:
        """Key of the random numbers."""
        return key_of(self.seed)

    @property
    def digest(self) -> str:
        """A hash of what decides which sample is at a position."""
        text = f"{self.fingerprint} {self.seed} {self._view}".encode()
        return hashlib.sha256(text + self.rows.astype("<i8").tobytes()).hexdigest()[:16]

    @property
    def _view(self) -> str:
        return "" if self.choice.view is None else f"{self.choice.view} "

    def reader(self) -> AnyReader:
        """Reads these columns.

        Raises:
            StoreMissing, StoreError: the store is gone or damaged.
        """
        return self._open(wanted_of(self.columns, self.captions, self.weights))

    def _open(self, wanted: Wanted) -> AnyReader:
        return open_reader(self.folder, self.key, self.posterior == "sample", wanted, self.choice)

    def mapped(self) -> MappedRows | None:
        """All rows in files of the cache folder; None without one. They are written if they are not there.

        Raises:
            StoreError, StoreFull: they cannot be read or written.
        """
        if self.cache_folder is None:
            return None
        wanted = replace(wanted_of(self.columns, self.captions), captions="all")
        reader = self._open(wanted)
        if len(self.buckets) > 1:
            raise ConfigError(
                f"Decoded rows of {self.folder} cannot be kept in cache_folder, because its latents have several "
                "sizes. Nothing was written; leave cache_folder out, or choose one size (view)."
            )
        text = f"{self.fingerprint} {self._view}{wanted} {reader.draws} ".encode()
        text += self.rows.astype("<i8").tobytes()
        place = self.cache_folder / f"daskt2i-{hashlib.sha256(text).hexdigest()[:16]}"
        return mapped_rows(place, self.rows, self._shards(reader))

    def _shards(self, reader: AnyReader) -> Iterator[LoadedRows]:
        """All rows with all captions, shard by shard."""
        size = reader.grid.rows_per_chunk
        for rows in np.split(self.rows, np.flatnonzero(np.diff(self.rows // size)) + 1):
            yield reader.read([[(-1, row) for row in rows.tolist()]])[0]

    def tensors(self, reader: AnyReader, whole_text: bool = False) -> SampleTensors:
        """Makes tensors of these columns."""
        return SampleTensors(reader, self.key, self.columns, self.captions, whole_text)


def select(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None,
    captions: Captions,
    posterior: Posterior,
    seed: int,
    where: str | None,
    unfinished: bool,
    cache_bytes: int | None,
    cache_folder: str | os.PathLike[str] | None = None,
    threads: int,
    storage_options: Mapping[str, Any] | None,
    view: str | None = None,
    mirror: bool = True,
    allow_random: bool = False,
    caption_weights: Weights | None = None,
) -> Selection:
    """Open a store, and choose its rows. The arguments are those of `torch_dataset`.

    Raises:
        ConfigError: an argument is wrong, or no row is left.
        StoreMissing: there is no store here.
        StoreError: chunks are not done, weights were random, or metadata are damaged.
    """
    for name, value, choices in (("captions", captions, Captions), ("posterior", posterior, Posterior)):
        if value not in get_args(choices):
            raise ConfigError(f"{name} is {value!r}. Nothing was read; choose from {', '.join(get_args(choices))}.")
    folder = RunFolder(path, storage_options)
    store = ZarrStore(folder)
    wanted = wanted_columns(store, columns, captions)
    choice = Choice(view, mirror)
    reader = open_reader(folder, key_of(seed), posterior == "sample", wanted_of(wanted, captions), choice)
    if reader.attributes["random_weights"] and not allow_random:
        raise StoreError(
            f"{folder} was encoded with random weights, for speed tests, so a model cannot learn from it. It was not "
            "changed; encode with trained weights into another run folder (out)."
        )
    rows = readable_rows(reader, folder, unfinished)
    if where is not None:
        rows = rows_where(folder, rows, where)
    if not len(rows):
        raise ConfigError(
            f"No row of {folder} is left to read. The store was not changed; give another where, or encode more rows."
        )
    if caption_weights is not None:
        _check_weights(folder, reader.slots, rows, captions, caption_weights)
    return Selection(
        folder,
        rows,
        wanted,
        captions,
        posterior,
        seed,
        reader.fingerprint,
        _cache_of_a_rank() if cache_bytes is None else cache_bytes,
        threads,
        None if cache_folder is None else Path(cache_folder).expanduser().absolute(),
        choice,
        tuple(part for _, part in reader.buckets(rows)) if LATENTS in wanted else (rows,),
        reader.grid.rows_per_chunk,
        None if caption_weights is None else tuple(caption_weights),
    )


def _check_weights(folder: RunFolder, slots: int, rows: Whole, captions: Captions, weights: Weights) -> None:
    if captions != "random":
        raise ConfigError(
            f'caption_weights says how often a caption is drawn, but captions="{captions}" draws none. Nothing was '
            'read; give captions="random", or no caption_weights.'
        )
    check_weights(weights, slots, "caption_weights")
    require_captions(folder, rows, weights, "caption_weights")


def readable_rows(reader: AnyReader, folder: RunFolder, unfinished: bool) -> Whole:
    """The accepted rows.

    Raises:
        StoreError: chunks are not done, and the caller did not ask for an unfinished store.
    """
    done = reader.accepted(unfinished=True)
    if not unfinished:
        try:
            return reader.accepted()
        except StoreError as error:
            raise StoreError(
                f"{folder} is not finished: {many(len(done), 'row')} of {reader.grid.filled} can be read so far. "
                "They stay; run encode again to get the others, or give unfinished=True (--unfinished) to read what is "
                "there now."
            ) from error
    return np.asarray(done, np.int64)


def _cache_of_a_rank() -> int:
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "")
    return this_machine().memory // _PART_OF_MEMORY // (int(ranks) if ranks.isdecimal() and int(ranks) else 1)
