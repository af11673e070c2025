"""The report of a run: its view, its JSON, and writing its HTML file.

Covers: what `report` shows on a terminal, in a notebook and as JSON.
Does not cover: where the figures come from (`rebuild`), the HTML file (`html`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from daskt2i.addresses import expanded
from daskt2i.dashboard.report.evaluation import evaluation_html, read_evaluation, summary
from daskt2i.dashboard.report.html import page
from daskt2i.dashboard.report.page_file import writing_page
from daskt2i.dashboard.report.rebuild import rebuild
from daskt2i.dashboard.run_state import RunState
from daskt2i.dashboard.state.names import BESIDE, ENCODE_PARTS, HELDOUT_LOSS, LAST_LOSS, MEAN_SPEED, TRAIN_PARTS
from daskt2i.dashboard.state.series import Series
from daskt2i.errors import StoreError
from daskt2i.formatting import counted, duration, many, off_words, size
from daskt2i.store.run_folder import RunFolder
from daskt2i.view import Section, View, Viewed

_NOTES = 3
"""Notes in the summary. The file has all that are known."""


@dataclass(frozen=True, slots=True, repr=False)
class ReportResult(Viewed):
    """The report of a run. `state` has every figure with its unit.

    Attributes:
        out: address of the run folder.
        html: the file that was written; "" for none.
        unknown: a sentence for each thing that the folder does not tell.
        evaluation: the JSON of the last `evaluate`; empty if there is none.
    """

    out: str
    state: RunState = field(repr=False)
    html: str = ""
    unknown: tuple[str, ...] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The object that `report --json` prints. Times are seconds, sizes bytes; what is not known is null."""
        state = self.state
        return {
            "out": self.out,
            "html": self.html or None,
            "stages": dict(state.stages),
            "encode": _encode_json(state) if state.chunks else None,
            "train": _train_json(state) if state.training else None,
            "estimate": _estimate_json(state) if state.estimate else None,
            **({"evaluate": dict(self.evaluation)} if self.evaluation else {}),
            "notes": [text for _, text in state.notes],
            "unknown": list(self.unknown),
        }

    def view(self) -> View:
        """What happened, in few lines; in a notebook also the curves."""
        state = self.state
        rows = [("stages", ", ".join(f"{name} {how}" for name, how in state.stages.items()) or "not known")]
        if state.chunks:
            rows += _encode_rows(state)
        if state.training:
            rows += _train_rows(state)
        if measured := summary(self.evaluation):
            rows.append(("evaluate", _printable(measured)))
        rows += [("note", _printable(text)) for _, text in list(state.notes)[-_NOTES:]]
        if len(state.notes) > _NOTES:
            rows.append(("", f"and {many(len(state.notes) - _NOTES, 'older note')}"))
        rows += [("not known", text) for text in self.unknown]
        if self.html:
            rows.append(("page", self.html))
        told = tuple((_clock(at), _printable(text)) for at, text in state.notes)
        ended = f"{state.stage}: {_printable(state.error)}" if state.error else ""
        stopped = state.stages.get(state.stage) == "stopped"
        failures = (ended,) if ended and not stopped else ()
        rows += [("stopped", ended)] * (bool(ended) and stopped)
        return View(
            "Report",
            tuple(rows),
            about=self.out,
            failures=failures,
            done=state.rows_done / state.rows if state.rows else None,
            rejected=sum(state.rejected.values()) / state.rows if state.rows else 0.0,
            curves=(tuple(state.loss), tuple(state.heldout)) if state.training else (),
            curves_label="loss by step" + ", held-out loss (thick)" * (len(state.heldout) > 1),
            sections=(Section("Notes", told),) if told else (),
        )


def report(folder: RunFolder, html: str | Path | None = None) -> ReportResult:
    """Make the report of a run folder.

    Args:
        html: a file for the page; None for no page.

    Raises:
        StoreMissing: there is nothing of a run in the folder.
        StoreError: the file cannot be written.
    """
    state, unknown = rebuild(folder)
    evaluation: Mapping[str, Any] = {}
    try:
        evaluation = read_evaluation(folder)
    except (OSError, StoreError, ValueError, RecursionError):
        unknown = (*unknown, "What evaluate measured is not known: reports/evaluate.json cannot be read.")
    found = ReportResult(str(folder), state, "", unknown, evaluation)
    if html is None:
        return found
    path = expanded(str(html), "html").absolute()
    _refuse(path, folder)
    missing: tuple[str, ...] = ()
    with writing_page(path) as file:
        text, missing = page(state, found.view().rows, unknown, evaluation_html(evaluation))
        file.write(text)
    return replace(found, html=str(path), unknown=(*unknown, *missing))


def _printable(text: str) -> str:
    """A text without characters that steer a terminal: file names and captions may hold them."""
    return "".join(one if one.isprintable() else " " for one in text)


def _refuse(path: Path, folder: RunFolder) -> None:
    """Refuse a page in the place of something else.

    Raises:
        StoreError: it is a device, a pipe, or a file of the run folder.
    """
    inside = folder.is_local and Path(str(folder)).resolve() in path.resolve().parents
    if path.exists() and not (path.is_file() or path.is_dir()):
        why = "this is no ordinary file"
    elif inside and path.suffix.lower() not in (".html", ".htm"):
        why = "the run folder keeps its own files there"
    else:
        return
    raise StoreError(f"The page was not written to {path}: {why}. Nothing changed. Give another file (html).")


