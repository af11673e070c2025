"""daskt2i: image-caption data to training-ready latents under Dask."""

from __future__ import annotations

__version__ = "0.1.0"
