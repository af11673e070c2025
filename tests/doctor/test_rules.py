"""Each rule of `doctor`: silent on healthy facts, and one finding with the right severity where something is wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from builders.looks import GIB, cluster, look, sight, worker
from hypothesis import given
from hypothesis import strategies as st

from daskt2i.display.tables import result_table
from daskt2i.doctor.facts import Clock, Found, Problem, Speed
from daskt2i.doctor.page import page
from daskt2i.doctor.result import DoctorResult
from daskt2i.doctor.rules import cluster as clusters
from daskt2i.doctor.rules import machines, network, workflow


def problems(found: Found) -> list[Problem]:
    return [one for rules in (clusters, machines, workflow, network) for one in rules.problems(found)]


def told(found: Found) -> list[tuple[str, str]]:
    return sorted({(one.severity, one.about) for one in problems(found)})


def test_healthy_clusters_have_no_problem() -> None:
    assert problems(cluster()) == []
    hosts = [worker(number, f"node{host}") for host in range(3) for number in range(4)]
    speeds = (
        Speed("driver-worker", "", hosts[0].address, 0.002, 1e8, 1e8),
        Speed("run-folder", "", "", 0.01, 1e8, 1e8),
    )
    assert problems(cluster(*hosts, speeds=speeds)) == []


def sends(found: Found) -> Found:
    return replace(found, named={**found.named, "sends": 1000})


def enough(found: Found) -> Found:
    return replace(found, named={**found.named, "min_fit": 0.5})


def others(*changed: Any) -> Found:
    """The changed workers, and as many healthy ones of the same host as fill its cores."""
    return cluster(*changed, *(worker(number) for number in range(10, 14 - len(changed))))


CASES: dict[str, tuple[Found, list[tuple[str, str]]]] = {
    "silent": (others(worker(0, look=None, sight=None, clock=None)), [("slows", "silent")]),
    "all silent": (cluster(worker(0, look=None, sight=None, clock=None)), [("stops", "silent")]),
    "paused": (others(worker(0, look=look(worker={"status": "paused"}))), [("slows", "paused")]),
    "without daskt2i": (others(worker(0, look=look(packages={"daskt2i": ""}), sight=None)), [("stops", "daskt2i")]),
    "all without daskt2i": (
        cluster(*(worker(n, look=look(pid=n, packages={"daskt2i": ""}), sight=None) for n in range(4))),
        [("stops", "daskt2i")],
    ),
    "broken daskt2i": (others(worker(0, sight=None, blind="ImportError: torch")), [("stops", "daskt2i")]),
    "scheduler without daskt2i": (cluster(scheduler=look(packages={"daskt2i": ""})), [("stops", "scheduler")]),
    "other python": (others(worker(0, look=look(python="3.12.1"))), [("slows", "versions")]),
    "same python, other patch": (others(worker(0, look=look(python="3.11.9"))), []),
    "other dask": (cluster(scheduler=look(packages={"dask": "2025.1.0"})), [("slows", "versions")]),
    "other daskt2i": (
        others(worker(0, sight=sight(versions={"error": "", "versions": {"daskt2i": "0.0.9"}}))),
        [("stops", "versions")],
    ),
    "one thread on a whole node": (
        cluster(worker(0, look=look(cores={"machine": 32, "usable": 32.0, "numbers": [*range(32)]}))),
        [("slows", "threads")],
    ),
    "one thread of a job with one core": (
        cluster(worker(0, look=look(cores={"machine": 32, "usable": 1.0, "numbers": [7]}))),
        [],
    ),
    "one thread in a container with one core": (
        cluster(worker(0, look=look(cores={"machine": 32, "usable": 1.0, "numbers": [*range(32)]}))),
        [],
    ),
    "too many threads": (cluster(worker(0, threads=16), threads=16), [("slows", "threads")]),
    "too many threads by the setting": (cluster(worker(0), worker(1), threads=8), [("slows", "threads")]),
    "unequal threads": (cluster(worker(0, threads=3), worker(1)), []),
    "one process": (others(worker(0, look=look(pid=7)), worker(1, look=look(pid=7))), [("slows", "processes")]),
    "no nanny": (others(worker(0, look=look(worker={"nanny": False}))), [("note", "nanny")]),
    "deaf scheduler": (cluster(scheduler=None), [("note", "scheduler")]),
    "scheduler that nobody asked": (replace(cluster(scheduler=None), workers=()), []),
    "few files of the scheduler": (cluster(scheduler=look(open_files={"soft": 70})), [("slows", "open-files")]),
    "no dashboard": (cluster(dashboard="", scheduler=look(packages={"bokeh": ""})), [("note", "dashboard")]),
    "dashboard out of reach": (cluster(dashboard_error="Connection refused"), [("note", "dashboard")]),
    "no encryption": (cluster(address="tcp://10.0.0.9:8786"), [("note", "encryption")]),
    "limits above the host": (
        cluster(*(worker(number, memory_limit=9 * GIB) for number in range(4))),
        [("slows", "memory-limit")],
    ),
    "limit above the group": (others(worker(0, look=look(memory={"group": 2 * GIB}))), [("slows", "memory-limit")]),
    "no limit": (others(worker(0, memory_limit=0)), [("note", "memory-limit")]),
    "early pause": (others(worker(0, look=look(dask={"pause": 0.2}))), [("stops", "memory-pause")]),
    "early pause with room": (others(worker(0, look=look(dask={"pause": 0.7}))), []),
    "no pause": (others(worker(0, look=look(dask={"pause": False}))), []),
    "little free memory": (others(worker(0, look=look(memory={"free": GIB}))), [("slows", "memory")]),
    "full temp": (others(worker(0, look=look(temp={"error": "No space left", "free": 0}))), [("slows", "temp")]),
    "full temp and an address": (
        cluster(*(worker(n, look=look(pid=n, temp={"error": "full"})) for n in range(4)), remote_folder=True),
        [("stops", "temp")],
    ),
    "nearly full temp": (others(worker(0, look=look(temp={"free": 1000}))), [("slows", "temp")]),
    "few files": (others(worker(0, look=look(open_files={"soft": 64}))), [("slows", "open-files")]),
    "torch for CPUs": (
        others(worker(0, look=look(gpus={"names": ["H200"], "driver": "570.1", "visible": None}))),
        [("slows", "gpu")],
    ),
    "old driver": (
        others(worker(0, look=look(torch_cuda="13.0", gpus={"names": ["T4"], "driver": "535.2", "visible": None}))),
        [("slows", "gpu")],
    ),
    "new driver": (
        others(worker(0, look=look(torch_cuda="12.8", gpus={"names": ["T4"], "driver": "535.2", "visible": "0"}))),
        [],
    ),
    "hidden GPU": (
        others(worker(0, look=look(gpus={"names": ["T4"], "driver": "535.2", "visible": ""}))),
        [],
    ),
    "same GPU": (
        others(
            *(
                worker(n, look=look(pid=n, torch_cuda="12.8", gpus={"names": ["T4"], "driver": "570", "visible": "0"}))
                for n in range(2)
            )
        ),
        [("slows", "gpu")],
    ),
    "source": (others(worker(0, sight=sight(source={"error": "it is missing"}))), [("stops", "source")]),
    "model of the hub": (
        others(worker(0, sight=sight(image_model={"error": "it is not here", "fetches": True}))),
        [("slows", "models")],
    ),
    "model without hub": (
        others(worker(0, sight=sight(text_model={"error": "it is not here", "fetches": False}))),
        [("stops", "models")],
    ),
    "model that an encode sends": (
        sends(others(worker(0, sight=sight(text_model={"error": "it is not here", "missing": True})))),
        [("slows", "models")],
    ),
    "damaged model where others are sent": (
        sends(others(worker(0, sight=sight(text_model={"error": "it is damaged"})))),
        [("stops", "models")],
    ),
    "weights": (
        others(worker(0, sight=sight(image_model={"error": "", "weights": "sha256:c"}))),
        [("stops", "models")],
    ),
    "copy of other weights where models are sent": (
        sends(others(worker(0, sight=sight(image_model={"error": "", "weights": "sha256:c", "copied": True})))),
        [("slows", "models")],
    ),
    "copy of other weights": (
        others(worker(0, sight=sight(image_model={"error": "", "weights": "sha256:c", "copied": True}))),
        [("stops", "models")],
    ),
    "folder that one of four does not see": (
        enough(others(worker(0, sight=sight(folder={"error": "it is not there", "sees": False})))),
        [("slows", "run-folder")],
    ),
    "unseen folder": (
        others(worker(0, sight=sight(folder={"error": "it is not there", "sees": False}))),
        [("stops", "run-folder")],
    ),
    "read-only folder": (
        others(worker(0, sight=sight(folder={"error": "no permission", "sees": True}))),
        [("slows", "run-folder")],
    ),
    "read-only everywhere": (
        cluster(worker(0, sight=sight(folder={"error": "x", "sees": True})), threads=4),
        [("stops", "run-folder")],
    ),
    "two folders": (
        others(worker(0, sight=sight(folder={"error": "", "sees": True, "made": "x", "seen_here": False}))),
        [("stops", "run-folder")],
    ),
    "two precisions": (
        others(
            worker(0, sight=sight(precision={"error": "", "precision": "bf16", "kind": "cpu avx512_bf16"})),
            worker(1, sight=sight(precision={"error": "", "precision": "fp32", "kind": "cpu"})),
        ),
        [("stops", "precision")],
    ),
    "clock": (others(worker(0, clock=Clock(-3600.0, 0.01))), [("note", "clock")]),
    "clock that was measured badly": (others(worker(0, clock=Clock(8.0, 7.0))), []),
    "firewall": (
        cluster(
            *(worker(number, f"node{1 + number // 4}") for number in range(8)),
            speeds=(Speed("worker-worker", worker(0).address, worker(4, "node2").address, error="no answer"),),
        ),
        [("stops", "network")],
    ),
    "slow messages": (cluster(speeds=(Speed("driver-worker", "", worker(0).address, 3.0),)), [("slows", "network")]),
    "slow ranks": (
        cluster(speeds=(Speed("worker-worker", worker(0).address, worker(1).address, 0.1, 5e4),)),
        [("slows", "network")],
    ),
    "slow folder": (
        cluster(speeds=(Speed("run-folder", worker(0).address, "", 0.1, 5e4, 1e6),)),
        [("slows", "run-folder")],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_finds_what_is_wrong_and_nothing_else(case: str) -> None:
    found, expected = CASES[case]
    assert told(found) == expected
    for one in problems(found):
        assert one.text.endswith(".")
        assert not one.advice or one.advice.endswith(".")
        assert one.text == one.text.strip()


def test_clusters_that_daskt2i_lays_out_are_not_told_to_use_more_threads() -> None:
    cores = {"machine": 32, "usable": 32.0, "numbers": [*range(32)]}
    assert told(cluster(worker(0, look=look(cores=cores)), owned=True)) == []


def result(found: Found) -> DoctorResult:
    severities = ("stops", "slows", "note")
    ordered = tuple(sorted(problems(found), key=lambda one: severities.index(one.severity)))
    return DoctorResult(ordered, found, None, "demo", "/shared/run", "2026-11-30T12:00:00+00:00", 1.0)


def lines(one: DoctorResult) -> Sequence[str]:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(result_table(one))
    return console.export_text().splitlines()


def test_a_thousand_workers_need_few_lines_more_than_four() -> None:
    many = [worker(number, f"node{number % 250}") for number in range(1000)]
    few, long = lines(result(cluster())), lines(result(cluster(*many)))
    assert len(long) <= len(few) + 2
    assert max(map(len, long)) <= 80
    broken = [
        worker(number, f"node{number % 250}", sight=sight(source={"error": f"reason {number}"}), threads=1 + number % 9)
        for number in range(1000)
    ]
    assert len(lines(result(cluster(*broken)))) < 120


def test_hosts_with_the_same_problem_share_a_line() -> None:
    gpus = {"names": ["T4"], "driver": "570.1", "visible": "0"}
    alike = [
        worker(
            number,
            f"node{number // 2}",
            memory_limit=9 * GIB,
            look=look(f"node{number // 2}", number, torch_cuda="12.8", gpus=gpus, memory={"free": GIB + number}),
        )
        for number in range(200)
    ]
    found = cluster(*alike, threads=2)
    texts = {one.about: one.text for one in problems(found)}
    assert [(one.about, len(one.workers)) for one in problems(found)] == [
        ("memory-limit", 200),
        ("memory", 200),
        ("gpu", 200),
    ]
    assert "on each of 100 hosts (node0, node1, node2 and 97 more) may use 18.0 GiB together" in texts["memory-limit"]
    assert texts["memory"].startswith("node0 has 1.0 GiB of memory free now")
    assert "and 99 other hosts have too little, too." in texts["memory"]


def test_a_page_needs_no_fact_to_be_there() -> None:
    for name in look():
        one = worker(0, look=look(**{name: None}), sight=None, clock=None)
        found = cluster(one, scheduler=None, here=one.look, named={}, need=0)
        assert page(found, problems(found), None, ranks=0, out="x", seconds=1.0).text()


@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 5),
    st.floats(0, 5),
)
def test_a_clock_is_never_off_by_more_than_it_is(ahead: float, there: float, back: float) -> None:
    """Whatever part of a round trip was the way there: what is stated for sure is not above the truth."""
    asked = 1000.0
    clock = Clock.of(asked, asked + there + ahead, asked + there + back)
    assert clock.surely_off_by() <= abs(ahead) + 1e-6
