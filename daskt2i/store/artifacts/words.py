"""What messages call the objects of a run folder: `attempts/…/0000004-…/valid.c.0` is "chunk 4".

Covers: names that a user does not know.
Does not cover: the messages (`run_folder`, `full_disk`). Names of documented files stay as they are.
"""

from __future__ import annotations

import re

_VERBS = {"stage": "write", "publish": "write"}

_NAMES = (
    (r"attempts/[^/]+/0*([0-9]+)-[0-9a-f]{16}(/.*)?", r"chunk \1"),
    (r"attempts(/.*)?", "the folder of unfinished chunks"),
    (r"receipts/chunk-0*([0-9]+)\.json", r"the receipt of chunk \1"),
    (r"latents\.zarr/.*", "latents.zarr"),
    (r"waiting/.*", "the report of a worker that waits"),
    (r"encode\.(lock|check).*", "the lock of the run folder"),
    (r"encode\.json", "the report of what is awaited"),
    (r"daskt2i-run\.json", "the mark of the run folder"),
)


def plainly(doing: str) -> str:
    """A clause about an object in the words of a user: `"stage attempts/…"` is `"write chunk 4"`.

    Args:
        doing: a verb and the name of an object in a run folder.
    """
    verb, _, name = doing.partition(" ")
    for pattern, words in _NAMES:
        if found := re.fullmatch(pattern, name):
            name = found.expand(words)
            break
    return f"{_VERBS.get(verb, verb)} {name}".rstrip()
