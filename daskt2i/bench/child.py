"""Starting one measurement in a fresh process, and getting its result or the sentence it failed with.

Covers: the task and result files, thread variables, stopping the child with us.
Does not cover: what it does (`cell`).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from daskt2i.bench.measured import BenchTask
from daskt2i.errors import ExecutorError
from daskt2i.portable_errors import from_json

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Taken out of the environment: ours sets its threads itself, and naive is to have torch's default."""

_STOP_SECONDS = 30.0


def perform(task: BenchTask) -> dict[str, Any]:
    """Run the task in a process of its own, from the start of Python on.

    Returns:
        What `cell.perform` returned.

    Raises:
        ExecutorError: it failed; the sentence is the child's, and so is the error that it is raised from.
        KeyboardInterrupt: Ctrl-C here; the child is stopped first.
    """
    with tempfile.TemporaryDirectory(prefix="daskt2i-bench-") as folder:
        given, made, said = (Path(folder, name) for name in ("task.json", "result.json", "stderr"))
        given.write_text(replace(task, parent=os.getpid(), begun=time.time()).to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "daskt2i.bench.cell", str(given), str(made)]
        environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        with said.open("wb") as errors:
            # A session of its own: a terminal sends Ctrl-C to all, and a worker must not hear it before its parent.
            child = subprocess.Popen(
                command, stdout=errors, stderr=errors, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
            try:
                child.wait()
            except BaseException:
                _stop(child)
                raise
        if not made.is_file():
            last = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ExecutorError(
                f"The process that measures ended with {child.returncode}{f' ({last[0][:300]})' if last else ''}. "
                "What was measured before stands; memory is the usual cause."
            )
        result: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    if "error" in result:
        error = from_json(result["error"])
        raise ExecutorError(" ".join(str(error).split())) from error
    return result


def _stop(child: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C would; and hard, when that is not heard."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
