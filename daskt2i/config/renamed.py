"""Renamed settings: old names still work, and a note gives the new name.

Covers: the table of old and new names, and the one function that reads old names in plain data. A workflow file,
`--set`, `dask.config`, the `workflow.yaml` of a run folder and the identity in a checkpoint all use this function.
Hashes use the old names.
Does not cover: the list of settings (`settings`), classes that moved (`component.MOVED`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.documents import shown
from daskt2i.errors import ConfigError


def _same(value: Any) -> Any:
    return value


def _restarts(starts: Any) -> Any:
    """Convert a number of starts into a number of restarts. Other values stay; the check of settings reports them."""
    try:
        return int(starts) - 1 if int(starts) == float(starts) else starts
    except (TypeError, ValueError, OverflowError):
        return starts


@dataclass(frozen=True, slots=True)
class RenamedKey:
    """A renamed setting. It stays in its section.

    Attributes:
        section: the section, with dots: `train`, `dataset.facts`.
        old, new: the two names in the section.
        value: converts the old value into the value of the new name.
        meaning: a clause for the note, if the value changes too.
    """

    section: str
    old: str
    new: str
    value: Callable[[Any], Any] = _same
    meaning: str = ""

    @property
    def note(self) -> str:
        """One sentence for a user who used the old name."""
        now = f"{self.section}.{self.new}{self.meaning}"
        return f"{self.section}.{self.old} is now called {now}; the old name still works."


RENAMED = (
    RenamedKey("dataset.facts", "instances", "coco_instances"),
    RenamedKey("run", "readers", "reader_threads"),
    RenamedKey("run", "recheck", "verify_on_resume"),
    RenamedKey("run", "all_missing", "on_missing_chunk"),
    RenamedKey("train", "clip", "max_grad_norm"),
    RenamedKey("train", "heldout", "validation"),
    RenamedKey("train", "dropout", "caption_dropout"),
    RenamedKey("train", "window", "shuffle_window"),
    RenamedKey("vae", "clip", "max_grad_norm"),
    RenamedKey("vae", "heldout", "validation"),
    RenamedKey(
        "launch",
        "attempts",
        "max_restarts",
        _restarts,
        ", which counts restarts and not starts (attempts: 3 is max_restarts: 2)",
    ),
    RenamedKey("launch", "accumulate", "gradient_accumulation_steps"),
    RenamedKey("launch", "keep", "keep_checkpoints"),
    RenamedKey("launch", "heldout_every", "validation_every"),
    RenamedKey("launch", "time_exchange", "profile_allreduce"),
)
"""Never remove a row from this table, because files of users contain the old names."""


def with_new_names(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Replace old names of settings in the plain data of a workflow, or of a part of one.

    Args:
        data: sections by name. It is not changed.
        where: where the data comes from, for messages.

    Returns:
        the same settings under their new names, and a note for each old name in the data.

    Raises:
        ConfigError: a setting has different values under its old and its new name.
    """
    found, notes = {**data}, []
    for row in RENAMED:
        section = _section(found, row)
        if row.old not in section:
            continue
        value = row.value(section[row.old])
        if section.get(row.new, value) != value:
            old, new = f"{row.section}.{row.old}", f"{row.section}.{row.new}"
            raise ConfigError(
                f"{old} is {shown(section[row.old])} and {new} is {shown(section[row.new])} in {where}, but both "
                f"are names of one setting. Nothing was started; keep only {new}."
            )
        # The new name takes the place of the old one, so that an identity or a file keeps its order.
        renamed = {row.new if key == row.old else key: each for key, each in section.items()} | {row.new: value}
        found = _replaced(found, row.section.split("."), renamed)
        notes.append(row.note)
    return found, tuple(notes)


def with_old_names(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a training with the old names of its settings. Hashes use it, so they never change."""
    found = {**identity}
    for row in RENAMED:
        section = _section(found, row)
        if row.new in section:
            renamed = {row.old if key == row.new else key: value for key, value in section.items()}
            found = _replaced(found, row.section.split("."), renamed)
    return found


def _section(data: Mapping[str, Any], row: RenamedKey) -> Mapping[str, Any]:
    """The section of a row; an empty one if it is missing or not a mapping."""
    section: Any = data
    for part in row.section.split("."):
        section = section.get(part) if isinstance(section, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _replaced(data: Mapping[str, Any], parts: list[str], section: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested data in which one section is replaced."""
    if not parts:
        return section
    return {**data, parts[0]: _replaced(data[parts[0]], parts[1:], section)}
