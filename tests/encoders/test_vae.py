"""The image encoder, compared with plain diffusers code, and with wrong model folders."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import pickle
import re
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from builders.models import DC, KL, TINY, bert_folder, dc_folder, kl_folder, pipeline_folder, tiny_folder
from builders.parity import as_stored
from builders.workflows import fake_settings

from daskt2i.encode.prepare import prepare
from daskt2i.encoders import footprint, weights
from daskt2i.encoders.finding import locate
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.encoders.vaeconfig import DEFAULTS
from daskt2i.errors import ConfigError, ModelError, ModelMissing
from daskt2i.types import Runtime

FP32 = Runtime("cpu", "fp32", 1)


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kl_folder(tmp_path_factory.mktemp("models") / "kl")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


def pictures(n: int = 3, side: int = 32) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def loaded(encoder: VaeEncoder, runtime: Runtime = FP32) -> VaeEncoder:
    encoder.load(runtime)
    return encoder


def near(ours: np.ndarray, plain: np.ndarray, share: float = 1e-3) -> None:
    assert np.abs(ours.astype(np.float64) - plain).max() <= share * np.ptp(plain)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.1159},
        {"mid_block_add_attention": False, "layers_per_block": 2},
    ],
    ids=["sd", "flux-like", "no-attention"],
)
def test_mean_std_and_pictures_equal_those_of_plain_diffusers(tmp_path: Path, changes: dict) -> None:
    import torch
    from diffusers import AutoencoderKL

    folder = kl_folder(tmp_path / "kl", **changes)
    encoder = loaded(VaeEncoder(str(folder)))
    items = pictures()
    made = encoder.encode(items, 2)
    model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()
    for index, item in enumerate(items):
        pixels = torch.tensor(item, dtype=torch.float32).permute(2, 0, 1)[None] / 255 * 2 - 1
        with torch.no_grad():
            posterior = model.encode(pixels).latent_dist
            picture = model.decode(posterior.mean).sample[0]
        as_stored(made["latent_mean"][index], posterior.mean[0].numpy())
        as_stored(made["latent_std"][index], posterior.std[0].numpy())
        plain = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(encoder.decode(made)[index].astype(int) - plain).max() <= 1


@pytest.mark.parametrize("channels", [4, 16], ids=["taesd", "taesd3"])
def test_latents_of_the_tiny_kind_equal_those_of_plain_diffusers(tmp_path: Path, channels: int) -> None:
    import torch
    from diffusers import AutoencoderTiny

    items, tiny = pictures(), tiny_folder(tmp_path / "tiny", latent_channels=channels)
    made = loaded(VaeEncoder(str(tiny))).encode(items, 2)
    assert made["latent_mean"].shape == (3, channels, 8, 8)
    model = AutoencoderTiny.from_pretrained(tiny, torch_dtype=torch.float32).eval()
    for index, item in enumerate(items):
        pixels = torch.tensor(item, dtype=torch.float32).permute(2, 0, 1)[None] / 255 * 2 - 1
        with torch.no_grad():
            as_stored(made["latent_mean"][index], model.encode(pixels).latents[0].numpy())
    assert list(made) == ["latent_mean"]


UNSHUFFLED = {
    "encoder_layers_per_block": [0, 2, 1], "decoder_layers_per_block": [0, 2, 1],
    "encoder_qkv_multiscales": [[], [], [3, 5]],
    "downsample_block_type": "pixel_unshuffle", "upsample_block_type": "pixel_shuffle",
    "decoder_norm_types": ["batch_norm", "batch_norm", "rms_norm"], "decoder_act_fns": ["relu", "relu", "silu"],
}  # fmt: skip
"""The other kind of steps: of MIT's models for 64 x 64 squares."""


