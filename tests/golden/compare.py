"""Compare two recordings of `record.py`.

    python tests/golden/compare.py BEFORE AFTER [--allow FILE]

BEFORE and AFTER are `golden.json` files, or the folders that hold one. Each difference is one line: the key, the old
value, the new one; of long texts, the first lines that differ. Exit code 1 when there is one.

Covers: values that changed, came, or went.
Does not cover: whether a difference is right. FILE lists those that are meant, one regular expression of keys on a
line; `#` begins a comment. An expression that fits no difference is told too: it has had its day.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

NOTHING = "(nothing)"
LONGEST = 160
"""Characters of a value that are shown."""


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Key -> what was there and what is there now, as short texts."""
    found = {}
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key, NOTHING), new.get(key, NOTHING)
        if before != after:
            found[key] = _shown(before, after)
    return found


def _shown(before: Any, after: Any) -> tuple[str, str]:
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        lines = zip_longest(before.split("\n"), after.split("\n"), fillvalue=NOTHING)
        before, after = next((a, b) for a, b in lines if a != b)
    return tuple(json.dumps(value, ensure_ascii=False)[:LONGEST] for value in (before, after))  # type: ignore[return-value]


def allowed(path: Path | None) -> list[re.Pattern[str]]:
    """The expressions of a file of keys that may differ."""
    lines = path.read_text(encoding="utf-8").splitlines() if path else []
    return [re.compile(line.strip()) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare two recordings.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--allow", type=Path, help="a file with regular expressions of keys that may differ")
    given = parser.parse_args()
    places = [path / "golden.json" if path.is_dir() else path for path in (given.before, given.after)]
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in places)
    found, meant = differences(old, new), allowed(given.allow)
    wrong = {key: pair for key, pair in found.items() if not any(one.search(key) for one in meant)}
    for key, (before, after) in wrong.items():
        print(f"{key}  {before}  ->  {after}")
    for one in meant:
        if not any(one.search(key) for key in found):
            print(f"--allow: {one.pattern} fits no difference", file=sys.stderr)
    passed = f", {len(found) - len(wrong)} allowed" if meant else ""
    print(f"{len(wrong)} differences{passed} in {len(old.keys() | new.keys())} values", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
