"""Text models of transformers, loaded: built from a config or from weight files, and the states of token ids.

Covers: seeded random weights, pretrained weights, missing tensors; how many captions a call of the model gets.
Does not cover: options and names of a model (`text`), tokens (`tokens`), the fast way for CLIP
(`inference.packed_captions`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from daskt2i.encoders import tokens
from daskt2i.encoders.textconfig import TextShape
from daskt2i.encoders.weights import WeightFiles, first_line, quiet
from daskt2i.errors import ModelError
from daskt2i.inference.packed_captions import MOST_ROWS, PackedCaptions, Piece, packed_captions

if TYPE_CHECKING:
    import torch

Half = npt.NDArray[np.float16]


class TextModel:
    """A loaded model.

    Args:
        module: the model of transformers, for inference, on `device`.
        shape: its kind and sizes.
        layer: the hidden state that becomes the text states; None for the model's output.
        device: where the module is.
        tokenizer: the tokenizer of the model.
        masked: whether tokens do not see the padding behind a caption. CLIP needs no mask for that.

    Attributes:
        note: why this machine computes a CLIP model the slower way; "" if it does not.
    """

    def __init__(
        self, module: Any, shape: TextShape, layer: int | None, device: str, tokenizer: Any, masked: bool = True
    ) -> None:
        self.module, self.shape, self.note = module, shape, ""
        self._layer, self._device, self._masked = layer, device, masked
        self._filler = tokens.filler(tokenizer)
        self._packed: PackedCaptions | None = None
        # A model that pools at the highest token number would pool at a filler with a higher one.
        if shape.is_clip and device == "cpu" and tokens.always_ends(tokenizer):
            self._packed = packed_captions(module, layer)
            if self._packed is None:
                self.note = (
                    "The text encoder needs more time than it could: on this machine, or with this version of "
                    "transformers, captions in one product would not get the same bits."
                )

    def states(
        self, ids: Sequence[Sequence[int]], lengths: Sequence[int], batch: int, limit: int
    ) -> Iterator[tuple[int, Half | None, Half | None]]:
        """Index, states `[length, feature]` and pooled state `[feature]` of each caption, in any order.

        A caption may come twice, once with its states and once with its pooled state.

        Args:
            ids: token ids of each caption.
            lengths: number of states that each caption gets; its ids are filled up to it.
            batch: captions of one call, each with up to `limit` tokens.
            limit: largest length.
        """
        import torch

        batches = tokens.groups(lengths, batch)
        packed = self._packed
        if packed is None or batch == 1:
            for indices in batches:
                yield from self._batch(ids, lengths, indices)
            return
        large = []
        for indices in batches:
            if len(indices) * lengths[indices[0]] < packed.least:
                yield from self._batch(ids, lengths, indices)
            else:
                large.append(indices)
        filled = [[*one, *[self._filler] * (length - len(one))] for one, length in zip(ids, lengths, strict=True)]
        pooled: list[torch.Tensor] = []
        for pack in tokens.packs(large, lengths, min(MOST_ROWS, (batch - 1) * limit)):
            rows, last = packed([Piece([filled[i] for i in part], width) for part, width in pack], self._layer)
            pooled.append(last)
            states, start = _half(rows), 0
            for index in (i for part, _ in pack for i in part):
                yield index, states[start : start + lengths[index]], None
                start += lengths[index]
        if large:  # a product of as many rows as the model's own, because few rows may get other bits
            parts = torch.cat(pooled).split([len(indices) for indices in large])
            for indices, part in zip(large, parts, strict=True):
                found = _half(packed.project(part))
                for place, index in enumerate(indices.tolist()):
                    yield index, None, found[place]

    def _batch(
        self, ids: Sequence[Sequence[int]], lengths: Sequence[int], indices: npt.NDArray[np.intp]
    ) -> Iterator[tuple[int, Half, Half | None]]:
        import torch

        width = lengths[indices[0]]
        numbers = np.full((len(indices), width), self._filler, np.int64)
        mask = np.zeros((len(indices), width), np.int64)
        for place, index in enumerate(indices):
            numbers[place, : len(ids[index])] = ids[index]
            mask[place, : len(ids[index]) if self._masked else width] = 1
        given: dict[str, Any] = {"input_ids": torch.from_numpy(numbers).to(self._device)}
        if not self.shape.is_clip:
            given["attention_mask"] = torch.from_numpy(mask).to(self._device)
        if self.shape.writes:
            given["use_cache"] = False  # nothing is generated, so keys and values are not kept
        with torch.inference_mode():
            out = self.module(**given, output_hidden_states=self._layer is not None, return_dict=True)
            states = _half(out.last_hidden_state if self._layer is None else out.hidden_states[self._layer])
            pooled = None
            if self.shape.pooled:
                pooled = _half(out.text_embeds if self.shape.pooling == "projection" else out.pooler_output)
        for place, index in enumerate(indices.tolist()):
            yield index, states[place, : lengths[index]], None if pooled is None else pooled[place]


def _half(values: torch.Tensor) -> Half:
    import torch

    found: Half = values.to(torch.float16).cpu().numpy()
    return found


def random_module(shape: TextShape, seed: int, dtype: torch.dtype) -> Any:
    """A model with seeded random weights."""
    import torch
    import transformers

    config = {key: value for key, value in shape.config.items() if key not in ("dtype", "torch_dtype")}
    built = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    factory = getattr(transformers, shape.kind)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs
        model = factory.from_config(built) if shape.kind == "AutoModel" else factory(built)
    return _encoder_of(model, shape).to(dtype)


def pretrained_module(folder: Path, files: WeightFiles, shape: TextShape, dtype: torch.dtype, name: str) -> Any:
    """The text model of a folder. Arguments and errors as in `load_pretrained`."""
    options = {"trust_remote_code": False} if shape.kind == "AutoModel" else {}
    model = load_pretrained(shape.kind, folder, files, dtype, name, lambda key: _counts(key, shape), **options)
    return _encoder_of(model, shape)


def load_pretrained(
    kind: str,
    folder: Path,
    files: WeightFiles,
    dtype: torch.dtype,
    name: str,
    counts: Callable[[str], bool],
    **options: Any,
) -> Any:
    """A model of transformers with the weights of a folder.

    Args:
        kind: its class in transformers.
        name: name of the model, for messages.
        counts: whether it matters that the tensor of this name is missing.

    Raises:
        ModelError: transformers cannot load it, or tensors are missing.
    """
    import transformers

    options[_dtype_option(transformers.__version__)] = dtype
    try:
        with quiet():
            model, report = getattr(transformers, kind).from_pretrained(
                str(folder),
                use_safetensors=True,
                variant=files.variant,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"transformers {transformers.__version__} cannot load {name}: {first_line(error)}.") from error
    absent = sorted(key for key in report["missing_keys"] if counts(key))
    if absent:
        # transformers would fill them with random numbers and continue
        raise ModelError(
            f"The weights of {name} lack {len(absent)} tensors of its config.json, such as {absent[0]}. The two "
            "files do not belong together; fetch the model again."
        )
    return model


def _counts(key: str, shape: TextShape) -> bool:
    """Whether a missing tensor matters. Derived tensors, tied tensors and an unused pooler do not matter."""
    if "position_ids" in key or (shape.pooling == "none" and "pooler" in key):
        return False
    return not (key.endswith("encoder.embed_tokens.weight") and shape.kind.endswith("T5EncoderModel"))  # is "shared"


def _encoder_of(model: Any, shape: TextShape) -> Any:
    """The encoder, if AutoModel built an encoder with a decoder (BART); else the model."""
    writes = shape.kind == "AutoModel" and getattr(model.config, "is_encoder_decoder", False)
    return model.get_encoder() if writes else model


def _dtype_option(version: str) -> str:
    """`torch_dtype` was renamed to `dtype` in transformers 4.56."""
    return "dtype" if tuple(int(part) for part in version.split(".")[:2]) >= (4, 56) else "torch_dtype"
