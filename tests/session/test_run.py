"""The front object: a run folder, its settings and its workers, from Python."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders.processes import at, children, left
from builders.runs import TINY
from builders.workflows import child_environment, fake_data, write_workflow
from distributed import Client, LocalCluster
from PIL.Image import Image

import daskt2i
from daskt2i.cli.front import parse_sets
from daskt2i.dashboard.event_file import read_events
from daskt2i.errors import (
    ConfigError,
    Daskt2iError,
    FingerprintMismatch,
    ModelMissing,
    SchedulerError,
    StoreError,
    StoreMissing,
    UnknownArgument,
)
from daskt2i.events import ChunkDone, Event, Note, PlanReady, ResultReady, StageEnded, StageStarted
from daskt2i.plan import WorkerLayout
from daskt2i.run import Run
from daskt2i.sources.fake import FakeSource
from daskt2i.store.run_folder import RunFolder
from daskt2i.types import Row

ROWS = 20


class Broken(FakeSource):
    """A source in which row 9 cannot be read, so chunk 1 fails."""

    def read(self, row: Row) -> bytes:
        if row.index == 9:
            raise OSError("the disk is gone")
        return super().read(row)


def fake(tmp_path: Path, **how: Any) -> Run:
    """A run with fakes in this process, without progress."""
    given = {"scheduler": "serial", "progress": False, **how}
    tmp_path.mkdir(exist_ok=True)
    return Run(write_workflow(tmp_path / "fake.yaml"), tmp_path / "out", **given)


@pytest.fixture(scope="module")
def finished(command_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A tiny demo that the command `run` has encoded and learned. What it draws here are other prompts."""
    out = shutil.copytree(command_run / "run", tmp_path_factory.mktemp("run") / "demo")
    settings = {**parse_sets(TINY), "sample.prompts": ["a red circle", "a <b>blue</b> star"]}
    with Run("demo", out, settings=settings, scheduler="serial", progress=False) as run:
        run.run_all()
        yield run


# All stages


def test_a_run_object_goes_on_from_what_the_command_made_and_has_nothing_left_to_do(finished: Run) -> None:
    again = finished.run_all()
    assert (again.encode.skipped, again.encode.done) == (3, 0)
    assert again.train.ranks == 0, "nothing was left to train"
    assert again.sample.seconds == 0, "the pictures are there"
    assert [image.size for image in again.sample.images] == [(64, 64), (64, 64)]
    assert set(again.to_json()) == {"encode", "train", "sample"}


def test_a_workflow_that_names_figures_measures_them_after_the_pictures(finished: Run) -> None:
    small = {"evaluate.metrics": ["judge"], "evaluate.prompts": 2, "evaluate.seeds": 1}
    found = finished.with_settings(small).run_all()
    assert found.to_json()["evaluate"]["count"] == 2
    assert "background" in found.view().text()


def test_the_events_of_a_run_give_the_numbers_of_status_and_of_its_metrics(finished: Run) -> None:
    folder = RunFolder(finished.out)
    state, wrong = read_events(folder)
    assert wrong == ""
    there, metrics = finished.status().to_json(), finished.metrics
    assert {name: getattr(state, name) for name in ("rows_done", "accepted", "bytes")} == {
        name: there[name] for name in ("rows_done", "accepted", "bytes")
    }
    last = metrics.iloc[-1]
    assert state.loss.last == (metrics.index[-1], last["loss"]) == (3, last["loss"])
    assert state.heldout.last == (3, last["heldout_loss"])
    assert state.learning_rate.last == (3, last["rate"])
    assert (state.checkpoint, state.step) == (3, 3)
    assert state.stages["encode"] == state.stages["train"] == state.stages["sample"] == "done"
    assert state.pictures[-1][2].startswith("data:image/jpeg;base64,")


def test_a_sample_result_has_pil_images_in_the_order_of_the_prompts(finished: Run) -> None:
    drawn = finished.sample(["a red circle", "a blue star"], seed=3, count=2)
    assert [(one.prompt, one.seed) for one in drawn.requests] == [
        ("a red circle", 3),
        ("a red circle", 4),
        ("a blue star", 3),
        ("a blue star", 4),
    ]
    assert all(isinstance(image, Image) for image in drawn.images)
    assert len(drawn.images) == drawn.pictures == 4
    assert all(Path(file).is_file() for file in drawn.files)
    alone = finished.sample("a blue star", seed=4)
    assert alone.images[0].tobytes() == drawn.images[3].tobytes()


def test_one_prompt_may_be_a_plain_text(finished: Run) -> None:
    assert finished.sample("a red circle").pictures == 1
    assert finished.evaluate("a red circle").prompts == 1


