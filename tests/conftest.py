"""Shared builders and markers. Tests state behaviour; what they have in common is here."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import SHARED, STARTUP, TESTS
from builders.browser import browser as browser
from filelock import FileLock
from hypothesis import settings

from daskt2i.machine.machine import this_machine

# Several processes share the cores. OpenMP's threads spin while they wait for each other, unless told to sleep: with
# one other busy process beside them, 18 s became 2 s.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is measured in tests stays in a folder of theirs.
os.environ.setdefault("HF_HOME", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"))
os.environ["XDG_CACHE_HOME"] = str(Path(tempfile.gettempdir()) / f"daskt2i-tests-{os.getuid()}")

# Processes that tests start are there sooner.
os.environ["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *filter(None, [os.environ.get("PYTHONPATH")])])

# A shell that starts us in the background has us ignore Ctrl-C, and whom we start inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = (
    *("docs/test_site", "docs/test_notebook"),  # with --pages
    *("executors/test_conformance", "session/test_run", "train/test_denoiser_rank", "encode/test_faults"),
    *("cli/test_model_commands", "launch/test_launcher", "store/test_conformance", "cli/test_command_line"),
    *("encode/test_driver", "test_old_files", "train/test_autoencoder_rank", "encode/test_coco_mini"),
    *("deploy/test_attach", "store/test_s3", "sources/test_scenes", "encoders/test_text", "advice/test_encode"),
    *(
        "sources/test_same_rows",
        "cli/test_look",
        "loader/test_torch_dataset",
        "encode/test_columns",
        "advice/test_columns",
    ),
    *("model/test_pipeline", "advice/test_run", "bench/test_bench", "encode/test_worker", "test_architecture"),
)
"""Files of 15 s and more, the longest first: begun last, one of them would have a process to itself at the end."""


PAGES = (TESTS / "docs" / "test_site.py", TESTS / "docs" / "test_notebook.py")
LONG = ("[whole", "[a-cluster", "[latents-to-another-trainer", "[look-at-a-data-set")
"""What `--pages` runs, without the long notebooks: each needs half a minute of both cores."""


def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores: much of a test is waiting, for processes to start and to end."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or this_machine().cores + 2)


def pytest_sessionstart() -> None:
    """Files of tests import torch, distributed and much else: a quarter of that time is a search for garbage."""
    gc.disable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    gc.freeze()  # what was imported stays
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run tests that take minutes too")
    parser.addoption("--pages", action="store_true", help="of these, build the pages and run two notebooks")


def pytest_configure(config: pytest.Config) -> None:
    """Property tests try the same few examples each time. With `--slow` they try many, and other ones each time."""
    settings.register_profile("fast", max_examples=20, derandomize=True, deadline=None, database=None)
    settings.register_profile("slow", max_examples=1000, deadline=None)
    settings.load_profile("slow" if config.getoption("--slow") else "fast")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    order = {TESTS / f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    if not config.getoption("--slow"):
        pages = PAGES if config.getoption("--pages") else ()
        for item in items:
            if "slow" in item.keywords and not (item.path in pages and not any(name in item.name for name in LONG)):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    from builders.disks import disk_of

    with disk_of(tmp_path / "small-disk", "64k") as place:
        yield place


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches for a hub, and no user's settings reach a test."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _ctrl_c() -> Iterator[None]:
    """A library that a test imports may set a handler of its own for Ctrl-C, as dask_jobqueue does."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)


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


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Makes a folder once for all processes of the suite: `once(name, make)`, where `make` fills the folder."""

    def made(name: str, make: Callable[[Path], object]) -> Path:
        os.environ["HF_HUB_OFFLINE"] = "1"
        base = tmp_path_factory.getbasetemp()
        place = (base if worker_id == "master" else base.parent) / name
        with FileLock(f"{place}.lock"):
            if not (place / "made").exists():
                place.mkdir(exist_ok=True)
                make(place)
                (place / "made").touch()
        return place

    return made


@pytest.fixture(scope="session")
def demo_run(once: Once) -> Path:
    """20 scenes, encoded and trained on for three steps: all the files of a run, and no skill. Do not change it."""
    from builders.runs import encoded, trained_here

    return once("demo", lambda place: trained_here(encoded(place / "run"), place / "run")) / "run"


@pytest.fixture(scope="session")
def command_run(once: Once) -> Path:
    """The same scenes after the command `run` on one Dask worker, as a user types it. Do not change it.

    It holds the folder `run`, and what the command printed: `out.json` and `err.txt`.
    """
    from builders.runs import run_by_command

    return once("command", run_by_command)
