"""The result of `append`, `remove` and `replace`: what became of each row.

Covers: counts, failed chunks, JSON, the view.
Does not cover: the encode of the new rows (`encode.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daskt2i.encode.summary import EncodeResult
from daskt2i.errors import SourceError, StoreError
from daskt2i.formatting import counted, duration, many
from daskt2i.view import View, Viewed

_NAMED = 5


@dataclass(frozen=True, slots=True, repr=False)
class RowsResult(Viewed):
    """The result of a change of rows.

    Attributes:
        command: `append`, `remove` or `replace`.
        out: address of the run folder.
        dry_run: whether nothing was done: the numbers say what would be done.
        part: name of the part with the new rows; "" if there are none.
        new: rows of this part. `accepted` and `rejected` (reason -> rows) are those of its encode.
        known: rows of the source that the store had already (`append`).
        named: how many different ids or names were given; None if none were.
        removed: rows that are not there any more after this command.
        gone: named rows that were removed before.
        unknown: names that no row of the store has; for `replace` also those that no row of the source has.
        kept: named rows that stay as they were, because their new rows were rejected (`replace`).
        rows: accepted rows of the store now, in all of its parts.
        encoded: the encode of the part; None if there was none.
    """

    command: str
    out: str
    dry_run: bool = False
    part: str = ""
    new: int = 0
    known: int = 0
    named: int | None = None
    removed: int = 0
    gone: int = 0
    unknown: tuple[str, ...] = ()
    kept: int = 0
    rows: int = 0
    encoded: EncodeResult | None = None

    @property
    def accepted(self) -> int:
        """New rows whose arrays are in the store."""
        return 0 if self.encoded is None else self.encoded.accepted

    @property
    def rejected(self) -> Mapping[str, int]:
        """Reason -> new rows without arrays."""
        return {} if self.encoded is None else self.encoded.rejected

    @property
    def failed(self) -> Mapping[int, str]:
        """Chunk of the part -> the error of its last try. Then readers still see the rows of before."""
        return {} if self.encoded is None else self.encoded.failed

    @property
    def too_few(self) -> str:
        """A sentence if fewer new rows were accepted than `run.min_accepted` asks for; "" if not."""
        found = self.encoded
        if found is None or found.accepted >= found.min_accepted * found.rows:
            return ""
        return found.too_few

    @property
    def done(self) -> bool:
        """Whether the rows of the store are those that were asked for."""
        return not self.dry_run and not self.failed and not self.too_few

    def raise_for_failed(self) -> RowsResult:
        """Raise an error if the new rows are not in the store; else return the result.

        Raises:
            StoreError: chunks failed.
            SourceError: fewer rows than `run.min_accepted` were accepted.
        """
        if self.failed:
            raise StoreError(
                f"{many(len(self.failed), 'chunk')} of the new rows failed ({next(iter(self.failed.values()))}). The "
                f"store in {self.out} has the rows of before, and what was encoded stays. Run the same command again: "
                "it tries only these chunks."
            )
        if self.too_few:
            raise SourceError(
                f"{self.too_few} The store in {self.out} has the rows of before. Correct the images or the captions, "
                f"remove the folder parts/{self.part}, and run the same command again; or say that so few are enough: "
                "run.min_accepted=0."
            )
        return self

    def to_json(self) -> dict[str, Any]:
        """The object that the commands print with `--json`."""
        return {
            "command": self.command,
            "out": self.out,
            **({"dry_run": True} if self.dry_run else {}),
            "part": self.part,
            "new": self.new,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
            "known": self.known,
            **({} if self.named is None else {"named": self.named}),
            "removed": self.removed,
            "gone": self.gone,
            "unknown": list(self.unknown),
            "kept": self.kept,
            "rows": self.rows,
            "chunks": {} if self.encoded is None else {"done": self.encoded.done, "skipped": self.encoded.skipped},
        }

    def view(self) -> View:
        """What became of each row."""
        rows = []
        if self.command != "remove":
            rows.append(("new rows", self._new()))
        if self.command == "append":
            rows.append(("known", f"{many(self.known, 'row')} of the source, by their image id"))
        if self.named is not None:
            rows.append(("ids", f"{self.named:,} given"))
        if self.command != "append":
            rows.append(("removed", many(self.removed, "row")))
        if self.gone:
            rows.append(("removed before", many(self.gone, "row")))
        if self.kept:
            rows.append(("not replaced", f"{many(self.kept, 'row')}, because the new one was rejected"))
        if self.unknown:
            more = f" and {len(self.unknown) - _NAMED:,} more" if len(self.unknown) > _NAMED else ""
            rows.append(("unknown", f"{', '.join(self.unknown[:_NAMED])}{more}"))
        rows.append(("rows", f"{self.rows:,} accepted rows {'now' if self.dry_run else 'are in the store'}"))
        if self.encoded is not None and self.encoded.done:
            rows.append(("time", duration(self.encoded.seconds)))
        return View(self._title(), tuple(rows), failures=tuple(self.failed.values()), about=self.out)

    def _title(self) -> str:
        if self.dry_run:
            return f"Plan of {self.command}"
        if not self.done:
            return f"{self.command.capitalize()} did not end: the store has the rows of before"
        return {"append": "Rows appended", "remove": "Rows removed", "replace": "Rows replaced"}[self.command]

    def _new(self) -> str:
        if self.encoded is None:
            none = "the store has all rows of the source"
            if self.command == "replace":
                none = "the store, or the source, has none of these names"
            return f"{self.new:,}" if self.new else f"none: {none}"
        rejected = f", {sum(self.rejected.values()):,} rejected ({counted(self.rejected)})" if self.rejected else ""
        return f"{self.new:,} in parts/{self.part}: {self.accepted:,} accepted{rejected}"
