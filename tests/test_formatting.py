"""Numbers as text."""

from __future__ import annotations

import pytest

from daskt2i.formatting import many, off_words


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 accepted rows"), (1, "1 accepted row"), (2000, "2,000 accepted rows")]
)  # fmt: skip
def test_a_count_and_its_noun_agree(count: int, text: str) -> None:
    assert many(count, "accepted row") == text


def test_a_forecast_is_too_long_too_short_or_right() -> None:
    found = [off_words(forecast, 100.0) for forecast in (50.0, 71.0, 99.9, 104.0, 300.0)]
    assert found == ["50 % too short", "29 % too short", "right", "4 % too long", "200 % too long"]
