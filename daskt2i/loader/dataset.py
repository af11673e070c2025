"""Training samples for the denoiser from a latent store: each row once per epoch, with another caption each time.

Covers: the training rows and the validation rows.
Does not cover: rows that `where` keeps (`joined.chosen_rows`), which rows are held out together (`content`), the order
(`sample_order`), a rank's part of each batch (`row_stream`), the arrays of a batch (`batch_arrays`), random numbers
(`random_numbers`), training itself (`train`), pictures (`picture_dataset`), adding noise to latents
(`model.diffusion`), samples for other trainers (`own_trainer`).
With buckets, each batch has rows of one bucket (`joined.bucket_mix`). A picture is mirrored for half of the samples if
the store has mirrored latents: a mirrored latent is not the latent of the mirrored picture.

The position is one whole number: the samples that all ranks together have taken since the start. Epoch e is the part of
the stream from e x `rows` on. So a batch may cover two epochs, and nothing is padded or dropped. In an epoch, whole
shards (chunks) are shuffled, and then the rows inside each window of `window` shards. The random parts of a sample
depend only on seed, epoch and row, not on the number of ranks or on interruptions.

A row is read with only the caption of its epoch, because 5 captions x 77 tokens x 768 features are 36 times its
latents. If a store does not fit into the cache, only this caption is kept. Measurements: docs/benchmarks/loader.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from daskt2i.errors import ConfigError, StoreError
from daskt2i.formatting import many
from daskt2i.loader.batch_arrays import Batch, BatchArrays
from daskt2i.loader.caption_weights import check_weights
from daskt2i.loader.content import groups_of, split
from daskt2i.loader.forms.caption_states import CaptionStates
from daskt2i.loader.joined.bucket_mix import order_of
from daskt2i.loader.joined.chosen_rows import chosen_rows
from daskt2i.loader.joined.joined_reader import Choice, open_reader
from daskt2i.loader.random_numbers import Draw, in_bulk, one_by_one
from daskt2i.loader.row_stream import RowStream
from daskt2i.loader.sample_order import Purpose, RandomStreams, Sample, Weights, key_of
from daskt2i.loader.shards import ALL, SIZED
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore

SAMPLES = "samples"
"""Key of a training's identity that older versions did not write."""

SAMPLED: Mapping[str, str] = {"numbers": "Philox and Box-Muller", "validation": "by content"}
"""Its value: how random numbers are made and validation rows are chosen. `older` is what was before."""