@pytest.mark.parametrize("changes", [{}, UNSHUFFLED], ids=["sana", "unshuffled"])
def test_latents_and_pictures_of_the_deep_kind_equal_those_of_plain_diffusers(tmp_path: Path, changes: dict) -> None:
    import torch
    from diffusers import AutoencoderDC

    folder = dc_folder(tmp_path / "dc", **changes)
    encoder, items = VaeEncoder(str(folder)), pictures()
    made = loaded(encoder).encode(items, 2)
    model = AutoencoderDC.from_pretrained(folder, torch_dtype=torch.float32).eval()
    for index, item in enumerate(items):
        pixels = torch.tensor(item, dtype=torch.float32).permute(2, 0, 1)[None] / 255 * 2 - 1
        with torch.no_grad():
            latent = model.encode(pixels).latent
            picture = model.decode(torch.tensor(made["latent_mean"][index : index + 1]).float()).sample[0]
        as_stored(made["latent_mean"][index], latent[0].numpy())
        plain = ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
        assert np.abs(encoder.decode(made)[index].astype(int) - plain).max() <= 1
    assert list(made) == ["latent_mean"]
    info = encoder.info(32)
    assert [(spec.name, spec.shape) for spec in info.arrays] == [("latent_mean", (8, 8, 8))]
    assert (info.attributes["scaling_factor"], info.attributes["shift_factor"]) == (0.41407, 0.0)
    seeded = VaeEncoder(str(folder), weights="random").info(32)
    assert seeded.weight_bytes == 4 * sum(parameter.numel() for parameter in model.parameters())


class Asked(VaeEncoder):
    """Ends where the model would be built on a GPU."""

    precision = ""

    def plain(self, runtime: Runtime) -> None:
        self.precision = runtime.precision
        raise NotImplementedError


def test_a_model_that_overflows_in_fp16_is_computed_in_fp32_if_its_config_asks_for_it(tmp_path: Path, kl: Path) -> None:
    config = json.loads((kl / "config.json").read_text())
    assert config.pop("force_upcast") is True, "diffusers writes it"
    found = []
    for name, asks in (("asks", {"force_upcast": True}), ("fixed", {"force_upcast": False}), ("without", {})):
        folder = shutil.copytree(kl, tmp_path / name)
        (folder / "config.json").write_text(json.dumps({**config, **asks}))
        encoder = Asked(str(folder))
        with pytest.raises(NotImplementedError):
            encoder.load(Runtime("cuda", "fp16", 1))
        found.append((name, encoder.precision, encoder.info(32).upcast))
        with pytest.raises(NotImplementedError):
            encoder.load(Runtime("cuda", "bf16", 1))
        assert encoder.precision == "bf16", "bf16 does not overflow"
    assert found == [("asks", "fp32", True), ("fixed", "fp16", False), ("without", "fp16", False)]


def test_the_plan_says_that_a_model_is_computed_in_fp32_and_what_a_row_needs(tmp_path: Path, kl: Path) -> None:
    whole = fake_settings(image={"class": "daskt2i.encoders.vae.VaeEncoder", "model": str(kl)})
    half = whole.model_copy(update={"dataset": whole.dataset.model_copy(update={"precision": "fp16"})})
    shown = [dict(prepare(one, tmp_path).view().rows) for one in (whole, half)]
    assert "in fp32 (its config says force_upcast)" in shown[1]["image encoder"]
    assert "force_upcast" not in shown[0]["image encoder"]
    assert re.search(r"; [\d.]+ KiB a row$", shown[0]["disk"])


def test_bf16_is_near_fp32(kl: Path) -> None:
    items = pictures()
    exact, rough = (loaded(VaeEncoder(str(kl)), Runtime("cpu", p, 1)).encode(items, 2) for p in ("fp32", "bf16"))
    for name in exact:
        near(rough[name], exact[name].astype(np.float64), 0.05)