def test_numbers_of_numpy_are_taken(tmp_path: Path) -> None:
    one, rows = np.arange(1, 3)
    found = fake(tmp_path).estimate(workers=one, rows=4 * rows)
    assert [forecast.workers for forecast in found.forecasts] == [1]
    json.dumps(found.to_json())


def test_a_notebook_shows_pictures_with_their_prompts(finished: Run) -> None:
    shown = finished.sample(["a red circle", "a <b>blue</b> star"])._repr_html_()
    assert shown.count("<img ") == 2
    assert "<figcaption>a &lt;b&gt;blue&lt;/b&gt; star</figcaption>" in shown
    assert "data:image/png;base64," in shown


def test_a_notebook_leaves_out_pictures_whose_files_were_removed(finished: Run) -> None:
    drawn = finished.sample("a black ring")
    Path(drawn.files[1]).unlink()
    assert "<img" not in drawn._repr_html_()
    with pytest.raises(FileNotFoundError):
        _ = drawn.images


def test_pictures_of_an_earlier_result_stay_when_others_are_drawn(finished: Run) -> None:
    first = finished.sample("a red circle", seed=5)
    before = [one.tobytes() for one in first.images]
    for other in ({"prompts": "a red circle!"}, {"prompts": "a red circle", "steps": 1}):
        assert finished.sample(**{"seed": 5, **other}).files[1] != first.files[1]
    assert [one.tobytes() for one in first.images] == before


def test_tables_of_a_run_are_data_frames(finished: Run) -> None:
    manifest, metrics = finished.manifest, finished.metrics
    assert list(manifest["status"]) == ["accepted"] * ROWS
    assert list(metrics.index) == [1, 2, 3]
    assert metrics["loss"].notna().all()
    assert metrics["heldout_loss"].notna().any()
    assert finished.store.sizes["row"] == ROWS
    assert finished.status().complete
    assert finished.verify().ok


def test_suggestions_are_captions_of_the_store(finished: Run) -> None:
    found = finished.suggest("a", 3)
    captions = {str(text) for text in finished.store.caption.values.ravel()}
    assert len(found) == 3
    assert all(one.text in captions for one in found)


def test_load_pipeline_returns_a_diffusers_pipeline(finished: Run) -> None:
    pipeline = finished.load_pipeline("cpu")
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert pipeline.device.type == "cpu"


def test_a_run_shows_rows_loss_pictures_and_settings(finished: Run) -> None:
    shown = finished._repr_html_()
    assert finished.out in shown
    assert "20 of 20: 20 accepted" in shown
    assert "<svg" in shown
    assert "<img" in shown
    assert "<details><summary>Settings (workflow.yaml)" in shown
    assert "step 3 of 3" in repr(finished)


def test_with_settings_makes_a_run_on_the_same_workers(finished: Run) -> None:
    other = finished.with_settings({"sample.steps": 2})
    assert (other.workflow.sample.steps, finished.workflow.sample.steps) == (2, 3)
    assert other.sample("a red circle").pictures == 1
    other.close()
    assert finished.sample("a red circle").pictures == 1, "closing the other one left the workers"


def test_with_settings_notes_only_what_is_new(tmp_path: Path) -> None:
    told: list[Event] = []
    run = fake(tmp_path, settings={"run.readers": 3}, progress=told.append)
    run.with_settings({"train.steps": 5})
    run.with_settings({"train.clip": 2.0})
    notes = [event.text.partition(" ")[0] for event in told if isinstance(event, Note)]
    assert notes == ["run.readers", "train.clip"]


def test_with_settings_refuses_another_scheduler(tmp_path: Path) -> None:
    run = fake(tmp_path, scheduler=None)
    with pytest.raises(ConfigError, match=r"run\.scheduler cannot change"):
        run.with_settings({"run": {"scheduler": "serial"}})
    assert run.with_settings({"run.scheduler": "local"}).workflow.run.scheduler == "local"


def test_runs_that_share_workers_close_with_the_run_that_started_them(tmp_path: Path) -> None:
    run = fake(tmp_path)
    other = run.with_settings({"train.steps": 5})
    third = other.with_settings({"train.steps": 6})
    other.close()
    assert third.encode().accepted == ROWS, "another run that shares the workers does not close them"
    run.close()
    with pytest.raises(ConfigError, match="This run is closed"):
        third.encode()
    assert "closed" in repr(third)
    assert third.status().complete


def test_two_threads_make_one_set_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> None:
        time.sleep(0.2)

    monkeypatch.setattr("daskt2i.deploy.connect.current_client", slow)
    run = fake(tmp_path, scheduler=None)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(run._workers())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


