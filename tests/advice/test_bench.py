"""What `cli` and `bench` tell a user to do works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.advice import covers, told
from builders.coco import coco_source, settings, write_coco
from builders.command_line import run
from builders.workflows import fake_settings, load_workflow

from daskt2i.bench.child import perform
from daskt2i.bench.device.driver import PARTS, chosen
from daskt2i.bench.encode.driver import EncodeBench, EncodeBenchSettings
from daskt2i.bench.encode.naive import require_plain
from daskt2i.bench.encode.rows import BenchRows, with_rows
from daskt2i.bench.encode.scaling import _baseline_notes
from daskt2i.bench.loaders.driver import LOADERS as NAMES
from daskt2i.bench.loaders.driver import bench_loaders
from daskt2i.bench.loaders.peer import LOADERS
from daskt2i.bench.loaders.rows import TEXTS, shape_of
from daskt2i.bench.measured import BenchTask
from daskt2i.bench.peers import peer
from daskt2i.bench.peers.driver import PeerBench, PeerSettings
from daskt2i.bench.peers.inputs import require_plain as require_plain_models
from daskt2i.bench.peers.inputs import write_rows
from daskt2i.bench.sample import bench_sample
from daskt2i.bench.scheduler import SchedulerBench, SimulationSettings
from daskt2i.bench.stores import SHAPES, shape_named
from daskt2i.bench.train import bench_train
from daskt2i.cli.front import parse_sets
from daskt2i.cli.numbers import seconds, whole_numbers
from daskt2i.config.component import Component
from daskt2i.store.run_folder import RunFolder


def test_texts_as_in_the_messages_are_taken() -> None:
    with told("cli/front.py:_parsed ConfigError"):
        parse_sets(["batch=4"])
    assert parse_sets(["run.batch=4"]) == {"run.batch": 4}
    with told("cli/front.py:_parsed ConfigError"):
        parse_sets(["sample.prompts=[a"])
    assert parse_sets(["sample.prompts=[a]"]) == {"sample.prompts": ["a"]}
    with told("cli/numbers.py:whole_numbers ConfigError"):
        whole_numbers("0", "--workers")
    assert whole_numbers("1,2,4", "--workers") == (1, 2, 4)
    with told("cli/numbers.py:seconds ConfigError"):
        seconds("soon", "--chunk-seconds")
    assert seconds("0,0.5", "--chunk-seconds") == (0.0, 0.5)


def test_numbers_schedulers_and_parts_as_in_the_messages_are_measured() -> None:
    with told("bench/encode/driver.py:EncodeBenchSettings.cells ConfigError"):
        EncodeBenchSettings(("serial",), (1,), ("both",), rows=0).cells()
    assert EncodeBenchSettings(("serial",), (1,), ("both",), rows=1).cells()
    wrong: Any = ("images",)
    with told("bench/encode/driver.py:EncodeBenchSettings.cells ConfigError"):
        EncodeBenchSettings(("serial",), (1,), wrong, rows=1).cells()
    assert EncodeBenchSettings(("serial",), (1,), ("vae", "text", "both"), rows=1).cells()
    with told("bench/encode/driver.py:EncodeBenchSettings.cells ConfigError"):
        EncodeBenchSettings(("joblib:2",), (1,), ("both",), rows=1).cells()
    (cell,) = EncodeBenchSettings(("joblib",), (2,), ("both",), rows=1).cells()
    assert cell.workers == 2


def test_without_naive_any_encoder_is_measured() -> None:
    with told("bench/encode/naive.py:require_plain ConfigError"):
        require_plain(fake_settings(), "both")
    assert EncodeBenchSettings(("serial",), (1,), ("both",), rows=1).cells()


def test_one_row_and_no_where_are_measured(tmp_path: Path) -> None:
    source = {"class": "daskt2i.sources.fake.FakeSource", "rows": 8}
    with told("bench/encode/rows.py:BenchRows.__init__ ConfigError"):
        BenchRows(source, 0)
    assert BenchRows(source, 1).info().rows == 1
    folder = write_coco(tmp_path)
    with told("bench/encode/rows.py:with_rows ConfigError"):
        with_rows(settings(folder), 4, "both")
    assert with_rows(settings(folder, None), 4, "both")


def test_one_worker_gives_a_speed_up() -> None:
    covers("bench/encode/scaling.py:_baseline_notes Note")
    assert "Add 1 to the workers" in _baseline_notes({"both": None})[0]
    counts = [cell.workers for cell in EncodeBenchSettings(("joblib",), (1, 2), ("both",), rows=1).cells()]
    assert 1 in counts  # a single worker is measured


def test_a_pipeline_and_a_prompt_are_measured(demo_run: Path, tmp_path: Path) -> None:
    with told("bench/sample.py:bench_sample ModelMissing"):
        bench_sample(tmp_path, [1], [1], prompts=["a red circle"])
    place = demo_run / "pipeline"
    with told("bench/sample.py:bench_sample ConfigError"):
        bench_sample(place, [1], [1], prompts=[])
    assert bench_sample(place, [1], [1], prompts=["a red circle"], repeats=1).cells


def test_parts_as_in_the_message_are_measured() -> None:
    with told("bench/device/driver.py:chosen ConfigError"):
        chosen(["everything"])
    assert tuple(chosen(PARTS)) == PARTS


def test_chunks_and_seconds_as_in_the_messages_are_simulated(tmp_path: Path) -> None:
    def bench(**changes: Any) -> SchedulerBench:
        given = {"chunks": 2, "rows": 4, "workers": (1,), "chunk_seconds": (0.0,), **changes}
        return SchedulerBench(RunFolder(tmp_path), SimulationSettings(**given))

    with told("bench/scheduler.py:SchedulerBench.__post_init__ ConfigError"):
        bench(chunks=5)
    assert bench(chunks=4)
    with told("bench/scheduler.py:SchedulerBench.__post_init__ ConfigError"):
        bench(chunk_seconds=(-1.0,))
    assert bench(chunk_seconds=(0.0,))


def test_benchmarks_take_a_folder_on_this_machine(tmp_path: Path) -> None:
    remote, local = RunFolder(f"memory://{tmp_path.name}"), RunFolder(tmp_path)
    encode = EncodeBenchSettings(("serial",), (1,), ("both",), rows=1)
    with told("bench/encode/driver.py:EncodeBench.__post_init__ ConfigError"):
        EncodeBench(fake_settings(), remote, encode)
    assert EncodeBench(fake_settings(), local, encode)
    simulation = SimulationSettings(rows=4, chunks=2, workers=(1,), chunk_seconds=(0.0,))
    with told("bench/scheduler.py:SchedulerBench.__post_init__ ConfigError"):
        SchedulerBench(remote, simulation)
    assert SchedulerBench(local, simulation)


HEAVY = """
import json, os, signal, sys
from daskt2i.sources.fake import FakeSource

