"""An encoder whose speed is no setting, so that a slow run and a fast one have the same fingerprint."""

from __future__ import annotations

import os

from daskt2i.encoders.fake import FakeImageEncoder

SECONDS = "CHAOS_SECONDS"
"""Environment variable: seconds that one image takes."""


class SlowImageEncoder(FakeImageEncoder):
    """A `FakeImageEncoder` that takes as long as the environment says."""

    def __init__(self) -> None:
        super().__init__(seconds=float(os.environ.get(SECONDS, "0")))
