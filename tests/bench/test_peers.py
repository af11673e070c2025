"""`bench peers`: all tools encode the same rows, a tool that made something else has no figures."""

from __future__ import annotations

import json
import os
import py_compile
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.coco import coco_source, write_coco
from builders.workflows import load_workflow

from daskt2i.bench.peers import agreement, peer
from daskt2i.bench.peers.columns import Ran, cells, plots
from daskt2i.bench.peers.driver import OURS, PeerBench, PeerSettings, environment_of
from daskt2i.bench.peers.environments import python_for
from daskt2i.bench.peers.inputs import write_models, write_rows
from daskt2i.bench.peers.watch import Watched, watch
from daskt2i.config.component import Component
from daskt2i.config.settings import Workflow
from daskt2i.errors import ExecutorError


def small(folder: Path) -> Workflow:
    """The demo's models, and ten rows of which the second has no file."""
    coco = write_coco(folder / "coco", missing=(1,))
    workflow = load_workflow("demo")
    source = Component.model_validate(coco_source(coco))
    dataset = workflow.dataset.model_copy(update={"source": source, "precision": "fp32"})
    run = workflow.run.model_copy(update={"device": "cpu"})
    return workflow.model_copy(update={"dataset": dataset, "run": run, "scenes": None})


def test_the_naive_loop_and_ours_make_the_same_of_the_same_rows(tmp_path: Path) -> None:
    workflow = write_rows(small(tmp_path), tmp_path, 12)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["row"] for row in rows] == list(range(12))
    assert len({Path(row["path"]).read_bytes() for row in rows}) < 12  # the source has fewer, so some are repeated
    models = write_models(workflow, tmp_path)
    samples, results = {}, {}
    for name in (OURS, "naive", "naive-tuned"):
        out = tmp_path / name
        out.mkdir()
        task: dict[str, Any] = {
            **models,
            "name": name,
            "rows": str(tmp_path / "rows.json"),
            "workflow": workflow.to_yaml(),
            "resolution": workflow.dataset.image.resolution,
            "precision": "fp32",
            "workers": 1,
            "batch": 4,
            "scheduler": "serial",
            "checked": [0, 3, 11],
            "out": str(out),
            "begun": time.time(),
        }
        run, read = peer.TOOLS[name.removesuffix("-tuned")]
        results[name] = run(task) | peer.check(task, read(task))
        samples[name] = agreement.sample(out)
        assert agreement.problem(results[name], 12, samples[name], samples[OURS]) is None
        assert (
            task["begun"] <= results[name]["loaded"] <= results[name]["encoded"] <= results[name]["done"] <= time.time()
        )
    off = agreement.difference(samples["naive"], samples[OURS], "mean")
    assert off is not None
    assert off[0] > 0  # ours is stored in fp16
    assert off[1] < 0.01
    assert "12 rows" in str(agreement.problem(results["naive"] | {"rows": 11}, 12, samples["naive"], samples[OURS]))
    assert "finite" in str(agreement.problem(results["naive"] | {"finite": False}, 12, samples["naive"], samples[OURS]))
    other = samples["naive"] | {"mean-0": samples["naive"]["mean-3"], "mean-3": samples["naive"]["mean-0"]}
    assert "latents are not ours" in str(agreement.problem(results["naive"], 12, other, samples[OURS]))
    short = {key: value for key, value in samples["naive"].items() if key != "states-11"}
    assert "text states have another shape" in str(agreement.problem(results["naive"], 12, short, samples[OURS]))


TOOL = f"""#!{sys.executable}
import json, sys, time
import numpy as np
task = json.load(open(sys.argv[3]))
if task["name"] == "datasets":
    sys.exit("a library that is not there.")
if task["name"] == "naive-slow":
    time.sleep(60)
off = 5.0 if task["name"] == "ray" else 0.001
made = {{f"{{part}}-{{n}}": np.full((3, 2), n + (off if task["name"] != "daskt2i" else 0), np.float32)
        for part in ("mean", "states") for n in (0, 1)}}
np.savez(task["out"] + "/sample.npz", **made)
begun = time.time()
time.sleep(0.3)
json.dump({{"loaded": begun, "encoded": begun + 0.2, "done": time.time(), "ended": time.time(),
           "precision": "fp32", "bytes": 10, "rows": 2, "finite": True}}, open(sys.argv[4], "w"))
"""


def test_a_peer_that_fails_or_makes_other_latents_is_reported_and_the_rest_is_measured(tmp_path: Path) -> None:
    python = tmp_path / "tool"
    python.write_text(TOOL)
    python.chmod(0o755)
    told: list[str] = []
    wanted = PeerSettings(("ray", "datasets", "naive"), rows=2, workers=1)
    bench = PeerBench(load_workflow("demo"), wanted, told.append)
    for number in range(2):
        for name in (OURS, "ray", "datasets", "naive"):
            if name not in bench.failed:
                bench._measure(name, str(python), {"name": name}, tmp_path, number)
    lines = list(cells(bench.runs, bench.failed, OURS))
    by_name = {line.values["tool"]: line for line in lines}
    assert list(by_name) == [OURS, "ray", "datasets", "naive"]
    assert "images_per_s" not in by_name["ray"].values
    assert by_name["ray"].flags[0].startswith("Failed, so ray has no figures: its latents are not ours")
    assert "said: a library that is not there" in by_name["datasets"].flags[0]
    assert by_name["naive"].values["rounds"] == 2
    assert 0 < float(by_name["naive"].values["latents_off_share"] or 0) < 0.01
    assert by_name[OURS].values["of_ours"] == 1.0
    assert any("ray has no figures" in line for line in told)
    assert [plot.categories for plot in plots(lines)] == [("daskt2i, fp32", "naive, fp32")] * 2


