"""What `evaluate` found, as a table, as JSON and in a notebook.

Covers: the result of the stage.
Does not cover: the measures (`judging`, `clip_scores`), the tables of a terminal (`display.tables`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.errors import StoreError
from daskt2i.evaluation.clip_scores import ClipScores, clip_rows
from daskt2i.evaluation.figures.result import Figures
from daskt2i.evaluation.intervals import about
from daskt2i.evaluation.judging import FIELDS, Fidelity
from daskt2i.store.run_folder import REPORTS, RunFolder
from daskt2i.view import Picture, View, Viewed

SHEET = f"{REPORTS}/evaluate.png"
"""The contact sheet in the run folder."""


@dataclass(frozen=True, slots=True, repr=False)
class EvaluateResult(Viewed):
    """The result of `evaluate`: the judge's shares, CLIP scores, or the figures that were asked for.

    Attributes:
        prompts, seeds: number of prompts, and of seeds for each prompt.
        sheet: address of the contact sheet; `folder`: its run folder.
    """

    prompts: int
    seeds: int
    sheet: str
    folder: RunFolder
    fidelity: Fidelity | None = None
    clip: ClipScores | None = None
    figures: Figures | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `evaluate --json` prints: the shares with their counts."""
        found: dict[str, Any] = {"prompts": self.prompts, "seeds": self.seeds}
        if self.fidelity is not None:
            found |= self.fidelity.overall.to_json()
            found |= {"single": self.fidelity.single.to_json(), "pair": self.fidelity.pair.to_json()}
            found["words"] = self.fidelity.words.to_json()
        if self.clip is not None:
            found |= self.clip.to_json()
        if self.figures is not None:
            found |= self.figures.to_json()
        return {**found, "sheet": self.sheet}

    def view(self) -> View:
        """The share of each field, or the CLIP scores; in a notebook also the contact sheet."""
        rows = [("prompts", f"{self.prompts:,} x {self.seeds} seed{'s' * (self.seeds != 1)}")]
        if self.fidelity is not None:
            shares = self.fidelity.overall
            rows += [(name, about(shares.right[name], shares.of)) for name in FIELDS if shares.of]
            rows += [
                (f"{kind} {word}", f"{about(right, of)} of {of}")
                for kind, word, right, of in self.fidelity.words.rows()
            ]
        if self.clip is not None:
            rows += clip_rows(self.clip)
        if self.figures is not None:
            rows += self.figures.rows()
        rows.append(("contact sheet", self.sheet))
        title = (
            "Prompt fidelity" if self.fidelity is not None else "Figures" if self.figures is not None else "CLIP score"
        )
        return View(title, tuple(rows), make_pictures=self._pictures)

    def _pictures(self) -> tuple[Picture, ...]:
        try:
            return (Picture(self.folder.read(SHEET), "", wide=True),)
        except (FileNotFoundError, StoreError):  # removed since
            return ()
