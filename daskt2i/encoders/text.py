"""Captions to text states with transformers: CLIP text models, T5 encoders, BERT, Gemma and other text-only models.

Covers: states, the pooled state if the model has a trained one, the token mask, which captions were cut; batches by
length, or the exact full-length states of Stable Diffusion and Flux (`pad`); an instruction before each caption;
pretrained or seeded random weights.
Does not cover: building and running the model (`text_model`), several models of one pipeline (`joint.text`), choosing
or dropping captions (training), models with remote code.

| `pad` | CLIP | T5, BERT, Gemma, others |
|---|---|---|
| `length` | no mask: a token never depends on later tokens; padding states are zeros | with mask |
| `full` | padded to `max_tokens` with the tokenizer's token, no mask, padding states kept | the same, with mask |
| `unmasked` | as `full` | as `full`, without mask: tokens read the padding too (T5 in SD 3 and Flux) |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from daskt2i.encoders import footprint, tokens
from daskt2i.encoders.text_model import TextModel, pretrained_module, random_module
from daskt2i.encoders.textconfig import MOST_TOKENS, TextShape, text_shape
from daskt2i.encoders.weights import (
    TOKENIZER_FILES,
    VOCABULARIES,
    WeightFiles,
    WeightsOption,
    check_weights_option,
    config_digest,
    first_line,
    locate,
    model_name,
    quiet,
    random_config,
    read_header,
    read_json,
    torch_dtype,
    weight_files,
    weights_digest,
)
from daskt2i.errors import ConfigError, ModelError, ModelMissing
from daskt2i.types import ArraySpec, EncoderInfo, Runtime

STEM = "model"
"""Name of the weight file in a transformers folder."""

CHARACTERS_PER_TOKEN = 4
"""Of an instruction, for the plan, which loads no tokenizer."""

_TOKENIZER_SETTING = "dataset.encoders.text.tokenizer"


class TextEncoder:
    """One text model with its tokenizer.

    Args:
        model: hub id (`openai/clip-vit-large-patch14`) or folder; for random weights also the name of a shipped config.
        subfolder: folder inside the model's folder, e.g. `text_encoder` of a whole pipeline. The tokenizer is then
            expected in the folder `tokenizer` next to it.
        tokenizer: hub id or folder of the tokenizer, if it is not with the model.
        revision: branch, tag or commit of the model's hub id.
        max_tokens: length of a slot; None for the model's own limit, at most 512.
        pad: `length`, `full` or `unmasked`, see above.
        layer: the hidden state that becomes `text_states`, e.g. -2 for the last but one. It is taken before the final
            norm, as in SDXL. None for the model's output.
        projection: CLIP with or without its projected pooled state; None as in the model's config.
        weights: `pretrained`, or `random` for speed tests (marked in the store).
        seed: seed of the random weights.
        instruction: text that the model reads before each caption that is not empty. Its states are not stored, except
            for the first one and the last one, as in SANA.
        lowercase: whether captions are read in lower case and without blanks at both ends, as in SANA and PixArt.

    Raises:
        ConfigError: an argument has a wrong value.
    """

    setting = "dataset.encoders.text.model"
    same_arrays: ClassVar[Mapping[str, tuple[Any, ...]]] = {"instruction": ("",), "lowercase": (False,)}
    """Values of arguments with which the stored arrays are those of versions without the argument (`Component`)."""

    def __init__(
        self,
        model: str,
        subfolder: str | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        max_tokens: int | None = None,
        pad: Literal["length", "full", "unmasked"] = "length",
        layer: int | None = None,
        projection: bool | None = None,
        weights: WeightsOption = "pretrained",
        seed: int = 0,
        instruction: str = "",
        lowercase: bool = False,
    ) -> None:
        check_weights_option(weights, seed)
        if pad not in ("length", "full", "unmasked"):
            raise ConfigError(f"dataset.encoders.text.pad is {pad!r}; give length, full or unmasked.")
        if max_tokens is not None and (not isinstance(max_tokens, int) or max_tokens < 2):
            raise ConfigError(f"dataset.encoders.text.max_tokens is {max_tokens!r}; give a whole number of 2 or more.")
        self.model = str(model)
        self.subfolder = subfolder
        self.tokenizer = None if tokenizer is None else str(tokenizer)
        self.revision = revision
        self.max_tokens = max_tokens
        self.pad = pad
        self.layer = layer
        self.projection = projection
        self.weights = weights
        self.seed = seed
        self.instruction = str(instruction)
        self.lowercase = lowercase
        self._loaded: tuple[TextModel, Any, int] | None = None
        self._runtime: Runtime | None = None
        self._tokenizer: tuple[Any, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None, "_runtime": None, "_tokenizer": None}

    def info(self) -> EncoderInfo:
        """What it makes from one caption. It reads only JSON files and file headers.

        Raises:
            ConfigError: max_tokens or layer is too large for the model.
            ModelMissing, ModelError: there is no such model or tokenizer, or this class cannot use it.
        """
        config, files, shape, prefixed = self._read()
        tokenizer = self.tokenizer_folder()
        length = self._length(shape, tokenizer)
        arrays = [
            ArraySpec("text_states", ("token", "feature"), (length, shape.hidden), "float16", "nan", "text states"),
            ArraySpec("text_mask", ("token",), (length,), "bool", False, "True for tokens of the caption"),
            ArraySpec("text_truncated", (), (), "bool", False, "True where the caption was cut to the length"),
        ]
        if shape.pooled:
            meaning = {"projection": "projected state of the closing token", "eos": "state of the closing token"}
            text = meaning.get(shape.pooling, "pooled state of the first token")
            arrays.append(ArraySpec("text_pooled", ("feature",), (shape.pooled,), "float16", "nan", text))
        digest = config_digest(config, tokenizer)
        random = self.weights == "random"
        return EncoderInfo(
            arrays=tuple(arrays),
            weights=f"seed:{self.seed}/config:{digest[:16]}" if files is None else weights_digest(files, digest),
            attributes={
                "class": shape.kind,
                "model": model_name(self.model, self.subfolder),
                "model_type": str(shape.config["model_type"]),
                "tokenizer": model_name(self.tokenizer or self.model),
                "features": shape.hidden,
                "max_tokens": length,
                "pad": "full" if self.pad == "unmasked" else self.pad,
                "layer": self.layer,
                "pooling": shape.pooling,
                "pooled_features": shape.pooled,
                **({"padding_is_read": True} if self.pad == "unmasked" else {}),
                **({"instruction": self.instruction} if self.instruction else {}),
                **({"lowercase": True} if self.lowercase else {}),
            },
            random_weights=random,
            weight_bytes=4 * (shape.parameters() if random else prefixed),
            item_bytes=footprint.text_item_bytes(
                hidden=shape.hidden,
                inner=shape.inner,
                heads=shape.heads,
                tokens=length + len(self.instruction) // CHARACTERS_PER_TOKEN,
                matrices=shape.matrices,
            ),
        )

    def kind(self) -> str:
        """The class of the model in transformers. It reads what `info` reads; errors as there."""
        return self._read()[2].kind

    def load(self, runtime: Runtime) -> None:
        """Build model and tokenizer on `runtime.device` in `runtime.precision`, for inference.

        Raises:
            ConfigError: fp16 on a CPU; max_tokens or layer is too large for the model.
            ModelMissing, ModelError: there is no such model, or files or tokenizer do not fit it.
        """
        import torch

        dtype = torch_dtype(runtime)
        torch.set_num_threads(runtime.threads)
        _, files, shape, _ = self._read()
        folder = self.tokenizer_folder()
        length = self._length(shape, folder)
        tokenizer = self._load_tokenizer(folder)
        self._check_pair(tokenizer, shape)
        if files is None:
            module = random_module(shape, self.seed, dtype)
        else:
            module = pretrained_module(self._folder(), files, shape, dtype, model_name(self.model, self.subfolder))
        module = module.to(runtime.device).eval().requires_grad_(False)
        model = TextModel(module, shape, self.layer, runtime.device, tokenizer, masked=self.pad != "unmasked")
        self._loaded, self._runtime = (model, tokenizer, length), runtime

    def encode(self, items: Sequence[str], batch: int) -> dict[str, npt.NDArray[Any]]:
        """The arrays of `info()` for n captions, in their order.

        `text_states` float16[n, token, feature], `text_mask` bool[n, token], `text_truncated` bool[n], and
        `text_pooled` float16[n, feature] if the model has a pooled state.
        """
        if self._loaded is None:
            raise RuntimeError("call load before encode")
        model, _, length = self._loaded
        states = np.zeros((len(items), length, model.shape.hidden), np.float16)
        return {"text_states": states, **self.encode_into(items, batch, states)}

    def encode_into(
        self, items: Sequence[str], batch: int, into: npt.NDArray[np.float16] | None
    ) -> dict[str, npt.NDArray[Any]]:
        """As `encode`, but the states go into an array of the caller, which may be a part of a larger one.

        Args:
            into: zeros, float16[n, token, feature]; None if the states are not wanted.

        Returns:
            the other arrays.
        """
        import torch

        if self._loaded is None or self._runtime is None:
            raise RuntimeError("call load before encode")
        model, tokenizer, length = self._loaded
        shape = model.shape
        torch.set_num_threads(self._runtime.threads)  # a setting of each thread; another thread may have loaded
        texts, unseen = self._read_as(tokenizer, items)
        longest = length + max(unseen, default=0)
        ids, truncated = tokens.tokenize(tokenizer, texts, longest)
        made: dict[str, npt.NDArray[Any]] = {
            "text_mask": np.zeros((len(ids), length), np.bool_),
            "text_truncated": truncated,
        }
        if shape.pooled:
            made["text_pooled"] = np.zeros((len(ids), shape.pooled), np.float16)
        lengths = [
            len(one) if self.pad == "length" else length + without for one, without in zip(ids, unseen, strict=True)
        ]
        for index, states, pooled in model.states(ids, lengths, batch, longest):
            if states is not None:
                without = min(unseen[index], len(ids[index]) - 1)
                if into is not None:
                    kept = np.delete(states, slice(1, 1 + without), 0) if without else states
                    into[index, : len(kept)] = kept
                made["text_mask"][index, : len(ids[index]) - without] = True
            if pooled is not None:
                made["text_pooled"][index] = pooled
        return made

    @property
    def module(self) -> Any:
        """The loaded transformers model."""
        if self._loaded is None:
            raise RuntimeError("call load first")
        return self._loaded[0].module

    @property
    def note(self) -> str:
        """A sentence for the user about the loaded model; "" if there is none."""
        return self._loaded[0].note if self._loaded else ""

    def count_tokens(self, captions: Sequence[str]) -> tuple[list[int], int]:
        """Number of tokens of each caption before it is cut, and the number that fits a slot. Loads only the tokenizer.

        Raises:
            ModelMissing, ModelError, ConfigError: as in `load`.
        """
        if self._tokenizer is None:
            folder = self.tokenizer_folder()
            tokenizer = tokens.load_for_counting(folder) or self._load_tokenizer(folder)
            self._tokenizer = tokenizer, self._length(self._read()[2], folder)
        texts, unseen = self._read_as(self._tokenizer[0], captions)
        found = zip(tokens.count(self._tokenizer[0], texts), unseen, strict=True)
        return [count - without for count, without in found], self._tokenizer[1]

    def _read_as(self, tokenizer: Any, captions: Sequence[str]) -> tuple[list[str], list[int]]:
        """What the model reads for each caption, and how many of its states, from the second on, are not stored.

        They are the tokens of the instruction without the first and the last one (diffusers:
        `SanaPipeline.encode_prompt`). The empty caption has no instruction: it is the prompt that training drops to.
        """
        texts = [text.lower().strip() if self.lowercase else text for text in captions]
        if not self.instruction:
            return texts, [0] * len(texts)
        unseen = max(0, tokens.count(tokenizer, [self.instruction])[0] - 2)
        blank = [not text.strip() for text in texts]
        read = [text if empty else self.instruction + text for text, empty in zip(texts, blank, strict=True)]
        return read, [0 if empty else unseen for empty in blank]

    def _read(self) -> tuple[dict[str, Any], WeightFiles | None, TextShape, int]:
        """The config, the weight files (None for random weights), the shape, and the number of stored parameters."""
        name = model_name(self.model, self.subfolder)
        if self.weights == "random":
            config = random_config(self.model, self.subfolder, self.revision, self.setting)
            return config, None, text_shape(config, None, self.projection, name), 0
        folder = self._folder()
        config = read_json(folder / "config.json")
        text_shape(config, None, self.projection, name)  # what is no text model has its weights in files of other names
        files = weight_files(folder, STEM)
        tensors = {key: size for path in files.paths for key, size in read_header(path).items()}
        shape = text_shape(config, tensors, self.projection, name)
        own = [size for key, size in tensors.items() if not shape.prefixes or key.startswith(shape.prefixes)]
        return config, files, shape, sum(own)

    def _folder(self) -> Path:
        return locate(
            self.model,
            self.subfolder,
            self.revision,
            needs=("config.json", f"{STEM}*.safetensors"),
            also=(f"{STEM}*.safetensors.index.json",),
            setting=self.setting,
        )

    def tokenizer_folder(self) -> Path:
        """Folder of the tokenizer: the given one, the one next to the text encoder of a pipeline, or the model's.

        Raises:
            ModelMissing: there is none.
        """
        model, subfolder, revision = self.tokenizer, None, None
        if model is None:
            model, subfolder, revision = self.model, self.subfolder, self.revision
            if subfolder is not None:
                subfolder = re.sub(r"text_encoder(?=(_\d+)?$)", "tokenizer", subfolder)
        needs = ("tokenizer_config.json",)
        folder = locate(model, subfolder, revision, needs=needs, also=TOKENIZER_FILES, setting=_TOKENIZER_SETTING)
        # transformers 5 gives a tokenizer of three words without vocab.json, and one of letters without merges.txt.
        if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
            raise ModelMissing(
                f"{folder} holds no tokenizer (tokenizer.json, or vocab.json with merges.txt, …). "
                f"Set {_TOKENIZER_SETTING} to a folder that holds it."
            )
        return folder

    def _length(self, shape: TextShape, tokenizer: Path) -> int:
        path = tokenizer / "tokenizer_config.json"
        stated = read_json(path).get("model_max_length") if path.is_file() else None
        # Tokenizers without a limit have 1e30 here.
        limits = [int(n) for n in (stated, shape.limit) if isinstance(n, int | float) and 0 < n < 1e6]
        if self.layer is not None and not -shape.layers - 1 <= self.layer <= shape.layers:
            raise ConfigError(f"dataset.encoders.text.layer is {self.layer}, but the model has {shape.layers} layers.")
        if self.max_tokens is None:
            return min([*limits, MOST_TOKENS])
        if shape.limit is not None and self.max_tokens > shape.limit:
            raise ConfigError(
                f"dataset.encoders.text.max_tokens is {self.max_tokens}, but the model reads at most {shape.limit}."
            )
        return self.max_tokens

    def _load_tokenizer(self, folder: Path) -> Any:
        import transformers

        try:
            with quiet():
                return transformers.AutoTokenizer.from_pretrained(  # a folder on this machine  # nosec B615
                    str(folder), use_fast=True, trust_remote_code=False, local_files_only=True
                )
        except Exception as error:  # the tokenizers library raises nothing more specific
            raise ModelError(f"The tokenizer in {folder} cannot be loaded: {first_line(error)}.") from error

    def _check_pair(self, tokenizer: Any, shape: TextShape) -> None:
        """Refuse a tokenizer whose token ids do not fit this model."""
        pair = f"The tokenizer {model_name(self.tokenizer or self.model)} does not belong to {model_name(self.model)}"
        largest = max(tokenizer.get_vocab().values(), default=0)
        if largest >= shape.vocabulary:
            raise ModelError(
                f"{pair}: it makes token ids up to {largest}, but the model has {shape.vocabulary} embeddings. "
                f"Set {_TOKENIZER_SETTING} to the tokenizer of the model."
            )
        if not shape.is_clip:
            return
        end, stated = tokenizer.eos_token_id, shape.config["eos_token_id"]
        # CLIP configs from before transformers #24773 have 2 here, and the model then pools at the highest token id.
        expected = tokenizer.vocab_size - 1 if stated == 2 else stated
        if end != expected:
            raise ModelError(
                f"{pair}: it ends a text with token {end}, but the model pools at token {expected} "
                f"(eos_token_id {stated} in config.json). Set {_TOKENIZER_SETTING} to the tokenizer of the model."
            )