def test_open_run_continues_with_the_settings_of_the_folder(finished: Run) -> None:
    run = daskt2i.open_run(finished.out, scheduler="serial", progress=False)
    assert run.workflow.train == finished.workflow.train
    assert run.encode().skipped == 3
    assert run.train().ranks == 0


# Before anything is started


def test_a_plan_starts_and_writes_nothing(tmp_path: Path) -> None:
    run = fake(tmp_path, scheduler="local")
    plan = run.plan()
    assert plan.to_json()["rows"] == ROWS
    assert "Plan of fake" in repr(plan)
    assert run.client is None
    assert not (tmp_path / "out").exists()


ONE_WAY = "advice.test_train.OneWay"
"""An image encoder that cannot decode."""


def test_run_all_refuses_at_the_start_if_training_or_drawing_would_fail_later(tmp_path: Path) -> None:
    """Something to draw, encoders that decode, pretrained weights, rows to learn from, a model that fits."""
    tiny = parse_sets(TINY)
    prompts = {"sample.prompts": ["a red circle"]}
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ("demo", {"sample.prompts": [], "train.validation": 0}, "sample.prompts is empty"),
        (write_workflow(tmp_path / "f.yaml", image={"class": ONE_WAY}), prompts, "OneWay.decode returns no pictures"),
        ("demo", {**prompts, "dataset.encoders.image.weights": "random"}, "have random weights"),
        ("demo", {**prompts, "train.validation": 20}, "train.validation is 20, but there are only 20 rows"),
        ("demo", {**prompts, "train.model.preset": "none"}, "train.model.preset is 'none'"),
        ("demo", {**prompts, "train.model.preset": "sd15", "dataset.image.resolution": 72}, "halves its input"),
        ("demo", {**prompts, "launch.ranks": 3}, "launch.ranks is 3, which does not divide the batch of 4"),
    ]
    for number, (workflow, settings, says) in enumerate(cases):
        out = tmp_path / str(number)
        base = tiny if workflow == "demo" else {}
        run = Run(workflow, out, settings={**base, **settings}, scheduler="serial", progress=False)
        for attempt in (run.run_all, lambda run=run: run.plan("run")):
            with pytest.raises(ConfigError, match=says):
                attempt()
        assert not (out / "latents.zarr").exists()


# Events and results


def test_a_listener_receives_the_plan_and_every_event(tmp_path: Path) -> None:
    told: list[Event] = []
    fake(tmp_path, progress=told.append).encode()
    assert isinstance(told[0], PlanReady)
    assert told[1] == StageStarted("encode", ROWS)
    assert sum(isinstance(event, ChunkDone) for event in told) == 3
    assert told[-1] == StageEnded("encode")
    assert not any(isinstance(event, ResultReady) for event in told), "one stage has one result"


def test_the_result_lists_failed_chunks_and_raise_for_failed_raises(tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    settings = {"dataset.source": {"class": "session.test_run.Broken", "rows": ROWS}, "run.retries": 1}
    result = fake(tmp_path, settings=settings).encode()
    assert list(result.failed) == [1]
    assert result.failed[1].startswith("OSError: the disk is gone")
    assert repr(result).splitlines()[1].startswith("  FAILED: chunk 1 failed after 2 tries: OSError: the disk is gone")
    assert result._repr_html_().index("the disk is gone") < result._repr_html_().index("<table>")
    with pytest.raises(StoreError, match="1 chunk failed after 2 tries: 1"):
        result.raise_for_failed()


def test_raise_for_failed_returns_a_result_without_failures(tmp_path: Path) -> None:
    result = fake(tmp_path).encode()
    assert result.raise_for_failed() is result
    verified = fake(tmp_path).verify()
    assert verified.raise_for_problems() is verified


def test_results_are_frozen_and_have_json(finished: Run) -> None:
    results = [finished.encode(), finished.train(), finished.sample("x"), finished.status(), finished.verify()]
    results += [finished.plan(), finished.plan("train"), finished.plan("run"), finished.evaluate(["a red circle"])]
    results.append(finished.insights(pictures=False, tokens=False))
    for result in results:
        assert json.loads(json.dumps(result.to_json())) == result.to_json()
        assert len(repr(result).splitlines()) < 28
        assert "<script" not in result._repr_html_()
        field = dataclasses.fields(result)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, field, None)


def test_making_a_run_notes_old_names_of_settings(tmp_path: Path) -> None:
    told: list[Event] = []
    fake(tmp_path, settings={"run.readers": 3}, progress=told.append)
    assert [event.text for event in told if isinstance(event, Note)] == [
        "run.readers is now called run.reader_threads; the old name still works."
    ]


# Wrong names


