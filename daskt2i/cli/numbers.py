"""Lists of numbers and words with commas, for options of several commands.

Covers: reading them, and the error for a wrong value.
"""

from __future__ import annotations

from daskt2i.errors import ConfigError


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The whole numbers of a list with commas.

    Raises:
        ConfigError: the text has no numbers, or something else.
    """
    found = words(text.replace("_", ""))
    if not found or not all(word.isdecimal() and int(word) for word in found):
        raise ConfigError(f"{option} is {text!r}. Give whole numbers from 1 up, with commas, e.g. 1,2,4.")
    return tuple(int(word) for word in found)


def seconds(text: str, option: str) -> tuple[float, ...]:
    """The seconds of a list with commas.

    Raises:
        ConfigError: the text has no numbers, or something else.
    """
    try:
        found = tuple(float(word) for word in words(text))
    except ValueError:
        found = ()
    if not found or not all(0 <= one < float("inf") for one in found):
        raise ConfigError(f"{option} is {text!r}. Give seconds from 0 up, with commas, e.g. 0,0.5.")
    return found
