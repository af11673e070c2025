"""The engine ncnn: the same numbers as torch in fp32, and one sentence where it cannot run."""

from __future__ import annotations

import pickle
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import SHARED
from builders.models import kl_folder, tiny_folder
from builders.workflows import fake_settings
from PIL import Image

import daskt2i
from daskt2i.config.component import Component
from daskt2i.encoders.ncnn import choice, engine, translate
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import ConfigError, FingerprintMismatch
from daskt2i.sources.scenes import draw, scene
from daskt2i.testing.encoder import ImageEncoderSuite
from daskt2i.types import Pixels, Runtime

pytest.importorskip("ncnn", reason='ncnn is not installed (pip install "daskt2i[fast-cpu]")')

FP32 = Runtime("cpu", "fp32", 1)

MODELS: dict[str, dict[str, Any]] = {
    "like SD": {"block_out_channels": (32, 64), "norm_num_groups": 32},
    "like Flux": {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False, "norm_num_groups": 8},
    "two layers, no attention": {"layers_per_block": 2, "mid_block_add_attention": False},
    "three stages": {"block_out_channels": (8, 16, 24), "norm_num_groups": 4, "layers_per_block": 2},
    "one stage": {"block_out_channels": (32,)},
}


def autoencoder(**changes: Any) -> Any:
    """A small diffusers model with random weights, also in its norms and biases."""
    import torch
    from diffusers import AutoencoderKL

    config = {"block_out_channels": (16, 32), "norm_num_groups": 8, "layers_per_block": 1, **changes}
    stages = len(config["block_out_channels"])
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * stages,
        "up_block_types": ("UpDecoderBlock2D",) * stages,
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoencoderKL(**config, **blocks).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def compare(model: Any, pixels: np.ndarray, ours: engine.Engine) -> float:
    """The largest difference of encoder and decoder from plain diffusers, as a part of the range of the values."""
    import torch

    with torch.inference_mode():
        parameters = model.encode(torch.from_numpy(pixels)).latent_dist.parameters
        mean = parameters.chunk(2, 1)[0].contiguous()
        picture = model.decode(mean).sample.numpy()
    return max(
        engine.difference_of_range(ours.encode(pixels), parameters.numpy()),
        engine.difference_of_range(ours.decode(mean.numpy()), picture),
    )


@pytest.mark.parametrize("name", MODELS)
def test_encoder_and_decoder_equal_those_of_diffusers_at_several_sizes(name: str) -> None:
    model = autoencoder(**MODELS[name])
    ours = engine.Engine(model, FP32)
    generator = np.random.default_rng(0)
    for height, width in ((32, 32), (24, 56), (4, 12)):
        pixels = generator.uniform(-1, 1, (2, 3, height, width)).astype(np.float32)
        assert compare(model, pixels, ours) <= engine.TOLERANCE / 4


def test_with_trained_weights_drawn_pictures_give_the_same_latents_and_pictures() -> None:
    same(np.stack([draw(scene(7, n), 64, 64) for n in range(3)]), "daskt2i:demo/vae")


def test_with_trained_weights_photographs_give_the_same_latents_and_pictures() -> None:
    folder = SHARED / "coco-mini"
    photographs = sorted(folder.rglob("*.jpg"))[:3]
    if not photographs:
        pytest.skip(f"no photographs in {folder}")
    items = []
    for path in photographs:
        with Image.open(path) as image:
            items.append(np.asarray(image.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC)))
    same(np.stack(items), "daskt2i:demo/vae")


def same(items: Pixels, model: str) -> None:
    plain, ours = VaeEncoder(model), VaeEncoder(model, engine="ncnn")
    for one in (plain, ours):
        one.load(FP32)
    wanted, made = plain.encode(items, 2), ours.encode(items, 2)
    assert list(made) == list(wanted)
    for name, values in wanted.items():
        difference = np.abs(values.astype(np.float32) - made[name].astype(np.float32)).max()
        assert difference <= max(1e-4 * np.ptp(values.astype(np.float32)), np.abs(np.spacing(values)).max())
    pictures = plain.decode(wanted), ours.decode(wanted)
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert (pictures[0] != pictures[1]).mean() < 1e-3
    assert ours.plain(FP32).encoder.conv_in.weight.device.type == "cpu", "built again for who asks for it"


