"""Arrays of encoders in fewer bytes: the arithmetic, and what a store says about it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from daskt2i.config.store_settings import StoreSettings
from daskt2i.errors import StoreError
from daskt2i.store.forms.chunks import as_read, to_stored
from daskt2i.store.forms.form import described, forms_of, read_forms, stored_arrays
from daskt2i.store.forms.numbers import from_bfloat16, from_int8, to_bfloat16, to_int8
from daskt2i.store.forms.packed import lengths_of, pack, unpack
from daskt2i.types import ArraySpec

LATENT = ArraySpec("latent_mean", ("channel", "y", "x"), (4, 8, 8), "float16", "nan", "posterior mean")
STATES = ArraySpec("text_states", ("slot", "token", "feature"), (2, 5, 6), "float16", "nan", "text states")
POOLED = ArraySpec("text_pooled", ("slot", "feature"), (2, 6), "float16", "nan", "pooled")
MASK = ArraySpec("text_mask", ("slot", "token"), (2, 5), "bool", False, "tokens")


def latents(rows: int = 3) -> np.ndarray:
    spread = np.array([0.1, 1, 10, 100])[:, None, None]
    made = np.random.default_rng(0).normal(size=(rows, 4, 8, 8)) * spread + spread
    return made.astype(np.float16)


def test_an_int8_value_is_off_by_half_a_step_of_its_channel_at_most() -> None:
    made = latents()
    numbers, scale = to_int8(made, 2)
    assert numbers.dtype == np.int8
    assert scale.shape == (3, 4, 2)
    back = from_int8(numbers, scale, np.float32)
    steps = np.ptp(made.astype(np.float32), axis=(2, 3)) / 254
    errors = np.abs(back - made.astype(np.float32)).max(axis=(2, 3))
    assert (errors <= steps * 0.501).all()
    assert (np.abs(numbers).reshape(3, 4, -1).max(-1) == 127).all(), "the whole range of int8 is used"


def test_a_row_has_the_same_int8_numbers_alone_and_among_others() -> None:
    made = latents()
    together, alone = to_int8(made, 2), to_int8(made[1:2], 2)
    assert np.array_equal(together[0][1], alone[0][0])
    assert np.array_equal(together[1][1], alone[1][0])


def test_a_channel_of_one_value_stays_exact_in_int8() -> None:
    made = np.full((1, 2, 3, 3), 0.3, np.float16)
    assert np.array_equal(from_int8(*to_int8(made, 2), np.float16), made)


def test_a_channel_with_nan_is_nan_in_int8_and_its_neighbours_are_not() -> None:
    made = latents(1)
    made[0, 1, 0, 0] = np.nan
    back = from_int8(*to_int8(made, 2), np.float16)
    assert np.isnan(back[0, 1]).all()
    assert np.isfinite(back[0, [0, 2, 3]]).all()


def test_a_channel_with_infinity_has_no_scale() -> None:
    made = latents(1)
    made[0, 2, 3, 3] = np.inf
    numbers, scale = to_int8(made, 2)
    assert not numbers[0, 2].any()
    assert np.isnan(scale[0, 2]).all()
    assert np.isfinite(scale[0, [0, 1, 3]]).all()


def test_bfloat16_rounds_as_torch_does() -> None:
    import torch

    made = np.concatenate([latents().ravel(), np.array([np.nan, np.inf, -np.inf, 0, -0.0, 65504], np.float16)])
    ours = from_bfloat16(to_bfloat16(made), np.float32)
    theirs = torch.from_numpy(made).to(torch.bfloat16).float().numpy()
    assert np.array_equal(ours, theirs, equal_nan=True)


def packed_example() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, mask and captions of 4 rows with 2 slots of 5 tokens; the caption `b` comes twice."""
    captions = np.array([["a", "b"], ["c", ""], ["b", "d"], ["", ""]], object)
    tokens = {"a": 2, "b": 3, "c": 5, "d": 1, "": 0}
    rng = np.random.default_rng(1)
    of = {text: rng.normal(size=(5, 6)) for text in tokens}
    mask = np.array([[np.arange(5) < tokens[text] for text in row] for row in captions])
    states = np.array([[of[text] for text in row] for row in captions], np.float16)
    return states * mask[..., None], mask, captions


def test_packed_states_come_back_bit_for_bit_and_equal_captions_are_there_once() -> None:
    states, mask, captions = packed_example()
    lengths = lengths_of(mask, whole=False)
    flat, begin = pack(states, lengths, captions)
    flat = flat.reshape(-1, 6)
    assert begin[0, 1] == begin[2, 0], "the caption b"
    assert not flat[2 + 3 + 5 + 1 :].any(), "a, b, c and d are all that is stored"
    assert np.array_equal(unpack(flat, begin, lengths, 5), states)


def test_padding_that_counts_as_text_is_packed_too() -> None:
    states, mask, _captions = packed_example()
    states[mask.any(-1)] += 1  # also behind the last token
    lengths = lengths_of(mask, whole=True)
    flat, begin = pack(states, lengths, None)
    assert np.array_equal(unpack(flat.reshape(-1, 6), begin, lengths, 5), states)


@pytest.mark.parametrize("number", ["exact", "bfloat16", "int8"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_store_says_is_enough_to_read_its_forms(number: str, packed: bool) -> None:
    settings = StoreSettings.model_validate({"latents": number, "text": number, "packed": packed})
    forms = forms_of(settings, [LATENT], [STATES, POOLED, MASK], whole=False)
    said = json.loads(json.dumps(described(forms)))
    assert read_forms(said, "a store") == forms
    states, mask, captions = packed_example()
    made = {"latent_mean": latents(4), "text_states": states, "text_pooled": states[:, :, 0], "text_mask": mask}
    stored = to_stored(forms, {**made, "caption": captions})
    specs = stored_arrays(forms, [LATENT, STATES, POOLED, MASK])
    assert {spec.name: (spec.dtype, (4, *spec.shape)) for spec in specs} == {
        name: (values.dtype.name, values.shape) for name, values in stored.items() if name != "caption"
    }


def test_a_check_before_writing_sees_the_values_that_readers_will_get() -> None:
    settings = StoreSettings(latents="int8")
    made = {"latent_mean": latents()}
    seen = as_read(forms_of(settings, [LATENT], [], whole=False), made)["latent_mean"]
    assert np.array_equal(seen, from_int8(*to_int8(made["latent_mean"], 2), np.float16))
    assert not np.array_equal(seen, made["latent_mean"])


def test_a_store_without_forms_says_nothing_about_them() -> None:
    assert described(forms_of(StoreSettings(), [LATENT], [STATES, MASK], whole=False)) == {}
    assert StoreSettings().identity() == {}


def test_a_damaged_description_of_forms_names_the_store_and_what_to_do() -> None:
    with pytest.raises(StoreError, match=r"a store \(zarr\.json\) do not say .* Nothing was changed; restore"):
        read_forms({"forms": {"latent_mean": {"number": "int8"}}}, "a store")
