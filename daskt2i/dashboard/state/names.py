"""Names for a person, the same on the page, in the panes and in the report.

Covers: the parts of a worker's time in an encode and of a rank's time in a training; how a forecast was off.
Does not cover: names in messages, in JSON and on /metrics: those are for programs, and stay.
"""

from __future__ import annotations

ENCODE_PARTS = {
    "encode_image": "encode images",
    "encode_text": "encode captions",
    "wait": "wait for images",
    "write": "write",
    "gate": "check (PSNR)",
    "load": "load models",
}
"""Parts of a worker's time that follow each other."""

BESIDE = {"read": "read files", "decode": "decode images"}
"""Work of threads beside it: it delays a worker only where this worker waits for images."""

TRAIN_PARTS = {
    "waiting": "wait for data",
    "forward": "forward",
    "backward": "backward",
    "exchange": "exchange with other ranks",
    "optimiser": "optimiser",
}
"""Parts of a rank's time."""

MEAN_SPEED, RECENT_SPEED = "samples/s since the start", "samples/s in the last minute"

LAST_LOSS, HELDOUT_LOSS = "loss of the last step", "held-out loss"
