"""What `model.pretrained` tells a user to do works."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.advice import told
from builders.models import kl_folder
from builders.pipelines import FLOW, PNDM, pixart_pipeline, sd_folder, xl_pipeline
from builders.workflows import component, load_workflow

import daskt2i
from daskt2i.config.settings import DatasetSettings, TrainSettings
from daskt2i.config.training.denoiser import TimeSettings
from daskt2i.config.training.pretrained import PretrainedSettings
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import ModelError
from daskt2i.model.diffusion import Diffusion
from daskt2i.model.pretrained import lora_files, tuning
from daskt2i.model.pretrained.fit import padding_note, require_fits, times_note
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline, find, followed
from daskt2i.model.pretrained.same_encoders import require_same
from daskt2i.model.pretrained.schedule import alphas_of, objective_of
from daskt2i.sample.other_model import OtherModel

SHAPE, TEXT = (4, 16, 16), {"features": 128, "max_tokens": 26}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline. Tests that change it copy it."""
    return sd_folder(tmp_path_factory.mktemp("base") / "tiny-sd")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "tiny-sd"))


def given(folder: Path, **settings: Any) -> PretrainedPipeline:
    return find(PretrainedSettings(model=str(folder), **settings))


def test_a_pipeline_of_another_kind_is_refused_and_one_of_stable_diffusion_taken(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))
    with told("model/pretrained/pipeline_folder.py:find ModelError") as info:
        given(copy)
    assert re.search("tiny-sd is a KandinskyPipeline", str(info.value))
    (copy / "model_index.json").write_text(json.dumps(index))
    assert given(copy).tokens == 26


@pytest.mark.parametrize("name", ["unet/extra.bin", "hook.py"])
def test_a_pipeline_with_pickles_or_code_is_refused(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    with told("model/pipeline_parts.py:refuse_foreign_parts ModelError") as info:
        given(copy)
    assert re.search(name, str(info.value))


def test_an_objective_that_is_not_the_pipelines_is_refused_and_its_own_taken(base: Path) -> None:
    with told("model/pretrained/pipeline_folder.py:followed ConfigError") as info:
        followed(TrainSettings(objective="flow"), given(base))
    assert re.search("train.objective=epsilon", str(info.value))
    assert followed(TrainSettings(objective="epsilon"), given(base)).objective == "epsilon"
    assert followed(TrainSettings(), given(base)).objective == "epsilon"


def test_a_scheduler_of_another_objective_is_refused() -> None:
    with told("model/pretrained/schedule.py:objective_of ModelError") as info:
        objective_of({**PNDM, "prediction_type": "sample"}, "x")
    assert re.search("prediction_type sample", str(info.value))
    assert objective_of({**PNDM, "prediction_type": "v_prediction"}, "x") == "v"


def test_a_scheduler_with_another_number_of_levels_is_refused() -> None:
    with told("model/pretrained/schedule.py:alphas_of ModelError") as info:
        alphas_of({**PNDM, "num_train_timesteps": 100}, "x")
    assert re.search("100 noise levels", str(info.value))
    assert len(alphas_of(PNDM, "x")) == 1000


def test_a_store_with_other_channels_is_refused(base: Path) -> None:
    with told("model/pretrained/fit.py:require_fits ConfigError") as info:
        require_fits(given(base), [(16, 16, 16)], TEXT)
    assert "16 channels" in str(info.value)
    require_fits(given(base), [SHAPE], TEXT)


def test_a_store_with_latents_of_another_size_is_refused(base: Path) -> None:
    with told("model/pretrained/fit.py:require_fits ConfigError") as info:
        require_fits(given(base), [(4, 32, 32)], TEXT)
    assert "32 x 32, but tiny-sd was trained on 16 x 16" in str(info.value)


def test_a_store_with_longer_text_states_is_refused(base: Path) -> None:
    with told("model/pretrained/fit.py:require_fits ConfigError") as info:
        require_fits(given(base), [SHAPE], {**TEXT, "features": 768})
    assert "768 numbers" in str(info.value)


def test_a_store_without_all_pooled_states_is_refused(tmp_path: Path) -> None:
    xl = given(xl_pipeline(tmp_path / "tiny-xl"))
    text = {"features": 40, "max_tokens": 77, "pooled_features": 20}
    for wrong, said in ((0, "are missing"), (12, "have 12 numbers")):
        with told("model/pretrained/fit.py:require_fits ConfigError") as info:
            require_fits(xl, [SHAPE], {**text, "pooled_features": wrong})
        assert said in str(info.value)
    require_fits(xl, [SHAPE], text)


def test_a_pixart_that_is_told_sizes_is_refused(tmp_path: Path) -> None:
    place = pixart_pipeline(tmp_path / "tiny-alpha")
    assert given(place)
    config = place / "transformer" / "config.json"
    known = json.loads(config.read_text())
    for change in ({"use_additional_conditions": True}, {"use_additional_conditions": None, "sample_size": 128}):
        config.write_text(json.dumps(known | change))
        with told("model/pretrained/pipeline_folder.py:find ModelError") as info:
            given(place)
        assert "is told sizes of pictures" in str(info.value)


def test_a_store_with_captions_of_another_length_is_refused(base: Path) -> None:
    with told("model/pretrained/fit.py:require_fits ConfigError") as info:
        require_fits(given(base), [SHAPE], {**TEXT, "max_tokens": 77})
    assert "max_tokens=26" in str(info.value)


def test_a_store_with_other_padding_is_told_of(base: Path) -> None:
    assert "pad=full" in padding_note(given(base), masked=True)
    assert padding_note(given(base), masked=False) == ""


def test_times_of_flow_are_told_to_have_no_effect_on_other_objectives(base: Path, tmp_path: Path) -> None:
    times = TimeSettings(mean=2.0)  # type: ignore[call-arg]
    assert "set train.times=null" in times_note(given(base), times)
    assert times_note(given(base), None) == ""
    flow = given(sd_folder(tmp_path / "flow", FLOW))
    assert times_note(flow, times) == ""
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    numbers = torch.rand(2), torch.randn(2)
    for objective in ("epsilon", "v"):
        with_times, without = (
            Diffusion(objective, times=one).noised(latents, noise, *numbers) for one in (times, None)
        )
        assert torch.equal(with_times.inputs, without.inputs)
    with_times, without = (Diffusion("flow", times=one).noised(latents, noise, *numbers) for one in (times, None))
    assert not torch.equal(with_times.inputs, without.inputs)


def test_a_lora_without_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with told("model/pretrained/tuning.py:require_peft ConfigError") as info:
        tuning.require_peft()
    assert re.search(r"daskt2i\[tune\]", str(info.value))


def test_layers_that_are_not_there_are_refused_and_the_named_ones_taken(base: Path) -> None:
    with told("model/pretrained/tuning.py:matching ConfigError") as info:
        tuning.cost_of(given(base, method="layers", layers=["*nothing*"]))
    assert re.search(r"\*nothing\*", str(info.value))
    assert 0 < tuning.cost_of(given(base, method="layers", layers=["*attn2*"])).trained < 100_000


def test_targets_of_lora_that_are_not_there_are_refused(base: Path) -> None:
    with told("model/pretrained/tuning.py:_no_target ConfigError") as info:
        tuning.cost_of(given(base, method="lora", lora={"target_modules": ["to_nothing"]}))
    assert re.search("to_nothing", str(info.value))


def test_weights_that_hold_nan_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tuning.require_finite(given(copy))
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, path)
    with told("model/pretrained/tuning.py:require_finite ModelError") as info:
        tuning.require_finite(given(copy))
    assert re.search("conv_in.weight", str(info.value))
    with pytest.raises(ModelError, match=r"conv_in\.weight.*\(pretrained\)"):
        OtherModel(str(copy)).require()


