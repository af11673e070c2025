"""`bench device`: ways that take turns, what is said where something cannot be measured, and the report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from builders import TESTS
from builders.workflows import child_environment

from daskt2i.bench.device import driver
from daskt2i.bench.device.clock import NO_MEMORY, NO_TIME, Clock, Way, figures, operations
from daskt2i.bench.device.columns import COLUMNS, finished, plots
from daskt2i.bench.device.driver import bench_device
from daskt2i.bench.device.markdown import markdown
from daskt2i.bench.device.parts.kernels import kind_of, profile
from daskt2i.bench.device.recorder import Lines, Recorder
from daskt2i.bench.device.sizes import clip_tokenizer, image_component, sizes, text_component
from daskt2i.bench.device.worker import DeviceTask, perform
from daskt2i.bench.encode.rows import with_rows
from daskt2i.bench.report import BenchReport, Cell
from daskt2i.bench.stores import SHAPES
from daskt2i.config.workflow_file import load_workflow
from daskt2i.encode.prepare import prepare
from daskt2i.errors import ConfigError
from daskt2i.model.denoisers.unet import PRESETS, unet_config
from daskt2i.protocols import ImageEncoder, TextEncoder

MACHINE = {"cores": 2}


def way(name: str, call: Callable[[], Any], **more: Any) -> Way:
    return Way({"way": name, "model": "m", "unit": "items"}, call, 2, **more)


def forever() -> float:
    return 1e9


def test_ways_take_turns_after_two_calls_to_warm_up() -> None:
    called: list[str] = []
    ways = [way(name, lambda name=name: called.append(name)) for name in "ab"]
    Clock("cpu").take_turns(ways, 3, 0.0, forever)
    assert "".join(called) == "aabb" + "ababab"
    assert [len(one.seconds) for one in ways] == [3, 3]
    found = figures(ways[0])
    assert 0 < found["rate_low"] <= found["rate"] <= found["rate_high"]
    assert found["each_s"] == pytest.approx(1 / found["rate"])
    assert found["work_bytes"] is None  # only a GPU tells it


def test_a_way_without_memory_says_so_and_the_others_are_measured() -> None:
    import torch

    def refuse() -> None:
        raise ConfigError("fp16 does not run on a CPU.")

    ways = [way("large", lambda: torch.empty(2**55)), way("refused", refuse), way("broken", lambda: 1 / 0)]
    ways.append(way("good", lambda: None))
    Clock("cpu").take_turns(ways, 2, 0.0, forever)
    assert [one.flag for one in ways] == [
        NO_MEMORY,
        "Not measured: fp16 does not run on a CPU.",
        "Failed: ZeroDivisionError: division by zero",
        "",
    ]
    assert [len(one.seconds) for one in ways] == [0, 0, 0, 2]
    assert figures(ways[0]) == {}


def test_when_the_time_is_over_what_was_begun_has_one_sample_and_the_rest_says_so() -> None:
    left = iter([1.0, 0.0, 0.0, 0.0, 0.0])
    ways = [way("first", lambda: None), way("second", lambda: None)]
    Clock("cpu").take_turns(ways, 5, 0.0, lambda: next(left, 0.0))
    assert len(ways[0].seconds) == 1
    assert ways[1].flag == NO_TIME


def test_a_short_call_is_repeated_until_a_sample_is_long_enough() -> None:
    calls: list[int] = []
    Clock("cpu").take_turns([way("short", lambda: calls.append(1))], 1, 0.001, forever)
    assert len(calls) > 3


def test_operations_are_two_for_each_multiply_and_add() -> None:
    import torch

    a = torch.ones(8, 16)
    assert operations(lambda: a @ a.T) == 2 * 8 * 8 * 16


def test_the_tokenizer_of_clip_has_the_numbers_of_clip(tmp_path: Path) -> None:
    import transformers

    found = transformers.AutoTokenizer.from_pretrained(str(clip_tokenizer(tmp_path / "t")), local_files_only=True)
    ids = found("a red circle in the middle of a white picture")["input_ids"]
    assert (ids[0], ids[-1]) == (49406, 49407)
    assert len(ids) == 12


def test_the_sizes_for_a_gpu_fit_together(tmp_path: Path) -> None:
    """No CPU measures them in a test, so at least every name and shape must be right."""
    full = sizes(False, tmp_path)
    for arguments in full.images.values():
        image = image_component(arguments).build(ImageEncoder, "x")
        assert [image.info(side).arrays[0].shape for side in full.sides] == [(4, s // 8, s // 8) for s in full.sides]
    for arguments in full.texts.values():
        assert text_component(arguments).build(TextEncoder, "x").info().attributes["max_tokens"] == 77
    for side in full.row_sides:
        found = load_workflow(full.workflow, {**full.settings, "dataset.image.resolution": side})
        assert prepare(with_rows(found, full.rows, "both"), tmp_path / "run", draw=False).grid.rows == full.rows
    for one in full.denoisers:
        stored = SHAPES[one.shape]
        assert (one.latent, (one.tokens, one.features)) == (stored.latent, stored.text[1:])
        assert one.rows >= one.batch
        assert unet_config(one.preset, {}, one.latent, one.features)
    for drawing in full.drawings:
        assert drawing.preset in PRESETS
        assert image_component(drawing.image).build(ImageEncoder, "x").info(drawing.side)
        assert text_component(drawing.text).build(TextEncoder, "x").info().attributes["pad"] == "full"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", "convolution"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "matrix product"),
        ("pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64>>", "attention"),
        ("void at::native::RowwiseMomentsCUDAKernel<float>", "normalisation"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<>", "optimiser"),
        ("Memcpy HtoD (Pinned -> Device)", "copy"),
        ("void at::native::vectorized_elementwise_kernel<4, silu>", "elementwise"),
        ("spin", "other"),
    ],
)
def test_a_kernel_has_the_kind_of_its_name(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_a_profile_has_the_longest_operators_and_shares_that_add_up() -> None:
    import torch

    a = torch.ones(64, 64)
    found = profile(lambda: (a @ a).relu(), Clock("cpu"))
    assert {line["name"] for line in found["kernels"]} >= {"aten::mm", "aten::relu"}
    assert sum(found["kinds"].values()) == pytest.approx(1)
    assert 0 < found["busy_share"] <= 1.05


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = Lines(path)
    assert list(lines.new()) == []
    record = Recorder(path)
    record.begin("device", 5)
    record.cell({"rate": 1.0}, "A flag.")
    with path.open("a") as file:
        file.write('{"kind": "no')
    assert [line["kind"] for line in lines.new()] == ["begin", "cell"]
    with path.open("a") as file:
        file.write('te", "text": "x"}\n')
    assert [line["text"] for line in lines.new()] == ["x"]


def test_the_device_and_the_encoders_are_measured_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    perform(DeviceTask("cpu", True, ("device", "encoders"), 1000.0), Recorder(path))
    lines = list(Lines(path).new())
    assert [line["part"] for line in lines if line["kind"] in ("begin", "end")] == ["device"] * 2 + ["encoders"] * 2
    facts = {line["name"]: line["value"] for line in lines if line["kind"] == "fact"}
    assert facts["device"]
    cells = [Cell(line["values"], tuple(line["flags"])) for line in lines if line["kind"] == "cell"]
    names = {(cell.values["way"], cell.values.get("precision"), cell.values.get("layout")) for cell in cells}
    assert {("module", p, order) for p in ("fp32", "bf16") for order in ("channels_last", "contiguous")} <= names
    refused = [cell for cell in cells if cell.values.get("precision") == "fp16"]
    assert len(refused) == 2
    assert all("fp16 does not run on a CPU" in cell.flags[0] for cell in refused)
    good = [cell for cell in cells if cell.values["part"] == "encoders" and not cell.flags]
    assert all(cell.values["rate"] > 0 and cell.values["of_naive"] > 0 for cell in good)
    assert not [flag for cell in cells for flag in cell.flags if flag.startswith("Failed")]
    assert {name for cell in cells for name in cell.values} <= {column.name for column in COLUMNS}


def report(*cells: Cell, **facts: Any) -> BenchReport:
    done = finished(cells, {"bf16": 1e12, "fp32": 1e11, "tf32": 5e11})
    return BenchReport("bench-device", "One device: X", "c", COLUMNS, done, facts=facts, notes=("N.",),
                       plots=tuple(plots(done, facts)), machine=MACHINE, versions={})  # fmt: skip


def test_the_page_has_a_table_for_each_part_its_flags_and_the_kernels() -> None:
    measured = {"part": "encoders", "model": "sd-vae", "way": "daskt2i", "px": 256, "precision": "bf16", "batch": 8}
    made = report(
        Cell({**measured, "unit": "images", "rate": 100.0, "each_s": 0.01, "tflops": 0.5}),
        Cell({**measured, "px": 512, "unit": "images"}, (NO_MEMORY,)),
        Cell({"part": "training"}, ("Failed: it took longer than its time, and was ended.",)),
        profile={"step": {"wall_ms": 10.0, "busy_share": 0.5, "kinds": {"convolution": 1.0},
                          "kernels": [{"name": "k|1", "kind": "convolution", "calls": 2, "ms": 5.0, "share": 1.0}]}},
        device="X",
    )  # fmt: skip
    text = markdown(made)
    assert "| daskt2i | sd-vae | 256 | bf16 | 8 | images | 100 |" in text
    assert "| 50 % |" in text  # of the peak
    assert f"- sd-vae 512 px bf16 x8 daskt2i: {NO_MEMORY}" in text
    assert "- training: Failed: it took longer than its time, and was ended." in text
    assert "| `k\\|1` | convolution | 2 | 5 | 100 % |" in text
    assert "10 ms a call under the profiler; 50 % of it in kernels." in text
    assert [plot.name for plot in made.plots] == ["encoders-sd-vae", "kernels"]


def test_fp32_with_the_defaults_of_torch_is_compared_with_tf32() -> None:
    values = {"part": "encoders", "model": "m", "precision": "fp32", "tflops": 0.05}
    naive, ours = finished([Cell({**values, "way": w}) for w in ("naive", "daskt2i")], {"fp32": 1e11, "tf32": 5e11})
    assert (naive.values["of_peak"], ours.values["of_peak"]) == (pytest.approx(0.1), pytest.approx(0.5))


def test_without_time_every_part_says_so() -> None:
    found = bench_device("cpu", tiny=True, seconds=-driver.GRACE)
    assert found.cells
    assert {cell.flags for cell in found.cells} == {(NO_TIME,)}
    assert [cell.values["part"] for cell in found.cells] == list(driver.PARTS)


def test_without_a_gpu_one_sentence_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from daskt2i import workflow

    if torch.cuda.is_available():
        pytest.skip("This machine has a GPU.")
    with pytest.raises(SystemExit) as end:
        workflow.app(["bench", "device", "--out", str(tmp_path / "r")])
    assert end.value.code == 1
    assert " ".join(capsys.readouterr().err.split()) == (
        "error: There is no device cuda: torch sees 0 GPUs. Use device=cpu."
    )
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_process_that_dies_costs_its_part_only() -> None:
    def tell(line: str) -> None:
        if line.startswith("device: at most"):
            for child in psutil.Process().children():
                if "daskt2i.bench.device.worker" in child.cmdline():
                    child.kill()

    made = bench_device("cpu", tiny=True, parts=("device", "kernels"), seconds=300, tell=tell)
    lost = [cell for cell in made.cells if cell.values["part"] == "device" and cell.flags]
    assert [cell.flags for cell in lost] == [("Failed: the measuring process ended with code -9.",)]
    assert len(made.facts["profile"]) == 2
    assert made.complete


@pytest.mark.slow
def test_a_part_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "GRACE", 0.0)
    made = bench_device("cpu", tiny=True, parts=("whole",), seconds=8)
    assert [cell.flags for cell in made.cells] == [("Failed: it took longer than its time, and was ended.",)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_script_for_a_gpu_measures_every_part_on_a_cpu(tmp_path: Path) -> None:
    script = TESTS.parent / "benchmarks" / "gpu.sh"
    environment = {**child_environment(), "PYTHON": sys.executable}
    done = subprocess.run(
        [script, "--tiny", str(tmp_path / "out")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    reports = tmp_path / "out" / "reports"
    found = json.loads((reports / "bench-device.json").read_text())
    rates = {cell["part"] for cell in found["cells"] if cell.get("rate")}
    assert rates == {"encoders", "whole", "training", "drawing"}
    assert {cell["way"] for cell in found["cells"] if cell["part"] == "training"} == {"daskt2i", "plain", "trainer"}
    assert len(found["facts"]["profile"]) == 2
    page = (reports / "bench-device.md").read_text()
    assert "## What the device does" in page
    assert {cell["precision"] for cell in found["cells"] if cell["flags"] and cell.get("way") != "naive"} <= {
        "fp16",
        "fp32",
    }


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_script_names_an_option_that_it_does_not_know(tmp_path: Path) -> None:
    script = TESTS.parent / "benchmarks" / "gpu.sh"
    done = subprocess.run([script, "--fast"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpu.sh knows --tiny and a folder, not --fast. Nothing was measured.\n"


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_the_script_says_so_where_daskt2i_is_not_installed(tmp_path: Path) -> None:
    bare = tmp_path / "python"  # without the packages of its environment
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    done = subprocess.run(
        [TESTS.parent / "benchmarks" / "gpu.sh", "--tiny", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env={**child_environment(), "PYTHON": str(bare)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("daskt2i is not installed for this Python. Nothing was measured.")
    assert not (tmp_path / "out").exists()
