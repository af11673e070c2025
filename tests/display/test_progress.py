"""Progress on a terminal and in a log, driven by recorded stages."""

from __future__ import annotations

import io
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from builders.stages import Clock, chunk_done, chunk_failed, demo_events, rank_started, rank_step, ready
from rich.console import Console

from daskt2i.display.encode_progress import EncodeProgress
from daskt2i.display.listener import progress_for
from daskt2i.display.progress import TerminalProgress
from daskt2i.display.train_progress import TrainProgress
from daskt2i.errors import Interrupted, StoreError
from daskt2i.events import (
    Activity,
    ChunkSent,
    ChunksFound,
    DashboardReady,
    Event,
    LaunchEvent,
    Moving,
    Note,
    Progress,
    StageEnded,
    StageStarted,
    Waiting,
    tell_deaths,
)
from daskt2i.protocols import WorkersJoined


def play(events: list[tuple[float, Event]], **console: object) -> list[str]:
    """The lines of a log that received these events at these seconds."""
    file, clock = io.StringIO(), Clock()
    listener = TerminalProgress(Console(file=file, width=80, **console), clock=clock)  # type: ignore[arg-type]
    for at, event in events:
        clock.now = 1000.0 + at
        listener(event)
    return file.getvalue().splitlines()


def test_a_log_of_the_demo_has_a_line_every_five_seconds_with_good_estimates() -> None:
    lines = play([(0.0, StageStarted("encode", 1500)), *demo_events(), (20.0, StageEnded("encode"))])
    assert lines == [
        "2 workers x 1 thread",
        "64/1,500 rows, 142.2 images/s, 10.1 s left",
        "576/1,500 rows, 98.1 images/s, 9.4 s left",
        "1,216/1,500 rows, 111.8 images/s, 2.5 s left",
        "1,500/1,500 rows, 120.0 images/s",
    ]


def test_a_line_has_no_estimate_before_one_is_known() -> None:
    started: list[tuple[float, Event]] = [(0.0, StageStarted("train", 100, 4)), (1.0, rank_started())]
    assert play([*started, (30.0, rank_step(1))])[-1] == "step 1/100, loss 0.5000"
    assert play([*started, (30.0, rank_step(1)), (40.0, rank_step(11))])[-1] == (
        "step 11/100, loss 0.5000, 4.0 samples/s, 1 min 29 s left"
    )


def test_the_rate_of_the_ranks_is_shown_until_the_driver_has_measured_one() -> None:
    events: list[tuple[float, Event]] = [(0.0, StageStarted("train", 100, 4)), (1.0, rank_started())]
    events.append((9.0, rank_step(20, samples_per_second=16.0)))
    assert play(events)[-1] == "step 20/100, loss 0.5000, 16.0 samples/s, 20.0 s left"
    assert play([*events, (19.0, rank_step(30, samples_per_second=16.0))])[-1] == (
        "step 30/100, loss 0.5000, 4.0 samples/s, 1 min 10 s left"
    )


def test_what_stands_still_is_one_line_with_where_and_how_long() -> None:
    events: list[tuple[float, Event]] = [(0.0, StageStarted("encode", 100)), (1.0, ready())]
    events.append((9.0, Waiting("the read of a.jpg does not return", "node7:12", 65.0, 120.0, chunk=3)))
    events.append((9.5, Waiting("workers: the scheduler has none", "tcp://10.0.0.5:8786", 5.0)))
    assert " ".join(play(events)[1:]) == (
        "waiting for 1 min 05 s, given up after 2 min 00 s: chunk 3 on node7:12: the read of a.jpg does not return "
        "waiting for 5.0 s: on tcp://10.0.0.5:8786: workers: the scheduler has none"
    )


def test_while_a_stage_waits_it_says_so_and_its_time_left_does_not_grow() -> None:
    stage = EncodeProgress(100, 0.0)
    for at, event in ((1.0, ready(1)), (3.0, chunk_done(0, seconds=2.0)), (5.0, chunk_done(1, seconds=2.0))):
        stage.hear(event, at)
    moving = "20/100 rows, 5.0 images/s, 16.0 s left"
    assert stage.line(5.0) == moving
    stage.hear(Waiting("the read of a.jpg does not return", "node7:12", 10.0, chunk=3), 15.0)
    assert stage.line(15.0).endswith("images/s, waiting for 10.0 s")
    stage.hear(Waiting("the read of b.jpg does not return", "node7:13", 4.0, chunk=4), 16.0)
    assert stage.line(35.0).endswith("images/s, waiting for 30.0 s"), "since the first of several"
    assert stage.seconds_left(35.0) is None
    stage.hear(Moving(), 36.0)
    assert "waiting" not in stage.line(36.0)
    assert stage.seconds_left(36.0) is None, "31 s without a result: nobody knows"
    stage.hear(Waiting("the read of a.jpg does not return", "node7:12", 5.0, chunk=3), 40.0)
    stage.hear(chunk_done(2, seconds=2.0), 41.0)
    assert stage.line(41.0).endswith("left")


