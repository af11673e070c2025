"""Single rows of a store: a map-style data set of torch.

Covers: rows by number, decoded shards that stay in memory.
Does not cover: order and ranks (a sampler of torch has them), ready batches (`torch_dataset`).

A row of a compressed shard cannot be read alone: 64 rows or more are decoded together. So shards are decoded as a whole
and stay in memory while there is room. If the whole store fits, any order is fast. If it does not, the iterable data
set is many times as fast.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np

from daskt2i.documents import shown
from daskt2i.errors import UnknownArgument
from daskt2i.loader.joined.joined_reader import AnyReader
from daskt2i.loader.memory.loaded_rows import LoadedRows
from daskt2i.loader.own_trainer.sample_tensors import SampleTensors, Tensors
from daskt2i.loader.own_trainer.selection import Selection
from daskt2i.loader.sample_order import Purpose, Sample


class LatentRows:
    """The rows of a store: a map-style data set of torch. Make it with `daskt2i.torch_dataset`.

    A sample is a dict of tensors without the dimension of the batch. Texts of single samples have all tokens; those of
    `__getitems__`, which a DataLoader calls, have as many tokens as the longest of them.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection, self._epoch = selection, 0
        self._lock = threading.Lock()
        self._shards: OrderedDict[int, LoadedRows] = OrderedDict()
        self._readers: tuple[AnyReader, SampleTensors, SampleTensors] | None = None

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self._selection.folder}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"_selection": self._selection, "_epoch": self._epoch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_selection"])  # type: ignore[misc]  # a lock cannot be pickled
        self._epoch = state["_epoch"]

    def __len__(self) -> int:
        return len(self._selection.rows)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, which decides the caption and the draw from the posterior of each row."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> Tensors:
        """One sample.

        Raises:
            IndexError: there is no such row.
            UnknownArgument: the index is no whole number.
            StoreError: its shard is damaged.
        """
        return self._samples([index], 2)[0]

    def __getitems__(self, indexes: Sequence[int]) -> list[Tensors]:
        """Samples whose texts have the same number of tokens, so that they can be stacked."""
        return self._samples(indexes, 1)

    def _samples(self, indexes: Sequence[int], which: int) -> list[Tensors]:
        rows = self._selection.rows
        if nameless := [index for index in indexes if not isinstance(index, Integral)]:
            raise UnknownArgument(
                f"A sample is found by a whole number, and not by {shown(nameless[0])}. Nothing was read; give "
                f"0 to {len(rows) - 1}, or iterate over a DataLoader (index)."
            )
        if wrong := [index for index in indexes if not -len(rows) <= index < len(rows)]:
            raise IndexError(f"There is no sample {wrong[0]}: this data set has {len(rows)}.")
        samples = [(self._epoch, int(rows[index])) for index in indexes]
        with self._lock:
            reader, *tensors = self._opened()
            found = [self._found(reader, row) for _, row in samples]
            made = tensors[which - 1].make(samples, found, Purpose.SAMPLE)
        return [{name: values[place] for name, values in made.items()} for place in range(len(samples))]

    def _opened(self) -> tuple[AnyReader, SampleTensors, SampleTensors]:
        if self._readers is None:
            reader = self._selection.reader()
            texts = (self._selection.tensors(reader, whole_text=whole) for whole in (False, True))
            self._readers = (reader, *texts)  # type: ignore[assignment]
        assert self._readers is not None
        return self._readers

    def _found(self, reader: AnyReader, row: int) -> tuple[LoadedRows, int]:
        """A row in memory, after its shard was decoded if it was not there."""
        edges = reader.grid[row // reader.grid.rows_per_chunk]
        first, last = np.searchsorted(self._selection.rows, (edges.start, edges.stop))
        if edges.index in self._shards:
            self._shards.move_to_end(edges.index)
        else:
            every: list[Sample] = [(-1, int(one)) for one in self._selection.rows[first:last]]
            self._shards[edges.index] = reader.read([every])[0]
            held = sum(shard.nbytes for shard in self._shards.values())
            while held > self._selection.cache_bytes and len(self._shards) > 1:
                held -= self._shards.popitem(last=False)[1].nbytes
        return self._shards[edges.index], int(np.searchsorted(self._selection.rows[first:last], row))
