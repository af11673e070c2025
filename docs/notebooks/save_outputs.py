"""Runs the notebooks of this folder from top to bottom, and saves them with what their cells showed.

    python docs/notebooks/save_outputs.py                  # all; on two cores it takes about 20 minutes
    python docs/notebooks/save_outputs.py a-cluster        # some

Covers: the outputs that the pages show, without paths and addresses of the machine. A notebook runs in an empty folder,
without a network. A cell that fails stops it.
Does not cover: whether the outputs say what the text says (tests/docs/test_notebook.py).
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

HERE = Path(__file__).resolve().parent

_ADDRESS = re.compile(r"\b((?:tcp|tls|inproc|https?)://)(?:127\.0\.0\.1|\d+\.\d+\.\d+\.\d+)(?::\d+)?[^\s\"'<,;)\\]*")
_ID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")


class Kernel(AsyncKernelManager):
    """A kernel of this Python, whatever kernels the user has."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


def save(path: Path) -> None:
    """Run a notebook and write it back with its outputs.

    Raises:
        CellExecutionError: a cell failed. The file stays as it is.
    """
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "PYTHONPATH": str(HERE.parents[1]),
            "IPYTHONDIR": f"{folder}/.ipython",
            "JUPYTER_RUNTIME_DIR": f"{folder}/.runtime",
            "HF_HUB_OFFLINE": "1",
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait leave the cores to the workers
        }
        place = Path(folder) / "notebook"
        place.mkdir()
        resources = {"metadata": {"path": place}}
        client = nbclient.NotebookClient(notebook, timeout=None, kernel_manager_class=Kernel, resources=resources)
        client.execute(env={**os.environ, **settings})
        notebook = clean(notebook, place)
    nbformat.write(notebook, path)


def clean(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """The notebook without what belongs to this machine and this hour.

    Args:
        folder: where it ran. Paths in it become relative.
    """
    ids: dict[str, str] = {}

    def plain(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
        text = json.dumps([one for one in outputs if not _of_the_hour(one)])
        text = _ADDRESS.sub(r"\1…", text.replace(f"{folder}{os.sep}", "").replace(str(folder), "."))
        return list(map(nbformat.from_dict, json.loads(_ID.sub(lambda found: _numbered(found[0], ids), text))))

    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = plain(cell.outputs)
    notebook.metadata = {"kernelspec": notebook.metadata.kernelspec, "language_info": {"name": "python"}}
    return notebook


def _of_the_hour(output: nbformat.NotebookNode) -> bool:
    """Whether an output says nothing to a reader: a line of progress that is empty at its end, a port that is taken."""
    if output.output_type == "stream":
        return output.name == "stderr" and "is already in use" in output.text
    return output.output_type == "display_data" and not output.data.get("text/plain", "x")


def _numbered(found: str, ids: dict[str, str]) -> str:
    """A short name in place of an id that xarray draws anew each time."""
    return ids.setdefault(found, f"part-{len(ids)}")


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("*.ipynb"))
    for name in names:
        print(name, flush=True)
        save(HERE / f"{name}.ipynb")


if __name__ == "__main__":
    main()