def test_while_ranks_stand_still_a_training_says_so_in_place_of_the_time_left() -> None:
    stage = TrainProgress(100, 0.0, 4)
    for at, event in ((1.0, rank_started()), (9.0, rank_step(20)), (29.0, rank_step(60))):
        stage.hear(event, at)
    assert stage.line(29.0) == "step 60/100, loss 0.5000, 8.0 samples/s, 20.0 s left"
    for ends in (LaunchEvent("moving", 1, None, {"text": "All ranks go on."}), rank_step(61)):
        stage.hear(LaunchEvent("waiting", 1, 1, {"text": "Rank 1 stands still.", "seconds": 30.0}), 60.0)
        assert stage.line(65.0).endswith("samples/s, waiting for 35.0 s")
        stage.hear(ends, 66.0)
        assert stage.line(66.0).endswith("left")


def test_a_long_stage_writes_few_lines() -> None:
    events: list[tuple[float, Event]] = [(0.0, StageStarted("encode", 100_000)), (0.0, ready())]
    events += [(float(i), chunk_done(i)) for i in range(1, 3600)]
    lines = play(events)
    assert len(lines) <= 1 + 12 + 118


def test_after_the_last_unit_the_rate_stays_as_it_was() -> None:
    """The model is written then, or the manifest: that is no slower encoding."""
    stage = TrainProgress(100, 0.0, 4)
    for at, event in ((1.0, rank_started()), (9.0, rank_step(20)), (29.0, rank_step(100))):
        stage.hear(event, at)
    assert stage.figures(29.0) == stage.figures(99.0) == "loss 0.5000, 16.0 samples/s"


def test_a_bar_says_that_models_load_until_the_first_chunk_arrives() -> None:
    stage = EncodeProgress(20, 0.0)
    stage.hear(ready(1), 1.0)
    assert stage.figures(30.0) == "models load"
    stage.hear(chunk_done(0, seconds=2.0), 40.0)
    assert "models load" not in stage.figures(40.0)


def test_a_bar_says_that_it_waits_for_the_last_chunk_when_other_workers_have_nothing_left() -> None:
    stage = EncodeProgress(30, 0.0)
    for event in (ChunksFound(30, 3, 10, bytes(3)), ready(2), ChunkSent(0), ChunkSent(1), ChunkSent(2)):
        stage.hear(event, 1.0)
    stage.hear(chunk_done(0, seconds=2.0), 4.0)
    assert "images/s" in stage.figures(5.0), "both workers have a chunk"
    stage.hear(chunk_done(1, seconds=2.0), 7.0)
    assert stage.figures(8.0) == "waits for the last chunk"
    stage.hear(chunk_done(2, seconds=9.0), 12.0)
    assert "images/s" in stage.figures(12.0)


def test_workers_that_join_are_told_in_one_line() -> None:
    executor = SimpleNamespace(worker_joins=deque([WorkersJoined(1, 2), WorkersJoined(3, 5)]))
    told: list[Event] = []
    tell_deaths(executor, told.append, "encoded")
    tell_deaths(executor, told.append, "encoded")
    assert play([(float(at), event) for at, event in enumerate(told)]) == [
        "1 worker joined: there are 2 workers now",
        "3 workers joined: there are 5 workers now",
    ]


def test_the_rate_starts_again_when_ranks_restart() -> None:
    lines = play(
        [
            (0.0, StageStarted("train", 100, 1)),
            (0.0, rank_started()),
            *((float(i), rank_step(10 * i)) for i in range(1, 7)),
            (8.0, LaunchEvent("failed", 1, None, {"text": "Rank 1 died; all start again from step 20."})),
            (9.0, rank_started(20)),
            (30.0, rank_step(21)),
            (40.0, rank_step(31)),
        ]
    )
    assert lines[-2:] == ["step 21/100, loss 0.5000", "step 31/100, loss 0.5000, 1.0 samples/s, 1 min 09 s left"]
    assert "Rank 1 died; all start again from step 20." in lines


def test_the_line_of_a_failed_chunk_names_its_worker_and_is_one_sentence() -> None:
    ours, theirs = StoreError("No space is left (images)."), ValueError("odd")
    ours.add_note("on vm:27117")
    theirs.add_note("Traceback (most recent call last):\n  …")
    failed = [chunk_failed(0, ours, final=False), chunk_failed(0, ours), chunk_failed(1, theirs, final=False)]
    assert play([(0.0, StageStarted("encode", 20)), (0.0, ready()), *((1.0, one) for one in failed)])[-3:] == [
        "chunk 0 failed: No space is left (images) (on vm:27117); it is tried again after the others",
        "chunk 0 failed: No space is left (images) (on vm:27117).",
        "chunk 1 failed: ValueError: odd; it is tried again after the others",
    ]


