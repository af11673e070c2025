"""What tests have in common: workflows of fakes, model folders, COCO folders, small runs, the command line."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
"""The folder of the tests."""

STARTUP = TESTS / "builders" / "startup"
"""Its `sitecustomize` makes child processes start sooner. On their PYTHONPATH."""

CHILD_PATH = f"{TESTS}{os.pathsep}{STARTUP}"
"""PYTHONPATH of child processes that import from the folder of the tests."""

SHARED = TESTS.parents[1] / "shared" / "data"
"""Data sets beside the checkout, where this machine has them."""
