"""Kind and sizes of a text model, from its config.json and the names of its tensors. It imports no transformers.

Covers: CLIP text models (alone, or inside a full CLIP repository), T5, mT5 and UMT5 encoders, BERT, language models
such as Gemma 2, and other models that transformers' AutoModel builds from a config with a hidden size.
Does not cover: other models of pictures and text (their text towers have their own conventions), remote code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.encoders import footprint
from daskt2i.errors import ConfigError, ModelError

MOST_TOKENS = 512
"""Default limit of tokens in a slot, for models that can read more: every caption gets a slot of this length."""

CLIP_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": 49408, "projection_dim": 512, "eos_token_id": 49407,
}  # fmt: skip
"""Defaults of transformers for keys that are missing in a CLIP text config (a test compares them)."""

T5_CLASSES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}

_POOLED = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "mpnet"})
_OFFSET = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl"})
"""Models that count positions from pad_token_id + 1, so their position table is longer than their longest text."""


_WRITERS = frozenset({"gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"})
"""Language models: positions are relative, the feed-forward part is gated, and fewer heads have keys than queries."""


@dataclass(frozen=True, slots=True)
class TextShape:
    """One text model.

    Attributes:
        kind: class in transformers that builds it.
        config: the config of the text part.
        hidden, inner, layers, heads, vocabulary, positions: sizes; 0 positions if they are relative.
        matrices: number of matrices in the feed-forward part: 2, or 3 if it is gated.
        limit: longest text in tokens; None if positions are relative.
        pooled: features of the pooled state, 0 without one.
        pooling: origin of the pooled state: `projection`, `eos`, `first`, or `none`.
        prefixes: prefixes of its tensors in the weight files; empty if all tensors belong to it.
        attention: number of parameters of the attention of a layer, if it is not that of four square matrices.
        writes: whether it is a language model, which would keep keys and values to write on.
    """

    kind: str
    config: Mapping[str, Any]
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    positions: int
    matrices: int
    limit: int | None
    pooled: int
    pooling: str
    prefixes: tuple[str, ...] = ()
    attention: int | None = None
    writes: bool = False

    @property
    def is_clip(self) -> bool:
        """Whether it is a CLIP model. CLIP is causal: a token never depends on later tokens, such as padding."""
        return self.kind.startswith("CLIP")

    def parameters(self) -> int:
        """Number of parameters; exact for CLIP, else within some percent."""
        return footprint.text_parameters(
            hidden=self.hidden,
            inner=self.inner,
            layers=self.layers,
            vocabulary=self.vocabulary,
            positions=self.positions,
            matrices=self.matrices,
            projection=self.pooled if self.pooling == "projection" else 0,
            attention=self.attention,
        )


def text_shape(
    config: Mapping[str, Any], tensors: Mapping[str, int] | None, projection: bool | None, name: str
) -> TextShape:
    """Read a config.

    Args:
        config: the content of config.json.
        tensors: tensor names of the weight files; None for random weights.
        projection: CLIP with (True) or without (False) its projected pooled state; None as in the config.
        name: name of the model, for messages.

    Raises:
        ConfigError: the user asks for a projection, but the model has none.
        ModelError: it is not a text model that this class can use.
    """
    model_type = str(config.get("model_type") or "")
    if model_type in ("clip", "clip_text_model"):
        return _clip(config, tensors, projection, name)
    if projection:
        raise ConfigError(
            f"The setting dataset.encoders.text.projection is for CLIP models, but the config.json of {name} says "
            f"{model_type or 'nothing'}. Leave projection out."
        )
    if model_type in T5_CLASSES:
        return _t5(config, model_type)
    if "text_config" in config or "_class_name" in config or not model_type:
        found = model_type or config.get("_class_name") or "no transformers model"
        raise ModelError(
            f"TextEncoder cannot use {name}: its config.json says {found}. Set dataset.encoders.text.model to a CLIP "
            "text model, a T5 encoder, BERT or another text-only model, or write an encoder class."
        )
    return _other(config, model_type, tensors, name)


def _clip(
    config: Mapping[str, Any], tensors: Mapping[str, int] | None, projection: bool | None, name: str
) -> TextShape:
    whole = config.get("model_type") == "clip"
    # text_config_dict is the older key. If both exist, transformers uses it.
    text = {**(config.get("text_config") or {}), **(config.get("text_config_dict") or {})} if whole else dict(config)
    text = {**CLIP_DEFAULTS, **text, "model_type": "clip_text_model"}
    if projection is None:
        projection = "CLIPTextModelWithProjection" in (config.get("architectures") or [])
    if projection and tensors is not None and "text_projection.weight" not in tensors:
        raise ConfigError(f"The weights of {name} have no text_projection. Leave dataset.encoders.text.projection out.")
    return TextShape(
        kind="CLIPTextModelWithProjection" if projection else "CLIPTextModel",
        config=text,
        hidden=int(text["hidden_size"]),
        inner=int(text["intermediate_size"]),
        layers=int(text["num_hidden_layers"]),
        heads=int(text["num_attention_heads"]),
        vocabulary=int(text["vocab_size"]),
        positions=int(text["max_position_embeddings"]),
        matrices=2,
        limit=int(text["max_position_embeddings"]),
        pooled=int(text["projection_dim"] if projection else text["hidden_size"]),
        pooling="projection" if projection else "eos",
        prefixes=(("text_model.", "text_projection.") if projection else ("text_model.",)) if whole else (),
    )


def _t5(config: Mapping[str, Any], model_type: str) -> TextShape:
    gated = str(config.get("feed_forward_proj", "relu")).startswith("gated")
    hidden, heads = int(config.get("d_model", 512)), int(config.get("num_heads", 8))
    return TextShape(
        kind=T5_CLASSES[model_type],
        config=config,
        hidden=hidden,
        inner=int(config.get("d_ff", 2048)),
        layers=int(config.get("num_layers", 6)),
        heads=heads,
        vocabulary=int(config.get("vocab_size", 32128)),
        positions=0,
        matrices=3 if gated else 2,
        limit=None,
        pooled=0,
        pooling="none",
        prefixes=("shared.", "encoder."),
        attention=4 * hidden * heads * int(config.get("d_kv", 64)),
    )


def _other(config: Mapping[str, Any], model_type: str, tensors: Mapping[str, int] | None, name: str) -> TextShape:
    def size(*keys: str, otherwise: int = 0) -> int:
        return next((int(config[key]) for key in keys if isinstance(config.get(key), int)), otherwise)

    hidden = size("hidden_size", "d_model", "dim", "n_embd")
    if not hidden:
        raise ModelError(
            f"TextEncoder cannot use {name} ({model_type}): its config.json names no hidden size. Set "
            "dataset.encoders.text.model to another model, or write an encoder class."
        )
    positions = size("max_position_embeddings", "n_positions")
    offset = size("pad_token_id", otherwise=1) + 1 if model_type in _OFFSET else 0
    layers = size("num_hidden_layers", "num_layers", "n_layers", "encoder_layers", "n_layer", otherwise=12)
    heads = size("num_attention_heads", "num_heads", "n_heads", "encoder_attention_heads", "n_head", otherwise=12)
    writes = model_type in _WRITERS
    head = size("head_dim", otherwise=256 if model_type.startswith("gemma") else hidden // heads)
    # If a checkpoint has no pooler, transformers adds a random one. So the weights decide, not the config.
    pooled = model_type in _POOLED if tensors is None else any(name.endswith("pooler.dense.weight") for name in tensors)
    return TextShape(
        kind="AutoModel",
        config=config,
        hidden=hidden,
        inner=size("intermediate_size", "d_ff", "hidden_dim", "ffn_dim", "encoder_ffn_dim", otherwise=4 * hidden),
        layers=layers,
        heads=heads,
        vocabulary=size("vocab_size", otherwise=32768),
        positions=0 if writes else positions,
        matrices=3 if writes else 2,
        limit=positions - offset if positions else None,
        pooled=hidden if pooled else 0,
        pooling="first" if pooled else "none",
        attention=2 * hidden * head * (heads + size("num_key_value_heads", otherwise=heads)) if writes else None,
        writes=writes,
    )
