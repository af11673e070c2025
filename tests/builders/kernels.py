"""A notebook, run by a real kernel of Jupyter."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import TESTS


def run_notebook(cells: Mapping[str, str], folder: Path) -> dict[str, list[Any]]:
    """Outputs by name of the cell. A cell that raises does not end the run."""
    nbformat = pytest.importorskip("nbformat", reason="needs the extra `test` (nbclient, ipykernel)")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class Manager(AsyncKernelManager):
        """Of this Python, whatever kernels the user has."""

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells.values()])
    client = nbclient.NotebookClient(
        notebook,
        timeout=None,
        allow_errors=True,
        kernel_manager_class=Manager,
        resources={"metadata": {"path": folder}},
    )
    client.execute(
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        }
    )
    return {name: cell.outputs for name, cell in zip(cells, notebook.cells, strict=True)}
