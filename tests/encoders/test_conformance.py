"""The conformance suites on every encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.models import (
    bert_folder,
    clip_folder,
    dc_folder,
    dinov2_folder,
    gemma_folder,
    kl_folder,
    sd3_folder,
    sdxl_folder,
    siglip_folder,
    t5_folder,
    tiny_folder,
)

from daskt2i.encoders.fake import FakeImageEncoder, FakeTextEncoder
from daskt2i.encoders.features.vision import VisionEncoder
from daskt2i.encoders.joint.text import JointTextEncoder
from daskt2i.encoders.text import TextEncoder
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.protocols import ImageEncoder
from daskt2i.protocols import TextEncoder as TextProtocol
from daskt2i.testing.encoder import RUNTIME, ImageEncoderSuite, TextEncoderSuite


@pytest.fixture(scope="class", autouse=True)
def _model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Builds the model folder of a test class once."""
    if hasattr(request.cls, "build"):
        request.cls.folder = request.cls.build(tmp_path_factory.mktemp("models") / "model")


class _Folder:
    folder: Path


class TestAutoencoderKL(_Folder, ImageEncoderSuite):
    build = staticmethod(kl_folder)

    def make(self) -> ImageEncoder:
        return VaeEncoder(str(self.folder))


class TestAutoencoderTiny(_Folder, ImageEncoderSuite):
    build = staticmethod(tiny_folder)

    def make(self) -> ImageEncoder:
        return VaeEncoder(str(self.folder))


class TestAutoencoderDC(_Folder, ImageEncoderSuite):
    build = staticmethod(dc_folder)

    def make(self) -> ImageEncoder:
        return VaeEncoder(str(self.folder))


class TestRandomAutoencoder(_Folder, ImageEncoderSuite):
    build = staticmethod(kl_folder)

    def make(self) -> ImageEncoder:
        return VaeEncoder(str(self.folder), weights="random", seed=3)


class TestDinov2(_Folder, ImageEncoderSuite):
    build = staticmethod(dinov2_folder)

    def make(self) -> ImageEncoder:
        return VisionEncoder(str(self.folder), side=32)


class TestSiglip(_Folder, ImageEncoderSuite):
    build = staticmethod(siglip_folder)

    def make(self) -> ImageEncoder:
        return VisionEncoder(str(self.folder))


class TestFakeImages(ImageEncoderSuite):
    def make(self) -> ImageEncoder:
        return FakeImageEncoder()

    def test_coarse_colours_survive(self) -> None:
        encoder = self.make()
        pictures = self.pictures(2)
        decoded = encoder.decode(encoder.encode(pictures, 2))
        assert decoded is not None
        blocks = [p.reshape(2, 8, 8, 8, 8, 3).mean(axis=(2, 4)) for p in (pictures, decoded)]
        assert abs(blocks[0] - blocks[1]).max() <= 1.0

    def test_faults_come_when_asked_for(self) -> None:
        pictures = self.pictures(3)
        pictures[1] = 250
        made = FakeImageEncoder(nan_for=(240, 256)).encode(pictures, 3)["latent_mean"]
        assert [bool((row != row).all()) for row in made] == [False, True, False]
        with pytest.raises(MemoryError):
            FakeImageEncoder(memory_limit_batch=2).encode(pictures, 3)
        assert len(FakeImageEncoder(memory_limit_batch=2).encode(pictures, 2)["latent_mean"]) == 3
        encoder = FakeImageEncoder(pixel_range="unit")
        assert abs(encoder.decode(encoder.encode(pictures, 3)).astype(int) - pictures).mean() > 50


class TestClip(_Folder, TextEncoderSuite):
    build = staticmethod(clip_folder)

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), max_tokens=40)


class TestClipFullPadding(_Folder, TextEncoderSuite):
    build = staticmethod(clip_folder)
    zero_padding = False

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), pad="full")


class TestClipWithProjection(_Folder, TextEncoderSuite):
    @staticmethod
    def build(folder: Path) -> Path:
        return clip_folder(folder, "CLIPTextModelWithProjection", legacy=False, padding="!")

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), layer=-2)


class TestWholeClipRepository(_Folder, TextEncoderSuite):
    @staticmethod
    def build(folder: Path) -> Path:
        return clip_folder(folder, "CLIPModel")

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder))


class TestRandomClip(_Folder, TextEncoderSuite):
    build = staticmethod(clip_folder)

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), weights="random", seed=3)


class TestT5(_Folder, TextEncoderSuite):
    build = staticmethod(t5_folder)

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder))


class TestT5WithoutMask(_Folder, TextEncoderSuite):
    build = staticmethod(t5_folder)
    zero_padding = False

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), pad="unmasked")


class TestGemmaWithInstruction(_Folder, TextEncoderSuite):
    build = staticmethod(gemma_folder)

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), max_tokens=24, instruction="a very long caption: ", lowercase=True)


class TestSdxlTexts(_Folder, TextEncoderSuite):
    build = staticmethod(sdxl_folder)

    def make(self) -> TextProtocol:
        return JointTextEncoder(str(self.folder), "sdxl")


class TestSd3Texts(_Folder, TextEncoderSuite):
    build = staticmethod(sd3_folder)
    zero_padding = False

    def make(self) -> TextProtocol:
        return JointTextEncoder(str(self.folder), "sd3", max_tokens=32)


class TestBert(_Folder, TextEncoderSuite):
    build = staticmethod(bert_folder)

    def make(self) -> TextProtocol:
        return TextEncoder(str(self.folder), max_tokens=24)


class TestFakeTexts(TextEncoderSuite):
    def make(self) -> TextProtocol:
        return FakeTextEncoder()

    def test_faults_come_when_asked_for(self) -> None:
        made = FakeTextEncoder(nan_for="bad").encode(["good", "a bad one"], 2)["text_states"]
        assert [bool((row != row).all()) for row in made] == [False, True]
        encoder = FakeTextEncoder(memory_limit_batch=1)
        encoder.load(RUNTIME)
        assert encoder.loads == 1
        with pytest.raises(MemoryError):
            encoder.encode(["a", "b"], 2)
