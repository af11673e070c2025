"""The text encoder, compared with plain transformers code, and with wrong folders and unusual captions."""

from __future__ import annotations

import functools
import json
import logging
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.models import (
    CLIP_TOKENIZER,
    bert_folder,
    clip_folder,
    clip_tokenizer,
    gemma_folder,
    pipeline_folder,
    t5_folder,
)
from builders.parity import as_stored
from builders.workflows import component

from daskt2i.encoders import text_model, tokens
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.textconfig import CLIP_DEFAULTS, text_shape
from daskt2i.errors import ConfigError, ModelError, ModelMissing
from daskt2i.types import Runtime

FP32 = Runtime("cpu", "fp32", 1)
CAPTIONS = [
    "a red dog",
    "",
    "two cats asleep on a circle",
    "dog",
    "ein Café 漢字 🙂",
    "very long " * 60,
    "a blue square",
]


def loaded(folder: Path, **arguments: Any) -> TextEncoder:
    encoder = TextEncoder(str(folder), **arguments)
    encoder.load(FP32)
    return encoder


def near(ours: np.ndarray, plain: np.ndarray, share: float = 1e-3) -> None:
    assert np.abs(ours.astype(np.float64) - plain).max() <= share * np.ptp(plain)


@functools.lru_cache(maxsize=1)
def plain_model(folder: Path, kind: str) -> tuple[Any, Any]:
    """Tokenizer and model as the library loads them."""
    import torch
    import transformers

    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    return transformers.AutoTokenizer.from_pretrained(folder), model


def plain(folder: Path, kind: str, caption: str, limit: int, **options: Any) -> Any:
    """Plain code as on the model's page: one caption, fp32, the library's own call of the tokenizer."""
    import torch

    tokenizer, model = plain_model(folder, kind)
    given = tokenizer(caption, truncation=True, max_length=limit, return_tensors="pt", **options)
    with torch.no_grad():
        if options:
            return model(given["input_ids"], output_hidden_states=True)
        return model(given["input_ids"], attention_mask=given["attention_mask"], output_hidden_states=True)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(autouse=True)
def _library_progress_bars_off() -> Any:
    from daskt2i.encoders.weights import quiet

    with quiet():
        yield


@pytest.mark.parametrize("legacy", [True, False], ids=["eos-2", "eos-right"])
@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"], ids=["pads-with-end", "pads-with-0"])
@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        ("CLIPTextModel", "CLIPTextModel"),
        ("CLIPTextModelWithProjection", "CLIPTextModelWithProjection"),
        ("CLIPModel", "CLIPTextModel"),
        ("CLIPModel", "CLIPTextModelWithProjection"),
    ],
)
def test_clip_states_equal_those_of_plain_transformers(
    tmp_path: Path, layout: str, kind: str, padding: str, legacy: bool
) -> None:
    folder = clip_folder(tmp_path / "clip", layout, legacy=legacy, padding=padding)
    projection = True if (layout, kind) == ("CLIPModel", "CLIPTextModelWithProjection") else None
    short = loaded(folder, projection=projection)
    full = loaded(folder, projection=projection, pad="full")
    by_length, all_of_it = short.encode(CAPTIONS, 4), full.encode(CAPTIONS, 4)
    pooled = "text_embeds" if "Projection" in kind else "pooler_output"
    assert short.info().attributes["class"] == kind
    for index, caption in enumerate(CAPTIONS):
        one = plain(folder, kind, caption, 77)
        length = one.last_hidden_state.shape[1]
        assert by_length["text_mask"][index].sum() == length
        near(by_length["text_states"][index, :length], one.last_hidden_state[0].numpy())
        near(by_length["text_pooled"][index], one[pooled][0].numpy())
        # the call of StableDiffusionPipeline.encode_prompt: padded to the full length, no mask
        one = plain(folder, kind, caption, 77, padding="max_length")
        near(all_of_it["text_states"][index], one.last_hidden_state[0].numpy())
        near(all_of_it["text_pooled"][index], one[pooled][0].numpy())
    assert np.array_equal(by_length["text_mask"], all_of_it["text_mask"])


def test_the_last_but_one_layer_is_the_raw_hidden_state(clip: Path) -> None:
    made = loaded(clip, layer=-2).encode(CAPTIONS[:3], 4)
    for index, caption in enumerate(CAPTIONS[:3]):
        states = plain(clip, "CLIPTextModel", caption, 77).hidden_states[-2][0].numpy()
        near(made["text_states"][index, : len(states)], states)


