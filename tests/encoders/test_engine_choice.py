"""Which engine `auto` is: a measurement decides, it is kept, and the store stays with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders.models import kl_folder, tiny_folder
from builders.workflows import child_environment, component, fake_settings, finish, with_parts

from daskt2i.config.settings import Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import prepare
from daskt2i.encode.verify import verify
from daskt2i.encoders.ncnn import choice, probe
from daskt2i.encoders.vae import VaeEncoder
from daskt2i.errors import FingerprintMismatch
from daskt2i.events import Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.probes import cache
from daskt2i.probes.measure import Measured
from daskt2i.store.layout import about_store
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.types import Chosen, Pixels, Runtime

pytest.importorskip("ncnn", reason='ncnn is not installed (pip install "daskt2i[fast-cpu]")')

FP32, BF16 = Runtime("cpu", "fp32", 1), Runtime("cpu", "bf16", 1)
SMALL = {"_class_name": "AutoencoderKL", "block_out_channels": (8, 16), "layers_per_block": 1}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "PROBE", "builders.measuring:engines")  # without the import of torch


REAL = probe.PROBE


def kept() -> list[Path]:
    return sorted(cache.folder().glob("engine-*.json"))


def measured(torch: float, ncnn: float) -> None:
    """Put other figures in the place of those that were measured."""
    for file in kept():
        file.write_text(json.dumps({**json.loads(file.read_text()), "seconds": {"torch": torch, "ncnn": ncnn}}))


def test_what_was_measured_once_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE", REAL)
    assert probe.seconds_for(SMALL, 32, FP32, measure=False) == Measured({})
    first = probe.seconds_for(SMALL, 32, FP32)
    assert first.seconds["torch"] > 0 < first.seconds["ncnn"]
    assert (first.failure, first.notes) == ("", ())
    assert probe.seconds_for(SMALL, 32, FP32) == first
    measured(9.0, 1.0)
    assert probe.seconds_for(SMALL, 32, FP32, measure=False) == Measured({"torch": 9.0, "ncnn": 1.0})
    assert probe.seconds_for(SMALL, 16, FP32, measure=False) == Measured({}), "another size is measured"
    assert probe.seconds_for(SMALL, 32, BF16, measure=False) == Measured({}), "another precision is measured"


def test_the_faster_engine_is_chosen_and_a_sentence_gives_the_figures() -> None:
    probe.seconds_for(SMALL, 32, FP32)
    measured(9.0, 1.0)
    runtime, chosen = choice.faster(SMALL, 32, FP32, free=False)
    (said,) = chosen.notes
    assert runtime == replace(FP32, engine="ncnn")
    why = "ncnn is 9 times as fast as torch, and 1.15 times is the least"
    assert chosen.words() == f"ncnn: {why} (seconds an image: ncnn fp32 1, torch fp32 9)"
    assert (
        said
        == "ncnn computes the image encoder, because it is faster (measured: 1 s an image in fp32; torch 9 s in fp32)."
    )
    measured(1.1, 1.0)
    runtime, chosen = choice.faster(SMALL, 32, FP32, free=False)
    assert (runtime, chosen.value) == (FP32, "torch")
    assert chosen.notes[0].startswith("torch computes the image encoder")


def test_exact_numbers_replace_bf16_only_where_the_precision_is_free() -> None:
    probe.seconds_for(SMALL, 32, BF16)
    measured(9.0, 1.0)
    assert choice.faster(SMALL, 32, BF16, free=True)[0] == replace(FP32, engine="ncnn")
    for config, runtime, free, why in (
        (SMALL, BF16, False, "ncnn computes in fp32 only, and bf16 is named"),
        ({**SMALL, "_class_name": "AutoencoderTiny"}, FP32, True, "ncnn runs AutoencoderKL only"),
    ):
        assert choice.faster(config, 32, runtime, free) == (runtime, Chosen("engine", "torch", why))


def test_where_the_measurement_dies_of_an_illegal_instruction_torch_computes_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kl_folder(tmp_path / "model")
    finish(workflow(model, engine="torch"), tmp_path / "plain")
    monkeypatch.setattr(probe, "PROBE", "builders.measuring:illegal")
    notes: list[str] = []
    prepared = prepare(workflow(model), tmp_path / "out")
    encode(prepared, SerialExecutor(), lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert notes == [
        "ncnn was not measured (its process was ended by SIGILL (an illegal instruction)), so torch computes the image "
        "encoder."
    ]
    ours, plain = (ZarrStore(RunFolder(tmp_path / run)).read("latent_mean", 0, 8) for run in ("out", "plain"))
    assert ours.tobytes() == plain.tobytes()


def test_a_package_that_crashes_at_its_import_does_not_end_the_process_that_chooses(tmp_path: Path) -> None:
    broken = tmp_path / "ncnn"
    broken.mkdir()
    (broken / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    code = (
        "from daskt2i.encoders.ncnn import choice; from daskt2i.types import Runtime; "
        f"print(choice.faster({SMALL!r}, 32, Runtime('cpu', 'fp32', 1), True)[1].value)"
    )
    environment = child_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (0, "torch\n")


def test_large_pictures_stay_with_torch_because_of_attention() -> None:
    probe.seconds_for(SMALL, 128, FP32)
    measured(9.0, 1.0)
    runtime, chosen = choice.faster(SMALL, 128, FP32, free=True)
    assert (runtime, chosen.notes) == (FP32, ())
    assert chosen.why == "ncnn is not faster for latents above 48 x 48, and these are 64 x 64"


def workflow(model: Path, class_path: str = "daskt2i.encoders.vae.VaeEncoder", **more: Any) -> Workflow:
    image = component(class_path, model=str(model), **more)
    made = with_parts(fake_settings(resolution=32, rows_per_chunk=4, gate_rows=0), image=image)
    return made.model_copy(update={"dataset": made.dataset.model_copy(update={"precision": "fp32"})})


def engine_of(out: Path) -> str:
    about = about_store(ZarrStore(RunFolder(out)))
    assert about is not None
    return str(about["identity"]["encoders"]["image"].get("engine", "torch"))


def test_a_store_stays_with_the_engine_that_its_first_encode_measured(tmp_path: Path) -> None:
    model = kl_folder(tmp_path / "model")
    finish(workflow(model), tmp_path / "first")  # fills the cache
    measured(9.0, 1.0)
    finish(workflow(model), tmp_path / "out")
    assert engine_of(tmp_path / "out") == "ncnn"
    measured(1.0, 9.0)
    assert finish(workflow(model), tmp_path / "out").skipped > 0
    assert verify(RunFolder(tmp_path / "out"), workflow(model), trusted=True).ok
    with pytest.raises(FingerprintMismatch, match="engine: ncnn there, torch now"):
        finish(workflow(model, engine="torch"), tmp_path / "out")
    finish(workflow(model, engine="ncnn"), tmp_path / "out")  # named or measured, it is the same store
    finish(workflow(model, engine="torch"), tmp_path / "plain")
    assert engine_of(tmp_path / "plain") == "torch"
    ours, plain = (ZarrStore(RunFolder(tmp_path / run)).read("latent_mean", 0, 8) for run in ("out", "plain"))
    np.testing.assert_allclose(ours, plain, atol=2e-3 * float(np.nanmax(np.abs(plain))))


class Flipping(VaeEncoder):
    """Does something of its own around the module of diffusers."""

    def encode(self, items: Pixels, batch: int) -> dict[str, npt.NDArray[Any]]:
        assert self._ready()[0].encoder.conv_in.weight.device.type == "cpu"
        return super().encode(items[:, :, ::-1].copy(), batch)


def test_a_class_with_an_encode_of_its_own_stays_with_torch(tmp_path: Path) -> None:
    model = kl_folder(tmp_path / "model")
    finish(workflow(model), tmp_path / "first")  # fills the cache
    measured(9.0, 1.0)
    assert finish(workflow(model, f"{__name__}.Flipping"), tmp_path / "out").accepted > 0
    assert engine_of(tmp_path / "out") == "torch"


class Hopeful(VaeEncoder):
    """Chooses ncnn for a model that ncnn cannot run."""

    def choose_engine(
        self, resolution: int, runtime: Runtime, free: bool, measure: bool = True
    ) -> tuple[Runtime, Chosen]:
        return replace(runtime, engine="ncnn"), Chosen("engine", "ncnn", "it is hoped for")


def test_a_model_that_ncnn_cannot_run_after_all_is_computed_by_torch_with_a_line(tmp_path: Path) -> None:
    model = tiny_folder(tmp_path / "model")
    notes: list[str] = []
    prepared = prepare(workflow(model, f"{__name__}.Hopeful"), tmp_path / "out")
    result = encode(prepared, SerialExecutor(), lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert result.accepted > 0
    assert engine_of(tmp_path / "out") == "torch"
    assert [note for note in notes if note.startswith("torch computes the image encoder, because this model has")], (
        notes
    )