class Heavy(FakeSource):
    def info(self):
        if json.load(open(sys.argv[1]))["workers"] > 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().info()
"""
"""A source for a small machine: with two workers, the kernel kills the measuring process."""


def test_fewer_workers_are_measured_where_memory_was_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heavy_source.py").write_text(HEAVY, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    workflow = fake_settings(rows=4, source={"class": "heavy_source.Heavy"}).to_yaml()

    def measure(workers: int) -> dict[str, Any]:
        return perform(BenchTask("encode", workflow, str(tmp_path / str(workers)), "both", "serial", workers=workers))

    with told("bench/child.py:perform ExecutorError") as error:
        measure(2)
    assert "-9" in str(error.value)
    assert measure(1)["measured"]["accepted"] == 4


def test_shapes_that_are_listed_are_there() -> None:
    with told("bench/stores.py:shape_named ConfigError"):
        shape_named("huge")
    assert all(shape_named(name) for name in SHAPES)


def test_texts_and_loaders_that_are_listed_are_there() -> None:
    with told("bench/loaders/rows.py:shape_of ConfigError"):
        shape_of("long")
    assert all(shape_of(text) for text in TEXTS)
    with told("bench/loaders/driver.py:bench_loaders ConfigError"):
        bench_loaders(["compact"], ["dali"])
    assert {"daskt2i", *LOADERS} == set(NAMES)


def test_ranks_and_batches_as_in_the_messages_are_measured() -> None:
    workflow = load_workflow("demo", ["train.batch=4"])

    class Begun(Exception):
        pass

    def spawner(ranks: int, threads: int) -> Any:
        raise Begun

    with told("bench/train.py:bench_train ConfigError"):
        bench_train([3], workflow.train, workflow.launch, spawner=spawner)
    with told("bench/train.py:bench_train ConfigError"):
        bench_train([2], workflow.train, workflow.launch, steps=1, spawner=spawner)
    with pytest.raises(Begun):  # other ranks, and two steps
        bench_train([2], workflow.train, workflow.launch, steps=2, spawner=spawner)
    three = load_workflow("demo", ["train.batch=6"])
    with pytest.raises(Begun):
        bench_train([3], three.train, three.launch, spawner=spawner)


@pytest.mark.parametrize(
    ("place", "wrong", "right"),
    [
        ("cli/bench/training.py:read ConfigError", ["read", "--from=tape"], ["read", "--from=memory", "--shapes=none"]),
        ("cli/bench/training.py:sample ConfigError", ["sample", "--sampler=x"], ["sample", "--sampler=euler"]),
    ],
)
def test_options_as_in_the_messages_are_taken(place: str, wrong: list[str], right: list[str], tmp_path: Path) -> None:
    covers(place)
    said = run("bench", *wrong, cwd=tmp_path).stderr
    assert wrong[1].partition("=")[0] in said
    assert right[1].partition("=")[2] in said
    after = run("bench", *right, cwd=tmp_path).stderr  # refused for another reason, which is told next
    assert right[1].partition("=")[0] not in after
    assert after != said


def test_peers_rows_and_encoders_as_in_the_messages_are_measured(tmp_path: Path) -> None:
    demo = load_workflow("demo")
    with told("bench/peers/driver.py:PeerBench.__post_init__ ConfigError"):
        PeerBench(demo, PeerSettings(("spark",)))
    for wrong in (PeerSettings(rows=1, workers=1), PeerSettings(rows=3, workers=4)):
        with told("bench/peers/driver.py:PeerBench.__post_init__ ConfigError"):
            PeerBench(demo, wrong)
    assert set(PeerBench(demo, PeerSettings(peer.NAMES, rows=4, workers=4)).runs) == {"daskt2i", *peer.NAMES}
    assert PeerBench(demo, PeerSettings(rows=2, workers=1))
    with told("bench/peers/inputs.py:require_plain ConfigError"):
        require_plain_models(fake_settings())
    chosen = demo.model_copy(update={"dataset": demo.dataset.model_copy(update={"where": "people"})})
    with told("bench/peers/inputs.py:require_plain ConfigError"):
        require_plain_models(chosen)
    require_plain_models(demo)
    for captions, there in (([[], []], 0), ([["a cat"], []], 1)):
        coco = write_coco(tmp_path / str(there), captions)
        source = Component.model_validate(coco_source(coco))
        dataset = demo.dataset.model_copy(update={"source": source})
        given = demo.model_copy(update={"scenes": None, "dataset": dataset})
        if there:
            write_rows(given, tmp_path / "made", 2)
            continue
        with told("bench/peers/inputs.py:_taken ConfigError"):
            write_rows(given, tmp_path / "none", 2)
