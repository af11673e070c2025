"""Numbers as text."""

from __future__ import annotations

import pytest

from daskt2i.formatting import many


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 accepted rows"), (1, "1 accepted row"), (2000, "2,000 accepted rows")]
)  # fmt: skip
def test_a_count_and_its_noun_agree(count: int, text: str) -> None:
    assert many(count, "accepted row") == text
