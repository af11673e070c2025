"""`daskt2i.torch_dataset`: a store as a data set of torch, in ready batches or row by row.

    data = daskt2i.torch_dataset("runs/coco", batch_size=64)
    for epoch in range(10):
        for batch in DataLoader(data, batch_size=None, pin_memory=True):
            batch["latents"], batch["text_states"], batch["text_mask"], batch["image_id"]

Covers: the function, the iterable data set, its state.
Does not cover: which rows (`selection`), the batches of an epoch (`epochs`), single rows (`map_style`).

The data set makes whole batches, because a call for each sample would take longer than the sample. Threads decode rows
ahead, so a DataLoader needs no worker processes. It may have any number of them, which gives the same batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.loader.joined.bucket_mix import BucketMix, order_of
from daskt2i.loader.own_trainer.epochs import EpochStream, MixSteps, Steps
from daskt2i.loader.own_trainer.map_style import LatentRows
from daskt2i.loader.own_trainer.ranks import rank_and_world
from daskt2i.loader.own_trainer.sample_tensors import Tensors
from daskt2i.loader.own_trainer.selection import Posterior, Selection, select
from daskt2i.loader.sample_order import ShardSampler
from daskt2i.loader.shards import Captions

WINDOW = 8
"""Number of shards whose rows are shuffled together, as in `train.shuffle_window`."""

_BEGIN, _BY_WORKERS = 0, 1
"""Places in the memory that worker processes share with the process that made the data set."""


def torch_dataset(
    path: str | os.PathLike[str],
    batch_size: int | None = None,
    *,
    shuffle: bool = True,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    columns: Sequence[str] | None = None,
    captions: Captions = "random",
    caption_weights: Sequence[float] | None = None,
    posterior: Posterior = "sample",
    where: str | None = None,
    view: str | None = None,
    mirror: bool | None = None,
    drop_last: bool = False,
    unfinished: bool = False,
    cache_bytes: int | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    threads: int = 2,
    storage_options: Mapping[str, Any] | None = None,
) -> LatentBatches | LatentRows:
    """Open a latent store as a data set of torch.

    Args:
        path: the run folder, as a path or an fsspec address.
        batch_size: samples of a batch of this rank. The data set is iterable and gives batches; give
            `DataLoader(data, batch_size=None)`. None: a map-style data set of single rows, for the batches of a
            DataLoader and its sampler.
        shuffle: another order in each epoch: whole shards, then the rows of eight shards at a time.
        seed: seed of the order, the captions and the draws from the posterior.
        rank, world_size: number of this rank, number of all ranks. None: from torch.distributed, else RANK and
            WORLD_SIZE, else this is the only rank.
        columns: what a sample has. None: `latents`, `text_states` with `text_mask`, and `image_id`. Other names are
            those of the arrays of the store, such as `caption`, `text_pooled`, `source_size`, `crop_box`.
        captions: `random` takes another caption of a row in each epoch, `first` its first one, `all` gives
            `text_states[b, slot, token, feature]`.
        caption_weights: how often `random` draws each caption slot, one number a slot; 0 leaves a slot out. None: the
            captions of a row equally often.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        where: an expression; only rows for which it is true are read: `"people and words > 5"`.
        view: the size of the latents, as `"512x448"`. None: of several resolutions the first, and of buckets all; then
            each batch has rows of one bucket.
        mirror: whether half of the samples have the latent of the mirrored picture. None: if the store has such
            latents, and batches are read from it (`batch_size`, no `cache_folder`).
        drop_last: leave out the rows after the last whole batch of an epoch. Else the last batch is smaller.
        unfinished: read a store whose encode has not finished.
        cache_bytes: memory for decoded rows. None: a quarter of the memory, shared by the ranks of this machine.
        cache_folder: a folder on a fast disk of this machine for decoded rows. The first use writes them there, without
            padding; later uses and the other ranks of this machine only map them. None: rows are decoded from the store
            in each epoch, if they do not fit into `cache_bytes`.
        threads: threads that decode shards; the same number of threads makes batches.
        storage_options: passed to fsspec.

    Returns:
        A `torch.utils.data.IterableDataset`, or a map-style data set if `batch_size` is None.

    Raises:
        ConfigError: an argument is wrong, or no row is left.
        StoreMissing: there is no store here.
        StoreError: chunks are not done, weights were random, or metadata are damaged.
    """
    can_mirror = batch_size is not None and cache_folder is None
    if mirror and not can_mirror:
        raise ConfigError(
            "mirror=True needs batches that are read from the store: single rows and cache_folder keep one latent of a "
            "row. Nothing was read; give batch_size and no cache_folder, or mirror=False."
        )
    selection = select(
        path,
        columns=columns,
        captions=captions,
        caption_weights=caption_weights,
        posterior=posterior,
        seed=seed,
        where=where,
        unfinished=unfinished,
        cache_bytes=cache_bytes,
        cache_folder=cache_folder,
        threads=threads,
        storage_options=storage_options,
        view=view,
        mirror=can_mirror if mirror is None else mirror,
    )
    if batch_size is None:
        return LatentRows(selection)
    number, world = rank_and_world(rank, world_size)
    return LatentBatches(selection, batch_size, number, world, shuffle=shuffle, drop_last=drop_last)


class LatentBatches:
    """Batches of one rank: an iterable data set of torch. Make it with `daskt2i.torch_dataset`.

    `iter` gives one epoch: the next one each time, or the rest of an epoch after `load_state_dict`. It can be pickled,
    as worker processes of a DataLoader need it.
    """

    def __init__(
        self, selection: Selection, batch_size: int, rank: int, world: int, *, shuffle: bool, drop_last: bool
    ) -> None:
        import torch

        # DataLoader asks whether this is an IterableDataset. To derive from it, `import daskt2i` would import torch.
        torch.utils.data.IterableDataset.register(type(self))
        if len(selection.rows) < world:
            raise ConfigError(
                f"{world} ranks cannot share {len(selection.rows)} rows. Nothing was read; start fewer ranks, or read "
                "more rows."
            )
        self._selection, self._rank, self._shuffle = selection, rank, shuffle
        batch, rows = batch_size * world, len(selection.rows)
        order = self._order_of(batch)
        self._steps: Steps | MixSteps = Steps(rows, batch, world, drop_last)
        self._order = f"{selection.digest} {'shuffled' if shuffle else 'as stored'}"
        if isinstance(order, BucketMix):
            self._steps = MixSteps(order, rows, batch, world)
            self._order += f", {batch} of a bucket"
        if not self._steps.count(0) or not self._steps.begin(1):
            largest = max(map(len, selection.buckets))
            what = f"are {rows}" if len(selection.buckets) == 1 else f"are at most {largest} of one size"
            raise ConfigError(
                f"{world} ranks with batches of {batch_size} need {batch} rows, but there {what}. Nothing was read; "
                "give a smaller batch_size, or, if all rows have one size, drop_last=False."
            )
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()
        self._loaded = False
        self._progress = 0
        self._until = 0  # in a worker process: where the epoch that it is in ends
        self._resume: tuple[int, int] | None = None  # the same: where its next pass begins and ends
        self._open: tuple[int, int, EpochStream] | None = None

    def __repr__(self) -> str:
        return f"<{len(self)} batches of {self._selection.folder}, rank {self._rank} of {self._steps.world}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __len__(self) -> int:
        """Number of batches of the whole epoch that `iter` gives next, the same on each rank. Without buckets it is the
        same for each epoch."""
        return self._steps.count(self._steps.begin(self.epoch))

    @property
    def rows(self) -> int:
        """Number of samples of an epoch over all ranks; with buckets on average."""
        return self._steps.rows

    @property
    def epoch(self) -> int:
        """The epoch that `iter` gives next."""
        return self._steps.epoch(int(self._shared[_BEGIN]))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that `iter` gives next, also in worker processes, which need it before each epoch.

        After `load_state_dict` it keeps the position of the state, if that is in this epoch.
        """
        if not (self._loaded and self.epoch == epoch):
            self._shared[_BEGIN] = self._progress = self._steps.begin(epoch)
        self._loaded = False

    def __iter__(self) -> Iterator[Tensors]:
        from torch.utils.data import get_worker_info

        info = get_worker_info()
        if info is None:
            yield from self._epoch_here()
        else:
            yield from self._epoch_of_worker(info.id, info.num_workers)

    def _epoch_here(self) -> Iterator[Tensors]:
        self._progress = begin = int(self._shared[_BEGIN])
        self._loaded, self._shared[_BY_WORKERS] = False, 0
        for after, batch in self._stream(0, 1).epoch(begin):
            self._progress = after
            yield {**batch, "position": after}
        self._shared[_BEGIN] = self._progress = self._steps.next_epoch(begin)

    def _epoch_of_worker(self, worker: int, workers: int) -> Iterator[Tensors]:
        begin = int(self._shared[_BEGIN])
        (begin, until), self._resume = self._resume or (begin, self._steps.next_epoch(begin)), None
        self._progress, self._until, self._shared[_BY_WORKERS] = begin, until, 1
        if begin < until:  # else this worker had made all of its batches before the stop
            for after, batch in self._stream(worker, workers).epoch(begin):
                self._progress += self._steps.batch * workers
                yield {**batch, "position": after}

    def state_dict(self, after: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Where a later run goes on, also with another number of ranks or worker processes.

        Args:
            after: the last batch that was used. None: the last batch that this process made, which is wrong if worker
                processes of a DataLoader made batches ahead.

        Raises:
            ConfigError: worker processes make the batches, and no batch is given.
        """
        state = {"position": self._progress, "order": self._order}
        if after is not None:
            return {**state, "position": int(after["position"])}
        if self._in_worker():
            return {**state, "until": self._until}
        if self._shared[_BY_WORKERS]:
            raise ConfigError(
                "Worker processes make the batches, so this process does not know which one was used last. Nothing "
                "was changed; give it, as state_dict(after=batch)."
            )
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: the next `iter` gives the rest of that epoch.

        Raises:
            FingerprintMismatch: the state is of other rows or another order, so its position means other samples.
            ConfigError: this is no state of a data set.
        """
        given = state if isinstance(state, Mapping) else {}
        numbers = [given.get("position"), given.get("until") or 0]
        if not isinstance(given.get("order"), str) or any(type(one) is not int or one < 0 for one in numbers):
            raise ConfigError(
                "This is no state of a data set: it needs an order and a position, as state_dict gives them. Nothing "
                "was changed; give the state that was saved (state)."
            )
        if state["order"] != self._order:
            raise FingerprintMismatch(
                "This state is of another store, other rows or another order, so its position means other samples. "
                "Nothing was changed; open the data set as it was when the state was taken."
            )
        self._progress = position = int(state["position"])
        if self._in_worker():
            self._resume = (position, int(state["until"])) if state.get("until") else None
        else:
            self._shared[_BEGIN], self._loaded = position, True

    def close(self) -> None:
        """End the threads of this process and free its rows. May be called twice."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[2].close()
        self._open = None

    def _stream(self, worker: int, workers: int) -> EpochStream:
        """The batches of this process. Decoded rows stay from epoch to epoch."""
        if self._open is None or self._open[:2] != (os.getpid(), workers):
            selection = self._selection
            reader = selection.reader()
            stream = EpochStream(
                reader,
                selection.rows,
                self._order_of(self._steps.batch),
                selection.tensors(reader),
                steps=self._steps,
                rank=self._rank,
                worker=worker,
                workers=workers,
                cache_bytes=selection.cache_bytes // workers,
                threads=selection.threads if workers == 1 else 1,
                mapped=selection.mapped(),
            )
            self._open = (os.getpid(), workers, stream)
        return self._open[2]

    def _order_of(self, batch: int) -> ShardSampler | BucketMix:
        found = self._selection
        return order_of(found.buckets, found.rows_per_chunk, WINDOW, found.key, batch, self._shuffle)

    @staticmethod
    def _in_worker() -> bool:
        from torch.utils.data import get_worker_info

        return get_worker_info() is not None