@pytest.mark.parametrize(
    "changes", [{}, {"feed_forward_proj": "relu", "tie_word_embeddings": False}], ids=["1.1", "1.0"]
)
def test_t5_states_equal_those_of_plain_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = t5_folder(tmp_path / "t5", **changes)
    encoder = loaded(folder, max_tokens=16)
    made = encoder.encode(CAPTIONS, 4)
    for index, caption in enumerate(CAPTIONS):
        states = plain(folder, "T5EncoderModel", caption, 16).last_hidden_state[0].numpy()
        near(made["text_states"][index, : len(states)], states)
    assert "text_pooled" not in made
    assert encoder.info().attributes["pooling"] == "none"


def test_t5_without_a_mask_reads_the_padding_as_in_flux(tmp_path: Path) -> None:
    import torch

    folder = t5_folder(tmp_path / "t5")
    encoder = loaded(folder, max_tokens=16, pad="unmasked")
    made = encoder.encode(CAPTIONS, 4)
    tokenizer, model = plain_model(folder, "T5EncoderModel")
    for index, caption in enumerate(CAPTIONS):
        given = tokenizer(caption, padding="max_length", max_length=16, truncation=True, return_tensors="pt")
        with torch.no_grad():
            as_stored(made["text_states"][index], model(given["input_ids"])[0][0].numpy())
        assert made["text_mask"][index].sum() == given["attention_mask"].sum()
    assert encoder.info().attributes["pad"] == "full", "a trainer must not mask what the tokens have read"


INSTRUCTION = ["a very long caption on", "a dog:", "two "]


