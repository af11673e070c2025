"""Messages of runs that never ran, made from events: for pages, panes and reports that need much to show."""

from __future__ import annotations

import base64
import io
import math
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from daskt2i.dashboard.bounds import Message
from daskt2i.dashboard.messages import Messages
from daskt2i.events import (
    ChunkDone,
    ChunkFailed,
    ChunkSent,
    ChunksFound,
    Event,
    LaunchEvent,
    ModelReady,
    Note,
    StageEnded,
    StageStarted,
    WorkersReady,
)
from daskt2i.protocols import ExecutorInfo
from daskt2i.types import Reason, Receipt, Rejection, Runtime


class Told:
    """Events of a run at times that are given, as the messages that they become."""

    def __init__(self, run: str = "a1", out: str = "/data/runs/coco-sd15", begun: float = 1_790_000_000.0) -> None:
        self.at = begun
        self.messages = Messages(run, out, clock=lambda: self.at, watch=lambda: self.at)

    def __call__(self, event: Event, seconds: float = 0.0) -> list[Message]:
        """The messages of an event that comes so many seconds after the one before."""
        self.at += seconds
        return self.messages.hear(event)


def encode(
    told: Told,
    *,
    chunks: int = 400,
    done: int = 250,
    workers: int = 8,
    rows: int = 64,
    seed: int = 0,
    ends: bool = False,
) -> Iterator[Message]:
    """An encode of which some chunks are done. Of its rows a few are rejected, and a chunk fails now and then."""
    luck = random.Random(seed)
    yield from told(StageStarted("encode", chunks * rows))
    yield from told(ChunksFound(chunks * rows, chunks, rows, bytes(chunks)))
    yield from told(WorkersReady(ExecutorInfo(workers, 2, 3 * 2**30), 0, 0))
    yield from told(ModelReady(_runtime(), 4, 18.0))
    yield from told(Note("Precision bf16 was chosen: it is 2.1 times as fast as fp32 on this processor."))
    for chunk in range(min(workers * 2, chunks)):
        yield from told(ChunkSent(chunk))
    for chunk in range(done):
        seconds = 0.9 * rows / (workers * 0.7) * luck.uniform(0.7, 1.3) / 4
        yield from told(
            ChunkDone(receipt(chunk, rows, f"node-{chunk % workers:03d}:{4000 + chunk % workers}", luck)), seconds
        )
        if chunk % 90 == 70:
            yield from told(ChunkFailed(chunk + 20, OSError("connection reset by peer"), chunk == 160), 0.1)
        if chunk + workers * 2 < chunks:
            yield from told(ChunkSent(chunk + workers * 2))
    yield from told.messages.flush()
    if thumbnails := [one.row for one in receipt(done - 1, rows, "", random.Random(3)).rejected]:
        for row in thumbnails:
            told.messages.thumbnail(row, "a <b>dog</b> & a cat $$x$$", picture((200, 80, 40)))
        told.at += 1.0
        yield from told.messages.flush()
    if ends:
        yield from told(StageEnded("encode"), 1.0)


def receipt(chunk: int, rows: int, worker: str, luck: random.Random) -> Receipt:
    """The receipt of a chunk."""
    reasons = list(Reason)
    rejected = tuple(
        Rejection(chunk * rows + i, f"{chunk * rows + i}", reasons[(chunk + i) % 3], "<img src=x onerror=alert(1)>")
        for i in range(luck.choice((0, 0, 1, 2)))
    )
    total = 8.0 * luck.uniform(0.8, 1.3)
    parts = {
        "read": 0.5,
        "decode": 1.1,
        "encode_image": 0.78 * total,
        "encode_text": 0.09 * total,
        "gate": 0.05 * total,
    }
    seconds = {**parts, "wait": 0.03 * total, "write": 0.05 * total, "load": 0.0, "total": total}
    return Receipt(
        chunk, chunk * rows, (chunk + 1) * rows, "f", rows - len(rejected), rows * 5, 0, rejected, "0" * 64, seconds,
        worker, {"vae": 1}, 4, int(1.1 * 2**30 + luck.random() * 2**29), psnr=(luck.gauss(31, 2.5),),
    )  # fmt: skip


def training(told: Told, *, steps: int = 2000, done: int = 1200, ranks: int = 4, every: int = 10) -> Iterator[Message]:
    """A training of which some steps are done."""
    luck = random.Random(1)
    yield from told(StageStarted("train", steps, 64))
    yield from told(LaunchEvent("attempt", 1, None, {"ranks": ranks, "places": ["node-000", "node-001"]}))
    yield from told(LaunchEvent("started", 1, 0, {"step": 0, "steps": steps, "ranks": ranks, "precision": "bf16"}))
    yield from told.messages.picture(0, "step 0", picture((120, 120, 130), 128))
    for step in range(every, done + 1, every):
        loss = 0.5 + 1.5 * math.exp(-step / 300) + luck.gauss(0, 0.03)
        shares = {"waiting": 0.02, "forward": 0.3, "backward": 0.55, "exchange": 0.09, "optimiser": 0.04}
        fields: dict[str, Any] = {
            "step": step, "loss": loss, "rate": 1e-4 * min(1, step / 200), "norm": 0.4,
            "samples_per_second": 300 + luck.gauss(0, 8), "shares": shares,
        }  # fmt: skip
        yield from told(LaunchEvent("step", 1, 0, fields), every * 0.2)
        if step % 200 == 0:
            yield from told(LaunchEvent("heldout", 1, 0, {"step": step, "heldout_loss": loss + 0.05}))
            yield from told(LaunchEvent("checkpoint", 1, 0, {"step": step}))
    for rank in range(ranks):
        figures = {
            "step": done,
            "doing": "a step",
            "memory": 6.5e8,
            "cpu": 0.98,
            "silent": 1.0,
            "host": "node",
            "pid": 7 + rank,
            "shares": {"waiting": 0.02 + 0.01 * rank, "forward": 0.3, "backward": 0.5, "exchange": 0.1},
        }
        yield from told(LaunchEvent("pulse", 1, rank, figures))
    told.at += 6.0
    yield from told.messages.flush()
    yield from told.messages.picture(done, "a red circle on blue <script>", picture((220, 40, 60), 128))


def _runtime() -> Runtime:
    return Runtime(device="cpu", precision="bf16", threads=2, engine="torch")


def picture(colour: tuple[int, int, int], side: int = 96) -> str:
    """A small picture as a data URI."""
    made = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(made, "PNG")
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()
