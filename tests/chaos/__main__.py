"""`python tests/chaos`: the command line of chaos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Run it; exit code 1 if anything differs."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # so that `chaos` is a package
    from chaos.run import chaos

    parser = argparse.ArgumentParser(prog="python tests/chaos", description="Disturb an encode until time is up.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--rows", type=int, default=4000, help="rows of each run folder")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.02, help="time that one image takes")
    parser.add_argument("--keep", type=Path, help="keep logs and run folders here")
    given = parser.parse_args()
    report = chaos(
        given.seed,
        given.minutes,
        given.rows,
        given.workers,
        given.seconds,
        tell=lambda line: print(line, flush=True),
        keep=given.keep,
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