@pytest.mark.parametrize("instruction", [None, INSTRUCTION], ids=["plain", "instruction"])
def test_gemma_states_equal_those_of_the_pipeline_of_sana(tmp_path: Path, instruction: list[str] | None) -> None:
    import diffusers
    import torch
    import transformers

    folder = gemma_folder(tmp_path / "gemma")
    joined = "\n".join(instruction or [])
    made = loaded(folder, max_tokens=16, lowercase=True, instruction=joined).encode([*CAPTIONS, " A Red DOG "], 4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    sana = diffusers.SanaPipeline(tokenizer, model, None, None, None)
    options = {"do_classifier_free_guidance": False, "device": torch.device("cpu"), "max_sequence_length": 16}
    for index, caption in enumerate([*CAPTIONS, " A Red DOG "]):
        # The empty prompt is the negative prompt of the pipeline, which has no instruction.
        with torch.no_grad():
            states, mask, *_ = sana.encode_prompt(
                caption, **options, complex_human_instruction=instruction if caption else None
            )
        count = int(mask.sum())
        assert made["text_mask"][index].sum() == count
        as_stored(made["text_states"][index, :count], states[0, :count].numpy())
        assert not made["text_states"][index, count:].any()
    assert made["text_truncated"].tolist() == [len(caption) > 500 for caption in [*CAPTIONS, ""]]


def test_an_instruction_is_not_counted_as_tokens_of_a_caption(tmp_path: Path) -> None:
    folder = gemma_folder(tmp_path / "gemma")
    captions = ["dog", "", "two cats"]
    made = loaded(folder, max_tokens=12, instruction="a very long caption: ").encode(captions, 2)
    counts, limit = TextEncoder(str(folder), max_tokens=12, instruction="a very long caption: ").count_tokens(captions)
    assert counts == made["text_mask"].sum(axis=1).tolist()
    assert limit == 12
    assert TextEncoder(str(folder), max_tokens=12).count_tokens(captions)[0] == [2, 1, 4]


def test_settings_that_came_later_are_not_in_the_identity_of_older_stores(clip: Path) -> None:
    path = "daskt2i.encoders.text.TextEncoder"
    before = component(path, model=str(clip)).identity()
    assert before.keys().isdisjoint({"instruction", "lowercase"})
    assert component(path, model=str(clip), instruction="draw").identity()["instruction"] == "draw"
    assert {"instruction", "lowercase"}.isdisjoint(TextEncoder(str(clip)).info().attributes)


def test_parameters_of_random_models_are_those_that_transformers_builds(tmp_path: Path) -> None:
    import transformers

    for folder, kind in (
        (t5_folder(tmp_path / "t5"), "T5EncoderModel"),
        (gemma_folder(tmp_path / "gemma"), "AutoModel"),
    ):
        model = getattr(transformers, kind).from_pretrained(folder)
        count = sum(one.numel() for one in model.parameters())
        stated = TextEncoder(str(folder), weights="random", max_tokens=16).info().weight_bytes
        assert stated == pytest.approx(4 * count, rel=0.1)
        assert TextEncoder(str(folder), max_tokens=16).info().weight_bytes == pytest.approx(4 * count, rel=0.02)


@pytest.mark.parametrize("pooler", [True, False])
def test_bert_states_equal_those_of_plain_transformers(tmp_path: Path, pooler: bool) -> None:
    folder = bert_folder(tmp_path / "bert", pooler=pooler)
    made = loaded(folder).encode(CAPTIONS, 4)
    for index, caption in enumerate(CAPTIONS):
        one = plain(folder, "BertModel", caption, 32)
        states = one.last_hidden_state[0].numpy()
        near(made["text_states"][index, : len(states)], states)
        if pooler:
            near(made["text_pooled"][index], one.pooler_output[0].numpy())
    assert ("text_pooled" in made) == pooler, "a pooler without weights would be random"


def test_only_the_text_tower_of_a_whole_clip_repository_is_used(tmp_path: Path) -> None:
    whole = clip_folder(tmp_path / "whole", "CLIPModel")
    alone = clip_folder(tmp_path / "alone")
    assert TextEncoder(str(whole)).info().weight_bytes == TextEncoder(str(alone)).info().weight_bytes


def test_truncated_captions_keep_their_end_and_are_marked(clip: Path) -> None:
    encoder = loaded(clip, max_tokens=6)
    made = encoder.encode(["dog", "dog dog dog dog", "dog dog dog dog dog"], 4)
    assert made["text_truncated"].tolist() == [False, False, True]
    assert made["text_mask"].sum(axis=1).tolist() == [3, 6, 6]
    for name in ("text_states", "text_pooled"):
        near(made[name][1], made[name][2].astype(np.float64))


def test_long_captions_print_nothing(
    clip: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for folder in (clip,):
            loaded(folder).encode(["dog " * 5000], 1)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_special_tokens_in_the_text_of_a_caption_are_read_as_in_transformers(clip: Path) -> None:
    caption = "dog <|endoftext|> cat"
    made = loaded(clip).encode([caption, "dog"], 2)
    near(made["text_pooled"][0], plain(clip, "CLIPTextModel", caption, 77).pooler_output[0].numpy())


def test_a_tokenizer_without_special_tokens_still_gives_the_empty_caption_a_state(tmp_path: Path) -> None:
    from builders.models import word_tokenizer

    folder = bert_folder(tmp_path / "bert")
    word_tokenizer(folder, {"pad_token": "[PAD]", "unk_token": "[UNK]"}, "$A")
    made = loaded(folder).encode(["", "dog"], 2)
    assert made["text_mask"].sum(axis=1).tolist() == [1, 1]
    assert made["text_states"][0, 0].any()


def test_batches_are_of_near_equal_length_longest_first_and_complete() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(2, 77, 300)]
    made = tokens.groups(lengths, 16)
    assert sorted(int(i) for group in made for i in group) == list(range(300))
    for group in made:
        inside = [lengths[i] for i in group]
        assert len(group) <= 16
        assert max(inside) == inside[0]
        assert inside[0] - min(inside) <= max(2, inside[0] // tokens.SLACK)
    assert tokens.groups([], 4) == []


def test_the_parts_of_a_pipeline_find_each_other(tmp_path: Path, clip: Path) -> None:
    folder = pipeline_folder(tmp_path / "sd")
    made = loaded(folder, subfolder="text_encoder").encode(CAPTIONS, 4)
    assert np.array_equal(made["text_states"], loaded(clip).encode(CAPTIONS, 4)["text_states"])
    with pytest.raises(ModelError, match="subfolder"):
        TextEncoder(str(folder)).info()


def test_random_weights_without_a_tokenizer_are_refused_with_the_setting_for_it(tmp_path: Path, clip: Path) -> None:
    shutil.copy(clip / "config.json", tmp_path)
    with pytest.raises(ModelMissing, match=r"(?i)set dataset\.encoders\.text\.tokenizer to a folder"):
        TextEncoder(str(tmp_path), weights="random").info()
    with pytest.raises(ModelMissing, match=r"(?i)set dataset\.encoders\.text\.tokenizer to a folder"):
        TextEncoder("openai/clip-vit-large-patch14", weights="random").info()
    encoder = loaded(tmp_path, weights="random", seed=5, tokenizer=str(clip))
    assert encoder.info().random_weights
    assert encoder.info().weights.startswith("seed:5/config:")
    assert encoder.encode(["dog"], 1)["text_states"].any()


@pytest.mark.skipif(not CLIP_TOKENIZER.is_dir(), reason="needs ../shared/data/clip-tokenizer beside the checkout")
def test_the_shipped_clip_config_is_vit_l_14_with_its_tokenizer() -> None:
    import torch
    import transformers

    encoder = TextEncoder("openai/clip-vit-large-patch14", weights="random", tokenizer=str(CLIP_TOKENIZER))
    info = encoder.info()
    config = encoder._read()[2].config
    with torch.device("meta"):
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))
    assert info.weight_bytes == 4 * sum(p.numel() for p in model.parameters())
    assert info.arrays[0].shape == (77, 768)
    assert info.attributes["tokenizer"] == "clip-tokenizer"
    tokenizer = encoder._load_tokenizer(CLIP_TOKENIZER)
    ids, cut = tokens.tokenize(tokenizer, ["a photo of a cat", "\ud83d", "x " * 100], 77)
    assert ids[0] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert cut.tolist() == [False, False, True]
    assert (len(ids[2]), ids[2][-1]) == (77, 49407)
    encoder._check_pair(tokenizer, encoder._read()[2])


