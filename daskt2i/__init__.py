"""daskt2i: image-caption data to training-ready latents under Dask.

    import daskt2i
    dataset = daskt2i.open_store("runs/demo")       # an xarray Dataset

The command line is `python -m daskt2i.workflow`; the README shows the same steps from Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daskt2i.store.zarr_store import open_store as open_store

__version__ = "0.1.0"
__all__ = ["open_store"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import daskt2i` stays instant."""
    if name == "open_store":
        from daskt2i.store.zarr_store import open_store

        return open_store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
