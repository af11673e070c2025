"""Shared builders and markers. Tests state behaviour; what they have in common is here."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# A shell that starts us in the background has us ignore Ctrl-C, and whom we start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests that take minutes too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for a hub, and no user's settings reach a test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the data set {name} beside the checkout (../shared/data/{name})")
    return folder


@pytest.fixture
def coco_mini() -> Path:
    """80 real photographs with 400 captions."""
    return _shared("coco-mini")


@pytest.fixture
def hostile() -> Path:
    """23 rows, 10 of them good."""
    return _shared("hostile")


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 scenes, encoded and trained on for three steps: all the files of a run, and no skill. Do not change it."""
    import os

    from trained_runs import encoded, trained

    os.environ["HF_HUB_OFFLINE"] = "1"
    out = tmp_path_factory.mktemp("demo") / "run"
    trained(encoded(out), out)
    return out
