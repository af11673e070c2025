"""The tests run the command line on a terminal of 80 columns without colours."""

from __future__ import annotations

import pytest
from builders.workflows import child_environment


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "TERM", "NO_COLOR"):
        monkeypatch.setenv(name, child_environment()[name])
    monkeypatch.delenv("FORCE_COLOR", raising=False)