def test_the_fingerprint_of_the_weights_includes_the_tokenizer(tmp_path: Path, clip: Path) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    assert TextEncoder(str(copy)).info().weights == TextEncoder(str(clip)).info().weights
    merges = (copy / "merges.txt").read_text().splitlines()
    (copy / "merges.txt").write_text("\n".join([merges[0], *merges[2:], ""]))
    assert TextEncoder(str(copy)).info().weights != TextEncoder(str(clip)).info().weights


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path, clip: Path) -> None:
    bert, other = bert_folder(tmp_path / "bert"), clip_folder(tmp_path / "other", legacy=False)
    with pytest.raises(ModelError, match="does not belong"):
        loaded(bert, tokenizer=str(clip))
    with pytest.raises(ModelError, match="ends a text with token"):
        loaded(clip, tokenizer=str(bert))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    with pytest.raises(ModelError, match="pools at token 5"):
        loaded(other)


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    from builders.models import _rename

    folder = clip_folder(tmp_path / "clip")
    _rename(folder / "model.safetensors", lambda key: None if key.endswith("final_layer_norm.weight") else key)
    with pytest.raises(ModelError, match="final_layer_norm"):
        loaded(folder)
    with pytest.raises(ConfigError, match="text_projection"):
        TextEncoder(str(folder), projection=True).info()


