"""A worker that differs from the driver writes nothing, and is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.workflows import child_environment, fake_settings
from hypothesis import given
from hypothesis import strategies as st

import daskt2i
from daskt2i.encode.chunks import admission
from daskt2i.encode.chunks.admission import admit, admit_source, open_to_workers, statement
from daskt2i.encode.driver import encode
from daskt2i.encode.job import Inspection, job_for, resolve_job
from daskt2i.encode.model_cache import inspect
from daskt2i.encode.prepare import prepare
from daskt2i.errors import RowRejected, WorkerMismatch
from daskt2i.executors.serial import SerialExecutor
from daskt2i.hosts import sight
from daskt2i.images import framing
from daskt2i.images import read as images
from daskt2i.machine.versions import version_differences
from daskt2i.protocols import ExecutorInfo
from daskt2i.sources.fake import FakeSource
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import CHECK, RunFolder
from daskt2i.types import Runtime

CPU = Runtime("cpu", "fp32", 1)


def test_a_statement_names_the_code_and_every_library_that_decides_bytes() -> None:
    found = statement()
    assert {"daskt2i", "daskt2i code", "torch", "diffusers", "transformers", "tokenizers", "numpy"} < set(found)
    assert {"pillow", "zarr", "numcodecs", "store layout", "reading of pictures", "test picture"} < set(found)
    assert version_differences(found, statement()) == []


_VERSIONS = st.dictionaries(st.sampled_from(["torch", "numpy", "pillow"]), st.sampled_from(["1.0", "2.0"]))


@given(_VERSIONS, _VERSIONS)
def test_every_difference_of_two_statements_is_named_once(there: dict[str, str], here: dict[str, str]) -> None:
    differ = {name for name in {*there, *here} if there.get(name) != here.get(name)}
    assert {clause.partition(" ")[0] for clause in version_differences(there, here)} == differ
    assert len(version_differences(there, here)) == len(differ)


def test_a_process_with_another_library_states_another_version(tmp_path: Path) -> None:
    """Its import path holds another Pillow, as the environment of another host may."""
    other = tmp_path / "pillow-1.2.3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.2.3\n")
    code = "import json; from daskt2i.machine.versions import versions; print(json.dumps(versions()))"
    root = str(Path(daskt2i.__file__).parents[1])
    environment = {**child_environment(), "PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    differ = version_differences(json.loads(done.stdout), statement())
    assert [clause.partition(" there")[0] for clause in differ if clause.startswith("pillow")] == ["pillow 1.2.3"]


def test_a_package_that_the_encoders_use_must_have_the_version_of_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daskt2i.machine.versions._installed", lambda package: "1.0.1" if package == "ncnn" else "")
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert "ncnn" not in statement()
    with open_to_workers(RunFolder(tmp_path), FakeSource(4), "fp32") as unused:
        pass
    with open_to_workers(RunFolder(tmp_path), FakeSource(4), "fp32") as plain:
        terms = plain.with_packages(("ncnn",))
        admit(terms, RunFolder(tmp_path), CPU)
    monkeypatch.setattr("daskt2i.machine.versions._installed", lambda _: "")
    admission._same_versions(unused)
    with pytest.raises(WorkerMismatch, match=r"ncnn missing there, 1\.0\.1 here"):
        admission._same_versions(terms)


@pytest.mark.parametrize("what", ["transform", "crop"])
def test_code_that_reads_pictures_in_another_way_encodes_nothing(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_to_workers(RunFolder(tmp_path), FakeSource(4), "auto") as terms:
        if what == "transform":
            monkeypatch.setattr(images, "TRANSFORM", {**images.TRANSFORM, "version": 2})
        else:
            monkeypatch.setattr(framing, "centre_box", lambda size, shape: (0, 0, min(size), min(size)))
        with pytest.raises(WorkerMismatch, match="picture") as error:
            admit(terms, RunFolder(tmp_path), CPU)
    assert sight.here() in str(error.value)


class ElsewhereExecutor(SerialExecutor):
    """Its workers see another folder under the path of the run folder, or other images."""

    def __init__(self, changes: dict[str, Any]) -> None:
        super().__init__()
        self.changes = changes

    def run(self, work: Any, items: Any) -> Any:
        admission._admitted.clear()
        admission._seen_source.clear()
        return super().run(lambda item: work(replace(item, **self.changes)), items)


@pytest.mark.parametrize("what", ["folder", "source"])
def test_a_worker_that_sees_other_files_ends_the_run_with_one_sentence(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "_PAUSE", 0.0)
    workflow = fake_settings()
    prepared = prepare(workflow, tmp_path / "run")
    wide = workflow.dataset.source.model_copy(update={"width": 96})
    changes = {"folder": RunFolder(tmp_path / "other")} if what == "folder" else {"source": wide}
    with pytest.raises(WorkerMismatch, match="run folder" if what == "folder" else "other bytes"):
        encode(prepared, ElsewhereExecutor(changes))
    assert list(Receipts(prepared.folder).read()) == []
    assert not prepared.folder.exists(CHECK)
    assert encode(prepare(workflow, tmp_path / "run"), SerialExecutor()).accepted == 20


class Unreadable(FakeSource):
    def read(self, row: Any) -> bytes:
        raise OSError("the network is away")


def test_a_source_that_nobody_can_read_now_is_the_chunks_matter(tmp_path: Path) -> None:
    with open_to_workers(RunFolder(tmp_path), Unreadable(4), "auto") as terms:
        assert terms.row is None
        admit_source(terms, Unreadable(4))
    with open_to_workers(RunFolder(tmp_path), FakeSource(4, missing=[0]), "auto") as terms:
        admission._seen_source.clear()
        assert terms.row is None or terms.row.index == 1
    with open_to_workers(RunFolder(tmp_path), FakeSource(4), "auto") as terms:
        admit_source(terms, Unreadable(4))
        assert isinstance(RowRejected("missing-file"), Exception)


def test_each_kind_of_worker_has_its_own_batch(tmp_path: Path) -> None:
    workflow = fake_settings(batch="auto", image={"reduction": 8}, resolution=256)
    prepared = prepare(workflow, tmp_path)
    prepared = replace(prepared, square_info=replace(prepared.square_info, item_bytes=64 << 20))
    job = job_for(prepared, ExecutorInfo(2, 1, None))
    for first in ("cuda", "cpu"):
        resolved = resolve_job(job, prepared, Inspection(Runtime(first, "bf16", 1), {}, "host:1"))
        assert resolved.on("cpu").batch < resolved.on("cuda:1").batch
    fixed = replace(prepared, workflow=fake_settings(batch=3))
    resolved = resolve_job(job, fixed, Inspection(Runtime("cuda", "bf16", 1), {}, "host:1"))
    assert {resolved.on("cpu").batch, resolved.on("cuda").batch} == {3}


def test_the_kind_of_worker_that_chose_the_precision_goes_into_the_terms(tmp_path: Path) -> None:
    prepared = prepare(fake_settings(), tmp_path)
    with open_to_workers(prepared.folder, prepared.source, "auto") as terms:
        job = replace(job_for(prepared, ExecutorInfo(1, 1, None)), terms=terms)
        found = inspect(job, "auto")
        resolved = resolve_job(job, prepared, found)
        assert resolved.terms is not None
        assert resolved.terms.kind.startswith("cpu")
        admit(resolved.terms, prepared.folder, resolved.runtime)