def test_info_states_what_a_trainer_needs(kl: Path, tiny: Path) -> None:
    info = VaeEncoder(str(kl)).info(32)
    assert [(spec.name, spec.shape, spec.dtype, spec.fill) for spec in info.arrays] == [
        ("latent_mean", (4, 8, 8), "float16", "nan"),
        ("latent_std", (4, 8, 8), "float16", "nan"),
    ]
    assert info.attributes["scaling_factor"] == 0.5
    assert info.attributes["shift_factor"] == 0.1
    assert info.attributes["model"] == "kl", "a path of this machine has no place in a store"
    assert info.weights.startswith("sha256:")
    assert not info.random_weights
    assert [spec.name for spec in VaeEncoder(str(tiny)).info(32).arrays] == ["latent_mean"]
    assert VaeEncoder(str(tiny)).info(32).attributes["scaling_factor"] == 1.0


def test_missing_keys_of_an_old_config_get_the_defaults_of_diffusers() -> None:
    import diffusers

    for kind, ours in DEFAULTS.items():
        theirs = inspect.signature(getattr(diffusers, kind).__init__).parameters
        assert {key: theirs[key].default for key in ours} == dict(ours)


@pytest.mark.parametrize("resolution", [0, 3, 30, 33, 255])
def test_a_resolution_that_does_not_fit_is_refused_with_resolutions_that_fit(kl: Path, resolution: int) -> None:
    with pytest.raises(ConfigError) as error:
        VaeEncoder(str(kl)).info(resolution)
    good = [int(word.strip(".")) for word in str(error.value).split("use ")[1].split() if word.strip(".").isdigit()]
    assert good
    for number in good:
        VaeEncoder(str(kl)).info(number)


def test_parameters_and_weight_bytes_are_exact(kl: Path) -> None:
    import diffusers
    import torch

    for name, kind in (("sd-vae-ft-mse", "AutoencoderKL"), ("taesd", "AutoencoderTiny")):
        info = VaeEncoder(name, weights="random", engine="torch").info(64)
        config = json.loads((Path(weights.__file__).parent / "configs" / f"{name}.json").read_text())
        with torch.device("meta"):
            model = getattr(diffusers, kind).from_config(config)
        assert info.weight_bytes == 4 * sum(p.numel() for p in model.parameters())
    for kind, config in (("AutoencoderKL", KL), ("AutoencoderTiny", TINY), ("AutoencoderDC", DC)):
        model = getattr(diffusers, kind)(**config)
        whole = {**DEFAULTS[kind], **config, "_class_name": kind}
        assert footprint.vae_parameters(whole) == sum(p.numel() for p in model.parameters())
    files = VaeEncoder(str(kl), engine="torch").info(32).weight_bytes
    assert files == 4 * footprint.vae_parameters({**DEFAULTS["AutoencoderKL"], **KL, "_class_name": "AutoencoderKL"})


def test_working_memory_is_within_30_percent_of_what_was_measured() -> None:
    measured = {("sd-vae-ft-mse", 256): 170e6, ("sd-vae-ft-mse", 512): 688e6, ("taesd", 256): 52e6}
    for (name, resolution), seen in measured.items():
        encoder = VaeEncoder(name, weights="random", engine="torch")
        assert encoder.info(resolution).item_bytes == pytest.approx(seen, rel=0.3)


