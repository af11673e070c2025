"""Compares a run folder with that of a calm run: every object of the store, every receipt, every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SAME = ("chunk", "start", "stop", "accepted", "captions", "rejected", "inputs", "shards", "fingerprint")
"""Fields of a receipt that do not depend on when and where the chunk was encoded."""


def differences(calm: Path, found: Path) -> Iterator[str]:
    """What is not as in the calm run, one sentence each."""
    yield from _differ(_objects(calm / "latents.zarr"), _objects(found / "latents.zarr"), "the object")
    yield from _differ(_receipts(calm), _receipts(found), "the receipt")
    yield from _differ({"all": _manifest(calm)}, {"all": _manifest(found)}, "the manifest")
    for left in sorted(path for path in found.rglob("*") if path.is_file()):
        name = left.relative_to(found).as_posix()
        if name.endswith(".partial") or name.startswith("attempts/") or name == "encode.lock":
            yield f"{name} was left behind"


def rows_counted(folder: Path) -> int:
    """Number of rows in the receipts: accepted or rejected with a reason."""
    found = _receipts(folder).values()
    return sum(receipt["accepted"] + len(receipt["rejected"]) for receipt in found)


def torn_receipts(folder: Path) -> list[str]:
    """Receipts that name a shard of another size or that is not there. At no moment may there be one."""
    torn = []
    for path in sorted((folder / "receipts").glob("chunk-*.json")):
        try:
            shards = json.loads(path.read_bytes())["shards"]
        except FileNotFoundError:
            continue
        for shard in shards:
            try:
                size = (folder / "latents.zarr" / shard["key"]).stat().st_size
            except FileNotFoundError:
                size = -1
            if size != shard["size"] and path.exists():
                torn.append(f"{path.name}: {shard['key']} has {size} bytes instead of {shard['size']}")
    return torn


def _differ(calm: dict[str, Any], found: dict[str, Any], what: str) -> Iterator[str]:
    for name in sorted(calm.keys() | found.keys()):
        if name not in found:
            yield f"{what} {name} is missing"
        elif name not in calm:
            yield f"{what} {name} should not be there"
        elif calm[name] != found[name]:
            yield f"{what} {name} differs"


def _objects(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def _receipts(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (folder / "receipts").glob("*"):
        receipt = json.loads(path.read_bytes())
        found[path.name] = {key: receipt[key] for key in SAME}
    return found


def _manifest(folder: Path) -> list[dict[str, Any]]:
    path = folder / "manifest.parquet"
    return list(pq.read_table(path).to_pylist()) if path.exists() else []