def test_an_unknown_attribute_raises_an_error_that_lists_the_attributes(tmp_path: Path) -> None:
    run = fake(tmp_path)
    with pytest.raises(AttributeError, match=r"Run has no attribute 'smaple'. Did you mean sample\? It has add, "):
        run.smaple()
    assert not hasattr(run, "_repr_png_"), "notebooks ask for such names"
    with pytest.raises(AttributeError, match=r"daskt2i has no attribute 'Rnu'. It has Run, load_workflow, look, "):
        daskt2i.Rnu  # noqa: B018


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.sample(promts="x"), r"Run.sample has no argument 'promts'. Did you mean prompts\? It takes"),
        (lambda run: run.encode(1), "Run.encode: too many positional arguments. It takes no arguments."),
        (lambda run: run.suggest(), "Run.suggest: missing a required argument: 'text'"),
        (lambda run: Run("demo", batch=4), "Run has no argument 'batch'. It takes workflow, out, source, images"),
        (lambda run: daskt2i.open_run(), "open_run: missing a required argument: 'path'. It takes path, client"),
    ],
    ids=["near", "too many", "missing", "constructor", "function"],
)
def test_an_unknown_argument_raises_an_error_that_lists_the_arguments(
    tmp_path: Path, call: Callable[[Run], object], says: str
) -> None:
    with pytest.raises(UnknownArgument, match=says) as caught:
        call(fake(tmp_path))
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"scheduler": "serial", "client": object()}, "client and scheduler both say where to work"),
        ({"scheduler": None, "client": object()}, "client is object, but it must be a distributed.Client"),
        ({"scheduler": "nowhere"}, "There is no cluster named 'nowhere'"),
        (
            {"scheduler": "local:0"},
            "The scheduler 'local:0' does not say how many workers: .* a whole number, 1 or more",
        ),
        ({"scheduler": "slurm:0"}, r"The scheduler 'slurm:0' .*write, for example, slurm:1, or slurm alone"),
        ({"scheduler": "serial:"}, "The scheduler 'serial:' does not say how many"),
        ({"scheduler": f"joblib:{'9' * 5000}"}, "does not say how many workers"),
        ({"scheduler": ":3"}, "The scheduler ':3' is unknown, and nothing was started"),
        ({"progress": "yes"}, "progress is 'yes'; give True, False, or a function"),
        ({"settings": [1]}, r"settings is \[1\], but it must be a mapping of dotted keys"),
        ({"settings": {"batch": 4}}, "The setting 'batch' does not have the form section.key"),
        ({"settings": {"run.bach": 4}}, "there is no setting run.bach"),
        ({"settings": {"run.batch.x": 4}}, "run.batch.x cannot be set, because batch is a single value"),
        ({"images": "here"}, "There is nothing at .*here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_raises_an_error_that_names_it(tmp_path: Path, how: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        fake(tmp_path, **how)
    assert "--" not in str(caught.value), "the message names arguments, not options"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_every_name_that_dir_lists_is_there() -> None:
    code = "import daskt2i; print(*(getattr(daskt2i, name) is not None for name in dir(daskt2i)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert set(done.stdout.split()) == {"True"}, done.stderr


def test_load_workflow_takes_a_path(tmp_path: Path) -> None:
    assert daskt2i.load_workflow(write_workflow(tmp_path / "fake.yaml")).name == "fake"


@pytest.mark.parametrize("given", [5, "x", [1]])
def test_storage_options_that_are_no_mapping_are_named(tmp_path: Path, given: Any) -> None:
    with pytest.raises(ConfigError, match=r"run\.storage_options"):
        Run(out=tmp_path / "out", settings={"run.storage_options": given}, progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"run.storage_options": {"key": "a"}}, {"run": {"storage_options": {"key": "a"}}}])
def test_storage_options_in_settings_open_the_run_folder(tmp_path: Path, given: dict[str, Any]) -> None:
    fake(tmp_path).encode()
    opened: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daskt2i.session.run_settings._own_settings", lambda folder: opened.append(folder))
        Run(out=tmp_path / "out", settings=given, progress=False)
    assert opened[0].storage_options == {"key": "a"}


@pytest.mark.parametrize("value", ["text", ["text"], 3])
def test_credentials_that_hold_no_names_are_refused_by_the_name_of_the_setting(value: Any, tmp_path: Path) -> None:
    for workflow in (None, "demo"):
        with pytest.raises(ConfigError, match=r"run\.storage_options") as error:
            daskt2i.Run(workflow, tmp_path / "run", settings={"run.storage_options": value})
        assert "text" not in str(error.value)


def test_nested_and_dotted_settings_give_the_same_workflow(tmp_path: Path) -> None:
    dotted = fake(tmp_path, settings={"run.batch": 2, "train.steps": 5})
    nested = fake(tmp_path, settings={"run": {"batch": 2}, "train": {"steps": 5}})
    assert dotted.workflow == nested.workflow


