"""Numbers and words with commas, as options of several commands take them.

Covers: reading them, and one sentence where something else is given.
"""

from __future__ import annotations

from daskt2i.errors import ConfigError


def words(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers with commas.

    Raises:
        ConfigError: something else, or none.
    """
    found = words(text.replace("_", ""))
    if not found or not all(word.isdecimal() and int(word) for word in found):
        raise ConfigError(f"{option} is {text!r}; give whole numbers from 1 with commas, e.g. 1,2,4.")
    return tuple(int(word) for word in found)


def seconds(text: str, option: str) -> tuple[float, ...]:
    """Seconds with commas.

    Raises:
        ConfigError: something else, or none.
    """
    try:
        found = tuple(float(word) for word in words(text))
    except ValueError:
        found = ()
    if not found or not all(0 <= one < float("inf") for one in found):
        raise ConfigError(f"{option} is {text!r}; give seconds from 0 with commas, e.g. 0,0.5.")
    return found