def _encode_json(state: RunState) -> dict[str, Any]:
    return {
        "rows": state.rows,
        "rows_done": state.rows_done,
        "rows_before": state.rows_before,
        "accepted": state.accepted,
        "rejected": dict(sorted(state.rejected.items())),
        "removed": state.removed,
        "captions": state.captions,
        "bytes": state.bytes,
        "chunks": dict(state.chunk_states),
        "seconds": _rounded(state.estimate_so_far()["seconds"]),
        "rate": state.rate,
        "parts": {name: round(value, 3) for name, value in state.parts.items()},
        "psnr": {"lowest": state.psnr_lowest, "limit": state.min_psnr or None, "pictures": sum(state.psnr_counts)},
        "workers": {name: {k: v for k, v in one.items() if k != "last"} for name, one in state.workers.items()},
        "device": state.device or None,
        "precision": state.precision or None,
        "engine": state.engine or None,
    }


def _train_json(state: RunState) -> dict[str, Any]:
    return {
        "training": state.training,
        "step": state.step,
        "steps": state.steps,
        "loss": _last(state.loss),
        **(state.heldout_figures or {"heldout_loss": None}),
        "learning_rate": _last(state.learning_rate),
        "samples_per_second": state.mean_speed or None,
        "samples_per_second_recent": _last(state.speed),
        "shares": dict(state.shares),
        "rank_shares": {str(rank): dict(shares) for rank, shares in state.rank_shares.items()},
        "ranks": state.ranks or None,
        "attempts": state.attempt or None,
        "checkpoint": state.checkpoint,
    }


def _estimate_json(state: RunState) -> dict[str, Any]:
    """What was forecast, and what this encode took and will take."""
    return {"forecast": dict(state.estimate), **{k: _rounded(v) for k, v in state.estimate_so_far().items()}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _last(series: Series) -> Any:
    return series.last[1] if series.last else None


def _encode_rows(state: RunState) -> list[tuple[str, str]]:
    total = sum(state.rejected.values())
    why = f" ({counted(state.rejected)})" if total else ""
    gone = f", {state.removed:,} removed" if state.removed else ""
    of = f"{state.rows_done:,} of {state.rows:,}" if state.rows_done < state.rows else f"{state.rows:,}"
    rows = [("rows", f"{of}: {state.accepted:,} accepted, {total:,} rejected{why}{gone}")]
    states = [f"{count:,} {name}" for name, count in state.chunk_states.items() if count]
    rows.append(("chunks", ", ".join(states)))
    rows.append(("store", size(state.bytes)))
    how = [part for part in (state.device, state.precision, state.engine) if part]
    seconds = state.estimate_so_far()["seconds"]
    if seconds and state.encode_ended:
        new = state.rows_done - state.rows_before
        rows.append(("encode", f"{many(new, 'row')} in {duration(seconds)}; {', '.join(how)}"))
    if (spent := _shares(state.parts)) is not None:
        rows.append(("time", spent))
    if state.psnr_lowest is not None:
        limit = f"; the limit is {state.min_psnr:g} dB" if state.min_psnr else ""
        checked = many(sum(state.psnr_counts), "checked picture")
        rows.append(("PSNR", f"{state.psnr_lowest:.1f} dB is the lowest of {checked}{limit}"))
    if state.workers:
        rates = [one["rate"] for one in state.workers.values() if one.get("rate")]
        memory = max((one.get("memory") or 0 for one in state.workers.values()), default=0)
        span = dict.fromkeys(f"{rate:.1f}" for rate in (min(rates), max(rates))) if rates else {}
        speed = f"{' to '.join(span)} rows/s each, " if rates else ""
        rows.append(("workers", f"{state.workers_seen:,}; {speed}largest {size(memory)}"))
    if "seconds" in state.estimate:
        forecast = state.estimate["seconds"]
        took = f", it took {duration(seconds)}" if seconds and state.encode_ended else ""
        part = " for all rows; a part was encoded before" if state.rows_before else ""
        took += f": {off_words(forecast, seconds)}" if took and seconds and not part else ""
        rows.append(("forecast", f"{duration(forecast)}{part}{took}"))
    return rows


def _shares(parts: dict[str, float]) -> str | None:
    """Shares of the workers' time. Reading and decoding run beside it, so they count by the wait for them."""
    own = {name: value for name, value in parts.items() if name not in BESIDE and value > 0}
    total = sum(own.values())
    if total <= 0:
        return None
    shares = sorted(own.items(), key=lambda item: -item[1])
    told = [(ENCODE_PARTS.get(name, name), 100 * value / total) for name, value in shares]
    return ", ".join(f"{name} {share:.0f} %" for name, share in told if share >= 0.5)


def _train_rows(state: RunState) -> list[tuple[str, str]]:
    figures = [f"step {state.step:,} of {state.steps:,}"]
    if state.loss.last is not None:
        figures.append(f"{LAST_LOSS} {state.loss.last[1]:.4f}")
    if state.heldout.last is not None:
        figures.append(f"{HELDOUT_LOSS} {state.heldout.last[1]:.4f}")
    rows = [(state.training, ", ".join(figures))]
    if state.speed.last is not None:
        mean = f"{state.mean_speed or state.speed.last[1]:.1f} {MEAN_SPEED} on {many(state.ranks, 'rank')}"
        rows.append(("speed", mean))
        spent = [(TRAIN_PARTS[name], 100 * mean) for name, (mean, _, _) in state.mean_shares.items() if mean >= 0.005]
        if spent:
            who = "rank 0" if len(state.rank_shares) == 1 else "all ranks, the mean"
            shares = ", ".join(f"{name} {share:.0f} %" for name, share in spent)
            rows.append(("time of ranks", f"{shares} (since the start, {who})"))
    if state.attempt > 1:
        rows.append(("attempts", f"{state.attempt}"))
    return rows


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