def test_weights_that_were_cut_are_named_before_a_worker_starts(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with told("model/pretrained/tuning.py:require_finite ModelError"):
        OtherModel(str(copy)).require()
    path.write_bytes(whole)
    OtherModel(str(copy)).require()


def test_weights_of_another_config_are_refused(base: Path, copy: Path) -> None:
    from diffusers import UNet2DConditionModel

    config = copy / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": 2}))
    made = UNet2DConditionModel.from_config(given(copy).config)
    with told("model/pretrained/tuning.py:load_weights ModelError") as info:
        tuning.load_weights(made, given(copy))
    assert re.search("do not fit its config.json", str(info.value))


def dataset(image: str, text: str) -> DatasetSettings:
    """The demo's, with other places of its encoders."""
    found = load_workflow("demo").dataset
    encoders = found.encoders.model_copy(
        update={
            "image": component("daskt2i.encoders.vae.VaeEncoder", model=image),
            "text": component("daskt2i.encoders.text.TextEncoder", model=text, max_tokens=26, pad="full"),
        }
    )
    return found.model_copy(update={"encoders": encoders})


def stored(image: str, text: str) -> dict[str, Any]:
    vae, words = VaeEncoder(image).info(64), TextEncoder(text, max_tokens=26, pad="full").info()
    return {
        "identity": {"encoders": {"image": {"weights": vae.weights}, "text": {"weights": words.weights}}},
        "image_encoder": dict(vae.attributes),
        "text_encoder": dict(words.attributes),
    }


def test_another_vae_is_refused_and_a_copy_in_half_precision_taken(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    text = "daskt2i:demo/text"
    other = str(kl_folder(tmp_path / "other-vae"))
    with told("model/pretrained/same_encoders.py:_verdict FingerprintMismatch") as info:
        require_same(given(base), dataset(other, text), stored(other, text))
    assert re.search("other-vae.*tiny-sd/vae", str(info.value))
    half = shutil.copytree(base / "vae", tmp_path / "half-vae")
    path = half / "diffusion_pytorch_model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    notes = require_same(given(base), dataset(str(half), text), stored(str(half), text))
    assert "half-vae, has other files than tiny-sd/vae, but encodes alike" in notes[0]


def test_a_lora_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel.from_config(given(base).config)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    for adapter, place in (
        ((torch.ones(2, 64), torch.ones(64, 2)), name),
        ((torch.ones(2, 32), torch.ones(32, 2)), "x.y"),
    ):
        lora_files.write({place: adapter}, 1.0, "unet", tmp_path)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        with told("model/pretrained/lora_files.py:add ModelError") as info:
            lora_files.add(lora_files.read(tmp_path), model, "unet", tmp_path, "tiny-sd")
        assert re.search("belongs to another model than tiny-sd", str(info.value))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_no_lora_is_refused(base: Path, tmp_path: Path) -> None:
    with told("model/pretrained/lora_files.py:read ModelMissing"):
        lora_files.read(tmp_path)
    with told("model/pretrained/lora_files.py:read ModelError") as info:
        lora_files.read(base / "unet" / "diffusion_pytorch_model.safetensors")
    assert re.search("no LoRA", str(info.value))
    (tmp_path / lora_files.FILE).write_bytes(b"version https://git-lfs")
    with told("model/pretrained/lora_files.py:read ModelError") as info:
        lora_files.read(tmp_path)
    assert re.search("complete safetensors", str(info.value))


def test_a_rank_of_lora_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with (
        daskt2i.Run("demo", tmp_path / "run", progress=False) as run,
        told("session/models/methods.py:RunModels.with_training ConfigError"),
    ):
        run.train(lora=4)