def test_plan_refuses_an_unknown_stage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no plan of 'vae'; there are plans of encode, train and run"):
        fake(tmp_path).plan("vae")  # type: ignore[arg-type]


# Folders


def test_open_run_refuses_a_folder_that_is_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreMissing, match=r"nowhere does not exist"):
        daskt2i.open_run(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(StoreMissing, match="is not a run folder"):
        daskt2i.open_run(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["run: {bach: 4}", "a: [1", "[1, 2]", "name: x", "\x00"])
def test_unreadable_settings_in_a_folder_raise_an_error_and_the_file_stays(tmp_path: Path, text: str) -> None:
    fake(tmp_path).encode()
    kept = tmp_path / "out" / "workflow.yaml"
    kept.write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be read: .* Another version of daskt2i may have written them"):
        daskt2i.open_run(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"Nothing was changed\. Name a workflow"):
        Run(out=tmp_path / "out", progress=False)
    assert kept.read_text() == text
    assert fake(tmp_path).encode().skipped == 3, "a run with a named workflow continues"


def test_a_run_folder_below_a_file_raises_an_error_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    workflow = write_workflow(tmp_path / "f.yaml")
    with pytest.raises(StoreError, match="a part of this path is a file"):
        Run(workflow, tmp_path / "file" / "out", scheduler="serial", progress=False).encode()
    assert (tmp_path / "file").read_text() == "mine"


def test_settings_of_a_run_folder_cannot_run_classes_from_outside_daskt2i(tmp_path: Path) -> None:
    fake(tmp_path).encode()
    kept = tmp_path / "out" / "workflow.yaml"
    data = yaml.safe_load(kept.read_text())
    data["dataset"]["source"] = {"class": "os.system", "rows": 1}
    kept.write_text(yaml.safe_dump(data))
    run = daskt2i.open_run(tmp_path / "out", progress=False)
    for verb in (run.encode, run.train, run.train_vae, run.insights, run.plan, run.estimate):
        with pytest.raises(ConfigError, match=r"name os\.system, which is not part of daskt2i's sources"):
            verb()
    assert run.status().complete, "reading runs nothing"
    assert "os.system" in " ".join(run.verify().notes)


GADGETS: list[dict[str, Any]] = [
    {"class": "subprocess.Popen", "args": ["touch", "MARK"]},
    {
        "class": "daskt2i.facts.selection.SelectedSource",
        "source": {"class": "subprocess.Popen", "args": ["touch", "MARK"]},
    },
    {
        "class": "daskt2i.deploy.cluster_process.ClusterProcess",
        "factory": "subprocess.Popen",
        "arguments": {"args": ["touch", "MARK"]},
        "config": {},
        "environ": {},
    },
    {"class": "daskt2i.sources.scenes.write_scenes", "folder": "MARK", "rows": 1},
]
"""Components that would run code or write files. MARK is a path."""


@pytest.mark.parametrize("gadget", GADGETS, ids=lambda gadget: str(gadget["class"]))
def test_settings_of_a_run_folder_may_only_name_shipped_sources_and_encoders(
    tmp_path: Path, gadget: dict[str, Any]
) -> None:
    fake(tmp_path).encode()
    kept, mark = tmp_path / "out" / "workflow.yaml", tmp_path / "mark"
    data = yaml.safe_load(kept.read_text())
    data["dataset"]["source"] = json.loads(json.dumps(gadget).replace("MARK", str(mark)))
    kept.write_text(yaml.safe_dump(data))
    run = daskt2i.open_run(tmp_path / "out", scheduler="serial", progress=False)
    for call in (run.plan, run.encode, run.insights):
        with pytest.raises(ConfigError, match="not part of daskt2i"):
            call()
    assert run.verify().ok
    assert str(gadget["class"]) in " ".join(run.verify().notes)
    assert not mark.exists()


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:9", "/tmp/evil:c.yaml:1", "simulation", "mine.yaml:2"])
def test_settings_of_a_run_folder_cannot_name_another_cluster(tmp_path: Path, scheduler: str) -> None:
    fake(tmp_path).encode()
    kept = tmp_path / "out" / "workflow.yaml"
    data = yaml.safe_load(kept.read_text())
    data["run"]["scheduler"] = scheduler
    kept.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="if you trust it, give it yourself"):
        daskt2i.open_run(tmp_path / "out", progress=False).encode()


