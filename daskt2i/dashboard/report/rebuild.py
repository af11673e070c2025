"""What a run folder says of its run, after the run or while it goes on.

Covers: `events.jsonl`; receipts, metrics and pictures, also where there are no events; what stays unknown.
Does not cover: the report (`result`, `html`).

Receipts and `metrics.jsonl` are the truth: what they say replaces what the events say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from daskt2i.dashboard.encode_tally import PARTS
from daskt2i.dashboard.event_file import read_events
from daskt2i.dashboard.pictures import picture_of
from daskt2i.dashboard.run_state import LOCKED, RunState
from daskt2i.dashboard.state.series import Histogram, Series, Strip
from daskt2i.dashboard.state.train import MOST_LEVELS, levels_of
from daskt2i.errors import Daskt2iError, StoreError, StoreMissing, sentence
from daskt2i.estimate.forecast import forecast_figures
from daskt2i.os_errors import meaning_of
from daskt2i.redact import without_secret
from daskt2i.store.layout import about_store
from daskt2i.store.parts.rows_file import Member, Ranges, members, still_there
from daskt2i.store.publishing.lock import holder
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import EVENTS, MANIFEST, SAMPLES, TRAIN, RunFolder
from daskt2i.store.views import grid_of
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.metrics import read_metrics
from daskt2i.types import Receipt

_TRAININGS = (TRAIN, "train-vae")


def rebuild(folder: RunFolder) -> tuple[RunState, tuple[str, ...]]:
    """What is known of a run, and a sentence for each thing that is not known.

    Raises:
        StoreMissing: there is nothing of a run in the folder.
        Daskt2iError: the folder cannot be read.
    """
    unknown: list[str] = []
    try:
        state, wrong = read_events(folder)
    except (OSError, StoreError) as error:
        state, wrong = RunState(), f"it cannot be read: {_why(error)}"
    heard = bool(state.stages)
    if wrong:
        what = (
            "rates over time, notes and the ends of stages are not known" if not heard else "what they said is left out"
        )
        unknown.append(f"{EVENTS} of this folder is not complete ({wrong}), so {what}.")
    told = state.rows_done - state.rows_before
    encoded = _guarded(lambda: _encoded(state, folder, heard), "The receipts", unknown)
    if heard and state.rows_done - state.rows_before > told and state.stages.get("encode", "running") != "running":
        state.error = ""
        unknown.append(
            f"Chunks were written after the end of {EVENTS}, so times and ends of stages are of an earlier run."
        )
    trained = _guarded(lambda: _trained(state, folder), "The metrics of the training", unknown)
    _guarded(lambda: _drawn(state, folder), "The pictures", unknown)
    if not (heard or encoded or trained):
        raise StoreMissing(
            f"There is nothing to report of {folder}: nothing was encoded or trained there. Run encode first, or give "
            "another run folder (out)."
        )
    _guarded(lambda: _ended(state, folder, unknown), "The lock of the folder", unknown)
    state.out = state.out or str(folder)
    state.label = state.label or state.out.rstrip("/").rpartition("/")[2]
    if not state.estimate:
        state.estimate = forecast_figures(folder, state.worker_count)
    return state, tuple(unknown)


def _guarded(read: Any, what: str, unknown: list[str]) -> bool:
    try:
        return bool(read())
    except Daskt2iError as error:
        unknown.append(f"{what} cannot be read: {error}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        unknown.append(f"{what} cannot be read ({_why(error)}).")
    return False


def _why(error: Exception) -> str:
    """What an error says, a clause."""
    meaning = meaning_of(error)
    if meaning is not None:
        return meaning.says
    if isinstance(error, Daskt2iError):
        return sentence(error).rstrip(".")
    return f"{type(error).__name__}: {without_secret(' '.join(str(error).split()))[:200]}"


def _ended(state: RunState, folder: RunFolder, unknown: list[str]) -> bool:
    """A stage that told no end, and that no process works on: it was killed."""
    open_ = [stage for stage in LOCKED if state.stages.get(stage) in ("running", "lost")]
    if not open_:
        return False
    held = holder(folder)
    for stage in open_ if held.known and not held.words else ():
        state.stages = {**state.stages, stage: "stopped"}
        when = f" Its last message is of {_clock(state.updated)}." if state.updated else ""
        unknown.append(
            f"{stage} did not tell its end, and no process works on this folder now, so it was killed.{when}"
        )
    return True


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _encoded(state: RunState, folder: RunFolder, heard: bool) -> bool:
    """Totals and the strip from the receipts. Without events also what each receipt measured."""
    store = ZarrStore(folder)
    about = about_store(store)
    if about is None:
        return False
    grid = grid_of(store.layout(), about)  # with buckets, some row numbers have no row
    rows, strip = grid.filled, Strip(bytes(len(grid)))
    for chunk in _not_written(state):
        strip.put(chunk, Strip.FAILED)
    fresh = not heard or "encode" not in state.stages
    stores, totals = members(folder), dict.fromkeys(("accepted", "captions", "truncated", "bytes", "removed"), 0)
    rejected: dict[str, int] = {}
    parts, psnr = dict.fromkeys(PARTS, 0.0), Histogram()
    for receipt in Receipts(folder).read():
        if receipt.fingerprint != about["fingerprint"]:
            continue
        strip.put(receipt.chunk, Strip.WRITTEN)
        _add_receipt(receipt, stores[0].removed, totals, rejected)
        if fresh:
            _measured(state, receipt, parts, psnr)
    for part in stores[1:]:  # rows that were appended: how they were made is in the folders of the parts
        appended = _add_part(part, totals, rejected)
        rows += appended
        state.rows_before += appended  # so this encode did not write them
    state.rows, state.chunks, state.rejected = rows, len(strip.states), rejected
    state.accepted, state.captions = totals["accepted"], totals["captions"]
    state.truncated, state.bytes = totals["truncated"], totals["bytes"]
    state.removed = totals["removed"]
    state.rows_done = state.accepted + sum(rejected.values()) + state.removed
    state.chunk_states, state.strip = strip.by_name(), strip.letters()
    state.precision = state.precision or str(about["identity"].get("precision", ""))
    if fresh and folder.exists(MANIFEST):  # it is written when all chunks are done
        state.stages, state.stage = {"encode": "done", **state.stages}, state.stage or "encode"
    if fresh:
        state.parts, state.psnr_counts, state.psnr_lowest = parts, psnr.counts, psnr.lowest
        state.workers_seen = len(state.workers)
    return True


def _add_part(part: Member, totals: dict[str, int], rejected: dict[str, int]) -> int:
    """Add what the receipts of a part count. Returns its rows."""
    fingerprint, rows = (about_store(ZarrStore(part.folder)) or {}).get("fingerprint"), 0
    for receipt in Receipts(part.folder).read():
        if receipt.fingerprint == fingerprint:
            rows += receipt.stop - receipt.start
            _add_receipt(receipt, part.removed, totals, rejected)
    return rows


def _add_receipt(receipt: Receipt, removed: Ranges, totals: dict[str, int], rejected: dict[str, int]) -> None:
    """Add what a receipt counts. Rows that were removed are neither accepted nor rejected."""
    accepted, there, gone = still_there(receipt, removed)
    counts = {"accepted": accepted, "removed": gone, "captions": receipt.captions, "truncated": receipt.truncated}
    for name, count in {**counts, "bytes": sum(shard.size for shard in receipt.shards)}.items():
        totals[name] += count
    for row in there:
        rejected[str(row.reason)] = rejected.get(str(row.reason), 0) + 1


def _not_written(state: RunState) -> list[int]:
    """Chunks that failed for good, as far as a strip with a cell for each chunk tells."""
    if state.chunks > len(state.strip):
        return []
    return [chunk for chunk, letter in enumerate(state.strip) if letter == "f"]


def _measured(state: RunState, receipt: Receipt, parts: dict[str, float], psnr: Histogram) -> None:
    """What a receipt says besides its rows. It does not say when it was written."""
    for part in PARTS:
        parts[part] += receipt.seconds.get(part, 0.0)
    psnr.add(receipt.psnr)
    rows = receipt.stop - receipt.start
    work = receipt.seconds.get("total", 0.0) - receipt.seconds.get("load", 0.0)
    state.hear_receipt(receipt.worker, receipt.chunk, rows, rows / work if work > 0 else 0.0, receipt.peak_bytes)
    for one in receipt.rejected[:2]:
        state.newest_rejected.append((one.row, str(one.reason), "", "", without_secret(one.detail), ""))


def _trained(state: RunState, folder: RunFolder) -> bool:
    """The curves from `metrics.jsonl` of the newest training."""
    found = {name: lines for name in _TRAININGS if (lines := read_metrics(folder, name))}
    if not found:
        return bool(state.training)
    training = state.training if state.training in found else next(iter(found))
    lines = found[training]
    state.training = training
    curves = {"loss": "loss", "heldout_loss": "heldout", "rate": "learning_rate", "norm": "norm"}
    for name, attribute in curves.items():
        setattr(state, attribute, _series(lines, name))
    state.step = int(lines[-1]["step"])
    state.steps = max(state.steps, state.step)
    last = [line for line in lines if "heldout_loss" in line][-1:]
    state.heldout_figures = {k: float(v) for k, v in last[0].items() if k.startswith("heldout_")} if last else {}
    levels = ((int(line["step"]), levels_of(line)) for line in lines)
    state.by_level = Series(((step, found) for step, found in levels if found), MOST_LEVELS)
    return True


def _series(lines: Sequence[Mapping[str, Any]], name: str) -> Series:
    return Series((int(line["step"]), float(line[name])) for line in lines if name in line)


def _drawn(state: RunState, folder: RunFolder) -> bool:
    """The newest sheet, if the events brought no picture."""
    if not state.pictures and folder.exists(f"{SAMPLES}/sheet.png"):
        data = picture_of(folder.read(f"{SAMPLES}/sheet.png"))
        if data:
            state.pictures.append((state.step, "", data))
    return bool(state.pictures)
