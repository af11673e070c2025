"""The plugin on a scheduler of this process: what it adds, what it remembers, and what it says if it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask.config
import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource, Div, Plot, Select
from builders.advice import told as advice
from builders.told import Told, encode, training
from builders.waiting import wait_for
from builders.workflows import child_environment
from distributed import Client, LocalCluster
from distributed.utils import sync

from daskt2i.dashboard import live, page, panes, plugin
from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.live import NAME, newest
from daskt2i.dashboard.messages import TOPICS
from daskt2i.dashboard.plugin import MOST_RUNS, DashboardPlugin, show_pages
from daskt2i.dashboard.run_state import RunState
from daskt2i.deploy.scheduler_side import ask_scheduler, link_of, page_of, unreadable_by
from daskt2i.errors import sentence

HERE: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=0, processes=False, **HERE) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client; what the plugin heard before is forgotten."""
    with Client(cluster, set_as_default=False) as client:
        assert show_pages(client) == ""
        cluster.scheduler.plugins[NAME].runs.clear()
        yield client


def tell(client: Client, messages: Any) -> None:
    for message in messages:
        client.log_event(TOPICS[message["stage"]], message)
    client.sync(client.scheduler.identity)  # the messages before it have arrived


def get(scheduler: Any, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{scheduler.http_server.port}{path}") as answer:
        return bytes(answer.read())


def opened(scheduler: Any, document_of: Any, run: str = "") -> Document:
    """A page as Dask makes it when somebody opens it, before it is sent to a browser."""
    return on_loop(scheduler, lambda: _opened(scheduler, document_of, run))


def on_loop(scheduler: Any, work: Any) -> Any:
    """Do something on the event loop of the scheduler: Bokeh is not made for two threads."""

    async def done() -> Any:
        return work()

    return sync(scheduler.loop, done)


def _opened(scheduler: Any, document_of: Any, run: str) -> Document:
    document = Document()
    if run:
        request = type("Request", (), {"arguments": {"run": [run.encode()]}})()
        document._session_context = weakref.ref(context := type("Context", (), {"request": request})())
        document.kept = context  # type: ignore[attr-defined]
    document_of(scheduler, {"prefix": "/", "pages": [], "plots": []}, document)
    return document


def texts(document: Document) -> str:
    return " ".join(one.text for one in document.select({"type": Div}) if one.visible)


def plots(document: Document) -> list[Plot]:
    return [one for one in document.select({"type": Plot}) if one.visible]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are drawn as often as they are asked."""
    monkeypatch.setattr(live, "BUDGET", 1e9)


def refresh(scheduler: Any, document: Document) -> None:
    for callback in document.session_callbacks:
        on_loop(scheduler, callback.callback)


def test_every_page_of_the_dashboard_leads_to_ours(client: Client, cluster: LocalCluster) -> None:
    status = get(cluster.scheduler, "/status").decode()
    assert '<a href="daskt2i">Daskt2i</a>' in status
    for pane in panes.PANES:
        assert f'<a href="{pane.path.strip("/")}">{pane.name}</a>' in status
        assert pane.name in get(cluster.scheduler, pane.path).decode()
    ours = get(cluster.scheduler, "/daskt2i").decode()
    assert '<a href="status">Status</a>' in ours
    assert "https://" not in ours.replace("https://dask.org/", "").replace("https://docs.dask.org/en/stable/", "")


def test_jupyterlab_reads_our_panes_with_names_for_people(client: Client, cluster: LocalCluster) -> None:
    listed = json.loads(get(cluster.scheduler, "/individual-plots.json"))
    assert {name: path for name, path in listed.items() if "askt2" in name} == {
        f"Individual {pane.name}": pane.path for pane in panes.PANES
    }
    assert listed["Individual Task Stream"] == "/individual-task-stream"


def test_pages_are_added_once_and_a_plugin_that_comes_again_changes_nothing(
    client: Client, cluster: LocalCluster
) -> None:
    tell(client, Told().messages.begin("encode", 10))
    before = list(cluster.scheduler.http_application.applications)
    assert show_pages(client) == ""
    client.unregister_scheduler_plugin(NAME)
    get(cluster.scheduler, "/daskt2i")  # a page without a plugin says that nothing runs
    assert "Nothing of daskt2i has run" in texts(opened(cluster.scheduler, page.document))
    assert show_pages(client) == ""
    assert cluster.scheduler.http_application.applications == before
    assert get(cluster.scheduler, "/status").count(b'"daskt2i"') == 1


def test_a_page_that_is_opened_late_shows_the_past(client: Client, cluster: LocalCluster) -> None:
    """Also what was told before the plugin came: the scheduler keeps the newest messages of a topic."""
    client.unregister_scheduler_plugin(NAME)
    tell(client, encode(Told("late"), chunks=40, done=30))
    assert show_pages(client) == ""
    state = cluster.scheduler.plugins[NAME].runs["late"]
    assert state.rows_done == 30 * 64
    shown = texts(opened(cluster.scheduler, page.document, "late"))
    assert f"{30 * 64:,}" in shown
    assert f"of {40 * 64:,} rows" in shown


def test_two_runs_on_a_cluster_are_two_entries(client: Client, cluster: LocalCluster) -> None:
    tell(client, encode(Told("a", "/data/one"), chunks=4, done=4, ends=True))
    document = opened(cluster.scheduler, page.document)
    (choice,) = document.select({"type": Select})
    assert not choice.visible
    tell(client, encode(Told("b", "/data/two", 1_790_000_900.0), chunks=8, done=2))
    refresh(cluster.scheduler, document)
    assert choice.visible
    assert choice.options == [("b", "two: encode running"), ("a", "one: encode done")]
    assert choice.value == "b", "it goes over to the run that is running"
    assert "of 512 rows" in texts(document)
    on_loop(cluster.scheduler, lambda: setattr(choice, "value", "a"))
    assert "of 256 rows" in texts(document)
    refresh(cluster.scheduler, document)
    assert choice.value == "a", "who has chosen a run keeps it"


def test_a_driver_that_is_gone_is_no_running_encode(client: Client, cluster: LocalCluster) -> None:
    """Its client has left the scheduler before it told an end: it was killed, or its machine is gone."""
    with Client(cluster, set_as_default=False) as driver:
        tell(driver, [{**one, "client": driver.id} for one in encode(Told("gone"), chunks=9, done=4)])
        document = opened(cluster.scheduler, page.document, "gone")
        assert "encode runs" in texts(document)
    wait_for(lambda: cluster.scheduler.clients.get(driver.id) is None)
    refresh(cluster.scheduler, document)
    assert "the process that drives encode is gone since" in texts(document)
    assert "left (" not in texts(document)
    tell(client, [{**one, "client": client.id} for one in encode(Told("gone"), chunks=9, done=9, ends=True)])
    refresh(cluster.scheduler, document)
    assert "encode is done" in texts(document)


def test_every_axis_that_shows_a_quantity_has_its_unit(client: Client, cluster: LocalCluster) -> None:
    told = Told()
    tell(client, [*encode(told, chunks=30, done=20), *training(told, steps=400, done=200)])
    seen = set()
    for pane in panes.PANES:
        for plot in plots(opened(cluster.scheduler, pane.document)):
            horizontal = plot.below[0].axis_label
            vertical = plot.left[0].axis_label
            assert horizontal, plot.title.text
            assert vertical or plot.y_range.__class__.__name__ == "FactorRange", plot.title.text
            seen.add(plot.title.text.partition(":")[0])
    assert len(seen) == 11


def test_text_from_data_is_shown_as_it_is(client: Client, cluster: LocalCluster) -> None:
    """Captions and file names may hold HTML, scripts and TeX. Titles and labels of plots hold none of them."""
    evil = "<script>alert(1)</script> $$x$$ <img src=x onerror=alert(2)>"
    told = Told("evil", f"/data/{evil.replace('/', '')}")
    messages = list(encode(told, chunks=4, done=3))
    for message in messages:
        for one in message.get("newest", ()):
            one.update(caption=evil, reason=evil, detail=evil, thumbnail='data:image/png;base64,x" onerror="alert(3)')
    messages += [told.messages._message("note", text=evil), told.messages._message("waiting", text=evil)]
    tell(client, messages)
    for pane in panes.PANES:
        document = opened(cluster.scheduler, pane.document)
        for div in document.select({"type": Div}):
            assert "<script" not in div.text
            assert "<img src=x" not in div.text
            assert '" onerror=' not in div.text
            assert div.disable_math
        assert not any("$$" in plot.title.text for plot in document.select({"type": Plot}))


def test_a_picture_is_only_shown_if_the_message_holds_it(client: Client, cluster: LocalCluster) -> None:
    told = Told()
    state = RunState("p")
    for message in training(told, steps=20, done=20):
        state.hear(message)
    state.pictures.append((30, "elsewhere", "https://example.org/counter.png"))
    cluster.scheduler.plugins[NAME].runs["p"] = state
    shown = texts(opened(cluster.scheduler, panes.PANES[4].document))
    assert "example.org" not in shown
    assert "Pictures of step 20" in shown


def test_ten_thousand_chunks_and_a_thousand_workers_stay_small(client: Client, cluster: LocalCluster) -> None:
    tell(client, encode(Told(), chunks=10_000, done=1_500, workers=1_000, rows=8))
    document = opened(cluster.scheduler, page.document)
    sources = [one.data for one in document.select({"type": ColumnDataSource})]
    assert max(len(column) for data in sources for column in data.values()) == 1000
    assert len(json.dumps(document.to_json(), default=str)) < 1_500_000


def test_what_did_not_change_is_not_drawn_again(client: Client, cluster: LocalCluster) -> None:
    tell(client, encode(Told(), chunks=100, done=50))
    document = opened(cluster.scheduler, page.document)
    changes: list[Any] = []
    refresh(cluster.scheduler, document)
    document.on_change(changes.append)
    refresh(cluster.scheduler, document)
    assert changes == []


def test_open_pages_share_a_budget_and_one_that_nobody_sees_is_not_drawn(
    client: Client, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    tell(client, encode(told, chunks=100, done=50))
    documents = [opened(cluster.scheduler, page.document) for _ in range(2)]
    monkeypatch.setattr(live, "BUDGET", 1e-9)
    for document in documents:
        refresh(cluster.scheduler, document)  # from now on a pause of five seconds

    def step(count: int) -> list[bool]:
        """Which pages show a count that is told now."""
        tell(
            client, [{**told.messages.begin("encode", 1)[0], "kind": "count", "what": "w", "done": count, "total": 99}]
        )
        for document in documents:
            refresh(cluster.scheduler, document)
        return [f"{count} of 99" in texts(document) for document in documents]

    assert step(3) == [False, False]
    watched = time.monotonic() + live.MOST_PAUSE + 1
    monkeypatch.setattr(live, "monotonic", lambda: watched)  # the clock of the pages alone
    assert step(4) == [True, True]
    watched += live.MOST_PAUSE + 1
    hidden = next(one for one in documents[1].roots[0].children)  # the head, where the browser tells it
    on_loop(cluster.scheduler, lambda: setattr(hidden, "tags", ["hidden"]))
    assert step(5) == [True, False]
    on_loop(cluster.scheduler, lambda: setattr(hidden, "tags", []))
    assert "5 of 99" in texts(documents[1]), "it is drawn when somebody looks again"


def test_a_curve_that_grows_sends_what_is_new() -> None:
    source = ColumnDataSource({"x": [], "y": []})
    told: list[str] = []
    document = Document()
    document.add_root(Plot())
    document.add_root(source)
    document.on_change(lambda event: told.append(type(event).__name__))
    for points in ([1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 5.0], [1.0, 2.0, 4.0, 5.0], [1.0, 5.0], []):
        frame.grow(source, {"x": points, "y": np.array(points)})
        assert list(source.data["x"]) == list(source.data["y"]) == points
    streamed, patched, all_ = "ColumnsStreamedEvent", "ColumnsPatchedEvent", "ColumnDataChangedEvent"
    assert told == [all_, streamed, patched, streamed, all_, all_]


def test_a_scheduler_remembers_so_many_runs_and_forgets_the_most_silent() -> None:
    heard = DashboardPlugin()
    for number in range(MOST_RUNS + 5):
        for message in Told(f"run{number}").messages.begin("encode", 10):
            heard.log_event("daskt2i-encode", message)
        for message in Told("run0").messages.begin("encode", 10):
            heard.log_event("daskt2i-encode", message)
    assert len(heard.runs) == MOST_RUNS
    assert {"run0", f"run{MOST_RUNS + 4}"} <= heard.runs.keys()
    assert "run1" not in heard.runs


@pytest.mark.parametrize(
    "message",
    [None, 7, "x", [], {}, {"v": 1}, {"v": 1, "run": 3}, {"v": 99, "run": "n"}, {"v": 1, "run": "n", "kind": "chunks"}],
)
def test_a_message_that_is_not_ours_disturbs_nothing(message: Any) -> None:
    heard = DashboardPlugin()
    heard.log_event("daskt2i-encode", message)
    heard.log_event("another-topic", message)
    assert all(not state.stage for state in heard.runs.values())


def test_a_page_stays_with_a_run_until_it_ends_and_then_follows_the_newest() -> None:
    runs = {}
    for name, begun, ends in (("old", 100.0, False), ("new", 200.0, False), ("done", 300.0, True)):
        runs[name] = RunState(name)
        for message in encode(Told(name, "/x", begun), chunks=2, done=2, ends=ends):
            runs[name].hear(message)
    assert newest(runs) == "new"
    assert newest(runs, "old") == "old"
    assert newest(runs, "done") == "new"
    assert newest({}) == ""


# What cannot be shown


def test_a_scheduler_without_a_dashboard_is_told_in_one_line_and_has_no_link() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, **HERE, scheduler_kwargs={"dashboard": False}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert "the scheduler runs without a dashboard" in show_pages(client)
        ask_scheduler(client)
        assert link_of(client, "http://127.0.0.1:8787/status") == "", "Dask names the port of /health and /metrics"
        tell(client, encode(Told(), chunks=4, done=4))
        assert cluster.scheduler.plugins[NAME].runs["a1"].rows_done == 256, "the figures are still known"


@pytest.mark.parametrize(
    ("setting", "missing", "words"),
    [
        ({}, "bokeh.server.tornado", "the scheduler has no bokeh of a version that its Dask can use"),
        ({"distributed.scheduler.blocked-handlers": ["register_scheduler_plugin"]}, "", "explicitly disallowed"),
    ],
)
def test_a_scheduler_that_cannot_show_pages_is_told_in_one_line(
    setting: dict[str, Any], missing: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dask.config.set(setting),
        LocalCluster(n_workers=0, processes=False, **HERE) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        if missing:
            monkeypatch.setitem(sys.modules, missing, None)
        why = plugin.show_pages(client)
        monkeypatch.undo()
        assert words in why
        assert "The run goes on" in why
        assert "\n" not in why
        assert client.submit is not None
        with pytest.raises(urllib.error.HTTPError):
            get(cluster.scheduler, "/daskt2i")


def test_a_client_that_has_lost_its_scheduler_is_told_in_one_line() -> None:
    with LocalCluster(n_workers=0, processes=False, **HERE) as cluster:
        client = Client(cluster, set_as_default=False)
        client.close()
        assert "did not take them" in show_pages(client)


def test_a_scheduler_with_another_version_of_daskt2i_is_told_in_one_line(client: Client) -> None:
    """Its plugin is there already, and ours does not replace it."""
    client.log_event(plugin.TOPIC, {"v": 99, "missing": ""})
    assert "another version of daskt2i is installed there" in show_pages(client)
    client.log_event(plugin.TOPIC, {"v": 1, "missing": ""})
    assert show_pages(client) == ""


@pytest.mark.slow
def test_a_scheduler_that_cannot_import_daskt2i_is_told_in_one_line(tmp_path: Path) -> None:
    """A process of its own: the advice is to install daskt2i there."""
    place = tmp_path / "scheduler.json"
    code = (
        "import sys\n"
        "class Away:\n"
        "    def find_spec(self, name, *more):\n"
        "        if name.split('.')[0] == 'daskt2i':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Away())\n"
        "from distributed.cli.dask_scheduler import main\n"
        "main(standalone_mode=False)\n"
    )
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    for program, told in ((code, "the scheduler cannot import daskt2i"), (code[code.index("from dist") :], "")):
        command = [sys.executable, "-c", program, "--scheduler-file", str(place), *options]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=child_environment())
        wait_for(place.exists)
        with Client(scheduler_file=str(place), set_as_default=False) as client:
            assert told in (why := show_pages(client))
            assert bool(why) == bool(told)
            if told:
                with advice("deploy/scheduler_side.py:_unreadable SchedulerError"):
                    ask_scheduler(client)
                failed = client.submit(sentence, OSError("x"), pure=False).exception()
                assert "cannot import daskt2i" in str(unreadable_by(client, failed))
            else:  # it is installed there, as the sentence asks for
                ask_scheduler(client)
                assert unreadable_by(client, sentence(OSError("x"))) is None
        process.terminate()
        process.wait()
        place.unlink(missing_ok=True)


def test_behind_a_prefix_the_pages_are_below_it() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, **HERE, scheduler_kwargs={"http_prefix": "/my/dask"}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert show_pages(client) == ""
        there = get(cluster.scheduler, "/my/dask/daskt2i").decode()
        assert "/my/dask/static/js/bokeh.min.js" in there
        listed = json.loads(get(cluster.scheduler, "/my/dask/individual-plots.json"))
        assert listed["Individual Daskt2i Encode"] == "/individual-daskt2i-encode"
        ask_scheduler(client)
        link = link_of(client, client.dashboard_link)
        assert link.endswith("/my/dask/status")
        assert link_of(client, link) == link
        assert b"Daskt2i" in get(cluster.scheduler, urlsplit(page_of(link)).path)
