"""What `machine`, `encoders` and `model` tell a user to do works."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.advice import told
from builders.models import bert_folder, clip_folder, dc_folder, kl_folder, pipeline_folder, tiny_folder
from builders.workflows import IMAGE, component, small_settings
from rank_modules import fitting

import daskt2i
from daskt2i import protocols
from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.weights import read_header, weight_files
from daskt2i.machine.precision import check_device, resolve
from daskt2i.model.autoencoder import PretrainedAutoencoder, latent_of, new, new_config
from daskt2i.model.denoisers.unet import PRESETS, build, unet_config
from daskt2i.types import Runtime

SHAPE = (4, 16, 16)
CPU = Runtime("cpu", "fp32", 1)


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kl_folder(tmp_path_factory.mktemp("kl"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert"))


def changed_config(folder: Path, place: Path, **changes: Any) -> Path:
    """A copy of a model with another config.json."""
    shutil.copytree(folder, place)
    config = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | changes))
    return place


# Device and precision.


def test_a_device_that_is_named_is_taken() -> None:
    with told("machine/precision.py:check_device ConfigError"):
        check_device("gpu")
    assert check_device("cpu") == "cpu"


def test_a_cpu_does_where_a_gpu_is_not_there(tmp_path: Path) -> None:
    run = daskt2i.Run(small_settings(device="cuda:99"), tmp_path / "run", scheduler="serial", progress=False)
    with told("machine/precision.py:check_device ConfigError") as error:
        run.encode()
    assert "run.device=cpu" in str(error.value)
    assert run.with_settings({"run.device": "cpu"}).encode().accepted == 4


def test_a_training_is_told_of_its_own_device_and_precision(tmp_path: Path) -> None:
    with told("machine/precision.py:check_device ConfigError") as error:
        fitting.fit(tmp_path, device="cuda:99", steps=1)
    assert "launch.device=cpu" in str(error.value)
    with told("machine/precision.py:choose ConfigError") as error:
        fitting.fit(tmp_path, precision="fp16", steps=1)
    assert "launch.precision=auto" in str(error.value)
    assert fitting.fit(tmp_path, device="cpu", precision="auto", steps=1)


@pytest.mark.parametrize("right", ["auto", "fp32", "bf16"])
def test_a_precision_that_is_named_is_taken(right: str) -> None:
    with told("machine/precision.py:choose ConfigError"):
        resolve("fp16", "cpu")
    with told("machine/precision.py:choose ConfigError"):
        resolve("fp8", "cpu")
    assert resolve(right, "cpu") in ("fp32", "bf16")


@pytest.mark.parametrize("kind", [VaeEncoder, TextEncoder])
def test_encoders_load_in_a_precision_that_is_named(kind: Any, kl: Path, clip: Path) -> None:
    encoder = kind(str(kl if kind is VaeEncoder else clip))
    with told("encoders/weights.py:torch_dtype ConfigError"):
        encoder.load(Runtime("cpu", "fp16", 1))
    for precision in ("fp32", "bf16", resolve("auto", "cpu")):
        encoder.load(Runtime("cpu", precision, 1))


# Encoders.


@pytest.mark.parametrize(
    ("place", "kind", "wrong", "right"),
    [
        ("encoders/fake.py:FakeImageEncoder.__init__ ConfigError", FakeImageEncoder, {"pixel_range": "x"}, "signed"),
        ("encoders/fake.py:FakeImageEncoder.__init__ ConfigError", FakeImageEncoder, {"pixel_range": "x"}, "unit"),
        ("encoders/weights.py:check_weights_option ConfigError", VaeEncoder, {"weights": "x"}, "pretrained"),
        ("encoders/weights.py:check_weights_option ConfigError", VaeEncoder, {"weights": "x"}, "random"),
        ("encoders/weights.py:check_weights_option ConfigError", VaeEncoder, {"seed": -1}, 0),
        ("encoders/ncnn/choice.py:check_engine ConfigError", VaeEncoder, {"engine": "x"}, "auto"),
        ("encoders/ncnn/choice.py:check_engine ConfigError", VaeEncoder, {"engine": "x"}, "torch"),
        ("encoders/ncnn/choice.py:check_engine ConfigError", VaeEncoder, {"engine": "x"}, "ncnn"),
        ("encoders/text.py:TextEncoder.__init__ ConfigError", TextEncoder, {"pad": "x"}, "length"),
        ("encoders/text.py:TextEncoder.__init__ ConfigError", TextEncoder, {"pad": "x"}, "full"),
        ("encoders/text.py:TextEncoder.__init__ ConfigError", TextEncoder, {"pad": "x"}, "unmasked"),
        ("encoders/text.py:TextEncoder.__init__ ConfigError", TextEncoder, {"max_tokens": 1}, 2),
    ],
)  # fmt: skip
def test_an_argument_that_is_named_is_taken(place: str, kind: Any, wrong: dict[str, Any], right: Any) -> None:
    given = {} if kind is FakeImageEncoder else {"model": "a/model"}
    with told(place):
        kind(**given, **wrong)
    assert kind(**given, **dict.fromkeys(wrong, right))


def test_where_ncnn_cannot_run_torch_does(tmp_path: Path, kl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = str(tiny_folder(tmp_path / "tiny"))
    with told("encoders/ncnn/choice.py:refuse_kind ConfigError"):
        VaeEncoder(tiny, engine="ncnn").info(32)
    VaeEncoder(tiny, engine="torch").info(32)
    monkeypatch.setitem(sys.modules, "ncnn", None)  # as if it were not installed
    with told("encoders/ncnn/choice.py:refuse_place ConfigError") as error:
        VaeEncoder(str(kl), engine="ncnn").load(CPU)
    assert 'install "daskt2i[fast-cpu]"' in str(error.value)
    VaeEncoder(str(kl), engine="torch").load(CPU)


def test_with_ncnn_the_precision_that_is_named_and_torch_load(tmp_path: Path, kl: Path) -> None:
    pytest.importorskip("ncnn", reason='ncnn is not installed (pip install "daskt2i[fast-cpu]")')
    with told("encoders/ncnn/choice.py:refuse_place ConfigError") as error:
        VaeEncoder(str(kl), engine="ncnn").load(Runtime("cpu", "bf16", 1))
    assert "set dataset.precision to fp32" in str(error.value)
    VaeEncoder(str(kl), engine="ncnn").load(CPU)
    gelu = str(kl_folder(tmp_path / "gelu", act_fn="gelu"))
    with told("encoders/ncnn/choice.py:engine_for ConfigError"):
        VaeEncoder(gelu, engine="ncnn").load(CPU)
    VaeEncoder(gelu, engine="torch").load(CPU)


def test_each_resolution_that_is_named_is_taken(kl: Path) -> None:
    with told("encoders/vae.py:VaeEncoder.info ConfigError") as error:
        VaeEncoder(str(kl)).info(30)
    good = [int(number) for number in re.findall(r"\d+", str(error.value).rpartition("times")[2])]
    assert good == [28, 32]
    assert all(VaeEncoder(str(kl)).info(resolution).arrays for resolution in good)
    with told("encoders/fake.py:FakeImageEncoder.info ConfigError") as error:
        FakeImageEncoder().info(30)
    (side,) = re.findall(r"multiple of (\d+)", str(error.value))
    assert FakeImageEncoder().info(3 * int(side)).arrays


def test_sizes_of_a_fake_as_in_the_message_are_taken() -> None:
    with told("encoders/fake.py:FakeTextEncoder.__init__ ConfigError"):
        FakeTextEncoder(features=0)
    assert FakeTextEncoder(features=1, max_tokens=2).info().arrays


def test_a_model_that_is_taken_or_an_own_class_encodes(kl: Path, clip: Path, bert: Path, tmp_path: Path) -> None:
    with told("encoders/vaeconfig.py:checked ModelError"):
        VaeEncoder(str(clip)).info(32)
    with told("encoders/vaeconfig.py:checked ModelError"):
        VaeEncoder(str(changed_config(kl, tmp_path / "grey", in_channels=1))).info(32)
    assert VaeEncoder(str(kl)).info(32).arrays
    assert VaeEncoder(str(tiny_folder(tmp_path / "tiny"))).info(32).arrays
    assert VaeEncoder(str(dc_folder(tmp_path / "dc"))).info(32).arrays
    with told("encoders/textconfig.py:text_shape ModelError"):
        TextEncoder(str(kl), tokenizer=str(clip)).info()
    with told("encoders/textconfig.py:_other ModelError"):
        TextEncoder(str(changed_config(bert, tmp_path / "sizeless", hidden_size=None))).info()
    assert TextEncoder(str(clip)).info().arrays
    assert TextEncoder(str(bert)).info().arrays
    assert component(IMAGE).build(protocols.ImageEncoder, "dataset.encoders.image")  # an own class is named so


def test_a_tower_without_a_projection_is_taken_without_it(clip: Path, bert: Path) -> None:
    with told("encoders/textconfig.py:text_shape ConfigError"):
        TextEncoder(str(bert), projection=True).info()
    assert TextEncoder(str(bert)).info().arrays
    with told("encoders/textconfig.py:_clip ConfigError"):
        TextEncoder(str(clip), projection=True).info()
    assert TextEncoder(str(clip)).info().arrays


def test_a_folder_with_a_tokenizer_is_taken(clip: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(clip, bare)
    for name in ("vocab.json", "merges.txt"):
        (bare / name).unlink()
    with told("encoders/text.py:TextEncoder.tokenizer_folder ModelMissing"):
        TextEncoder(str(bare)).info()
    assert TextEncoder(str(bare), tokenizer=str(clip)).info().arrays


def test_the_tokenizer_of_the_model_is_taken(clip: Path, bert: Path) -> None:
    with told("encoders/text.py:TextEncoder._check_pair ModelError") as error:
        TextEncoder(str(bert), tokenizer=str(clip)).load(CPU)
    assert "token ids up to" in str(error.value)
    TextEncoder(str(bert), tokenizer=str(bert)).load(CPU)
    with told("encoders/text.py:TextEncoder._check_pair ModelError") as error:
        TextEncoder(str(clip), tokenizer=str(bert)).load(CPU)
    assert "ends a text with token" in str(error.value)
    TextEncoder(str(clip), tokenizer=str(clip)).load(CPU)


def test_a_tokenizer_that_was_fetched_again_counts_tokens(bert: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bert, tmp_path / "bert")
    (folder / "tokenizer.json").write_bytes((bert / "tokenizer.json").read_bytes()[:-10])
    with told("encoders/tokens.py:load_for_counting ModelError"):
        TextEncoder(str(folder)).count_tokens(["a dog"])
    shutil.copy(bert / "tokenizer.json", folder)
    assert TextEncoder(str(folder)).count_tokens(["a dog"])[0] == [4]


def test_a_folder_with_the_model_is_taken(kl: Path, tmp_path: Path) -> None:
    with told("encoders/finding/locate.py:_found ModelMissing"):
        VaeEncoder(str(tmp_path / "nothing" / "here")).info(32)
    with told("encoders/finding/locate.py:_found ModelMissing"):
        VaeEncoder(str(kl), subfolder="vae").info(32)
    with told("encoders/finding/locate.py:_download ModelMissing"):
        VaeEncoder("nobody/nothing").info(32)
    assert VaeEncoder(str(kl)).info(32).arrays
    assert VaeEncoder(str(pipeline_folder(tmp_path / "pipe")), subfolder="vae").info(32).arrays


def test_the_part_of_a_pipeline_is_found_by_its_subfolder(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path / "pipe")
    with told("encoders/weights.py:read_json ModelError"):
        VaeEncoder(str(folder)).info(32)
    assert VaeEncoder(str(folder), subfolder="vae").info(32).arrays


@pytest.mark.parametrize("part", ["config", "weights"])
def test_a_model_that_was_fetched_again_is_read(part: str, kl: Path, clip: Path, tmp_path: Path) -> None:
    """Fetched from where it lies whole: here that is a folder."""
    if part == "config":
        folder = changed_config(kl, tmp_path / "vae")
        for text in ('{"_class_name": ', '{"block_out_channels": [8], "block_out_channels": [16]}', "[" * 100_000):
            (folder / "config.json").write_text(text)
            with told("encoders/weights.py:read_json ModelError"):
                VaeEncoder(str(folder)).info(32)
        shutil.copy(kl / "config.json", folder)
        assert VaeEncoder(str(folder)).info(32).arrays
        return
    vae = changed_config(kl, tmp_path / "vae", layers_per_block=2)
    with told("encoders/vae.py:VaeEncoder._pretrained ModelError"):
        VaeEncoder(str(vae)).load(CPU)
    text = changed_config(clip, tmp_path / "clip", num_hidden_layers=4)
    with told("encoders/text_model.py:load_pretrained ModelError"):
        TextEncoder(str(text)).load(CPU)
    for whole, folder in ((kl, vae), (clip, text)):
        shutil.copytree(whole, folder, dirs_exist_ok=True)
    VaeEncoder(str(vae)).load(CPU)
    TextEncoder(str(text)).load(CPU)


def test_weights_beside_their_config_are_read(kl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    shutil.copytree(kl, folder)
    (name,) = [path.name for path in folder.glob("*.safetensors")]
    (folder / name).unlink()
    with told("encoders/weights.py:weight_files ModelError"):
        VaeEncoder(str(folder)).info(32)
    shutil.copy(kl / name, folder / name)
    assert VaeEncoder(str(folder)).info(32).arrays


def test_weights_that_were_fetched_again_are_read(kl: Path, tmp_path: Path) -> None:
    """Fetched from where they lie whole: here that is a folder."""
    folder = tmp_path / "vae"
    shutil.copytree(kl, folder)
    (path,) = folder.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with told("encoders/weights.py:read_header ModelError"):
        read_header(path)
    path.write_bytes(b"short")
    with told("encoders/weights.py:read_header ModelError"):
        read_header(path)
    path.write_bytes(whole)
    assert read_header(path)
    stem = path.name.partition(".")[0]
    path.rename(folder / f"{stem}-00001-of-00001.safetensors")
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": f"{stem}-00002-of-00002.safetensors"}}))
    with told("encoders/weights.py:weight_files ModelError"):
        weight_files(folder, stem)
    index.write_text(json.dumps({"weight_map": {"a": f"{stem}-00001-of-00001.safetensors"}}))
    assert weight_files(folder, stem).paths


def test_pickled_weights_are_read_when_they_were_converted_as_the_message_says(kl: Path, tmp_path: Path) -> None:
    import diffusers
    import torch

    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(kl / "config.json", pickled)
    model = diffusers.AutoencoderKL.from_pretrained(str(kl))
    torch.save(model.state_dict(), pickled / "diffusion_pytorch_model.bin")
    with told("encoders/weights.py:weight_files ModelError"):
        VaeEncoder(str(pickled)).info(32)
    trusted = diffusers.AutoencoderKL.from_pretrained(str(pickled), use_safetensors=bool(0))
    trusted.save_pretrained(str(tmp_path / "converted"), safe_serialization=True)
    assert VaeEncoder(str(tmp_path / "converted")).info(32).arrays


# What is trained.


def test_an_autoencoder_of_the_right_kind_and_a_new_one_are_taken(kl: Path, tmp_path: Path) -> None:
    with told("model/autoencoder.py:PretrainedAutoencoder.latent ConfigError"):
        PretrainedAutoencoder(str(tiny_folder(tmp_path))).latent(32)
    assert PretrainedAutoencoder(str(kl)).latent(32) == (4, 4)
    assert new(new_config({}, 32), 0)


def test_widths_as_in_the_message_make_an_autoencoder() -> None:
    with told("model/autoencoder.py:new_config ConfigError"):
        new_config({"block_out_channels": 16}, 32)
    config = new_config({"block_out_channels": [16, 32, 64]}, 32)
    assert latent_of(config) == (4, 4)
    assert new(config, 0)


def test_channels_that_are_left_out_make_an_autoencoder() -> None:
    with told("model/autoencoder.py:new_config ConfigError"):
        new_config({"in_channels": 1}, 32)
    assert new(new_config({}, 32), 0)


OWN = {
    "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip


def test_each_preset_and_a_whole_config_make_a_denoiser() -> None:
    with told("model/denoisers/unet.py:unet_config ConfigError"):
        unet_config("huge", {}, SHAPE, 16)
    assert all(unet_config(preset, {}, SHAPE, 16) for preset in PRESETS)
    assert build(unet_config(None, OWN, SHAPE, 16), 0)


def test_a_lowest_level_with_fewer_groups_or_more_than_one_number_in_each_is_built() -> None:
    small = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
    }
    one_level = {"block_out_channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    for channels in ((8, 16), (16, 8)):
        with told("model/denoisers/unet.py:unet_config ConfigError") as error:
            unet_config(None, {**small, "block_out_channels": channels}, (4, 2, 2), 8, 1)
    assert "1 x 1 with 8 channels in 8 groups" in str(error.value)
    for said in ("a smaller norm_num_groups", "fewer levels", "a larger dataset.image.resolution"):
        assert said in str(error.value)
    for changes, side in (({"norm_num_groups": 4}, 2), (one_level, 2), ({}, 4)):
        assert unet_config(None, small, (4, 2, 2), 8, 2)  # two samples at a time train as before
        unet = build(unet_config(None, {**small, **changes}, (4, side, side), 8, 1), 0)
        assert unet(torch.zeros(1, 4, side, side), torch.zeros(1), torch.zeros(1, 3, 8)).sample.shape[-1] == side


def test_what_the_store_decides_can_be_left_out() -> None:
    with told("model/denoisers/unet.py:unet_config ConfigError"):
        unet_config(None, {**OWN, "in_channels": 8}, SHAPE, 16)
    assert unet_config(None, OWN, SHAPE, 16)["in_channels"] == 4


def test_a_smaller_model_and_other_latents_are_taken() -> None:
    with told("model/denoisers/unet.py:unet_config ConfigError"):
        unet_config(None, {**OWN, "block_out_channels": [16, 32]}, (4, 15, 15), 16)
    smaller = {"block_out_channels": [16], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    assert unet_config(None, {**OWN, **smaller}, (4, 15, 15), 16)
    assert unet_config(None, OWN, (4, 16, 16), 16)
