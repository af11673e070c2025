"""A headless Chromium, spoken to by its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address at which a headless Chromium listens to the DevTools protocol."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    profile = tmp_path_factory.mktemp("profile")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    silent = subprocess.DEVNULL
    process = subprocess.Popen([found, *flags], stdout=silent, stderr=silent, start_new_session=True)
    try:
        port = profile / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (port.is_file() and len(port.read_text().split()) == 2):
            assert process.poll() is None, "chromium ended"
            assert time.monotonic() < deadline, "chromium did not start"
            time.sleep(0.05)
        number, path = port.read_text().split()
        yield f"ws://127.0.0.1:{number}{path}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser` (playwright)")
    found = next((path for name in BROWSERS[:2] if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("needs chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


async def visit(address: str, url: str) -> tuple[list[str], list[str], bytes]:
    """What a page wrote to the console or threw, what it asked for, and what it looks like (PNG)."""
    from tornado.websocket import websocket_connect

    socket = await websocket_connect(address, max_message_size=2**26)
    complaints: list[str] = []
    asked: list[str] = []
    loaded = False
    number = 0
    session: str | None = None

    def hear(message: dict[str, Any]) -> None:
        nonlocal loaded
        about = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                complaints.append(json.dumps(about["exceptionDetails"])[:500])
            case "Log.entryAdded" if about["entry"]["level"] in ("error", "warning"):
                complaints.append(about["entry"]["text"])
            case "Runtime.consoleAPICalled" if about["type"] in ("error", "warning", "assert"):
                complaints.append(json.dumps(about["args"])[:500])
            case "Network.requestWillBeSent":
                asked.append(about["request"]["url"])
            case "Page.loadEventFired":
                loaded = True

    async def receive() -> dict[str, Any]:
        message = json.loads(await asyncio.wait_for(socket.read_message(), 60))
        hear(message)
        return message

    async def call(method: str, **parameters: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        message = {"id": number, "method": method, "params": parameters}
        await socket.write_message(json.dumps({**message, "sessionId": session} if session else message))
        while (answer := await receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    target = await call("Target.createTarget", url="about:blank")
    session = (await call("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
        await call(f"{domain}.enable")
    size = {"width": 1200, "height": 1600, "deviceScaleFactor": 1, "mobile": False}
    await call("Emulation.setDeviceMetricsOverride", **size)
    await call("Page.navigate", url=url)
    while not loaded:
        await receive()
    drawn = "Bokeh.documents.length > 0 && Bokeh.documents.every(document => document.is_idle)"
    for _ in range(300):
        if (await call("Runtime.evaluate", expression=drawn))["result"].get("value"):
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError(f"Bokeh did not draw: {complaints}")
    picture = await call("Page.captureScreenshot", format="png")
    await call("Target.closeTarget", targetId=target["targetId"])
    socket.close()
    await socket.read_message()  # None: closed on both sides
    return complaints, asked, base64.b64decode(picture["data"])
