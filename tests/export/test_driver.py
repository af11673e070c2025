"""An export is whole or not there: after an error, a kill, or a damaged chunk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders.command_line import one_object, run
from builders.shaped import bucketed
from builders.waiting import wait_for
from builders.workflows import child_environment
from loader.test_dataset import encoded

import daskt2i
from daskt2i.errors import ConfigError, StoreError
from daskt2i.events import Progress
from daskt2i.export.driver import export
from daskt2i.export.rows import Exported
from daskt2i.store.run_folder import RunFolder
from daskt2i.store.zarr_store import ZarrStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that tests must not change."""
    return encoded(tmp_path_factory.mktemp("export") / "run")


def test_the_command_and_the_method_write_the_same_rows(store: Path, tmp_path: Path) -> None:
    command = ("export", "--out", str(store), "--to", "npy", str(tmp_path / "one"), "--where", "words > 6", "--json")
    answer = one_object(run(*command))
    assert answer["dest"] == str(tmp_path / "one")
    with daskt2i.open_run(store, progress=False) as found:
        made = found.export(tmp_path / "two", "npy", where="words > 6")
    assert made.rows == answer["rows"] > 0
    assert (tmp_path / "one" / "row.npy").read_bytes() == (tmp_path / "two" / "row.npy").read_bytes()
    assert "numpy.load" in repr(made)


def test_progress_counts_the_rows(store: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    export(RunFolder(store), "npy", tmp_path / "made", listener=heard.append)  # type: ignore[arg-type]
    assert [(one.done, one.total) for one in (heard[0], heard[-1])] == [(0, 39), (39, 39)]
    assert len(heard) == 11  # a chunk has no accepted row


def test_one_chunk_is_in_memory_at_a_time(store: Path) -> None:
    exported = Exported.of(ZarrStore(RunFolder(store)), np.array([0, 1, 5, 7, 43]))
    assert [part.numbers.tolist() for part in exported.parts()] == [[0, 1], [5, 7], [43]]


def test_a_damaged_chunk_is_named_and_no_folder_is_left(store: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(store, tmp_path / "run"))
    (own / "latents.zarr" / "text_states" / "c.7.0.0.0").write_bytes(b"damaged")
    with pytest.raises(StoreError, match="Run verify"):
        export(RunFolder(own), "parquet", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


KILLED = """
import sys
from daskt2i.export.driver import export
from daskt2i.store.run_folder import RunFolder

def hear(event):
    if event.done == {after}:
        print("half", flush=True)
        sys.stdin.read()

export(RunFolder(sys.argv[1]), "webdataset", sys.argv[2], listener=hear)
"""


def test_a_killed_export_leaves_no_folder_and_the_next_one_removes_what_was_left(store: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "made"
    command = [sys.executable, "-c", KILLED.format(after=15), str(store), str(target)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=child_environment()
    ) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "half\n"
        killed.send_signal(signal.SIGKILL)
        wait_for(lambda: killed.poll() is not None)
    (partial,) = target.parent.iterdir()
    assert partial.name.startswith(".made.")
    os.utime(partial, (0, 0))  # it is a day old
    export(RunFolder(store), "webdataset", target)
    assert [path.name for path in target.parent.iterdir()] == ["made"]
    assert len(list(target.glob("*.tar"))) == 10


@pytest.mark.parametrize(
    ("sizes", "mirrored", "words"),
    [
        ({(64, 64): 3, (80, 48): 2}, False, r"have several sizes \(64x64, …\)"),
        ({(64, 64): 3}, True, "are there mirrored too"),
        ({(80, 48): 3}, False, r"are not square \(80x48\)"),
    ],
    ids=["sizes", "mirrored", "wide"],
)
def test_latents_that_no_format_has_are_told_as_they_are(
    sizes: dict[tuple[int, int], int], mirrored: bool, words: str, tmp_path: Path
) -> None:
    out = bucketed(tmp_path / "run", sizes, mirrored)
    with pytest.raises(ConfigError, match=f"{words}, and export writes one square latent.*Nothing was written"):
        export(RunFolder(out), "npy", tmp_path / "files")
