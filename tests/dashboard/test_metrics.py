"""Figures on the scheduler's /metrics equal the state of a run; every query of the board names one that exists."""

from __future__ import annotations

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import told
from distributed import Client, LocalCluster
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from daskt2i.dashboard import metrics
from daskt2i.dashboard.metrics import METRICS, Collector
from daskt2i.dashboard.plugin import show_pages
from daskt2i.dashboard.run_state import RunState

BOARD = Path(__file__).resolve().parents[2] / "docs" / "reference" / "grafana.json"


def state_of(messages: Any) -> RunState:
    state = RunState()
    for message in messages:
        state.hear(message)
    return state


@pytest.fixture(scope="module")
def state() -> RunState:
    """A run that encoded and trained."""
    teller = told.Told()
    return state_of([*told.encode(teller, chunks=60, done=60, ends=True), *told.training(teller)])


def samples(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Name -> labels and value of each line."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, []).append((one.labels, one.value))
    return found


def shown(runs: dict[str, RunState]) -> dict[str, list[tuple[dict[str, str], float]]]:
    registry = CollectorRegistry()
    registry.register(Collector(runs))
    return samples(generate_latest(registry).decode())


def test_the_metrics_are_the_figures_of_the_state(state: RunState) -> None:
    found = shown({state.run: state})

    def one(name: str) -> float:
        ((labels, value),) = found[f"daskt2i_{name}"]
        assert labels == {"run": state.run, "label": state.label}
        return value

    assert (one("rows"), one("rows_done")) == (state.rows, state.rows_done)
    assert (one("rows_accepted"), one("stored_bytes")) == (state.accepted, state.bytes)
    assert one("rows_per_second") == 0, "no encode runs any more"
    assert state.loss.last is not None
    assert (one("train_step"), one("train_loss")) == state.loss.last
    assert {labels["reason"]: value for labels, value in found["daskt2i_rows_rejected"]} == state.rejected
    assert {labels["state"]: value for labels, value in found["daskt2i_chunks"]} == state.chunk_states


def test_a_run_that_has_not_begun_has_no_figures_and_is_no_error() -> None:
    assert shown({"r": RunState("r")}) == {}
    assert shown({}) == {}


def test_an_odd_message_spoils_no_other_figure(state: RunState) -> None:
    """Anybody may log what he likes to a topic of ours."""
    odd = state_of(told.encode(told.Told(run="odd\ud800"), chunks=4, done=3))
    head = {"v": 1, "run": "odd", "stage": "train", "at": 1_790_000_100.0}
    totals = {"rejected": {}, "states": {}, "strip": "W", "parts": {"read": float("nan")}, "newest": ()}
    odd.hear({**head, "kind": "chunks", **totals, "workers": {"w": {"memory": "much"}}, "workers_seen": 1, "psnr": {}})
    odd.hear({**head, "kind": "begin", "total": 3})
    odd.hear({**head, "kind": "pulse", "ranks": {"0": {"memory": "much", "doing": 7}}})
    odd.hear({**head, "kind": "state", "state": {**odd.to_json(), "workers": {"w": 5}, "shares": {"a": "b"}}})
    odd.psnr_lowest = "low"  # type: ignore[assignment]  # whatever else may come
    found = shown({"odd": odd, state.run: state})
    assert {labels["run"] for labels, _ in found["daskt2i_rows"]} == {"odd", state.run}
    assert [labels["run"] for labels, _ in found["daskt2i_psnr_lowest_decibels"]] == [state.run]
    assert found["daskt2i_part_seconds"]


def test_rates_are_shown_while_a_stage_runs_and_a_lost_driver_is_not_running(state: RunState) -> None:
    running = state_of(told.encode(told.Told(run="b"), chunks=40, done=30))
    assert shown({"b": running})["daskt2i_rows_per_second"][0][1] == running.rate
    assert running.lose(1_790_000_500.0)
    found = shown({"b": running})
    assert (found["daskt2i_running"][0][1], found["daskt2i_driver_lost"][0][1]) == (0, 1)
    assert found["daskt2i_rows_per_second"][0][1] == 0
    ended = state_of(told.encode(told.Told(run="c"), chunks=4, done=4, ends=True))
    assert not ended.lose(1_790_000_500.0)


def test_two_runs_are_told_apart(state: RunState) -> None:
    other = state_of(told.encode(told.Told(run="other"), chunks=4, done=2))
    rows = shown({state.run: state, "other": other})["daskt2i_rows"]
    assert {labels["run"]: value for labels, value in rows} == {state.run: state.rows, "other": other.rows}


def test_names_units_and_help_follow_the_rules_of_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", metric.name)
        assert metric.help.endswith(".")
        assert "milli" not in metric.name, "seconds and bytes only"


def test_every_query_of_the_board_names_a_metric_and_labels_that_exist() -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    known = {f"daskt2i_{metric.name}": {"run", "label", *metric.labels} for metric in METRICS}
    queries = [(target["expr"], target["legendFormat"]) for panel in board["panels"] for target in panel["targets"]]
    asked = {name for expression, _ in queries for name in re.findall(r"daskt2i_\w+", expression)}
    assert asked <= known.keys()
    assert known.keys() - asked <= {"daskt2i_rows_accepted", "daskt2i_workers"}
    for expression, legend in queries:
        labels = set.union(*(known[name] for name in re.findall(r"daskt2i_\w+", expression)))
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= labels
        assert set(re.findall(r"(\w+)=~", expression)) == {"label"}
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in board["panels"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_without_prometheus_client_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert "has no prometheus_client" in metrics.add(None, {})


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0", protocol="tcp") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def test_the_scheduler_shows_them_on_its_metrics_page(client: Client) -> None:
    assert show_pages(client) == ""
    last: Any = None
    for message in told.encode(told.Told(), chunks=8, done=5):
        client.log_event("daskt2i-encode", message)
        last = message
    address = client.dashboard_link.rpartition("/")[0] + "/metrics"
    with urllib.request.urlopen(address) as answer:
        text = answer.read().decode()
    assert samples(text)["daskt2i_rows_done"] == [({"run": last["run"], "label": "coco-sd15"}, 5 * 64)]