class TestByNcnn(ImageEncoderSuite):
    """The rules for every encoder."""

    tolerance = 0.0  # a loop over the images: nothing depends on the batch

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _folder(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.folder = kl_folder(tmp_path_factory.mktemp("kl") / "model")

    def make(self) -> VaeEncoder:
        return VaeEncoder(str(self.folder), engine="ncnn")


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kl_folder(tmp_path_factory.mktemp("models") / "kl")


def test_bits_are_equal_in_each_encode_thread_process_copy_and_batch(kl: Path) -> None:
    items = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    first = VaeEncoder(str(kl), engine="ncnn")
    first.load(FP32)
    wanted = first.encode(items, 1)
    copy = pickle.loads(pickle.dumps(first))
    with pytest.raises(RuntimeError, match="call load"):
        copy.encode(items, 1)
    copy.load(FP32)
    found: list[Any] = [copy.encode(items, 4)]
    for threads_of_one in (2, 3):  # images side by side
        copy.load(Runtime("cpu", "fp32", threads_of_one))
        found += [copy.encode(items, 3), copy.encode(items, 1)]
    threads = [threading.Thread(target=lambda: found.append(first.encode(items, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for made in found:
        assert all(np.array_equal(made[name], wanted[name]) for name in wanted)


def test_other_threads_run_while_ncnn_computes() -> None:
    """A Dask worker tells the scheduler that it is alive, and reads images, while a model runs."""
    ours = engine.Engine(autoencoder(block_out_channels=(64, 64), norm_num_groups=32), FP32)
    pixels = np.zeros((1, 3, 128, 128), np.float32)
    running, steps = threading.Event(), []

    def encode() -> None:
        running.set()
        ours.encode(pixels)
        running.clear()

    thread = threading.Thread(target=encode)
    thread.start()
    running.wait()
    while running.is_set():
        steps.append(None)
    thread.join()
    assert len(steps) > 1000  # with the lock held there is one step, or a few before the start


def test_nan_decodes_like_zero(kl: Path) -> None:
    encoder = VaeEncoder(str(kl), engine="ncnn")
    encoder.load(FP32)
    nothing = {"latent_mean": np.full((1, 4, 8, 8), np.nan, np.float16)}
    zero = {"latent_mean": np.zeros((1, 4, 8, 8), np.float16)}
    assert np.array_equal(encoder.decode(nothing), encoder.decode(zero))


def test_a_side_that_does_not_fit_is_refused_as_with_torch(kl: Path) -> None:
    encoder = VaeEncoder(str(kl), engine="ncnn")
    with pytest.raises(ConfigError, match="reduces each side 4 times"):
        encoder.info(33)
    encoder.load(FP32)
    with pytest.raises(ValueError, match="not multiples of 4"):
        encoder.encode(np.zeros((1, 33, 32, 3), np.uint8), 1)


# What ncnn does not run.


def _hooked(model: Any) -> None:
    model.encoder.conv_in.register_forward_hook(lambda *_: None)


def _other_class(model: Any) -> None:
    import torch

    model.encoder.mid_block = torch.nn.Identity()


def _other_activation(model: Any) -> None:
    import torch

    model.decoder.up_blocks[0].resnets[0].nonlinearity = torch.nn.GELU()


def _other_padding(model: Any) -> None:
    model.encoder.conv_out.padding_mode = "reflect"


def _scaled(model: Any) -> None:
    model.decoder.mid_block.resnets[0].output_scale_factor = 2.0


def _normed_queries(model: Any) -> None:
    import torch

    model.encoder.mid_block.attentions[0].norm_q = torch.nn.LayerNorm(32)


def _tiled(model: Any) -> None:
    model.enable_tiling()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_hooked, "Conv2d with a hook"),
        (_other_class, "Identity in place of UNetMidBlock2D"),
        (_other_activation, "GELU in place of SiLU"),
        (_other_padding, "padding_mode is reflect"),
        (_scaled, "output_scale_factor is 2.0"),
        (_normed_queries, "norm_q is"),
        (_tiled, "tiled"),
    ],
)
def test_a_model_with_an_unknown_part_is_refused_with_the_name_of_the_part(change: Any, words: str) -> None:
    model = autoencoder()
    assert engine.reason_against(model, FP32) is None
    change(model)
    assert words in str(engine.reason_against(model, FP32))
    with pytest.raises(engine.Refused, match=words):
        engine.Engine(model, FP32)


@pytest.mark.parametrize("where", ["encoder.conv_in", "decoder.conv_out"])
def test_weights_that_are_not_finite_are_refused(where: str) -> None:
    model = autoencoder()
    model.get_submodule(where).weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(engine.Refused, match="differ from torch's"):
        engine.Engine(model, FP32)


def test_a_network_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = autoencoder(), autoencoder()
    other.decoder.conv_norm_out.eps = 0.01
    monkeypatch.setattr(engine, "decoder_network", lambda _: translate.decoder_network(other))
    with pytest.raises(engine.Refused, match="differ from torch's by"):
        engine.Engine(model, FP32)


def test_the_text_of_the_network_gives_each_blob_one_reader() -> None:
    lines = translate.encoder_network(autoencoder()).text().splitlines()
    layers, blobs = map(int, lines[1].split())
    read: list[str] = []
    made: list[str] = []
    for line in lines[2:]:
        _, _, inputs, outputs, *names = line.split()
        read += names[: int(inputs)]
        made += names[int(inputs) : int(inputs) + int(outputs)]
    assert (len(lines) - 2, len(made)) == (layers, blobs)
    assert len(set(read)) == len(read)
    assert set(made) - set(read) == {"out0"}


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            Runtime("cpu", "bf16", 1),
            "computes in fp32, and the precision is bf16, so the image encoder was not loaded; set dataset.pre",
        ),
        (Runtime("cuda:0", "fp32", 1), "the device is cuda:0"),
    ],
)
def test_by_name_ncnn_is_refused_where_it_cannot_run(kl: Path, runtime: Runtime, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        VaeEncoder(str(kl), engine="ncnn").load(runtime)
    assert words in str(error.value)


@pytest.mark.parametrize("version", ["1.0.20250916", "", "0"])
def test_an_old_package_is_refused(version: str, kl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("ncnn")
    old.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ncnn", old)
    with pytest.raises(ConfigError, match=r"older than 1\.0\.20261020"):
        VaeEncoder(str(kl), engine="ncnn").load(FP32)


def test_without_the_package_the_error_says_what_to_install(kl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(ConfigError, match=r'"daskt2i\[fast-cpu\]" where it is missing'):
        VaeEncoder(str(kl), engine="ncnn").load(FP32)
    VaeEncoder(str(kl)).load(FP32)


def test_a_tiny_autoencoder_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ncnn runs AutoencoderKL only"):
        VaeEncoder(str(tiny_folder(tmp_path / "tiny")), engine="ncnn").info(32)


# What the engine changes in a store.


def test_only_ncnn_changes_the_identity(kl: Path) -> None:
    def identity(**arguments: Any) -> dict[str, Any]:
        path = "daskt2i.encoders.vae.VaeEncoder"
        return Component.model_validate({"class": path, "model": str(kl), **arguments}).identity()

    before = {"class": "daskt2i.encoders.vae.VaeEncoder", "weights": "pretrained", "seed": 0}
    assert identity() == identity(engine="auto") == identity(engine="torch") == before
    assert identity(engine="ncnn") == {**before, "engine": "ncnn"}


def test_a_store_made_with_ncnn_says_so_and_takes_no_rows_of_torch(tmp_path: Path) -> None:
    encoder = {"class": "daskt2i.encoders.vae.VaeEncoder", "model": "daskt2i:demo/vae"}

    def encode(engine: str | None, out: str) -> Any:
        image = encoder if engine is None else {**encoder, "engine": engine}
        settings = fake_settings(rows=4, rows_per_chunk=4, image=image, gate_rows=0)
        with daskt2i.Run(settings, tmp_path / out, scheduler="serial", progress=False) as run:
            plan = repr(run.plan())
            assert run.encode().accepted == 4
            return plan, dict(run.store.attrs["daskt2i"])

    plan, about = encode("ncnn", "ncnn")
    assert "by ncnn" in plan
    assert about["identity"]["encoders"]["image"]["engine"] == "ncnn"
    plan, about = encode("torch", "torch")
    assert "by ncnn" not in plan
    assert "engine" not in about["identity"]["encoders"]["image"]
    assert encode(None, "torch")[1]["fingerprint"] == encode("auto", "torch")[1]["fingerprint"] == about["fingerprint"]
    for other, out in (("torch", "ncnn"), ("ncnn", "torch")):
        with pytest.raises(FingerprintMismatch, match=r"engine: "):
            encode(other, out)


def test_the_plan_counts_transformed_weights_and_the_attention_matrix(kl: Path) -> None:
    plain, ours = (VaeEncoder(str(kl), engine=one).info(64) for one in ("torch", "ncnn"))
    open_ = VaeEncoder(str(kl)).info(64)
    assert (open_.weight_bytes, open_.item_bytes) == (plain.weight_bytes, plain.item_bytes)
    assert open_.by("ncnn") == replace(ours, engines=open_.engines), "a measurement may choose it"
    assert ours.weight_bytes == int(choice.WEIGHTS * plain.weight_bytes)
    assert ours.item_bytes == int(choice.MAPS * plain.item_bytes) + 4 * (64 // 4) ** 4
    assert ours.arrays == plain.arrays


def test_a_wrong_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="give auto, torch or ncnn"):
        VaeEncoder("m", engine="onnx")  # type: ignore[arg-type]
