"""Pages and panes in a real browser, while runs run: on a cluster of ours, on another one, and in JupyterLab."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from builders.browser import chromium as chromium
from builders.runs import TINY
from builders.waiting import wait_for
from builders.workflows import child_environment
from distributed import Client, LocalCluster

import daskt2i
from daskt2i.cli.front import parse_sets
from daskt2i.dashboard.page import SECTIONS
from daskt2i.dashboard.panes import PANES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SETTINGS = {
    **parse_sets(TINY),
    "scenes.rows": 96,
    "train.steps": 20,
    "sample.prompts": ["a <b>red</b> circle"],
}


class Visit:
    """A tab of the browser that keeps what it complained of and what it asked for.

    Args:
        scheme: `light` or `dark`.
    """

    def __init__(self, browser: Any, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.missing: list[str] = []
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("response", lambda one: self.missing.append(one.url) if one.status >= 400 else None)

    def frame(self, path: str) -> Any:
        """The frame whose address has a path; None if there is none. Playwright hears of frames only while it waits."""
        self.page.wait_for_timeout(100)
        return next((one for one in self.page.frames if path in one.url), None)

    def cards(self) -> list[str]:
        return [text.replace("\n", " ") for text in self.page.locator(".card").all_inner_texts()]


class Working:
    """A run that encodes and trains in a thread of its own."""

    def __init__(self, run: daskt2i.Run) -> None:
        self.run, self.error = run, None
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        try:
            self.run.encode().raise_for_failed()
            self.run.train()
        except BaseException as error:
            self.error = error

    def ended(self) -> bool:
        return not self.thread.is_alive()


@pytest.mark.parametrize("kind", ["started", "attached"])
def test_pages_show_a_run_while_it_runs_and_what_the_run_folder_says_at_the_end(
    kind: str, tmp_path: Path, chromium: Any
) -> None:
    given: dict[str, Any] = {"scheduler": "local:2"}
    here = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    cluster = None if kind == "started" else LocalCluster(n_workers=2, threads_per_worker=1, **here)
    if cluster is not None:
        given = {"client": Client(cluster, set_as_default=False)}
    run = daskt2i.Run("demo", tmp_path / "demo", settings=SETTINGS, progress=False, **given)
    working = Working(run)
    try:
        base = str(wait_for(lambda: run.dashboard_link)).removesuffix("/status")
        tab = Visit(chromium)
        # The pages come when the work begins.
        wait_for(lambda: working.ended() or tab.page.goto(f"{base}/daskt2i").status == 200)
        assert working.error is None
        tab.page.wait_for_selector(".bk-Tabs")
        tab.complaints.clear()  # what was asked for before there was a page
        seen = set[str]()

        def over() -> bool:
            seen.update(tab.cards())
            return working.ended()

        wait_for(over, 400)
        assert working.error is None
        state = run.status().to_json()
        last = [json.loads(line) for line in (tmp_path / "demo/train/metrics.jsonl").read_text().splitlines()]
        loss = [line["loss"] for line in last if "loss" in line][-1]
        wait_for(lambda: f"{loss:.4f} loss of the last step" in tab.cards())
        assert "20 of 20 steps" in tab.cards()
        assert any("rows/s" in card for card in seen) or any("of 96 rows" in card for card in seen)
        for place, section in enumerate(SECTIONS):
            tab.page.locator(".bk-tab").nth(place).click()
            wait_for(lambda: tab.page.locator(".bk-Tabs .bk-Figure, .bk-Tabs .bk-Div").count())
            assert section.title in tab.page.locator(".bk-tab").nth(place).inner_text()
        encode = Visit(chromium)
        encode.page.goto(f"{base}{PANES[1].path}")
        wait_for(lambda: encode.page.locator("table").count())
        for pane in PANES:
            encode.page.goto(f"{base}{pane.path}")
            wait_for(lambda: encode.page.locator(".bk-Div, .bk-Figure").count())
        assert state["rows_done"] == 96
        for one in (tab, encode):
            assert [said for said in one.complaints if "404" not in said] == []
            assert not {url for url in one.missing if not url.endswith(("/favicon.ico", "/daskt2i"))}
            assert [url for url in one.asked if not url.startswith((base, "data:"))] == []
    finally:
        working.thread.join()
        run.close()
        if cluster is not None:
            assert given["client"].status == "running"
            given["client"].close()
            cluster.close()


def test_a_dark_system_gets_dark_pages_that_can_be_read(chromium: Any) -> None:
    from builders.told import Told, encode

    from daskt2i.dashboard.messages import TOPICS
    from daskt2i.dashboard.plugin import show_pages

    here: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(n_workers=0, processes=False, **here) as cluster, Client(cluster, set_as_default=False) as client:
        assert show_pages(client) == ""
        for message in encode(Told(), chunks=20, done=10):
            client.log_event(TOPICS[message["stage"]], message)
        base = f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        looks = {}
        for scheme in ("light", "dark"):
            tab = Visit(chromium, scheme)
            tab.page.goto(f"{base}/daskt2i")
            tab.page.wait_for_selector(".bk-Figure")
            looks[scheme] = tab.page.evaluate(
                "() => { const style = getComputedStyle(document.body);"
                " return [style.backgroundColor, style.color, style.getPropertyValue('--bk-axis-label-text-color')]; }"
            )
        assert looks["light"][0] == "rgb(250, 250, 250)"
        assert looks["dark"][0] == "rgb(21, 25, 28)"
        assert looks["dark"][1] == "rgb(232, 236, 240)"
        assert looks["light"][2] != looks["dark"][2]


def test_a_pane_in_a_hidden_panel_is_not_drawn_until_somebody_looks(chromium: Any) -> None:
    """JupyterLab shows a pane in a frame, and hides the frame with its panel."""
    from builders.told import Told, encode

    from daskt2i.dashboard import live
    from daskt2i.dashboard.messages import TOPICS
    from daskt2i.dashboard.plugin import show_pages

    here: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}
    with LocalCluster(n_workers=0, processes=False, **here) as cluster, Client(cluster, set_as_default=False) as client:
        assert show_pages(client) == ""
        told = Told()
        for message in encode(told, chunks=20, done=10):
            client.log_event(TOPICS[message["stage"]], message)
        pane = f"http://127.0.0.1:{cluster.scheduler.http_server.port}{PANES[0].path}"
        before = set(live._open)  # pages of other tests may close late
        tab = Visit(chromium)
        tab.page.set_content(f'<div id="panel"><iframe src="{pane}" width="900" height="500"></iframe></div>')
        frame = wait_for(lambda: tab.frame(PANES[0].path))
        frame.wait_for_selector(".card")
        for shown in ("none", "block"):
            tab.page.evaluate(f"document.getElementById('panel').style.display = '{shown}'")
            tab.page.wait_for_timeout(300)
            wait_for(lambda: bool(set(live._open) - before) == (shown == "block"))  # noqa: B023
        assert tab.complaints == []


def test_jupyterlab_finds_the_cluster_of_a_run_and_opens_our_panes(tmp_path: Path, chromium: Any) -> None:
    for package in ("jupyterlab", "dask_labextension"):
        if find_spec(package) is None:
            pytest.skip(f"needs the extra `browser` ({package})")
    code = (
        "import daskt2i\n"
        f"run = daskt2i.Run('demo', {str(tmp_path / 'demo')!r}, scheduler='local:1', settings={SETTINGS!r})\n"
        "run.encode()"
    )
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "source": code, "outputs": [], "execution_count": None}
    kernel = {"name": "ours", "display_name": "ours", "language": "python"}
    (tmp_path / "work").mkdir()
    (tmp_path / "work/run.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})
    )
    with lab(tmp_path) as base:
        tab = Visit(chromium)
        wait_for(lambda: answers(tab, f"{base}/lab/tree/run.ipynb?reset"))
        tab.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=180_000)
        tab.page.locator(".jp-Notebook .jp-CodeCell").first.click()
        wait_for(lambda: tab.page.get_by_text("ours | Idle").count())
        tab.page.keyboard.press("Control+Enter")
        tab.page.locator('[data-id="dask-dashboard-launcher"]').click()
        wait_for(lambda: "Encoded" in "".join(tab.page.locator(".jp-OutputArea").all_inner_texts()), 300)
        tab.page.locator('[aria-label="Auto-detect dashboard URL"]').first.click()
        buttons = tab.page.locator(".dask-DashboardListing-item button, button.dask-DashboardListing-item")
        wait_for(lambda: any("DASKT2I" in text.upper() for text in buttons.all_inner_texts()))
        offered = {text.upper() for text in buttons.all_inner_texts()}
        assert {pane.name.upper() for pane in PANES} <= offered
        for pane in PANES[:2]:
            next(one for one in buttons.all() if one.inner_text().upper() == pane.name.upper()).click()
            frame = wait_for(lambda path=pane.path: tab.frame(path))
            frame.wait_for_selector(".bk-Figure", timeout=60_000)


class lab:  # it reads as a function
    """A JupyterLab of this Python, with a kernel of this Python, and without the user's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> str:
        kernel = self.folder / "data/kernels/ours"
        kernel.mkdir(parents=True)
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "ours", "language": "python"}))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # Packages may lie in another folder than the one of this Python: the extension's files lie beside them.
        homes = [Path(found).parents[1] for name in ("dask_labextension", "jupyterlab") if (found := origin(name))]
        prefixes = [home if (home / "share/jupyter").exists() else home.parents[2] for home in homes]
        environment = {
            **child_environment(),
            "HOME": str(self.folder),
            "JUPYTER_PATH": os.pathsep.join([str(self.folder / "data"), *(f"{one}/share/jupyter" for one in prefixes)]),
            "JUPYTER_CONFIG_PATH": os.pathsep.join(f"{one}/etc/jupyter" for one in prefixes),
            **{f"JUPYTER_{name}_DIR": str(self.folder / name.lower()) for name in ("CONFIG", "RUNTIME", "DATA")},
        }
        options = {
            "ip": "127.0.0.1",
            "port": port,
            "IdentityProvider.token": "",
            "notebook-dir": self.folder / "work",
            "app-dir": prefixes[-1] / "share/jupyter/lab",
            "LabApp.news_url": "None",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--{name}={value}" for name, value in options.items()]
        self.log = (self.folder / "lab.log").open("w")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


def origin(name: str) -> str:
    found = find_spec(name)
    return "" if found is None or found.origin is None else found.origin


def answers(tab: Visit, url: str) -> bool:
    from playwright.sync_api import Error

    try:
        return bool(tab.page.goto(url).status == 200)
    except Error:  # the server starts
        return False
