"""What is told about secrets, certificates, and workers that differ from the driver: doing it works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.config
import pytest
from builders.advice import told
from builders.coco import coco_source, write_coco
from builders.workflows import component, fake_settings, small_settings, with_parts
from distributed import LocalCluster, Security

import daskt2i
from daskt2i.encode.chunks.admission import Terms, admit, admit_source, open_to_workers
from daskt2i.hosts import sight
from daskt2i.machine.versions import CODE
from daskt2i.model.pipeline_parts import refuse_foreign_parts
from daskt2i.protocols import Source
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Runtime

CPU = Runtime("cpu", "fp32", 1)


def run_of(out: Path | str, **given: Any) -> daskt2i.Run:
    return daskt2i.Run(given.pop("workflow", None) or small_settings(), out, **{"progress": False, **given})


def test_an_address_that_lost_its_secret_is_given_again(tmp_path: Path) -> None:
    named = coco_source(write_coco(tmp_path / "data", [["a red bus"]] * 4))
    captions = {"captions": named["captions"]}
    hidden = component(named["class"], images="https://***@host/images", **captions)
    with told("config/component.py:Component.build ConfigError") as error:
        hidden.build(Source, "dataset.source")
    assert "dataset.source.images" in str(error.value)
    again = {"dataset.source.images": named["images"]}
    workflow = with_parts(fake_settings(), source=hidden)
    assert run_of(tmp_path / "run", workflow=workflow, settings=again, scheduler="serial").encode().accepted == 4


def test_a_variable_that_holds_a_credential_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder("memory://advice/env", {"token": "env:DASKT2I_TEST_TOKEN"})
    with told("credentials.py:_resolved ConfigError") as error:
        folder.write("a", b"1")
    assert "DASKT2I_TEST_TOKEN" in str(error.value)
    monkeypatch.setenv("DASKT2I_TEST_TOKEN", "of-the-process")
    folder.write("a", b"1")
    assert folder.read("a") == b"1"


def test_certificates_that_dasks_configuration_names_open_a_scheduler_with_tls(tmp_path: Path) -> None:
    security = Security.temporary()
    here = {"host": "127.0.0.1", "protocol": "tls://", "dashboard_address": ":0", "security": security}
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **here) as there:
        with told("deploy/connect.py:attach SchedulerError"):
            run_of(tmp_path / "run", scheduler=there.scheduler_address).encode()
        names = {"ca-file": "tls_ca_file", "client.cert": "tls_client_cert", "client.key": "tls_client_key"}
        for name, attribute in names.items():
            (tmp_path / name).write_text(getattr(security, attribute))
        mine = {f"distributed.comm.tls.{name}": str(tmp_path / name) for name in names}
        with dask.config.set(mine), run_of(tmp_path / "run", scheduler=there.scheduler_address) as run:
            assert run.encode().accepted == 4


@pytest.fixture
def terms(tmp_path: Path) -> Any:
    with open_to_workers(RunFolder(tmp_path / "run"), FakeSource(4), "auto") as found:
        yield found


def test_a_worker_with_the_drivers_packages_is_taken(tmp_path: Path, terms: Terms) -> None:
    older = replace(terms, versions={**terms.versions, "pillow": "1.0"})
    with told("encode/chunks/admission.py:_same_versions WorkerMismatch") as error:
        admit(older, RunFolder(tmp_path / "run"), CPU)
    assert "pillow" in str(error.value)
    admit(terms, RunFolder(tmp_path / "run"), CPU)


_STATES_TWICE = """
from daskt2i.machine.versions import CODE, versions
print(versions()[CODE], flush=True)
input()
print(versions()[CODE], flush=True)
"""


def test_two_copies_of_the_code_are_named_with_their_folders(tmp_path: Path, terms: Terms) -> None:
    here = str(Path(daskt2i.__file__).parent)
    other = replace(terms, versions={**terms.versions, CODE: "0123456789ab"}, code="/opt/env/daskt2i")
    with told("encode/chunks/admission.py:_same_versions WorkerMismatch") as error:
        admit(other, RunFolder(tmp_path / "run"), CPU)
    assert f"The worker imports daskt2i from {here}, the driver from /opt/env/daskt2i" in str(error.value)
    assert terms.code == here, "a driver and a worker of one environment and one folder have one copy"
    admit(terms, RunFolder(tmp_path / "run"), CPU)


def test_after_an_edit_only_processes_that_started_again_have_the_same_code(tmp_path: Path, terms: Terms) -> None:
    """A developer edits the checkout while a cluster stands: it goes on with what it has loaded."""
    older = replace(terms, versions={**terms.versions, CODE: "0123456789ab"})
    with told("encode/chunks/admission.py:_same_versions WorkerMismatch") as error:
        admit(older, RunFolder(tmp_path / "run"), CPU)
    assert "start the workers (client.restart()) and the notebook again" in str(error.value)
    package = Path(shutil.copytree(Path(daskt2i.__file__).parent, tmp_path / "checkout" / "daskt2i"))
    how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": package.parent}
    command = [sys.executable, "-c", _STATES_TWICE]
    with subprocess.Popen(command, **how) as standing:
        assert standing.stdout is not None
        before = standing.stdout.readline()
        (package / "plan.py").write_text("# edited")
        assert standing.communicate("\n")[0] == before
    states = [subprocess.run(command, input="\n", capture_output=True, text=True, cwd=package.parent) for _ in "ab"]
    assert states[0].stdout == states[1].stdout != before * 2


def test_a_worker_that_sees_the_same_run_folder_is_taken(
    tmp_path: Path, terms: Terms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "_PAUSE", 0.0)
    with told("hosts/sight.py:require_folder WorkerWithoutFiles"):
        admit(terms, RunFolder(tmp_path / "another"), CPU)
    admit(terms, RunFolder(tmp_path / "run"), CPU)


def test_a_worker_with_the_same_images_is_taken(terms: Terms) -> None:
    with told("encode/chunks/admission.py:admit_source WorkerWithoutFiles") as error:
        admit_source(terms, FakeSource(4, width=64))
    assert "other bytes" in str(error.value)
    with told("encode/chunks/admission.py:admit_source WorkerWithoutFiles") as error:
        admit_source(terms, FakeSource(4, missing=[0]))
    assert "cannot read" in str(error.value)
    admit_source(terms, FakeSource(4))


def test_a_precision_that_is_set_holds_for_workers_of_all_kinds(tmp_path: Path, terms: Terms) -> None:
    """The store was begun by a GPU; fp16 is what no CPU would choose."""
    folder, chosen = RunFolder(tmp_path / "run"), replace(terms, kind="cuda 7.5")
    with told("encode/chunks/admission.py:_same_precision WorkerMismatch") as error:
        admit(chosen, folder, Runtime("cpu", "fp16", 1))
    assert "fp16" in str(error.value)
    admit(replace(chosen, asked="fp16"), folder, Runtime("cpu", "fp16", 1))


def test_a_pipeline_without_code_of_its_own_is_loaded(tmp_path: Path) -> None:
    """As diffusers would take it: a class of the folder's own, remote code, pickled weights."""
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["modeling", "UNet"], "safety_checker": [None, None]}
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "unet" / "modeling.py").write_text("raise SystemExit")
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").touch()
    (tmp_path / "unet" / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.UNet"}}')
    with told("model/pipeline_parts.py:refuse_foreign_parts ModelError") as error:
        refuse_foreign_parts(tmp_path)
    assert all(name in str(error.value) for name in ("modeling.py", ".bin", "unet: ", "auto_map"))
    for path in (tmp_path / "unet").iterdir():
        path.unlink()
    index |= {"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    refuse_foreign_parts(tmp_path)
