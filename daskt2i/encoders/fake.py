"""Fake encoders without weights and without torch. They are deterministic, take milliseconds and can fail on request.

Covers: tests of the code around an encoder, and measuring the pipeline without a model.
Does not cover: data for training. Of a picture only the coarse colours remain, and of a caption only the words.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from daskt2i.errors import ConfigError
from daskt2i.types import ArraySpec, EncoderInfo, Pixels, Runtime

STD = 0.125
"""The posterior's std of a fake image encoder, for every value."""


class FakeImageEncoder:
    """Its latents are the picture itself, averaged over squares. The first three channels hold RGB from -1 to 1.

    Args:
        channels: channels of the latent, 3 or more. The channels after the third are zeros.
        reduction: side of the squares, pixels.
        seconds: time that one image takes.
        nan_for: chooses images whose latents become NaN: a function of `uint8[height, width, 3]`, or a range
            (low, high) of the mean pixel value, low <= mean < high.
        memory_limit_batch: larger batches raise MemoryError.
        pixel_range: `"signed"`; or `"unit"` for pixels from 0 to 1, a mistake that the decode-back check must find.

    Raises:
        ConfigError: fewer than 3 channels, a reduction below 1, or another pixel_range.
    """

    def __init__(
        self,
        channels: int = 4,
        reduction: int = 8,
        seconds: float = 0.0,
        nan_for: Callable[[Pixels], bool] | Sequence[float] | None = None,
        memory_limit_batch: int | None = None,
        pixel_range: str = "signed",
    ) -> None:
        if channels < 3 or reduction < 1:
            raise ConfigError("FakeImageEncoder needs 3 or more channels and a reduction of at least 1.")
        if pixel_range not in ("signed", "unit"):
            raise ConfigError(f"pixel_range is {pixel_range!r}; give signed or unit.")
        self.channels = channels
        self.reduction = reduction
        self.seconds = seconds
        self.nan_for = nan_for
        self.memory_limit_batch = memory_limit_batch
        self.pixel_range = pixel_range
        self.loads = 0

    def info(self, resolution: int) -> EncoderInfo:
        """`latent_mean` and `latent_std`.

        Raises:
            ConfigError: the resolution is not a multiple of the reduction.
        """
        if resolution < self.reduction or resolution % self.reduction:
            raise ConfigError(f"dataset.image.resolution is {resolution}; it must be a multiple of {self.reduction}.")
        side = resolution // self.reduction
        shape, dims = (self.channels, side, side), ("channel", "y", "x")
        return EncoderInfo(
            arrays=(
                ArraySpec("latent_mean", dims, shape, "float16", "nan", "averaged pixels, -1 to 1"),
                ArraySpec("latent_std", dims, shape, "float16", "nan", f"{STD} everywhere"),
            ),
            weights="none",
            attributes={
                "class": "FakeImageEncoder",
                "model": "fake",
                "reduction": self.reduction,
                "latent_channels": self.channels,
                "scaling_factor": 1.0,
                "shift_factor": 0.0,
                "latent_values": "raw",
            },
            random_weights=False,
            weight_bytes=0,
            item_bytes=resolution * resolution * 12,
        )

    def load(self, runtime: Runtime) -> None:
        """Load nothing; count the call in `loads`."""
        self.loads += 1

    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        """Mean and std, `float16[n, channels, height / reduction, width / reduction]` each.

        Raises:
            MemoryError: the batch is larger than `memory_limit_batch`.
        """
        _check_batch(min(batch, len(items)), self.memory_limit_batch)
        n, height, width, _ = items.shape
        size = self.reduction
        rows, columns = height // size, width // size
        mean = np.zeros((n, self.channels, rows, columns), np.float16)
        for index, picture in enumerate(items):
            squares = picture.reshape(rows, size, columns, size, 3).mean(axis=(1, 3), dtype=np.float32)
            signed = squares / 127.5 - 1.0 if self.pixel_range == "signed" else squares / 255.0
            mean[index, :3] = signed.transpose(2, 0, 1)
            if self._is_bad(picture):
                mean[index] = np.nan
        if self.seconds:
            time.sleep(self.seconds * n)
        return {"latent_mean": mean, "latent_std": np.full(mean.shape, STD, np.float16)}

    def decode(self, arrays: Mapping[str, npt.NDArray[Any]]) -> Pixels:
        """The squares in their colours, `uint8[n, height, width, 3]`. NaN decodes like 0."""
        colours = np.nan_to_num(arrays["latent_mean"][:, :3].astype(np.float32)).transpose(0, 2, 3, 1)
        values = np.clip(np.rint((colours + 1.0) * 127.5), 0, 255).astype(np.uint8)
        return values.repeat(self.reduction, axis=1).repeat(self.reduction, axis=2)

    def _is_bad(self, picture: Pixels) -> bool:
        if self.nan_for is None:
            return False
        if callable(self.nan_for):
            return self.nan_for(picture)
        low, high = self.nan_for
        return bool(low <= float(picture.mean()) < high)


