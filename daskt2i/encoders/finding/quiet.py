"""Silencing the model libraries while they work, and the first line of what they say.

Covers: log lines, progress bars and warnings of transformers, diffusers and the hub client.
Does not cover: errors, which pass.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator


def first_line(error: BaseException) -> str:
    """First line of a library's error message; the class of the error if it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextlib.contextmanager
def quiet(*needs: str) -> Iterator[None]:
    """Silence log lines, progress bars and Python warnings of the model libraries, and restore them afterwards.

    Args:
        needs: libraries that the block imports, such as `"diffusers"`. What is not imported yet cannot be silenced, so
            they are imported first.

    Loading one tower of a full CLIP repository would print about thirty lines about the other tower. Exceptions are not
    affected. The switches belong to the process, so other threads are silent during this time too.
    """
    for name in needs:
        importlib.import_module(f"{name}.utils.logging")  # this import resets loggers
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    bars = []
    for name in ("transformers.utils.logging", "diffusers.utils.logging"):
        if name.split(".")[0] in sys.modules:
            module = importlib.import_module(name)
            bars += [module] if module.is_progress_bar_enabled() else []
    hub = importlib.import_module("huggingface_hub.utils")
    hub_bars = not hub.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        for module in bars:
            module.disable_progress_bar()
        hub.disable_progress_bars()
        try:
            yield
        finally:
            if hub_bars:
                hub.enable_progress_bars()
            for module in bars:
                module.enable_progress_bar()
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