class LatentDataset(RowStream[Batch]):
    """Training samples of one rank, and its validation rows.

    Args:
        folder: the run folder, a path or an fsspec address.
        seed: seed of the split, the order, captions, dropout, posterior, noise and times.
        batch: samples in one step over all ranks. `world` must divide it.
        rank, world: number of this rank, number of all ranks.
        window: number of shards whose rows are shuffled together.
        heldout: number of validation rows. There may be fewer, see `content.split`.
        where: an expression; only rows for which it is true train and are held out. None: all accepted rows.
        weights: how often each caption slot is drawn; None: the captions of a row equally often.
        dropout: share of captions replaced by the empty prompt.
        posterior: `sample` draws from the VAE's posterior each time, `mean` takes its mean.
        cache_bytes, threads: as in `RowStream`.
        allow_random: whether to accept latents of random weights, for speed tests.
        sized: whether batches have sizes, crops and pooled text (`Batch.sized`). The store must have `text_pooled`.
        view: name of the view to train on; None: of several resolutions the first, of buckets all.
        open_as: how the store of a run folder is read.
        encoder: makes the states of captions, if the store has captions alone. Without it no batch can be made then.
        older: whether an older version began this training: its random numbers, and its split by row.

    Raises:
        ConfigError: the batch, the number of validation rows or the weights do not fit this store.
        StoreMissing: there is no store here.
        StoreError: chunks are not done, weights were random, or metadata are damaged.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        seed: int,
        batch: int,
        rank: int = 0,
        world: int = 1,
        window: int = 8,
        heldout: int = 64,
        where: str | None = None,
        weights: Weights | None = None,
        dropout: float = 0.1,
        posterior: Literal["sample", "mean"] = "sample",
        cache_bytes: int = 512 * 2**20,
        threads: int = 2,
        allow_random: bool = False,
        sized: bool = False,
        view: str | None = None,
        open_as: Callable[[RunFolder], ZarrStore] = ZarrStore,
        encoder: CaptionStates | None = None,
        older: bool = False,
    ) -> None:
        if batch % world:
            raise ConfigError(
                f"train.batch is {batch}, which {world} ranks cannot share equally. Set it to a multiple of {world}, "
                "or set another launch.ranks."
            )
        self._key = key_of(seed)
        wanted = replace(SIZED if sized else ALL, encoder=encoder, weights=weights)
        reader = open_reader(folder, self._key, posterior == "sample", wanted, Choice(view), open_as)
        if reader.attributes["random_weights"] and not allow_random:
            raise StoreError(
                f"{folder} was encoded with random weights, for speed tests, so a model cannot learn from it. It was "
                "not changed; encode with trained weights into another run folder (out)."
            )
        if weights is not None:
            check_weights(weights, reader.slots, "train.caption_weights")
        self.accepted = accepted = reader.accepted()
        fingerprint = self.fingerprint = reader.fingerprint
        self.chosen = accepted if where is None else chosen_rows(folder, accepted, fingerprint, where)
        if len(self.chosen) <= heldout:
            raise ConfigError(
                f"train.validation is {heldout}, but {folder} has {many(len(self.chosen), 'accepted row')}"
                f"{'' if where is None else f' that train.where (`{where}`) keeps'}, so no rows are left for training. "
                "Set train.validation lower, or encode more rows into another run folder."
            )
        mixed = RandomStreams(self._key).at(Purpose.SPLIT, 0, 0).permutation(self.chosen)
        groups = groups_of(folder, accepted, fingerprint) if heldout and not older else ()
        self.split = split(mixed, groups, heldout)
        self.heldout, training = self.split.heldout, self.split.training
        draw: Draw = one_by_one if older else in_bulk
        buckets = dict(reader.buckets(training))
        largest = sorted(reader.buckets(self.chosen), key=lambda bucket: -len(bucket[1]))
        self.latent_shapes = tuple(shape for shape, _ in largest)
        super().__init__(
            reader,
            training,
            order_of(list(buckets.values()), reader.grid.rows_per_chunk, window, self._key, batch),
            BatchArrays(reader, self._key, draw, dropout),
            batch=batch,
            rank=rank,
            world=world,
            cache_bytes=cache_bytes,
            threads=threads,
        )
        # Older versions did not look at the epoch if the whole store was in memory.
        self._look_at_epochs = not (older and self._kept)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a latent of the bucket with most rows."""
        return self.latent_shapes[0]

    @property
    def pooled(self) -> int:
        """Number of features of a pooled text state; 0 without one."""
        return self._reader.pooled

    def heldout_batches(self, size: int) -> Iterator[Batch]:
        """This rank's validation rows in order, with the same noise, time and caption each time and without dropout.

        Args:
            size: rows in a batch. The last batch may have fewer.

        Raises:
            StoreError: a row cannot be read, or it does not match its receipt.
        """
        for samples in self._heldout_samples(size):
            found = self._pool.map(lambda sample: (self._reader.read([[sample]], mirror=False)[0], 0), samples)
            yield self._arrays.make(samples, list(found), Purpose.HELDOUT)

    def least_heldout(self, size: int) -> int:
        """Rows of this rank's smallest validation batch; `size` without validation rows."""
        return min((len(samples) for samples in self._heldout_samples(size)), default=size)

    def most_heldout_batches(self, size: int) -> int:
        """Number of validation batches of the rank that has most."""
        return max(sum(1 for _ in self._heldout_samples(size, rank)) for rank in range(self._world))

    def _heldout_samples(self, size: int, rank: int | None = None) -> Iterator[list[Sample]]:
        """The validation rows of a rank, by default of this one, in batches of one bucket each."""
        mine = self.heldout[self._rank if rank is None else rank :: self._world]
        for _, rows in self._reader.buckets(mine) if len(mine) else ():
            for start in range(0, len(rows), size):
                yield [(0, int(row)) for row in rows[start : start + size]]