@pytest.mark.parametrize("name", ["train/metrics.jsonl", "latents.zarr/zarr.json", "samples/sheet.png"])
@pytest.mark.parametrize("text", ["junk", '{"loss": "x", "step": 1}', '{"attributes": {"daskt2i": 5}}', None])
def test_a_run_shows_itself_with_damaged_files(tmp_path: Path, name: str, text: str | None) -> None:
    fake(tmp_path).encode()
    damaged = tmp_path / "out" / name
    damaged.parent.mkdir(exist_ok=True)
    if text is None:  # a folder instead of a file
        damaged.unlink(missing_ok=True)
        damaged.mkdir()
    else:
        damaged.write_text(text)
    run = fake(tmp_path)
    assert "daskt2i.Run" in repr(run)
    assert run.out in run._repr_html_()


def test_a_property_that_fails_raises_its_own_error(tmp_path: Path) -> None:
    class Mine(Run):
        @property
        def broken(self) -> Any:
            return None.there  # type: ignore[attr-defined]

    run = Mine(write_workflow(tmp_path / "fake.yaml"), tmp_path / "out", progress=False)
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'there'"):
        _ = run.broken


def test_a_run_cannot_be_pickled_and_the_error_says_what_to_send(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Send run.out, and use open_run there"):
        pickle.dumps(fake(tmp_path))


def test_one_setting_with_two_values_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.steps has two values\. .* give only one of them \(settings\)"):
        fake(tmp_path, settings={"train": {"steps": 5}, "train.steps": 6})
    with pytest.raises(ConfigError, match=r"dataset\.where has two values"):
        fake(tmp_path, settings={"dataset.where": "people"}, where="not people")


def test_a_current_folder_that_was_removed_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = (
        f"import os, daskt2i; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir({str(tmp_path / 'gone')!r})\n"
        "try: daskt2i.open_run('runs/x')\nexcept Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.stdout.startswith("ConfigError The run folder runs/x cannot be found from here")


def test_settings_of_a_run_folder_cannot_start_a_cluster_file(tmp_path: Path) -> None:
    fake(tmp_path).encode()
    kept = tmp_path / "out" / "workflow.yaml"
    (tmp_path / "mine.yaml").write_text("cluster: os.system")
    data = yaml.safe_load(kept.read_text())
    data["run"]["scheduler"] = str(tmp_path / "mine.yaml")
    kept.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"name the scheduler .*mine.yaml, which is not on this machine"):
        daskt2i.open_run(tmp_path / "out", progress=False).encode()
    assert daskt2i.open_run(tmp_path / "out", progress=False, scheduler="serial").encode().skipped == 3


def test_reading_an_empty_run_folder_raises_an_error_that_names_what_is_missing(tmp_path: Path) -> None:
    run = fake(tmp_path)
    with pytest.raises(StoreMissing, match="There is no latent store"):
        run.status()
    with pytest.raises(StoreMissing):
        _ = run.store
    with pytest.raises(StoreMissing, match=r"has no manifest.parquet yet, .* encode to the end"):
        _ = run.manifest
    assert run.metrics.empty
    with pytest.raises(ModelMissing, match="There is no trained pipeline"):
        run.sample("x")
    with pytest.raises(ModelMissing):
        run.load_pipeline()
    assert "nothing is encoded yet" in repr(run)


def test_encode_refuses_a_store_with_another_setting_and_names_it(tmp_path: Path) -> None:
    fake(tmp_path).encode()
    with pytest.raises(FingerprintMismatch, match=r"dataset.image.resolution: 32 there, 64 now"):
        fake(tmp_path, settings={"dataset.image.resolution": 64}).encode()


def test_a_workflow_that_differs_from_the_folders_settings_is_noted_once(tmp_path: Path) -> None:
    fake(tmp_path).encode()
    told: list[Event] = []
    run = fake(tmp_path, settings={"train.steps": 7}, progress=told.append)
    run.status()
    run.status()
    notes = [event.text for event in told if isinstance(event, Note)]
    assert len(notes) == 1
    assert "train.steps: 1000 there, 7 now" in notes[0]
    assert "give the run folder (out) and no workflow" in notes[0]
    own = daskt2i.open_run(tmp_path / "out", progress=told.append)
    own.status()
    assert own.workflow.train.steps == 1000
    assert len([event for event in told if isinstance(event, Note)]) == 1


# Workers


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """The client of a user's cluster with two workers. It is not Dask's current client."""
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with (
        LocalCluster(2, threads_per_worker=1, **here) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_a_run_uses_the_given_client_and_does_not_close_it(tmp_path: Path, client: Client) -> None:
    with fake(tmp_path, scheduler=None, client=client) as run:
        result = run.encode()
        assert (result.workers, result.accepted) == (2, ROWS)
        assert run.client is client
        assert run.dashboard_link == client.dashboard_link
    assert client.status == "running"
    assert client.submit(int, 7).result() == 7


def test_each_stage_has_its_own_number_of_threads(tmp_path: Path) -> None:
    """Insights uses one thread on each worker. An encode after it uses what `run.threads` or the worker has."""
    here = {"dashboard_address": "127.0.0.1:0", "set_as_default": False}
    with Client(processes=False, n_workers=1, threads_per_worker=2, **here) as client:
        run = fake(tmp_path, scheduler=None, client=client)
        run.insights(pictures=False, tokens=False)
        assert run.encode().threads == 2
        one = fake(tmp_path / "one", scheduler=None, client=client, settings={"run.threads": 1})
        assert one.encode().threads == 1
        assert one._workers().spawner(WorkerLayout(0, 0, 0, ""))[1].threads == 2


def test_a_run_uses_the_current_client_and_notes_it_if_no_client_is_given(tmp_path: Path, client: Client) -> None:
    told: list[Event] = []
    with client.as_current(), fake(tmp_path, scheduler=None, progress=told.append) as run:
        assert run.encode().workers == 2
        assert run.client is client
    notes = [event.text for event in told if isinstance(event, Note)]
    assert notes == [f"This run uses Dask's current client: {client.scheduler.address}."]
    assert client.status == "running"


def test_two_runs_in_two_threads_can_share_one_client(tmp_path: Path, client: Client) -> None:
    found: dict[int, object] = {}

    def work(number: int) -> None:
        try:
            (tmp_path / str(number)).mkdir()
            found[number] = fake(tmp_path / str(number), scheduler=None, client=client).encode().accepted
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: ROWS, 1: ROWS}


def test_a_client_without_processes_works(tmp_path: Path) -> None:
    """The workers are threads of this process."""
    here = {"dashboard_address": "127.0.0.1:0", "set_as_default": False}
    with Client(processes=False, n_workers=2, threads_per_worker=1, **here) as client:
        result = fake(tmp_path, scheduler=None, client=client).encode()
        assert (result.workers, result.accepted) == (2, ROWS)
        assert client.status == "running"


def test_an_asynchronous_client_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with Client(processes=False, asynchronous=True, dashboard_address="127.0.0.1:0") as client:
            with pytest.raises(ConfigError, match="client is asynchronous"):
                fake(tmp_path, scheduler=None, client=client)
            with pytest.raises(ConfigError, match="client is asynchronous"):
                fake(tmp_path, scheduler=None).encode()

    asyncio.run(main())


def test_a_closed_client_is_refused(tmp_path: Path, client: Client) -> None:
    other = Client(client.scheduler.address, set_as_default=False)
    run = fake(tmp_path, scheduler=None, client=other)
    other.close()
    with pytest.raises(ConfigError, match="client is closed, so it cannot run work"):
        run.encode()
    with pytest.raises(ConfigError, match="client is closed"):
        fake(tmp_path, scheduler=None, client=other)


def test_an_unreachable_scheduler_raises_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError, match=r"No scheduler answers at tcp://127.0.0.1:9\. Nothing was started"):
        fake(tmp_path, scheduler="tcp://127.0.0.1:9").encode()


