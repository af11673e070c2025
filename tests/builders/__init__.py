"""What tests have in common: workflows of fakes, model folders, COCO folders, small runs, the command line."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
"""The folder of the tests. On PYTHONPATH of child processes that import from it."""

SHARED = TESTS.parents[1] / "shared" / "data"
"""Data sets beside the checkout, where this machine has them."""
