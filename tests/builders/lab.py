"""A real JupyterLab in a headless Chromium, driven as a person drives it: cells are run, buttons are pressed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builders import TESTS
from builders.browser import BROWSERS

SIZE = {"width": 1400, "height": 900}
BUSY = "[*]:"


class Lab:
    """A notebook that is open in JupyterLab.

    Args:
        page: playwright's page.
        url: where the notebook is open.
    """

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url

    def open(self) -> None:
        """Open the notebook, or open it again after `leave`."""
        self.page.goto(self.url)
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
        self.wait(self._connected, "the kernel did not start")

    def _connected(self) -> bool:
        panel = "window.jupyterapp.shell.currentWidget"
        return bool(self.page.evaluate(f"{panel}?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"))

    def leave(self) -> None:
        """Close the page. The kernel goes on."""
        self.page.goto("about:blank")

    def wait(self, condition: Callable[[], object], complaint: str, seconds: float = 120) -> None:
        """Wait for something on the page."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{complaint}: {self.page.inner_text('.jp-Notebook')[-2000:]}"
            self.page.wait_for_timeout(50)

    def start(self, number: int) -> None:
        """Run a code cell, counted from 0, and do not wait for it."""
        self._cell(number).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, number: int) -> None:
        """Run a code cell to its end."""
        self._cell(number).locator(".jp-InputArea-editor").click()
        self.page.evaluate("async () => { await window.jupyterapp.commands.execute('notebook:run-cell'); }")
        self.page.wait_for_timeout(200)  # the last output may be drawn after the end of the cell

    def stop(self) -> None:
        """Press the stop button of the toolbar."""
        self.page.locator('[data-command="notebook:interrupt-kernel"], [title^="Interrupt the kernel"]').first.click()

    def restart(self) -> None:
        """Press the restart button of the toolbar, and confirm."""
        self.page.locator('[data-command="notebook:restart-kernel"], [title^="Restart the kernel"]').first.click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_selector(".jp-Dialog", state="detached")
        self.page.wait_for_timeout(1000)
        self.wait(self._connected, "the kernel did not restart")

    def running(self, number: int) -> bool:
        """Whether a cell runs."""
        return self.prompt(number) == BUSY

    def prompt(self, number: int) -> str:
        """`[*]:` while a cell runs, its number after that."""
        return str(self._cell(number).locator(".jp-InputPrompt").inner_text()).strip()

    def shown(self, number: int) -> list[str]:
        """The text of each output of a cell."""
        found: list[str] = self._cell(number).locator(".jp-OutputArea-output").all_inner_texts()
        return found

    def _cell(self, number: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)


@contextmanager
def jupyterlab(folder: Path, cells: Sequence[str], theme: str = "light", size: Any = None) -> Iterator[Lab]:
    """A notebook of code cells in a real JupyterLab. Skips without JupyterLab, playwright or a browser.

    Args:
        folder: where the notebook and the server's files are.
    """
    pytest.importorskip("jupyterlab", reason="needs JupyterLab (pip install jupyterlab)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    nbformat = pytest.importorskip("nbformat")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in cells],
        metadata={"kernelspec": {"display_name": "tested", "language": "python", "name": "tested"}},
    )
    nbformat.write(notebook, folder / "tested.ipynb")
    own = folder / ".jupyter"
    _settings(own, theme)
    port = _free_port()
    options = [
        "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=tested",
        f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=",
        "--KernelSpecManager.ensure_native_kernel=False",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(own / "config"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_DATA_DIR": str(own / "data"),
        "JUPYTER_RUNTIME_DIR": str(own / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(own / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"),
        "IPYTHONDIR": str(own / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    with (own / "log").open("w") as log, playwright.sync_playwright() as driver:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], cwd=folder, env=environment, stdout=log, stderr=log
        )
        try:
            chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
            page = chromium.new_page(viewport=size or SIZE)
            _answers(server, port, own / "log")
            lab = Lab(page, f"http://127.0.0.1:{port}/lab/tree/tested.ipynb?token=tested&reset")
            lab.open()
            yield lab
            chromium.close()
        finally:
            server.terminate()
            server.wait()


def _settings(own: Path, theme: str) -> None:
    """Files of a user of JupyterLab: the theme, no news, every cell in the page; a kernel of this Python."""
    settings = {
        "apputils-extension/themes": {"theme": f"JupyterLab {theme.capitalize()}"},
        "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
        "notebook-extension/tracker": {"windowingMode": "none"},
        "docmanager-extension/plugin": {"autosaveInterval": 2},
    }
    for name, values in settings.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    kernel = own / "data" / "kernels" / "tested"
    kernel.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "tested", "language": "python"}))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        assert server.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