def test_a_closed_run_raises_an_error_that_says_how_to_make_a_new_run(tmp_path: Path) -> None:
    run = fake(tmp_path)
    run.encode()
    run.close()
    run.close()
    for verb in (run.encode, run.verify, lambda: run.sample("x")):
        with pytest.raises(ConfigError, match="This run is closed"):
            verb()
    with pytest.raises(ConfigError, match="This run is closed"), run:
        pass
    with pytest.raises(ConfigError) as caught:
        run.encode()
    assert str(caught.value).endswith("make a new run with daskt2i.Run or daskt2i.open_run.")
    assert daskt2i.open_run(run.out, progress=False).status().complete
    assert Run(run.workflow, run.out, progress=False).status().complete
    assert "closed" in repr(run)


def test_a_method_that_is_called_on_the_class_says_so() -> None:
    for method in (Run.encode, Run.status):
        with pytest.raises(UnknownArgument, match=r"was called on the class.*call run\."):
            method()


@pytest.mark.slow  # by default, other tests here start and close one
def test_a_run_starts_its_cluster_once_starts_it_again_if_it_is_lost_and_closes_it(tmp_path: Path) -> None:
    before = children()
    with fake(tmp_path, scheduler="local:1") as run:
        assert run.client is None
        run.encode()
        first = run.client
        run.insights(pictures=False, tokens=False)
        assert first is not None
        assert run.client is first
        assert run.dashboard_link is not None
        assert run.dashboard_link.startswith("http://127.0.0.1")
        assert children() - before
        first.close()
        assert run.insights(pictures=False, tokens=False).rows == ROWS
        assert children() - before
    assert children() - before == set()
    assert run.client is None


