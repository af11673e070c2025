"""The memory of a process is the lowest limit of its control groups, as in a job of SLURM or a pod."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from daskt2i.machine.machine import _memory, this_machine
from daskt2i.machine.versions import code_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("line", "files", "memory"),
    [
        ("0::/slurm/job_7/step_0", {"slurm/job_7/memory.max": 2, "slurm/job_7/step_0/memory.max": None}, 2),
        ("0::/slurm/job_7", {"memory.max": 1, "slurm/job_7/memory.max": 2}, 1),
        ("0::/", {"memory.max": 3}, 3),
        ("5:cpu:/a\n4:memory:/a/b", {"memory/a/b/memory.limit_in_bytes": 2, "a/memory.max": 1}, 2),
        ("4:cpu,memory:/a/b", {"memory/a/memory.limit_in_bytes": 2, "memory/memory.limit_in_bytes": 9}, 2),
    ],
    ids=["job", "root is lower", "container", "version 1", "version 1 above"],
)
def test_the_lowest_limit_of_the_groups_around_a_process_counts(
    line: str, files: dict[str, int | None], memory: int, tmp_path: Path
) -> None:
    if psutil.virtual_memory().total < 3 * GIB:
        pytest.skip("this machine has less memory than the limits of this test")
    (tmp_path / "cgroup").write_text(line + "\n")
    for name, gibibytes in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("max\n" if gibibytes is None else f"{gibibytes * GIB}\n")
    assert _memory(tmp_path / "cgroup", tmp_path / "fs") == memory * GIB


def test_without_control_groups_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    assert _memory(tmp_path / "nothing", tmp_path / "fs") == psutil.virtual_memory().total
    assert 0 < this_machine().memory <= psutil.virtual_memory().total


def test_an_installed_copy_has_the_code_of_the_checkout_it_was_made_from(tmp_path: Path) -> None:
    """The wheel puts `workflows` into the package, with scripts that are beside it in a checkout."""
    checkout, installed = tmp_path / "a", tmp_path / "b"
    for folder in (checkout, installed):
        (folder / "encode").mkdir(parents=True)
        (folder / "encode" / "worker.py").write_text("x = 1\n")
    (installed / "workflows").mkdir()
    (installed / "workflows" / "draw.py").write_text("print()\n")
    assert code_of(installed) == code_of(checkout)
    (installed / "encode" / "worker.py").write_text("x = 2\n")
    assert code_of(installed) != code_of(checkout)
