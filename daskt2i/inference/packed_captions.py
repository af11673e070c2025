"""CLIP text models on captions of different lengths: all tokens of some captions in one product.

Covers: `CLIPTextModel` and `CLIPTextModelWithProjection` of transformers on CPUs.
Does not cover: which captions share a padded width, and tokens (`encoders`).

transformers pads the captions of a batch to one length, and needs a call for each batch. Only attention looks at more
than one token. So the other layers get the tokens of all captions as rows of one matrix, without padding. A product of
many rows is faster, and reads the weights once.

A row of a product has the same bits whatever the number of rows, or from a number of rows on, where the library of the
processor computes it so. `packed_captions` looks at this, and compares states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_ROWS = 1024
"""Tokens of one call. A product of more rows is not faster."""

BLOCK = 1 << 18
"""Numbers that an activation works on at a time, so that its three steps find them in the cache."""

_ROWS = (1, 2, 5, 8, 15, 16, 17, 24, 33, 77, 200)
_FULL = 300
"""The numbers of rows for which the rows of a product are compared with those of `_FULL` rows."""

_LEAST = (1, 16, 32)
"""A library may have another method for products of few rows: MKL below 16 rows, unless MKL_CBWR is strict."""

_LENGTHS = (20, 17)
"""Tokens of the captions whose states are compared."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Captions that attention sees with one width.

    Attributes:
        ids: the token ids of each caption, with the end token.
        width: number of tokens of the longest caption of the batch to which they belong.
    """

    ids: Sequence[Sequence[int]]
    width: int


class PackedCaptions:
    """A CLIP text model that `packed_captions` has looked at. The model itself works as before.

    Attributes:
        least: number of tokens from which a call, or a batch of the model, has the same bits whatever this number is.
    """

    def __init__(self, text: Any, projection: Any, in_place: bool, least: int = 1) -> None:
        self.least = least
        self._text, self._projection = text, projection
        self._layers = list(text.encoder.layers)
        self._qkv = [_joined(layer.self_attn) for layer in self._layers]
        self._in_place = in_place
        attention = self._layers[0].self_attn
        self._heads, self._scale = attention.num_heads, attention.scale

    def __call__(self, pieces: Sequence[Piece], layer: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """States of all tokens, one caption after the other, `[token, feature]`; pooled states `[caption, feature]`.

        The pooled states are not projected yet (`project`).

        Args:
            pieces: captions of one call.
            layer: index of the hidden state, taken before the final norm; None for the model's output.
        """
        import torch

        text = self._text
        captions = [ids for piece in pieces for ids in piece.ids]
        starts = [0]
        for ids in captions:
            starts.append(starts[-1] + len(ids))
        padded, back = _places(pieces)
        with torch.inference_mode():
            positions = torch.cat([torch.arange(len(ids)) for ids in captions])
            hidden = text.embeddings.token_embedding(torch.tensor([token for ids in captions for token in ids]))
            hidden = hidden.add_(text.embeddings.position_embedding(positions))
            wanted = None if layer is None else layer % (len(self._layers) + 1)
            chosen = hidden.clone() if wanted == 0 else None
            for index, one in enumerate(self._layers):
                attended = self._attend(index, one.layer_norm1(hidden), pieces, padded, back)
                hidden = one.self_attn.out_proj(attended).add_(hidden)
                inner = one.mlp.fc1(one.layer_norm2(hidden))
                inner = _quick_gelu(inner) if self._in_place else one.mlp.activation_fn(inner)
                hidden = one.mlp.fc2(inner).add_(hidden)
                if wanted == index + 1:
                    chosen = hidden  # no later layer writes to it
            ends = torch.tensor([start + self._end(ids) for start, ids in zip(starts, captions, strict=False)])
            if chosen is None:
                chosen = text.final_layer_norm(hidden)
                pooled = chosen[ends]
            else:
                pooled = text.final_layer_norm(hidden[ends])
            return chosen, pooled

    def project(self, pooled: torch.Tensor) -> torch.Tensor:
        """The projected pooled states of the captions of one batch of the model; without a projection, its input."""
        import torch

        with torch.inference_mode():
            return pooled if self._projection is None else self._projection(pooled)

    def _attend(
        self,
        index: int,
        hidden: torch.Tensor,
        pieces: Sequence[Piece],
        padded: torch.Tensor | None,
        back: torch.Tensor | None,
    ) -> torch.Tensor:
        import torch

        joined = torch.nn.functional.linear(hidden, *self._qkv[index])
        if padded is not None:
            joined = joined.index_select(0, padded)
        made, start = [], 0
        for piece in pieces:
            count, stop = len(piece.ids), start + len(piece.ids) * piece.width
            query, key, value = (
                joined[start:stop].view(count, piece.width, 3, self._heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            )
            found = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=piece.width > 1, scale=self._scale
            )
            made.append(found.transpose(1, 2).reshape(count * piece.width, -1))
            start = stop
        attended = made[0] if len(made) == 1 else torch.cat(made)
        return attended if back is None else attended.index_select(0, back)

    def _end(self, ids: Sequence[int]) -> int:
        """Position of the state that is pooled, as transformers chooses it."""
        end = self._text.eos_token_id
        # Configs from before transformers #24773 have 2 here. Then the end token is the one with the highest number.
        token = max(ids) if end == 2 else end
        return list(ids).index(token) if token in ids else 0


def packed_captions(model: nn.Module, layer: int | None = None) -> PackedCaptions | None:
    """The model for packed captions; None if it is unknown, or would give other bits than `model`.

    Queries, keys and values get one weight matrix. The model's own parameters become views of it.

    Args:
        model: a text model on a CPU, in its dtype, for inference.
        layer: the hidden state that will be asked for; None for the model's output.
    """
    import torch

    try:
        text, projection = _parts(model)
        if not _is_known(text, projection):
            return None
        quick = all(type(layer.mlp.activation_fn).__name__ == "QuickGELUActivation" for layer in text.encoder.layers)
        with torch.no_grad():  # not in inference mode: the parameters stay ordinary tensors
            least = _least_rows(text)
            if least is None:
                return None
            packed = PackedCaptions(text, projection, quick, least)
            return packed if _same_bits(model, packed, text, layer) else None
    except (AttributeError, RuntimeError, TypeError, ValueError):  # another version of transformers
        return None


def _parts(model: Any) -> tuple[Any, Any]:
    """The transformer, which may be inside another module, and the projection if there is one."""
    return getattr(model, "text_model", model), getattr(model, "text_projection", None)


def _is_known(text: Any, projection: Any) -> bool:
    """Whether a model has the parts that the class above uses, and no others."""
    from torch import nn

    def linear(layer: Any, bias: bool = True) -> bool:
        return type(layer) is nn.Linear and (layer.bias is not None) is bias

    def parts(module: Any, *names: str) -> bool:
        return set(dict(module.named_children())) == set(names)

    def layer_is_known(layer: Any) -> bool:
        attention, mlp = layer.self_attn, layer.mlp
        return (
            parts(layer, "self_attn", "layer_norm1", "mlp", "layer_norm2")
            and parts(attention, "k_proj", "v_proj", "q_proj", "out_proj")
            and parts(mlp, "activation_fn", "fc1", "fc2")
            and all(linear(one) for one in (*attention.children(), mlp.fc1, mlp.fc2))
            and type(layer.layer_norm1) is type(layer.layer_norm2) is nn.LayerNorm
        )

    return (
        parts(text, "embeddings", "encoder", "final_layer_norm")
        and parts(text.embeddings, "token_embedding", "position_embedding")
        and all(type(one) is nn.Embedding for one in text.embeddings.children())
        and parts(text.encoder, "layers")
        and all(layer_is_known(layer) for layer in text.encoder.layers)
        and type(text.final_layer_norm) is nn.LayerNorm
        and (projection is None or linear(projection, bias=False))
        and all(parameter.is_cpu for parameter in text.parameters())
        and not any(one._forward_hooks or one._forward_pre_hooks for one in text.modules())
    )


def _joined(attention: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """One weight matrix and one bias for queries, keys and values. The three layers get views of them."""
    import torch

    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    start = 0
    for layer in layers:
        stop = start + len(layer.weight)
        layer.weight.data, layer.bias.data = weight[start:stop], bias[start:stop]
        start = stop
    return weight, bias


def _places(pieces: Sequence[Piece]) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """For each padded position its row, and for each row its padded position; None if there is no padding.

    Padding repeats the last token of its caption. A token does not attend to later ones, so any finite state would do.
    """
    import torch

    if all(len(ids) == piece.width for piece in pieces for ids in piece.ids):
        return None, None
    padded: list[int] = []
    back: list[int] = []
    for piece in pieces:
        for ids in piece.ids:
            first, row = len(padded), len(back)
            padded += [row + min(place, len(ids) - 1) for place in range(piece.width)]
            back += range(first, first + len(ids))
    return torch.tensor(padded), torch.tensor(back)


def _quick_gelu(inner: torch.Tensor) -> torch.Tensor:
    """`QuickGELUActivation`, in the memory of its input. The steps and their bits are those of transformers."""
    for part in inner.split(max(1, BLOCK // inner.shape[1])):
        part.mul_((1.702 * part).sigmoid_())
    return inner


def _least_rows(text: Any) -> int | None:
    """The number of rows from which a row of the model's products has the same bits in all of them; None if none is."""
    import torch

    layer = text.encoder.layers[0]
    shapes = {one.weight.shape: one for one in (layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2)}
    other = 0
    for one in shapes.values():
        rows = _numbers(_FULL, one.in_features).to(one.weight.dtype)
        whole = one(rows)
        other = max([other, *(count for count in _ROWS if not torch.equal(one(rows[:count].clone()), whole[:count]))])
    return next((least for least in _LEAST if least > other), None)


def _same_bits(model: Any, packed: PackedCaptions, text: Any, layer: int | None) -> bool:
    """Whether the packed model gives the states of the model for two captions of different lengths."""
    import torch

    end = text.eos_token_id
    last = len(text.embeddings.token_embedding.weight) - 1 if end == 2 else end
    width = min(_LENGTHS[0], len(text.embeddings.position_embedding.weight))
    captions = [
        [*(place % max(1, last) for place in range(length - 1)), last] for length in (width, min(_LENGTHS[1], width))
    ]
    numbers = torch.tensor([[*ids, *[last] * (width - len(ids))] for ids in captions])
    out = model(input_ids=numbers, output_hidden_states=layer is not None, return_dict=True)
    plain = out.last_hidden_state if layer is None else out.hidden_states[layer]
    states, pooled = packed([Piece(captions, width)], layer)
    wanted = out.text_embeds if hasattr(out, "text_embeds") else out.pooler_output
    return torch.equal(wanted, packed.project(pooled)) and torch.equal(
        torch.cat([plain[place, : len(ids)] for place, ids in enumerate(captions)]), states
    )


def _numbers(*shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
