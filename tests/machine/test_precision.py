"""Precision and device."""

from __future__ import annotations

from pathlib import Path

import pytest

from daskt2i.errors import ConfigError
from daskt2i.machine import precision
from daskt2i.probes.measure import Measured


@pytest.mark.parametrize("requested", ["fp32", "bf16"])
def test_a_requested_precision_is_used_without_a_probe(requested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "seconds_of", lambda *_: pytest.fail("probed"))
    assert precision.resolve(requested, "cpu") == requested


def test_auto_measures_once_and_leaves_the_threads_of_this_process() -> None:
    import torch

    before = torch.get_num_threads()
    first = precision.choose("auto", "cpu")
    assert first.seconds.keys() == {"fp32", "bf16"}
    assert first == precision.choose("auto", "cpu") == precision.choose("auto", "cpu", measure=False)
    assert torch.get_num_threads() == before


def test_a_plan_without_figures_says_when_they_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert precision.choose("auto", "cpu", measure=False).words() == "auto: measured at the start of the encode"


def test_where_the_probe_dies_of_an_illegal_instruction_fp32_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "PROBE", "builders.measuring:illegal")
    chosen = precision.choose("auto", "cpu")
    assert (chosen.value, chosen.why) == ("fp32", "bf16 could not be measured")
    assert chosen.notes == (
        "The speed of bf16 could not be measured: its process was ended by SIGILL (an illegal instruction). "
        "The models run in fp32.",
    )
    assert precision.resolve("auto", "cpu") == "fp32"


@pytest.mark.parametrize(("gain", "expected"), [(0.12, "fp32"), (1.0, "fp32"), (1.9, "bf16")])
def test_auto_uses_bf16_only_if_it_is_faster(gain: float, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_measured", lambda measure: Measured({"fp32": gain, "bf16": 1.0}))
    assert precision.resolve("auto", "cpu", 2) == expected


@pytest.mark.parametrize(("capability", "expected"), [((3, 7), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16")])
def test_auto_on_a_gpu_depends_on_its_generation(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.resolve("auto", "cuda:1") == expected
    assert precision.resolve("fp16", "cuda") == "fp16"
    assert precision.default_device() == "cuda"
    with pytest.raises(ConfigError, match="2 GPUs"):
        precision.resolve("auto", "cuda:2")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp16"):
        precision.resolve("fp16", "cpu")


@pytest.mark.parametrize(
    ("requested", "device"), [("int8", "cpu"), ("auto", "mps"), ("auto", "cpu:0"), ("auto", "cuda:x"), ("", "cpu")]
)
def test_unknown_names_are_refused(requested: str, device: str) -> None:
    with pytest.raises(ConfigError):
        precision.resolve(requested, device)


def test_a_missing_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.default_device() == "cpu"
    with pytest.raises(ConfigError, match="torch sees 0 GPUs"):
        precision.resolve("bf16", "cuda")