def test_counts_are_logged_every_five_seconds_but_not_at_once() -> None:
    told: list[tuple[float, Event]] = [(float(i), Progress("chunks checked", i, 20)) for i in range(1, 13)]
    assert play(told) == ["chunks checked: 6/20, 14.0 s left", "chunks checked: 11/20, 9.0 s left"]


def test_a_log_has_no_escape_codes_even_with_force_color() -> None:
    """With FORCE_COLOR, rich takes every file for a terminal. A bar would fill the file with escape codes."""
    events: list[tuple[float, Event]] = [
        (0.0, Note("a warning")),
        (0.0, Activity("looking")),
        (0.0, DashboardReady("http://127.0.0.1:8787/status")),
        (0.0, StageStarted("encode", 20)),
        (0.0, ready()),
        (1.0, chunk_failed(1, StoreError("No space."))),
        (9.0, chunk_done(0)),
        (9.0, StageEnded("encode")),
    ]
    lines = play(events, force_terminal=True)
    assert lines[:3] == ["a warning", "looking", "dashboard http://127.0.0.1:8787/status"]
    again = play([*events, (9.0, DashboardReady("http://127.0.0.1:8787/status")), (9.0, StageStarted("train", 3))])
    assert again.count("dashboard http://127.0.0.1:8787/status") == 1
    assert "chunk 1 failed: No space." in lines
    assert not any("\x1b" in line for line in lines)


class Screen:
    """A real terminal. A thread reads it while the test writes to it."""

    def __init__(self, width: int = 100) -> None:
        self._master, slave = os.openpty()
        self.file = os.fdopen(slave, "w", encoding="utf-8")
        self.console = Console(file=self.file, width=width, highlight=False, _environ={"TERM": "xterm-256color"})
        self._text = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 4096)
            except OSError:  # Linux raises it when the other side is closed
                part = b""
            if not part:
                return
            self._text += part

    def close(self) -> str:
        self.file.close()
        self._reader.join()
        os.close(self._master)
        return self._text.decode()


def encoded(listener: Callable[[Event], None]) -> None:
    listener(StageStarted("encode", 20))
    listener(ready(1))
    listener(chunk_done(0, seconds=2.0))
    listener(Note("a warning"))
    listener(StageEnded("encode"))


def test_a_terminal_shows_a_bar_with_rate_and_time_left_and_erases_it_at_the_end() -> None:
    screen = Screen()
    encoded(TerminalProgress(screen.console, clock=Clock()))
    text = screen.close()
    assert "encoding" in text
    assert "━" in text
    assert "10/20 rows" in text
    assert "5.0 images/s" in text
    assert "00:02" in text
    assert "\x1b[33ma warning" in text  # in yellow
    assert text.rstrip("\x1b[?25h").endswith("\x1b[2K")  # the line of the bar is erased


def test_the_bar_of_a_stage_that_waits_shows_for_how_long() -> None:
    screen = Screen(width=80)
    listener = TerminalProgress(screen.console, clock=Clock())
    waits = Waiting("the read of a.jpg does not return", "", 65.0, chunk=3)
    for event in (StageStarted("encode", 20), ready(1), chunk_done(0, seconds=2.0), waits, StageEnded("encode")):
        listener(event)
    assert "waits 01:05" in screen.close()


def test_the_bar_of_a_training_fits_into_80_columns() -> None:
    screen = Screen(width=80)
    listener = TerminalProgress(screen.console, clock=Clock())
    for event in (
        StageStarted("train", 790, 64),
        rank_started(),
        rank_step(1),
        rank_step(122, samples_per_second=29.1),
    ):
        listener(event)
    listener(LaunchEvent("heldout", 1, 0, {"step": 122, "heldout_loss": 0.3886}))
    listener(rank_step(123, samples_per_second=29.1))
    listener(StageEnded("train"))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.close())
    lines = [line for line in re.split(r"[\r\n]", text) if "held out" in line]
    assert lines
    assert all("held out 0.3886" in line and "samples/s" in line and len(line) <= 80 for line in lines)


def test_a_terminal_gets_plain_lines_with_json() -> None:
    screen = Screen()
    encoded(progress_for(screen.console, plain=True))
    text = screen.close()
    assert text.split() == ["1", "worker", "x", "1", "thread", "a", "warning"]


@pytest.mark.parametrize("error", [None, Interrupted("Stopped."), StoreError("Full.")])
def test_the_bar_is_erased_however_a_stage_ends(error: BaseException | None) -> None:
    screen = Screen()
    listener = TerminalProgress(screen.console)
    listener(StageStarted("train", 20, 4))
    listener(rank_started())
    listener(rank_step(3))
    listener(StageEnded("train", error))
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("rich"):
            thread.join()  # the bar has asked this thread to end
    assert "step" not in screen.close()
