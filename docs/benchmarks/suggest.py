"""How long a suggestion takes, for docs/benchmarks/insights.md.

python docs/benchmarks/suggest.py FOLDER/captions.json      # a caption file that insights.py made
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

from daskt2i.insights.suggest import Suggestions

FEATURES = 768
ASKED = ("a", "a ", "a man on a", "a man on a ", "two", "the", "woman hold", "surf", "zz", "dog on a couch", "a m")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> None:
    captions = [a["caption"] for a in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["annotations"]]
    rng = np.random.default_rng(0)
    states = np.empty((len(captions), FEATURES), np.float16)
    axes = rng.standard_normal((32, FEATURES)).astype(np.float32)
    for start in range(0, len(captions), 8192):
        part = states[start : start + 8192]
        part[:] = rng.standard_normal((len(part), 32), np.float32) @ axes + rng.standard_normal(part.shape, np.float32)
    for name, given in (("captions alone", None), (f"with {FEATURES} features", states)):
        begun = time.perf_counter(), time.process_time()
        asked = Suggestions(captions, given)
        loading = time.process_time() - begun[1]
        say(f"{name}: {len(captions):,} captions, {len(asked):,} different; loading {loading:.1f} s of CPU")
        for text in ASKED:
            asked.suggest(text)
            wall, cpu = [], []
            for _ in range(9):
                begun = time.perf_counter(), time.process_time()
                asked.suggest(text)
                wall.append(time.perf_counter() - begun[0])
                cpu.append(time.process_time() - begun[1])
            middle, fastest, busy = 1e3 * np.median(wall), 1e3 * min(wall), 1e3 * np.median(cpu)
            say(f"  {text!r}: {middle:.1f} ms, fastest {fastest:.1f}, CPU {busy:.1f}")
    say(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")


if __name__ == "__main__":
    main()
