"""Start one measurement in a new process, and return its result or raise its error.

Covers: the task and result files, thread variables, stopping the child process with this process.
Does not cover: the measurement (`cell`).
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
"""Variables that are removed from the environment: encode sets its threads itself, and naive uses torch's default."""

_STOP_SECONDS = 30.0


def perform(task: BenchTask) -> dict[str, Any]:
    """Run the task in a new process.

    Returns:
        The result of `cell.perform`.

    Raises:
        ExecutorError: the task failed. It has the sentence of the child's error, and is raised from that error.
        KeyboardInterrupt: Ctrl-C was pressed here; the child is stopped first.
    """
    with tempfile.TemporaryDirectory(prefix="daskt2i-bench-") as folder:
        given, made, said = (Path(folder, name) for name in ("task.json", "result.json", "stderr"))
        given.write_text(replace(task, parent=os.getpid(), begun=time.time()).to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "daskt2i.bench.cell", str(given), str(made)]
        environment = {k: v for k, v in os.environ.items() if k not in THREAD_VARIABLES}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        with said.open("wb") as errors:
            # The child has its own session: a terminal sends Ctrl-C to the whole group, but a worker must not get it
            # before its parent.
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
                f"The measuring process ended with code {child.returncode}{f' ({last[0][:300]})' if last else ''}. "
                "Earlier measurements are kept. The usual cause is memory: use fewer workers."
            )
        result: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
    if "error" in result:
        error = from_json(result["error"])
        raise ExecutorError(" ".join(str(error).split())) from error
    return result


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop the child like Ctrl-C does, and kill it if it does not end."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
