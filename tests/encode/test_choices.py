"""What is chosen for an encode, why, and what a plan says of it before."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from builders.models import kl_folder
from builders.workflows import component, fake_settings, finish, with_parts
from rich.console import Console

from daskt2i.config.settings import Workflow
from daskt2i.display.tables import result_table
from daskt2i.encode.choices.on_worker import choose
from daskt2i.encode.driver import encode
from daskt2i.encode.job import job_for
from daskt2i.encode.prepare import EncodePlan, prepare
from daskt2i.encode.verify import verify
from daskt2i.encoders.ncnn import probe
from daskt2i.errors import ConfigError
from daskt2i.events import Note
from daskt2i.executors.serial import SerialExecutor
from daskt2i.machine import precision
from daskt2i.plan import GIB, MIB, WorkerLayout
from daskt2i.protocols import ExecutorInfo
from daskt2i.store.run_folder import RunFolder

T = TypeVar("T")
R = TypeVar("R")

NCNN = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('ncnn')", reason="ncnn is not installed")

LATER = "auto: measured at the start of the encode"


@pytest.fixture(autouse=True)
def _own_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "PROBE", "builders.measuring:engines")
    monkeypatch.setattr(precision, "PROBE", "builders.measuring:precisions")


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kl_folder(tmp_path_factory.mktemp("kl") / "model")


def workflow(model: Path, asked: str = "auto", **more: Any) -> Workflow:
    image = component("daskt2i.encoders.vae.VaeEncoder", model=str(model), **more)
    made = with_parts(fake_settings(resolution=32, rows=4, rows_per_chunk=4, batch="auto", gate_rows=0), image=image)
    return made.model_copy(update={"dataset": made.dataset.model_copy(update={"precision": asked})})


def planned(made: Workflow, out: Path, limit: int = 4 * GIB) -> EncodePlan:
    return replace(prepare(made, out), layout=WorkerLayout(1, 1, limit, "one worker"))


def words(plan: EncodePlan) -> dict[str, str]:
    return {one.setting: one.words() for one in plan.choices}


def choices_of_a_worker(plan: EncodePlan, limit: int = 4 * GIB) -> tuple[dict[str, str], tuple[str, ...]]:
    job = job_for(plan, ExecutorInfo(1, 1, limit))
    found = choose(job, "cpu", plan.precision, plan.engine)
    return {one.setting: one.words() for one in found.choices}, found.notes


@NCNN
def test_a_plan_shows_what_is_measured_later_and_then_what_was_measured(kl: Path, tmp_path: Path) -> None:
    plan = planned(workflow(kl), tmp_path / "out")
    assert (words(plan)["engine"], words(plan)["precision"]) == (LATER, LATER)
    found, notes = choices_of_a_worker(plan)
    assert found == {
        "engine": "ncnn: ncnn is 2 times as fast as torch, and 1.15 times is the least "
        "(seconds an image: ncnn fp32 1, torch fp32 2)",
        "precision": "fp32: bf16 is 0.5 times as fast as fp32, and 1.2 times is the least "
        "(seconds a convolution: fp32 0.001, bf16 0.002)",
    }
    assert notes == (
        "ncnn computes the image encoder, because it is faster (measured: 1 s an image in fp32; torch 2 s in fp32).",
    )
    assert words(plan) == {
        **found,
        "batch": "64 images, 32 captions: as many images as 256.0 MiB hold",
        "threads": "1 a worker: one worker for each core; cores that are left over are shared",
    }
    others = replace(plan, layout=WorkerLayout(0, 0, 0, "the cluster's own"))
    assert words(others)["engine"] == LATER, "the figures of this machine say nothing of a cluster"


@NCNN
def test_the_table_is_in_the_text_the_notebook_the_terminal_and_the_json(kl: Path, tmp_path: Path) -> None:
    plan = planned(workflow(kl), tmp_path / "out")
    choices_of_a_worker(plan)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result_table(plan))
    terminal = console.export_text()
    assert max(map(len, terminal.splitlines())) <= 80
    for text in (repr(plan), plan._repr_html_(), " ".join(terminal.split())):
        assert "ncnn is 2 times as fast as torch" in text
        assert "bf16 is 0.5 times as fast as fp32" in text
        assert "64 images, 32 captions" in text
        assert "1 worker x 1 thread (one worker): one worker for each core" in text
    chosen = json.loads(json.dumps(plan.to_json()))["chosen"]
    assert [one["setting"] for one in chosen] == ["engine", "precision", "batch", "threads"]
    assert chosen[0]["seconds"] == {"ncnn fp32": 1.0, "torch fp32": 2.0}


def test_what_the_settings_name_is_not_measured(kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE", "builders.measuring:illegal")
    monkeypatch.setattr(precision, "PROBE", "builders.measuring:illegal")
    named = planned(workflow(kl, "bf16", engine="torch"), tmp_path / "out")
    wanted = {"engine": "torch: the workflow names it", "precision": "bf16: given in the settings"}
    assert wanted.items() <= words(named).items()
    found, notes = choices_of_a_worker(named)
    assert found.keys() == wanted.keys()
    assert [text.partition(":")[0] for text in found.values()] == ["torch", "bf16"]
    assert notes == ()


def test_an_encoder_without_engines_has_no_row_for_them(tmp_path: Path) -> None:
    assert [one.setting for one in prepare(fake_settings(), tmp_path / "out").choices] == ["precision", "batch"]


@NCNN
def test_an_engine_that_does_not_fit_into_the_memory_of_a_worker_is_not_chosen(kl: Path, tmp_path: Path) -> None:
    plan = planned(workflow(kl), tmp_path / "out")
    more, less = plan.requirements.engine_memory["ncnn"], plan.requirements.worker_memory
    assert more > less
    limit = int((more + less) / 2 / 0.8)
    found, notes = choices_of_a_worker(plan, limit)
    assert found["engine"].startswith("torch: a worker with ncnn needs about ")
    assert notes == ()
    assert words(planned(workflow(kl), tmp_path / "out", limit))["engine"] == found["engine"]


@NCNN
def test_the_memory_of_a_plan_depends_on_the_engine_and_not_on_what_this_process_can_import(
    kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(workflow(kl), tmp_path / "ncnn")
    finish(workflow(kl, engine="torch"), tmp_path / "torch")
    named = prepare(workflow(kl, engine="ncnn"), tmp_path / "new").requirements
    plain = prepare(workflow(kl, engine="torch"), tmp_path / "new").requirements
    opened = prepare(workflow(kl), tmp_path / "new").requirements
    assert named.worker_memory > plain.worker_memory + 1 * MIB
    monkeypatch.setitem(sys.modules, "ncnn", None)  # as if it were not installed
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    assert prepare(workflow(kl), tmp_path / "ncnn").requirements == named
    assert prepare(workflow(kl), tmp_path / "torch").requirements == plain
    assert prepare(workflow(kl), tmp_path / "new").requirements == opened
    assert opened == replace(plain, engine_memory={"ncnn": named.worker_memory})
    assert "with ncnn)" in repr(prepare(workflow(kl), tmp_path / "new"))


@NCNN
def test_where_nothing_can_be_kept_one_line_says_so(kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    _, notes = choices_of_a_worker(planned(workflow(kl), tmp_path / "out"))
    assert [note for note in notes if "cannot be kept" in note] == [notes[0]]
    assert len(notes) == 2


class FirstLacksNcnn(SerialExecutor):
    """The worker that is asked first cannot import ncnn. Those that encode can."""

    asked = 0

    def run(
        self, work: Callable[[T], R], items: Iterable[T], alone: bool = False
    ) -> Iterator[tuple[T, R | BaseException]]:
        self.asked += 1
        with pytest.MonkeyPatch.context() as patch:
            if self.asked == 1:
                patch.setitem(sys.modules, "ncnn", None)
            yield from super().run(work, items, alone)


@NCNN
def test_where_the_first_worker_lacks_ncnn_all_go_on_with_torch_and_a_line_says_so(kl: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    prepared = prepare(workflow(kl), tmp_path / "out")
    result = encode(prepared, FirstLacksNcnn(), lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert (result.accepted, result.failed) == (4, {})
    assert len(notes) == 1
    assert notes[0].startswith("torch computes the image encoder on all workers, because ncnn is not installed on ")
    assert prepare(workflow(kl), tmp_path / "out").engine == "torch"


@NCNN
@pytest.mark.parametrize("by", ["settings", "store"])
def test_where_ncnn_is_named_the_worker_that_lacks_it_is_named_too(by: str, kl: Path, tmp_path: Path) -> None:
    asked = workflow(kl, engine="ncnn")
    if by == "store":
        finish(asked, tmp_path / "out")
        RunFolder(tmp_path / "out").delete("receipts/chunk-0000000.json")
        asked = workflow(kl)
    with pytest.raises(
        ConfigError, match=r"^The worker \S+:\d+ encoded nothing: .* but the package ncnn is not installed"
    ):
        encode(prepare(asked, tmp_path / "out"), FirstLacksNcnn())


@NCNN
def test_verify_without_ncnn_says_what_is_missing_and_what_helps(
    kl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = workflow(kl, engine="ncnn")
    finish(asked, tmp_path / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ncnn", None)
        notes = verify(RunFolder(tmp_path / "out"), asked, trusted=True).notes
        assert len(notes) == 1
        assert notes[0].startswith(
            "Nothing was decoded back: dataset.encoders.image.engine is ncnn (in the settings, or in the store), but "
            "the package ncnn is not installed, so the image encoder was not loaded; install "
        )
        assert "encoded" not in notes[0]
        assert verify(RunFolder(tmp_path / "out"), workflow(kl, engine="torch"), trusted=True).psnr, "torch helps"
    assert verify(RunFolder(tmp_path / "out"), asked, trusted=True).psnr, "to install it helps"