class FakeTextEncoder:
    """Its states are a fixed random vector for each word.

    Args:
        features: number of features of a state.
        max_tokens: length of a slot: a start token, words, an end token.
        seconds: time that one caption takes.
        nan_for: chooses captions whose states become NaN: a function of the caption, or a text that it contains.
        memory_limit_batch: larger batches raise MemoryError.
        pooled: whether there is a pooled state. It is the mean of the other states.

    Raises:
        ConfigError: fewer than 2 tokens or 1 feature.
    """

    def __init__(
        self,
        features: int = 16,
        max_tokens: int = 24,
        seconds: float = 0.0,
        nan_for: Callable[[str], bool] | str | None = None,
        memory_limit_batch: int | None = None,
        pooled: bool = True,
    ) -> None:
        if features < 1 or max_tokens < 2:
            raise ConfigError("FakeTextEncoder needs 1 or more features and 2 or more tokens.")
        self.features = features
        self.max_tokens = max_tokens
        self.seconds = seconds
        self.nan_for = nan_for
        self.memory_limit_batch = memory_limit_batch
        self.pooled = pooled
        self.loads = 0

    def info(self) -> EncoderInfo:
        """`text_states`, `text_mask`, `text_truncated`, and `text_pooled` if `pooled` is True."""
        shape = (self.max_tokens, self.features)
        arrays = [
            ArraySpec("text_states", ("token", "feature"), shape, "float16", "nan", "a vector for each word"),
            ArraySpec("text_mask", ("token",), shape[:1], "bool", False, "True for tokens of the caption"),
            ArraySpec("text_truncated", (), (), "bool", False, "True where the caption was cut"),
        ]
        if self.pooled:
            arrays.append(ArraySpec("text_pooled", ("feature",), shape[1:], "float16", "nan", "mean of the states"))
        return EncoderInfo(
            arrays=tuple(arrays),
            weights="none",
            attributes={
                "class": "FakeTextEncoder",
                "model": "fake",
                "features": self.features,
                "max_tokens": self.max_tokens,
                "pad": "length",
            },
            random_weights=False,
            weight_bytes=0,
            item_bytes=self.max_tokens * self.features * 4,
        )

    def load(self, runtime: Runtime) -> None:
        """Load nothing; count the call in `loads`."""
        self.loads += 1

    def encode(self, items: Sequence[str], batch: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `info()`, in the order of the captions.

        Raises:
            MemoryError: the batch is larger than `memory_limit_batch`.
        """
        _check_batch(min(batch, len(items)), self.memory_limit_batch)
        n = len(items)
        states = np.zeros((n, self.max_tokens, self.features), np.float16)
        mask = np.zeros((n, self.max_tokens), np.bool_)
        truncated = np.zeros(n, np.bool_)
        pooled = np.zeros((n, self.features), np.float16)
        for index, caption in enumerate(items):
            words = caption.split()
            truncated[index] = len(words) + 2 > self.max_tokens
            kept = ["\x02", *words[: self.max_tokens - 2], "\x03"]
            mask[index, : len(kept)] = True
            vectors = np.stack([self._vector(word) for word in kept])
            states[index, : len(kept)] = vectors
            pooled[index] = vectors.mean(axis=0)
            if self._is_bad(caption):
                states[index] = np.nan
        if self.seconds:
            time.sleep(self.seconds * n)
        made = {"text_states": states, "text_mask": mask, "text_truncated": truncated}
        return {**made, "text_pooled": pooled} if self.pooled else made

    def count_tokens(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Number of tokens of each caption before it is cut, and the number that fits."""
        return [len(caption.split()) + 2 for caption in captions], self.max_tokens

    def _vector(self, word: str) -> npt.NDArray[np.float32]:
        seed = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return np.random.default_rng(seed).standard_normal(self.features, dtype=np.float32)

    def _is_bad(self, caption: str) -> bool:
        if self.nan_for is None:
            return False
        return self.nan_for(caption) if callable(self.nan_for) else self.nan_for in caption


def _check_batch(count: int, limit: int | None) -> None:
    if limit is not None and count > limit:
        raise MemoryError(f"a batch of {count} is larger than the limit {limit} of this fake")