def test_pickled_weights_and_broken_tokenizers_are_refused(tmp_path: Path, clip: Path) -> None:
    copy = shutil.copytree(clip, tmp_path / "copy")
    (copy / "vocab.json").write_text("{broken")
    with pytest.raises(ModelError, match="tokenizer"):
        loaded(copy)
    (copy / "vocab.json").unlink()
    with pytest.raises(ModelMissing, match="holds no tokenizer"):
        TextEncoder(str(copy)).info()
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        TextEncoder(str(copy)).info()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "siglip", "text_config": {"hidden_size": 16}},
        {"_class_name": "AutoencoderKL"},
        {},
        {"model_type": "their-own", "hidden_size": 16, "auto_map": {"AutoModel": "modeling.Theirs"}},
        {"model_type": "bert"},
    ],
    ids=["pictures-too", "a-vae", "nothing", "code-of-its-own", "no-size"],
)
def test_models_that_cannot_be_used_are_refused(tmp_path: Path, clip: Path, config: dict[str, Any]) -> None:
    folder = shutil.copytree(clip, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Theirs: pass\n")
    with pytest.raises(ModelError):
        loaded(folder, max_tokens=16)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"pad": "max_length"},
        {"max_tokens": 1},
        {"max_tokens": "many"},
        {"max_tokens": 78},
        {"layer": -5},
        {"layer": 4},
        {"weights": "none"},
    ],
)
def test_wrong_arguments_are_refused(clip: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TextEncoder(str(clip), **arguments).info()


def test_slots_have_the_models_own_length_up_to_512_tokens(tmp_path: Path, clip: Path) -> None:
    assert TextEncoder(str(clip)).info().arrays[0].shape == (77, 16)
    assert TextEncoder(str(bert_folder(tmp_path / "bert"))).info().arrays[0].shape == (32, 16)
    t5 = t5_folder(tmp_path / "t5")
    config = json.loads((t5 / "tokenizer_config.json").read_text())
    (t5 / "tokenizer_config.json").write_text(json.dumps({**config, "model_max_length": int(1e30)}))
    assert TextEncoder(str(t5)).info().arrays[0].shape == (512, 16)
    assert TextEncoder(str(t5), max_tokens=1024).info().arrays[0].shape == (1024, 16)
    roberta = {"model_type": "roberta", "hidden_size": 8, "max_position_embeddings": 514, "pad_token_id": 1}
    assert text_shape(roberta, None, None, "roberta").limit == 512


def test_missing_keys_of_a_clip_config_get_the_defaults_of_transformers() -> None:
    import transformers

    assert {key: getattr(transformers.CLIPTextConfig(), key) for key in CLIP_DEFAULTS} == dict(CLIP_DEFAULTS)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("options", [{}, {"layer": -2}, {"pad": "full"}, {"projection": True}], ids=str)
def test_packed_captions_are_stored_with_the_bytes_of_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], precision: Any
) -> None:
    monkeypatch.setattr(text_model, "MOST_ROWS", 50)  # so that there are several packs
    folder = clip_folder(tmp_path / "clip", "CLIPTextModelWithProjection")
    encoder = TextEncoder(str(folder), **options)
    encoder.load(Runtime("cpu", precision, 1))
    captions = CAPTIONS + [" ".join(["dog red two cats"] * n)[: 7 * n] for n in range(1, 30)]
    packed = encoder.encode(captions, 8)
    assert encoder._loaded
    assert encoder._loaded[0]._packed
    assert encoder.note == ""
    encoder._loaded[0]._packed = None
    batches = encoder.encode(captions, 8)
    assert {name: array.tobytes() for name, array in packed.items()} == {
        name: array.tobytes() for name, array in batches.items()
    }


def test_a_machine_that_cannot_pack_captions_says_so_and_gives_the_same_bytes(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = loaded(clip).encode(CAPTIONS, 4)
    monkeypatch.setattr(text_model, "packed_captions", lambda *_: None)
    encoder = loaded(clip)
    assert "would not get the same bits" in encoder.note
    assert all(np.array_equal(array, wanted[name]) for name, array in encoder.encode(CAPTIONS, 4).items())


def test_packs_are_of_nearly_equal_size_and_hold_each_caption_once() -> None:
    lengths = [5 + (7 * n) % 13 for n in range(200)]
    batches = tokens.groups(lengths, 32)
    packs = tokens.packs(batches, lengths, 300)
    sizes = [sum(lengths[i] for part, _ in pack for i in part) for pack in packs]
    assert sorted(i for pack in packs for part, _ in pack for i in part) == list(range(200))
    assert len(packs) == -(-sum(lengths) // 300)
    assert max(sizes) - min(sizes) <= 2 * max(lengths)
    wide = {i: lengths[batch[0]] for batch in batches for i in batch}
    assert all(wide[i] == width for pack in packs for part, width in pack for i in part)
    assert tokens.packs([], [], 300) == []


def test_pickling_does_not_include_the_model(clip: Path) -> None:
    encoder = loaded(clip)
    assert len(pickle.dumps(encoder)) < 2000
    with pytest.raises(RuntimeError, match="load"):
        pickle.loads(pickle.dumps(encoder)).encode(["dog"], 1)


def test_bf16_is_near_fp32_and_fp16_on_a_cpu_is_refused(clip: Path) -> None:
    exact, rough = loaded(clip), TextEncoder(str(clip))
    rough.load(Runtime("cpu", "bf16", 1))
    a, b = exact.encode(CAPTIONS, 4), rough.encode(CAPTIONS, 4)
    near(b["text_states"], a["text_states"].astype(np.float64), 0.05)
    with pytest.raises(ConfigError, match="fp16"):
        exact.load(Runtime("cpu", "fp16", 1))


def test_the_tokenizer_that_the_tests_make_splits_like_clip(tmp_path: Path) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(clip_tokenizer(tmp_path / "t"))
    assert tokenizer.is_fast
    assert tokenizer.tokenize("Dog red x") == ["dog</w>", "red</w>", "x</w>"]
