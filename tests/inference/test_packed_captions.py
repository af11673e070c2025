"""Packed captions have the bits of the model of transformers, and a model that would give others is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from daskt2i.encoders.weights import quiet
from daskt2i.inference import packed_captions as room
from daskt2i.inference.packed_captions import PackedCaptions, Piece, packed_captions

PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
END = 99
SIZES = {
    "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 100,
    "max_position_embeddings": 40, "projection_dim": 24, "bos_token_id": 98, "pad_token_id": END,
}  # fmt: skip
PIECES = [
    Piece([[98, *range(3, 20), END], [98, *range(20, 35), END]], 19),
    Piece([[98, 5, 40 + place, END] for place in range(5)], 4),
    Piece([[98, END], [END]] * 9, 2),
]
"""Each batch has the 16 tokens or more that `PackedCaptions.least` may ask for."""


def model(kind: str = "CLIPTextModel", dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    config = transformers.CLIPTextConfig(**{**SIZES, "eos_token_id": END, **changes})
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        made = getattr(transformers, kind)(config).to(dtype).eval().requires_grad_(False)
        for parameter in made.parameters():  # a fresh model has biases of zero
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return made


def ready(made: Any, layer: int | None = None) -> PackedCaptions:
    found = packed_captions(made, layer)
    assert found is not None
    return found


def plain(made: Any, pieces: Sequence[Piece], layer: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    states, pooled = [], []
    for piece in pieces:
        ids = torch.tensor([[*one, *[END] * (piece.width - len(one))] for one in piece.ids])
        with torch.inference_mode():
            out = made(input_ids=ids, output_hidden_states=True)
        chosen = out.last_hidden_state if layer is None else out.hidden_states[layer]
        states += [chosen[place, : len(one)] for place, one in enumerate(piece.ids)]
        pooled.append(out.text_embeds if "text_embeds" in out else out.pooler_output)
    return torch.cat(states), torch.cat(pooled)


@PRECISIONS
@pytest.mark.parametrize("layer", [None, -1, -2, 0], ids=str)
@pytest.mark.parametrize("changes", [{}, {"hidden_act": "gelu"}, {"eos_token_id": 2}], ids=["quick", "gelu", "eos-2"])
@pytest.mark.parametrize("kind", ["CLIPTextModel", "CLIPTextModelWithProjection"])
def test_packed_captions_of_several_batches_have_the_bits_of_their_batches(
    kind: str, changes: dict[str, Any], layer: int | None, dtype: torch.dtype
) -> None:
    made = model(kind, dtype, **changes)
    packed = ready(made, layer)
    states, pooled = packed(PIECES, layer)
    counts = [len(piece.ids) for piece in PIECES]
    pooled = torch.cat([packed.project(part) for part in pooled.split(counts)])
    wanted = plain(made, PIECES, layer)
    assert torch.equal(states, wanted[0])
    assert torch.equal(pooled, wanted[1])


def test_the_captions_beside_a_caption_do_not_change_its_bits() -> None:
    packed = ready(model())
    alone = [packed([piece])[0] for piece in PIECES]
    assert torch.equal(torch.cat(alone), packed(PIECES)[0])
    assert torch.equal(torch.cat(alone[::-1]), packed(PIECES[::-1])[0])


def test_a_caption_that_is_not_finite_leaves_the_others_as_they_are() -> None:
    made = model()
    packed = ready(made)
    made.get_input_embeddings().weight[7] = float("nan")  # only the first caption has token 7
    states, pooled = packed(PIECES)
    assert torch.isnan(pooled[0]).all()
    assert torch.isfinite(states[19:]).all()
    assert torch.isfinite(pooled[1:]).all()


def test_the_model_keeps_its_parameters_and_its_states(tmp_path: Path) -> None:
    made, untouched = model(), model()
    ready(made)
    assert list(made.state_dict()) == list(untouched.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(made.parameters(), untouched.parameters(), strict=True))
    assert torch.equal(plain(made, PIECES, None)[0], plain(untouched, PIECES, None)[0])
    with quiet():
        made.save_pretrained(tmp_path)
        again = transformers.CLIPTextModel.from_pretrained(tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), untouched.parameters(), strict=True))
    made.requires_grad_(True)
    made(input_ids=torch.tensor([[98, 5, END]])).last_hidden_state.sum().backward()  # it is an ordinary model


class Louder(torch.nn.Linear):
    """A layer as an adapter may put it into a model."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def with_another_layer() -> Any:
    made = model()
    getattr(made, "text_model", made).encoder.layers[1].mlp.fc1.__class__ = Louder
    return made


def with_a_hook() -> Any:
    made = model()
    getattr(made, "text_model", made).encoder.layers[0].register_forward_hook(lambda *_: None)
    return made


@pytest.mark.parametrize(
    "build",
    [with_another_layer, with_a_hook, lambda: torch.nn.Linear(2, 2)],
    ids=["another layer", "a hook", "no text model"],
)
def test_a_model_with_unknown_parts_is_refused(build: Any) -> None:
    assert packed_captions(build()) is None


def test_a_model_that_gives_other_bits_is_refused() -> None:
    made = model()
    text = getattr(made, "text_model", made)
    kind = type(text.encoder.layers[0])

    class Later(kind):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs) * 1.5

    text.encoder.layers[0].__class__ = Later  # another version of transformers
    assert packed_captions(made) is None


@pytest.mark.parametrize(("count", "least"), [(0, 1), (8, 16), (24, 32)], ids=str)
def test_the_number_of_rows_from_which_bits_are_equal_is_found(
    count: int, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _round_otherwise(monkeypatch, range(1, count + 1))
    assert ready(model()).least >= least


def test_a_processor_whose_products_depend_on_any_number_of_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _round_otherwise(monkeypatch, (room._ROWS[-1],))
    assert packed_captions(model()) is None


def _round_otherwise(monkeypatch: pytest.MonkeyPatch, counts: Sequence[int]) -> None:
    """Products of so many rows get other bits."""
    real = torch.nn.functional.linear

    def linear(rows: torch.Tensor, *others: Any) -> torch.Tensor:
        return real(rows, *others) + (1e-3 if rows.shape[:-1].numel() in counts else 0)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