def test_random_weights_follow_the_seed_are_marked_and_leave_the_global_generator_alone(kl: Path) -> None:
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    items = pictures(1)
    one, same, other = (
        loaded(VaeEncoder(str(kl), weights="random", seed=seed)).encode(items, 1)["latent_mean"] for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    info = VaeEncoder(str(kl), weights="random", seed=1).info(32)
    assert info.random_weights
    assert info.weights.startswith("seed:1/config:")


def test_random_weights_need_only_a_config(tmp_path: Path, kl: Path) -> None:
    shutil.copy(kl / "config.json", tmp_path)
    assert loaded(VaeEncoder(str(tmp_path), weights="random")).encode(pictures(1), 1)["latent_std"].shape == (
        1,
        4,
        8,
        8,
    )


def test_the_same_seed_in_another_architecture_has_another_name(tmp_path: Path, kl: Path) -> None:
    other = kl_folder(tmp_path / "other", layers_per_block=2)
    names = {VaeEncoder(str(folder), weights="random").info(32).weights for folder in (kl, other)}
    assert len(names) == 2


def test_the_fingerprint_of_the_weights_follows_their_content_not_their_location(tmp_path: Path, kl: Path) -> None:
    copy = shutil.copytree(kl, tmp_path / "copy")
    name = VaeEncoder(str(kl)).info(32).weights
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "_name_or_path": "/elsewhere", "_diffusers_version": "0"}))
    assert VaeEncoder(str(copy)).info(32).weights == name
    kl_folder(copy, seed=1)
    assert VaeEncoder(str(copy)).info(32).weights != name


def test_decoding_does_not_share_the_normalisation_of_encode(tmp_path: Path) -> None:
    class Unit(VaeEncoder):
        def normalise(self, pixels):
            return pixels.float() / 255

    folder = kl_folder(tmp_path / "kl")
    right, wrong = loaded(VaeEncoder(str(folder))), loaded(Unit(str(folder)))
    made = right.encode(pictures(), 3)
    assert not np.array_equal(made["latent_mean"], wrong.encode(pictures(), 3)["latent_mean"])
    assert np.array_equal(right.decode(made), wrong.decode(made))


def test_nan_latents_can_be_decoded(kl: Path) -> None:
    decoded = loaded(VaeEncoder(str(kl))).decode({"latent_mean": np.full((1, 4, 8, 8), np.nan, np.float16)})
    assert decoded.shape == (1, 32, 32, 3)


def test_pickling_does_not_include_the_model(kl: Path) -> None:
    encoder = loaded(VaeEncoder(str(kl)))
    assert len(pickle.dumps(encoder)) < 2000
    with pytest.raises(RuntimeError, match="load"):
        pickle.loads(pickle.dumps(encoder)).encode(pictures(1), 1)


@pytest.mark.parametrize("items", [np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32, 3)), pictures(1, 30)])
def test_pictures_of_another_shape_or_dtype_are_refused(kl: Path, items: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"uint8|multiples"):
        loaded(VaeEncoder(str(kl))).encode(items, 1)


def test_a_part_of_a_pipeline_is_named_by_its_subfolder(tmp_path: Path) -> None:
    pipeline_folder(tmp_path / "sd")
    info = VaeEncoder(str(tmp_path / "sd"), subfolder="vae").info(32)
    assert info.attributes["model"] == "sd/vae"
    with pytest.raises(ModelError, match="subfolder"):
        VaeEncoder(str(tmp_path / "sd")).info(32)
    with pytest.raises(ModelMissing, match="nothing-here"):
        VaeEncoder(str(tmp_path / "sd"), subfolder="nothing-here").info(32)


def test_shards_and_the_half_precision_file_are_read(tmp_path: Path, kl: Path) -> None:
    import torch
    from diffusers import AutoencoderKL

    model = AutoencoderKL.from_pretrained(kl)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    model.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    items = pictures(1)
    exact = loaded(VaeEncoder(str(kl))).encode(items, 1)["latent_mean"]
    sharded = VaeEncoder(str(tmp_path / "shards"))
    assert np.array_equal(loaded(sharded).encode(items, 1)["latent_mean"], exact)
    assert sharded.info(32).weight_bytes == VaeEncoder(str(kl)).info(32).weight_bytes
    half = VaeEncoder(str(tmp_path / "half"))
    near(loaded(half).encode(items, 1)["latent_mean"], exact.astype(np.float64), 0.01)
    next((tmp_path / "shards").glob("*-00001-*")).unlink()
    with pytest.raises(ModelError, match="00001"):
        sharded.info(32)


