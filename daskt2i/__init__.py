"""daskt2i: image-caption data to training-ready latents under Dask, and a text-to-image model trained on them.

    import daskt2i

    run = daskt2i.Run("demo")                   # a workflow, a run folder, and workers when a method needs them
    run = daskt2i.open_run("runs/demo")         # a run folder with its own settings
    dataset = daskt2i.open_store("runs/demo")   # the latents as an xarray Dataset
    workflow = daskt2i.load_workflow("demo")    # only the settings
    daskt2i.look("photos")                      # the first rows of a data set

The command line, `python -m daskt2i.workflow`, calls the same methods.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskt2i.run import Run as Run
    from daskt2i.run import open_run as open_run
    from daskt2i.session.data.choice import load_workflow as load_workflow
    from daskt2i.session.data.look import look as look
    from daskt2i.store.dataset import open_store as open_store

__version__ = "0.1.0"
__all__ = ["Run", "load_workflow", "look", "open_run", "open_store"]

_FROM = {
    "Run": "daskt2i.run",
    "load_workflow": "daskt2i.session.data.choice",
    "look": "daskt2i.session.data.look",
    "open_run": "daskt2i.run",
    "open_store": "daskt2i.store.dataset",
}
_MODULES = ("errors", "events", "protocols", "testing", "types")


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that `import daskt2i` stays fast.

    Raises:
        ConfigError: a package or a configuration file that it needs is damaged.
    """
    if name in _FROM:
        try:
            found = getattr(importlib.import_module(_FROM[name]), name)
            if name in ("load_workflow", "look", "open_store"):  # `run` explains the arguments of the others itself
                found = importlib.import_module("daskt2i.session.verbs").explain_arguments(found)
            return globals().setdefault(name, found)
        except (ImportError, ValueError) as error:
            from daskt2i.errors import ConfigError
            from daskt2i.os_errors import import_problem

            problem = import_problem(error)
            raise (error if problem is None else ConfigError(problem)) from error.__cause__
    if name in _MODULES:
        return importlib.import_module(f"daskt2i.{name}")
    raise AttributeError(f"daskt2i has no attribute {name!r}. It has {', '.join((*__all__, *_MODULES))}.")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
