"""The text models of a pipeline, compared with `encode_prompt` of that pipeline."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.models import flux_folder, sd3_folder, sdxl_folder
from builders.parity import as_stored
from builders.workflows import fake_settings, finish

from daskt2i import open_store
from daskt2i.encoders.joint.layouts import LAYOUTS
from daskt2i.encoders.joint.text import JointTextEncoder
from daskt2i.encoders.text import TextEncoder
from daskt2i.loader.dataset import LatentDataset
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime

FP32 = Runtime("cpu", "fp32", 1)
CAPTIONS = ["a red dog", "", "two cats asleep on a circle", "dog", "very long " * 60, "a blue square"]
T5_TOKENS = 32
BUILD: dict[str, Callable[[Path], Path]] = {"sdxl": sdxl_folder, "sd3": sd3_folder, "flux": flux_folder}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: build(tmp_path_factory.mktemp("models") / kind) for kind, build in BUILD.items()}


@pytest.fixture(autouse=True)
def _library_progress_bars_off() -> Any:
    from daskt2i.encoders.weights import quiet

    with quiet():
        yield


def loaded(folder: Path, kind: Any, **arguments: Any) -> JointTextEncoder:
    encoder = JointTextEncoder(str(folder), kind, **arguments)
    encoder.load(FP32)
    return encoder


@functools.lru_cache(maxsize=1)
def pipeline(folder: Path, kind: str) -> Any:
    """The pipeline of diffusers with its text part alone."""
    import diffusers
    import transformers

    names = {"sdxl": "StableDiffusionXLPipeline", "sd3": "StableDiffusion3Pipeline", "flux": "FluxPipeline"}
    parts: dict[str, Any] = dict.fromkeys(("vae", "scheduler", "unet" if kind == "sdxl" else "transformer"))
    for part in LAYOUTS[kind]:
        architecture = json.loads((folder / part.subfolder / "config.json").read_text())["architectures"][0]
        architecture = architecture.replace("T5ForConditionalGeneration", "T5EncoderModel")
        model = getattr(transformers, architecture).from_pretrained(folder / part.subfolder)
        parts[part.subfolder] = model.eval()
        name = part.subfolder.replace("text_encoder", "tokenizer")
        parts[name] = transformers.AutoTokenizer.from_pretrained(folder / name)
    return getattr(diffusers, names[kind])(**parts)


def plain(folder: Path, kind: str, caption: str) -> tuple[np.ndarray, np.ndarray]:
    """States and pooled states of one caption, fp32."""
    import torch

    pipe, options = pipeline(folder, kind), {"device": torch.device("cpu")}
    if kind != "flux":
        options["do_classifier_free_guidance"] = False
    if kind != "sdxl":
        options["max_sequence_length"] = T5_TOKENS
    others = {"sdxl": {}, "sd3": {"prompt_2": None, "prompt_3": None}, "flux": {"prompt_2": None}}[kind]
    with torch.no_grad():
        found = pipe.encode_prompt(prompt=caption, **others, **options)
    return found[0][0].numpy(), found[1 if kind == "flux" else 2][0].numpy()


@pytest.mark.parametrize("kind", BUILD)
def test_states_and_pooled_states_equal_those_of_the_pipeline(folders: dict[str, Path], kind: str) -> None:
    arguments: dict[str, Any] = {"pad": "full"} if kind == "sdxl" else {"max_tokens": T5_TOKENS}
    made = loaded(folders[kind], kind, **arguments).encode(CAPTIONS, 4)
    for index, caption in enumerate(CAPTIONS):
        states, pooled = plain(folders[kind], kind, caption)
        as_stored(made["text_states"][index], states)
        as_stored(made["text_pooled"][index], pooled)
    assert made["text_truncated"].tolist() == [len(caption) > 500 for caption in CAPTIONS]


def test_real_tokens_alone_have_the_states_of_the_pipeline_of_sdxl(folders: dict[str, Path]) -> None:
    made = loaded(folders["sdxl"], "sdxl").encode(CAPTIONS, 4)
    for index, caption in enumerate(CAPTIONS):
        states, pooled = plain(folders["sdxl"], "sdxl", caption)
        count = int(made["text_mask"][index].sum())
        as_stored(made["text_states"][index, :count], states[:count])
        assert not made["text_states"][index, count:].any()
        as_stored(made["text_pooled"][index], pooled)
    assert made["text_mask"].sum(axis=1).tolist() == [5, 2, 23, 3, 77, 13], "start, pieces of words, end"


def test_the_padding_that_t5_reads_changes_its_states(folders: dict[str, Path]) -> None:
    short, long = (
        loaded(folders["sd3"], "sd3", max_tokens=length).encode(["a red dog"], 1)["text_states"][0, 77]
        for length in (8, 32)
    )
    assert not np.allclose(short, long, atol=0.05), "states of real tokens alone would not be those of the pipeline"


def test_info_states_shapes_parts_and_memory_of_all_models(folders: dict[str, Path]) -> None:
    info = JointTextEncoder(str(folders["sd3"]), "sd3", max_tokens=T5_TOKENS).info()
    assert {spec.name: spec.shape for spec in info.arrays} == {
        "text_states": (77 + T5_TOKENS, 48),
        "text_mask": (77 + T5_TOKENS,),
        "text_truncated": (),
        "text_pooled": (12 + 20,),
    }
    parts = [TextEncoder(str(folders["sd3"]), subfolder=part.subfolder).info() for part in LAYOUTS["sd3"]]
    assert info.weight_bytes == sum(part.weight_bytes for part in parts)
    assert [part["class"] for part in info.attributes["parts"]] == [part.attributes["class"] for part in parts]
    assert info.attributes["pad"] == "full"
    xl = JointTextEncoder(str(folders["sdxl"]), "sdxl").info()
    assert [spec.shape for spec in xl.arrays] == [(77, 40), (77,), (), (20,)]
    assert xl.attributes["pad"] == "length"
    assert JointTextEncoder(str(folders["sd3"]), "sd3").info().arrays[0].shape == (77 + 256, 48)
    assert JointTextEncoder(str(folders["flux"]), "flux").info().arrays[0].shape == (512, 16)


def test_the_weights_of_each_model_are_in_the_identity(folders: dict[str, Path], tmp_path: Path) -> None:
    name = JointTextEncoder(str(folders["sdxl"]), "sdxl").info().weights
    copy = shutil.copytree(folders["sdxl"], tmp_path / "copy")
    assert JointTextEncoder(str(copy), "sdxl").info().weights == name
    assert name.startswith("sha256:")
    merges = (copy / "tokenizer_2" / "merges.txt").read_text().splitlines()
    (copy / "tokenizer_2" / "merges.txt").write_text("\n".join([merges[0], *merges[2:], ""]))
    assert JointTextEncoder(str(copy), "sdxl").info().weights != name
    seeded = JointTextEncoder(str(copy), "sdxl", weights="random", seed=3).info()
    assert seeded.weights.startswith("seed:3/config:")
    assert seeded.random_weights


def test_a_store_of_sdxl_is_trained_from_and_holds_the_pooled_states_too(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    path = "daskt2i.encoders.joint.text.JointTextEncoder"
    text = {"class": path, "model": str(folders["sdxl"]), "kind": "sdxl"}
    finish(fake_settings(rows=4, text=text), tmp_path)
    store = open_store(tmp_path)
    assert store["text_states"].shape[2:] == (77, 40)
    assert store["text_pooled"].shape[2:] == (20,)
    assert store["empty_text_pooled"].shape == (20,)
    batch = next(LatentDataset(RunFolder(tmp_path), seed=0, batch=4, heldout=0, dropout=0).batches(0))
    assert batch.text_states.shape[2] == 40
    assert batch.text_states.any(axis=(1, 2)).all()


def test_pickling_does_not_include_the_models(folders: dict[str, Path]) -> None:
    assert len(pickle.dumps(loaded(folders["sdxl"], "sdxl"))) < 4000


def test_tokens_are_counted_for_the_model_that_reads_most(folders: dict[str, Path]) -> None:
    assert JointTextEncoder(str(folders["sdxl"]), "sdxl").count_tokens(["dog", ""]) == ([3, 2], 77)
    assert JointTextEncoder(str(folders["flux"]), "flux").count_tokens(["dog", ""]) == ([2, 1], 512)