def test_ratios_are_of_the_same_round() -> None:
    def ran(number: int, rate: float) -> Ran:
        return Ran(number, "fp32", rate, 1 / rate, 1.0, 2.0, 100, 10, 0.0, rate, 1 / rate)

    runs = {OURS: [ran(0, 4.0), ran(1, 2.0), ran(2, 1.0)], "ray": [ran(2, 0.5), ran(0, 1.0)], "naive": []}
    ours, ray, naive = cells(runs, {"naive": "naive could not be installed."}, OURS)
    assert (ray.values["of_ours"], ray.values["of_ours_low"], ray.values["of_ours_high"]) == (0.375, 0.25, 0.5)
    assert (ours.values["images_per_s"], ours.values["of_ours_high"]) == (2.0, 1.0)
    assert naive.flags == ("naive could not be installed.",)


def test_a_command_is_watched_with_its_children_and_stopped_at_its_limit(tmp_path: Path) -> None:
    child = (
        "import time; data = bytearray(60 << 20); end = time.process_time() + 0.6\nwhile time.process_time() < end: 1"
    )
    code = f"import subprocess, sys; print('here'); subprocess.run([sys.executable, '-c', {child!r}])"
    environment = dict(os.environ)
    begun = time.time()
    found = watch([sys.executable, "-c", code], environment, tmp_path / "log", 60)
    assert found.code == 0
    assert (tmp_path / "log").read_text() == "here\n"
    assert found.cpu_between(begun, time.time()) > 0.3
    assert found.peak_until(time.time()) >= 0
    stopped = watch([sys.executable, "-c", "import time; time.sleep(60)"], environment, tmp_path / "log", 0.3)
    assert stopped.code is None
    series = Watched(cpu=[(10.0, 1.0), (12.0, 3.0)], machine=[(10.0, 5.0), (12.0, 8.0)], memory=[(10.0, 7), (12.0, 9)])
    assert series.cpu_between(10.5, 11.5) == 1.0
    assert series.elsewhere_between(10, 12) == 1.0
    assert (series.peak_until(11), series.peak_until(12)) == (7, 9)


def test_the_script_of_the_peers_needs_nothing_of_ours(tmp_path: Path) -> None:
    py_compile.compile(str(Path(peer.__file__)), cfile=str(tmp_path / "peer.pyc"), doraise=True)
    assert "PYTHONPATH" not in environment_of("ray", tmp_path)
    assert str(Path(peer.__file__).parents[3]) in environment_of(OURS, tmp_path)["PYTHONPATH"]
    assert {name.removesuffix("-tuned") for name in peer.NAMES} | {OURS} == set(peer.TOOLS)


def test_rows_of_parquet_get_their_shapes_back() -> None:
    states = [np.arange(12, dtype=np.float32).reshape(2, 3, 2), np.ones((1, 4, 2), np.float32)]
    made = {"mean": [np.zeros((4, 2, 2)), np.ones((4, 2, 2))], "states": states}
    flat = {name: peer.flat(values) for name, values in made.items()}
    column = peer.lists(flat["states"]).to_pylist()
    for row, shape in enumerate(peer.shapes(made)):
        back = peer.shaped({"mean": flat["mean"][row], "states": column[row], "shape": shape})
        np.testing.assert_array_equal(back["states"], states[row])
        assert back["mean"].shape == (4, 2, 2)


@pytest.mark.slow  # processes that import torch
def test_a_peer_without_a_network_is_left_out_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_CONFIG_FILE", "/dev/null"), ("PIP_FIND_LINKS", str(tmp_path))):
        monkeypatch.setenv(name, value)
    wanted = PeerSettings(
        ("ray", "naive"),
        rows=4,
        workers=1,
        rounds=1,
        place=str(tmp_path),
        environments=str(tmp_path / "e"),
        scheduler="serial",
    )
    report = PeerBench(small(tmp_path), wanted).run()
    flags = {cell.values["tool"]: cell.flags for cell in report.cells}
    assert "could not be installed" in flags["ray"][0]
    assert not flags["ray"][0].startswith("Failed")
    rates = {cell.values["tool"]: cell.values.get("images_per_s") for cell in report.cells}
    assert rates["ray"] is None
    assert rates[OURS]
    assert rates["naive"]
    with pytest.raises(ExecutorError, match="The other tools were"):
        python_for("ray", "ray[data]", tmp_path / "e", "tools")