def test_pickled_weights_are_not_opened(tmp_path: Path, kl: Path) -> None:
    shutil.copy(kl / "config.json", tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"not a pickle either")
    with pytest.raises(ModelError, match=r"pickled.*save_pretrained"):
        VaeEncoder(str(tmp_path)).info(32)
    with pytest.raises(ModelError, match="pickled"):
        VaeEncoder(str(tmp_path)).load(FP32)


@pytest.mark.parametrize("damage", ["cut", "pointer", "empty"])
def test_a_broken_weight_file_is_named(tmp_path: Path, kl: Path, damage: str) -> None:
    shutil.copytree(kl, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {"cut": whole[:-100], "pointer": b"version https://git-lfs.github.com/spec/v1\n", "empty": b""}[damage]
    )
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        VaeEncoder(str(tmp_path)).info(32)


def test_weights_of_another_architecture_are_refused(tmp_path: Path, kl: Path) -> None:
    shutil.copytree(kl, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"layers_per_block": 2}, {"block_out_channels": [8, 16, 32]}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ModelError):
            VaeEncoder(str(tmp_path)).load(FP32)


def test_other_models_and_non_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bert"):
        VaeEncoder(str(bert_folder(tmp_path / "bert"))).info(32)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="has no config"):
        VaeEncoder(str(tmp_path / "empty")).info(32)
    (tmp_path / "empty" / "config.json").write_text("{broken")
    with pytest.raises(ModelError, match="JSON"):
        VaeEncoder(str(tmp_path / "empty")).info(32)


@pytest.mark.parametrize("arguments", [{"weights": "pretrianed"}, {"seed": -1}, {"seed": "x"}])
def test_wrong_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(ConfigError):
        VaeEncoder("somewhere", **arguments)


@pytest.mark.parametrize("offline", [True, False], ids=["told-to-stay-offline", "nobody-answers"])
def test_a_model_that_cannot_be_found_gives_one_quick_clear_error(
    offline: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", offline)
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING), pytest.raises(ModelMissing) as error:
        VaeEncoder("stabilityai/sd-vae-ft-mse", revision="main", subfolder="vae").info(256)
    assert time.monotonic() - begun < 10
    message = str(error.value)
    assert "stabilityai/sd-vae-ft-mse" in message
    assert "`hf download stabilityai/sd-vae-ft-mse --revision main --include 'vae/*'`" in message
    assert "set dataset.encoders.image.model to a folder that holds the model" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    with pytest.raises(ModelMissing, match="no folder"):
        VaeEncoder("./not/here").info(256)


def test_a_hub_that_never_answers_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(hub, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(locate, "HUB_TIMEOUT", 0.5)
        begun = time.monotonic()
        with pytest.raises(ModelMissing, match="could not be reached"):
            VaeEncoder("some/vae").info(32)
        assert 0.4 < time.monotonic() - begun < 10


def test_a_copy_in_the_cache_is_used_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kl: Path
) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    commit, repo = "a" * 40, tmp_path / "models--some--vae"
    shutil.copytree(kl, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    info = VaeEncoder("some/vae").info(32)
    assert info.weights == VaeEncoder(str(kl)).info(32).weights
    assert info.attributes["model"] == "some/vae"
    loaded(VaeEncoder("some/vae"))
    (repo / "snapshots" / commit / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelMissing):
        VaeEncoder("some/vae").info(32)


def test_loading_prints_nothing_and_restores_the_log_settings(kl: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled

    before = (
        diffusers_logging.get_verbosity(),
        diffusers_logging.is_progress_bar_enabled(),
        are_progress_bars_disabled(),
    )
    loaded(VaeEncoder(str(kl)))
    after = diffusers_logging.get_verbosity(), diffusers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    assert before == after
    assert capfd.readouterr() == ("", "")


def test_fp16_on_a_cpu_is_refused(kl: Path) -> None:
    with pytest.raises(ConfigError, match="fp16"):
        VaeEncoder(str(kl)).load(dataclasses.replace(FP32, precision="fp16"))
