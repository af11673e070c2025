"""The forecast of a run folder. `estimate` stores it, and `encode` compares it with the real run.

    reports/estimate.json   calibrations and forecasts; `checked`: one entry for each later encode

Covers: writing and reading this file; whether a forecast belongs to a run, and its error.
Does not cover: computing a forecast (`arithmetic`), measuring (`encode.calibration`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from daskt2i import documents
from daskt2i.errors import StoreError
from daskt2i.estimate.arithmetic import Calibration, Work, disk, forecast
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import REPORTS, RunFolder

ESTIMATE = f"{REPORTS}/estimate.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """The numbers of a successful encode that can be compared with a forecast.

    Attributes:
        content: fingerprint of data, encoders and settings that change stored arrays, without the precision.
        work: work of the whole run.
        done: chunks that this encode did.
        skipped: chunks that were done before.
        seconds: wall time.
        bytes: size of the whole store.
        device, precision, workers, threads, executor, hosts, settings: as in `Calibration`.
    """

    content: str
    work: Work
    done: int
    skipped: int
    seconds: float
    bytes: int
    device: str
    precision: str
    workers: int
    threads: int
    executor: str
    hosts: frozenset[str]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ForecastComparison:
    """A forecast compared with the real run.

    Attributes:
        forecast, seconds: forecast and real seconds; `forecast` is None if it was not used.
        error: `forecast / seconds - 1`; None if the forecast was not used.
        bytes_error: the same for the store's size; None for a run that resumed an earlier one.
        basis: `measured`, `scaled` or `not used`.
        reason: why the forecast was scaled or not used, a clause; "" if it was made for exactly this run.
    """

    forecast: float | None
    seconds: float
    error: float | None
    bytes_error: float | None
    basis: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """The values as JSON with rounded numbers, for `encode --json`."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def check(content: str, calibrations: Sequence[Calibration], finished: Finished) -> ForecastComparison:
    """Compare a run with its forecast, scaled to the work that was done; or give the reason why it is not used.

    Args:
        content: fingerprint of the run that was forecast.
        calibrations: calibrations of the forecast.
        finished: numbers of the real run.
    """

    def unused(reason: str) -> ForecastComparison:
        return ForecastComparison(None, finished.seconds, None, None, "not used", reason)

    if content != finished.content:
        return unused("it was made for other data, encoders or dataset settings")
    kind = finished.device.partition(":")[0]
    fitting = [c for c in calibrations if c.device.partition(":")[0] == kind]
    if not fitting:
        return unused(
            f"it was made for {', '.join(c.device for c in calibrations) or 'no device'}, but this run used {kind}"
        )
    fitting = [c for c in fitting if c.precision == finished.precision]
    if not fitting:
        return unused(f"it was made for another precision than {finished.precision}")
    fitting = [c for c in fitting if finished.hosts <= set(c.hosts)] or [
        c for c in fitting if not c.cores and set(c.hosts) & finished.hosts
    ]
    if not fitting:
        return unused("it was made on other machines")
    fitting = [c for c in fitting if dict(c.settings) == dict(finished.settings)]
    if not fitting:
        return unused("it was made with other settings of run: (batch, text_batch, reader_threads or gate_rows)")
    if not finished.done:
        return unused("all chunks were already done")
    there = min(fitting, key=lambda c: (abs(c.workers - finished.workers), c.executor != finished.executor))
    reasons = []
    if (there.workers, there.threads) != (finished.workers, finished.threads):
        was, now = f"{there.workers} x {there.threads}", f"{finished.workers} x {finished.threads}"
        reasons.append(f"{was} workers x threads were calibrated, but this run used {now}")
    if there.executor != finished.executor:
        reasons.append(f"{there.executor} was calibrated, but this run used {finished.executor}")
    work = finished.work
    if finished.skipped:
        reasons.append(f"{finished.skipped:,} of {work.chunks:,} chunks were already done")
        part = min(1.0, finished.done * work.rows_per_chunk / work.rows)
        work = replace(work, rows=max(1, round(work.rows * part)), captions=math.ceil(work.captions * part))
    seconds = forecast(there, work, finished.workers, threads=finished.threads).seconds
    whole = disk(there, finished.work).total
    return ForecastComparison(
        forecast=seconds,
        seconds=finished.seconds,
        error=seconds / finished.seconds - 1 if finished.seconds else None,
        bytes_error=whole / finished.bytes - 1 if finished.bytes and not finished.skipped else None,
        basis="scaled" if reasons else "measured",
        reason="; ".join(reasons),
    )


def keep(folder: RunFolder, content: str, calibrations: Sequence[Calibration], shown: Mapping[str, Any]) -> None:
    """Write the forecast. Checks of earlier forecasts stay.

    Args:
        content: `EncodePlan.content`.
        shown: the object that `estimate --json` prints.

    Raises:
        StoreFull, StoreError: the file cannot be written.
    """
    record = {
        **shown,
        "content": content,
        "calibrations": [asdict(calibration) for calibration in calibrations],
        "checked": _read(folder).get("checked", []),
    }
    claim(folder)
    folder.write(ESTIMATE, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))


def compare_forecast(folder: RunFolder, finished: Finished) -> ForecastComparison | None:
    """Compare the forecast of this folder with a run, and store the result; None without a readable forecast."""
    record = _read(folder)
    try:
        calibrations = [Calibration.from_json(one) for one in record["calibrations"]]
        found = check(str(record["content"]), calibrations, finished)
    # There is no forecast, or another version or another hand wrote it.
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None
    entry = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "workers": finished.workers, **found.to_json()}
    checked = record.get("checked")
    record["checked"] = [*(checked if isinstance(checked, list) else []), entry]
    with suppress(StoreError, OSError):  # a failure here must not make the finished encode fail
        folder.write(ESTIMATE, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace"))
    return found


def forecast_figures(folder: RunFolder, workers: int) -> dict[str, Any]:
    """What the forecast of a folder says of a run with so many workers, to show it beside the run.

    Returns:
        `seconds` and `workers` of the forecast with the nearest number of workers, `bytes` of the store, `currency`,
        `prices` and `per_hour` by name of a machine. What the file does not say is left out; all of it without a file.
    """
    record = _read(folder)
    found: dict[str, Any] = {}
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        runs = [(abs(int(one["workers"]) - workers), float(one["seconds"]), one) for one in record["forecasts"]]
        _, seconds, nearest = min(runs, key=lambda run: run[:2])
        found |= {"seconds": seconds, "workers": int(nearest["workers"])}
    with suppress(KeyError, TypeError, ValueError):
        found |= {"bytes": int(record["disk"]["total"])}
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        prices = record["prices"]
        machines = [one for one in prices["runs"] if one.get("cost") is not None][:5]
        found |= {
            "currency": str(prices["currency"]),
            "prices": {str(one["name"]): float(one["cost"]) for one in machines},
            "per_hour": {str(one["name"]): float(one["per_hour"]) for one in machines},
        }
    return found


def _read(folder: RunFolder) -> dict[str, Any]:
    try:
        found = documents.read_json(documents.text_of(folder.read(ESTIMATE)))
    except (FileNotFoundError, NotADirectoryError, documents.BadDocument):
        return {}
    return found if isinstance(found, dict) else {}