@pytest.mark.slow  # it starts a cluster of its own
def test_in_a_running_event_loop_a_cluster_starts_and_it_ends_if_the_run_is_deleted_without_close(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        before = children()
        run = fake(tmp_path, scheduler="local:1")
        assert run.encode().accepted == ROWS
        assert children() - before
        del run
        gc.collect()
        assert children() - before == set()

    asyncio.run(main())


@pytest.mark.slow  # by default, tests of the cluster process end drivers that do not close
def test_a_program_that_does_not_close_its_run_ends_quietly_and_leaves_no_process(tmp_path: Path) -> None:
    path = write_workflow(tmp_path / "f.yaml")
    code = (
        "import daskt2i, psutil\n"
        f"run = daskt2i.Run({str(path)!r}, {str(tmp_path / 'out')!r}, scheduler='local:1', progress=False)\n"
        "print(run.encode().accepted)\n"
        "print(*(child.pid for child in psutil.Process().children(recursive=True)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=child_environment())
    assert done.returncode == 0
    assert done.stderr == ""
    accepted, pids = done.stdout.splitlines()
    assert accepted == str(ROWS)
    assert pids
    assert left(at(map(int, pids.split()))) == []


def test_every_error_of_daskt2i_renders_as_one_line() -> None:
    data = fake_data()
    data["dataset"]["rows_per_chunk"] = 0
    with pytest.raises(Daskt2iError) as caught:
        daskt2i.load_workflow("demo", {"dataset": data["dataset"]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.sample("a", count=0), "count is 0, but it must be a whole number from 1"),
        (lambda run: run.sample("a", count=1.5), "count is 1.5, but it must be a whole number from 1"),
        (lambda run: run.sample(7), "prompts is 7, but it must be a text, or a list of texts"),
        (lambda run: run.sample(["a", 3]), "it must be a text, or a list of texts"),
        (lambda run: run.sample("a", seed=-1), "seed is -1, but it must be a whole number from 0"),
        (lambda run: run.sample("a", guidance=float("nan")), "guidance is nan, but it must be a number from 0"),
        (lambda run: run.sample("a", sampler="plms"), r"sampler is 'plms', but it must be one of dpm\+\+, ddim, euler"),
        (lambda run: run.suggest(3), "text is 3, but it must be a text"),
        (lambda run: run.insights(top="x"), "top is 'x', but it must be a whole number from 1"),
        (lambda run: run.estimate(workers=0), "workers is 0, but it must be a whole number from 1"),
        (lambda run: run.estimate(rows=-5), "rows is -5, but it must be a whole number from 1"),
        (lambda run: Run("demo", out=5), "out is 5, but it must be a path or an address"),
        (lambda run: daskt2i.open_run(5), "path is 5, but it must be a path or an address"),
    ],
    ids=lambda value: value.split(",")[0] if isinstance(value, str) else "",
)
def test_an_argument_of_the_wrong_kind_is_named_with_what_it_must_be(
    tmp_path: Path, call: Callable[[Run], object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        call(fake(tmp_path))
    assert str(caught.value).endswith("Nothing was started.")


def test_a_run_shows_itself_after_its_client_was_closed(tmp_path: Path, client: Client) -> None:
    other = Client(client.scheduler.address, set_as_default=False)
    run = fake(tmp_path, scheduler=None, client=other)
    other.close()
    assert "the client is closed" in repr(run)
    assert "<table>" in run._repr_html_()


def test_a_plan_of_training_refuses_what_training_would_refuse(finished: Run, tmp_path: Path) -> None:
    assert "3 steps are done" in repr(finished.plan("train"))
    assert "7 steps of" in repr(finished.with_settings({"train.steps": 7}).plan("train"))
    for changes, error, says in (
        ({"train.seed": 7}, FingerprintMismatch, r"train.seed: 0 there, 7 now"),
        ({"train.steps": 2}, ConfigError, r"has 3 steps, but this training would end after 2"),
    ):
        for stage in ("train", "run"):
            with pytest.raises(error, match=says):
                finished.with_settings(changes).plan(stage)  # type: ignore[arg-type]
    fake(tmp_path).encode()
    with pytest.raises(ConfigError, match=r"train.validation is 64, but there are only 20 rows"):
        fake(tmp_path).plan("train")


def test_other_settings_that_were_asked_for_are_not_pointed_out(finished: Run) -> None:
    told: list[Event] = []
    run = daskt2i.open_run(finished.out, scheduler="serial", progress=told.append)
    run.with_settings({"train.steps": 7}).status()
    assert not any(isinstance(event, Note) for event in told)
