"""What a person reads on a terminal: the plan and the totals of encoding.

Covers: tables that fit 80 columns.
Does not cover: progress (`encode_progress`), `--json` (each result has its own `to_json`).
"""

from __future__ import annotations

from rich.table import Table

from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.summary import EncodeResult
from daskt2i.encode.verify import VerifyResult
from daskt2i.estimate.forecast import ForecastComparison
from daskt2i.formatting import duration, facts, size, workers_words
from daskt2i.plan import WorkerLayout
from daskt2i.store.status import RunStatus


def plan_table(prepared: EncodePlan, layout: WorkerLayout | None) -> Table:
    """What `--dry-run` shows. `layout` is None for a cluster that is attached to."""
    info, plan, cost, dataset = prepared.source_info, prepared.grid, prepared.requirements, prepared.workflow.dataset
    left_out = [f"{info.orphan_captions} orphan"] * bool(info.orphan_captions)
    left_out += [f"{info.blank_captions} blank"] * bool(info.blank_captions)
    captions = f"{info.captions:,} captions" + (f" (and {', '.join(left_out)}, not counted)" if left_out else "")
    rows = [
        ("source", info.label),
        ("rows", f"{info.rows:,} images, {captions}"),
        *([("left out", f"{info.left_out:,} images, by where: {dataset.where}")] if dataset.where else []),
        ("chunks", f"{len(plan):,} of {plan.rows_per_chunk} rows"),
        ("image encoder", _encoder(prepared, "image", f"{dataset.image.resolution} px")),
        ("text encoder", _encoder(prepared, "text", "")),
        ("precision", prepared.precision + (" (measured at the start)" if prepared.precision == "auto" else "")),
        ("batch", f"{cost.batch} images, {prepared.workflow.run.text_batch} captions"),
    ]
    if layout is None:
        rows.append(("workers", "as the cluster has them"))
        rows.append(("memory", f"about {size(cost.worker_memory)} per worker"))
    else:
        rows.append(("workers", f"{workers_words(layout.workers, layout.threads)} ({layout.reason})"))
        rows.append(("memory", f"about {size(cost.worker_memory)} per worker, {size(layout.memory_limit)} allowed"))
    rows.append(("disk", f"about {size(cost.disk)} ({size(cost.latents_disk)} latents, {size(cost.text_disk)} text)"))
    rows.append(("run folder", str(prepared.folder) + (" (goes on)" if prepared.stored else "")))
    return facts(f"Plan of {prepared.workflow.name}", rows)


def _encoder(prepared: EncodePlan, kind: str, extra: str) -> str:
    component = getattr(prepared.workflow.dataset.encoders, kind)
    info = getattr(prepared, f"{kind}_info")
    name = component.class_path.rpartition(".")[2]
    arrays = ", ".join(f"{a.name} {'x'.join(map(str, a.shape))}" for a in info.arrays if a.shape)
    random = " RANDOM WEIGHTS," if info.random_weights else ""
    model = component.arguments.get("model")
    return f"{name}{f' {model}' if model else ''},{random} {f'{extra} -> ' if extra else ''}{arrays}"


def summary_table(summary: EncodeResult) -> Table:
    """How an encode ended."""
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(summary.rejected.items()))
    total = sum(summary.rejected.values())
    rows = [
        (
            "rows",
            f"{summary.rows:,}: {summary.accepted:,} accepted, {total:,} rejected{f' ({rejected})' * bool(total)}",
        ),
        *([] if summary.left_out is None else [("left out", f"{summary.left_out:,} rows, by dataset.where")]),
        ("captions", f"{summary.captions:,}" + f", {summary.truncated:,} cut to length" * bool(summary.truncated)),
        ("chunks", f"{summary.done:,} encoded now, {summary.skipped:,} found done, {len(summary.failed)} failed"),
    ]
    if summary.rows_now:
        workers = f"{workers_words(summary.workers, summary.threads)}, {summary.precision}"
        rows.append(("speed", f"{summary.images_per_second:.1f} images/s ({duration(summary.seconds)}; {workers})"))
    if summary.forecast is not None:
        rows.append(("forecast", check_words(summary.forecast)))
    rows.append(("store", f"{summary.store} ({size(summary.bytes)})"))
    title = "Encoded" if not summary.failed else "Encoded in part"
    return facts(title, rows)


def check_words(check: ForecastComparison) -> str:
    """How far a forecast was off: `"52.1 s was forecast for 50.0 s: 4 % too long"`."""
    if check.forecast is None or check.error is None:
        return f"the one in reports/estimate.json was not used: {check.reason}"
    off = f"{abs(check.error):.0%} too {'long' if check.error > 0 else 'short'}".replace("%", " %")
    because = f" (scaled: {check.reason})" if check.reason else ""
    return f"{duration(check.forecast)} was forecast, {duration(check.seconds)} it took: {off}{because}"


def status_table(found: RunStatus) -> Table:
    """What `status` shows."""
    rejected = ", ".join(f"{count} {reason}" for reason, count in sorted(found.rejected.items()))
    rows = [
        (
            "rows",
            f"{found.rows_done:,} of {found.rows:,}: {found.accepted:,} accepted, "
            f"{sum(found.rejected.values()):,} rejected",
        ),
        ("chunks", f"{found.done:,} of {found.chunks:,} done"),
        ("captions", f"{found.captions:,}"),
        ("precision", found.precision + (", RANDOM WEIGHTS: for speed tests only" if found.random_weights else "")),
        ("store", f"{found.store} ({size(found.bytes)})"),
        ("running", found.held_by or "no"),
    ]
    if found.left_out is not None:
        rows.insert(1, ("left out", f"{found.left_out:,} rows, by dataset.where"))
    if rejected:
        rows.insert(1, ("rejected", rejected))
    return facts("Complete" if found.to_json()["complete"] else "Not complete", rows)


def verdict_table(verdict: VerifyResult) -> Table:
    """What `verify` shows."""
    rows = [("rows", f"{verdict.rows:,}"), ("chunks", f"{verdict.chunks:,}, {len(verdict.problems):,} of them bad")]
    rows += [("", problem) for _, problem in sorted(verdict.problems.items())[:20]]
    if len(verdict.problems) > 20:
        rows.append(("", f"and {len(verdict.problems) - 20:,} more"))
    if verdict.shared:
        rows.append(("", f"{verdict.shared} (it belongs to all chunks)"))
    if verdict.psnr:
        rows.append(("decode-back", f"{min(verdict.psnr):.1f} dB or more on {len(verdict.psnr)} rows"))
    rows += [("note", note) for note in verdict.notes[:10]]
    if not verdict.ok:
        rows.append(("next", "run encode again: it repairs these and leaves the others alone"))
    return facts("The store is in order" if verdict.ok else "The store is not in order", rows)
