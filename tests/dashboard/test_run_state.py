"""What is known of a run from its messages: it equals the events, it stays small, and damaged messages do no harm."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from daskt2i.dashboard.bounds import MOST_PICTURE, Message
from daskt2i.dashboard.figures import frame
from daskt2i.dashboard.figures.training import Shares
from daskt2i.dashboard.messages import Messages
from daskt2i.dashboard.report.result import ReportResult
from daskt2i.dashboard.run_state import RunState
from daskt2i.dashboard.state.series import Histogram, Series, Strip
from daskt2i.errors import Reason, SourceError
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
    Waiting,
    WorkersReady,
)
from daskt2i.protocols import ExecutorInfo
from daskt2i.types import Receipt, Rejection, Runtime, Shard


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def receipt(
    chunk: int, rows: int = 64, rejected: int = 0, worker: str = "host:1", psnr: tuple[float, ...] = ()
) -> Receipt:
    start = chunk * rows
    return Receipt(
        chunk=chunk,
        start=start,
        stop=start + rows,
        fingerprint="f",
        accepted=rows - rejected,
        captions=5 * (rows - rejected),
        truncated=1,
        rejected=tuple(Rejection(start + i, 7, Reason.MISSING_FILE, "no such file") for i in range(rejected)),
        inputs="",
        seconds={"total": 2.0, "encode_image": 1.5, "read": 0.25, "load": 0.0},
        worker=worker,
        loads={},
        batch=8,
        peak_bytes=10**9,
        psnr=psnr,
        shards=(Shard("c/0", "0" * 64, 1_000),),
    )


def encode_events(chunks: int, workers: int = 2, done: int = 0) -> Iterator[Event]:
    yield StageStarted("encode", chunks * 64)
    flags = bytes(1 if chunk < done else 0 for chunk in range(chunks))
    yield ChunksFound(chunks * 64, chunks, 64, flags, done * 64, {}, done * 64 * 5, 0, done * 1_000)
    yield WorkersReady(ExecutorInfo(workers, 1, 2**31, "tcp://1", "http://x"), done, done * 64)
    yield ModelReady(Runtime("cpu", "bf16", 1, "ncnn"), 8, 20.0)
    for chunk in range(done, chunks):
        yield ChunkSent(chunk)
        yield ChunkDone(receipt(chunk, rejected=chunk % 3, worker=f"host:{chunk % workers}", psnr=(30.0 + chunk % 7,)))
    yield StageEnded("encode")


def told(events: Iterable[Event], seconds: float = 0.1) -> list[Message]:
    """The messages of events that come every so many seconds, as JSON brings them."""
    clock = Clock()
    messages = Messages("r1", "/data/runs/demo", clock, clock)
    found: list[Message] = []
    for event in events:
        found += messages.hear(event)
        clock.now += seconds
    return [json.loads(json.dumps(message, allow_nan=False)) for message in found]


def folded(messages: Iterable[Any]) -> RunState:
    state = RunState()
    for message in messages:
        state.hear(message)
    return state


def test_the_totals_of_an_encode_are_those_of_its_receipts() -> None:
    state = folded(told(encode_events(chunks=40, done=10)))
    rejected = sum(chunk % 3 for chunk in range(10, 40))
    assert (state.rows, state.rows_before, state.rows_done) == (40 * 64, 640, 40 * 64)
    assert (state.accepted, state.rejected) == (40 * 64 - rejected, {"missing-file": rejected})
    assert (state.captions, state.truncated, state.bytes) == (5 * state.accepted, 30, 40_000)
    assert state.chunk_states == {"waiting": 0, "running": 0, "written": 40, "again": 0, "failed": 0}
    assert state.strip == "W" * 40
    assert (state.engine, state.precision, state.memory_limit, state.label) == ("ncnn", "bf16", 2**31, "demo")
    assert sum(state.psnr_counts) == 30
    assert state.psnr_lowest == 30.0
    assert state.parts["encode_image"] == pytest.approx(45.0)
    assert {name: one["rows"] for name, one in state.workers.items()} == {"host:0": 960, "host:1": 960}
    assert (state.stages, state.finished, state.eta) == ({"encode": "done"}, True, None)
    assert len(state.newest_rejected) == 24


def test_a_rejected_image_may_have_any_number_that_a_source_gives() -> None:
    """A folder has no ids, so its images have 63 bits of a hash."""
    messages = [one for one in told(encode_events(chunks=3)) if one["kind"] != "end"]
    for row in (row for message in messages for row in message.get("newest", ())):
        row.update(image=2**63 - 1, file="")
    state = folded(messages)
    assert (state.unknown, state.rows_done) == (0, 3 * 64)
    assert state.newest_rejected[-1][-1] == f"image {2**63 - 1}"


def test_a_reader_who_missed_all_messages_but_one_has_the_totals() -> None:
    messages = told(encode_events(chunks=40))
    last = [one for one in messages if one["kind"] == "chunks"][-1]
    late, whole = folded([last]), folded(messages)
    for name in ("rows_done", "accepted", "rejected", "bytes", "chunk_states", "strip", "parts", "psnr_counts"):
        assert getattr(late, name) == getattr(whole, name), name


def test_messages_come_once_a_second_however_many_chunks_end() -> None:
    messages = told(encode_events(chunks=2_000), seconds=0.001)
    assert sum(one["kind"] == "chunks" for one in messages) <= 2 + 4_000 * 0.001 + 1
    assert max(len(json.dumps(one)) for one in messages) < 20_000


def test_the_state_stays_small_with_10_000_chunks_and_3_000_workers() -> None:
    state = folded(told(encode_events(chunks=10_000, workers=3_000), seconds=0.05))
    assert (state.rows_done, len(state.strip), state.chunk_states["written"]) == (640_000, 1_000, 10_000)
    assert (len(state.workers), state.workers_seen) == (1_000, 3_000)
    assert len(json.dumps(state.to_json())) < 600_000


def test_the_time_left_lies_in_its_range_and_comes_from_the_rate() -> None:
    events = list(encode_events(chunks=100, workers=1))[:60]
    state = folded(told(events, seconds=1.0))
    assert state.eta is not None
    assert state.rate is not None
    left, low, high = state.eta
    assert low <= left <= high
    assert left == pytest.approx((state.rows - state.rows_done) / state.rate, rel=0.2)


def test_a_failed_chunk_is_seen_at_once_on_the_strip_and_in_a_note() -> None:
    events = [*list(encode_events(chunks=5))[:4], ChunkSent(0), ChunkFailed(0, SourceError("no disk"), final=False)]
    state = folded(told(events))
    assert (state.strip, state.chunk_states["again"]) == ("a....", 1)
    assert "chunk 0 failed: no disk" in state.notes[-1][1]
    assert folded(told([*events, ChunkFailed(0, SourceError("no disk"), final=True)])).strip == "f...."
    assert folded(told([*events, ChunkDone(receipt(0)), StageEnded("encode")])).strip == "W...."


def train_events(steps: int, every: int = 1) -> Iterator[Event]:
    yield StageStarted("train", steps, 16)
    yield LaunchEvent("attempt", 1, None, {"ranks": 2, "backend": "gloo", "places": ["tcp://a", "tcp://b"]})
    about = {"ranks": 2, "threads": 1, "precision": "bf16", "device": "cpu", "parameters": 5_000}
    yield LaunchEvent("started", 1, 0, {"step": 0, "steps": steps, **about})
    for step in range(every, steps + 1, every):
        speed = {"samples_per_second": 80.0, "shares": {"waiting": 0.1, "exchange": 0.2}}
        yield LaunchEvent("step", 1, 0, {"step": step, "loss": 1.0 / step, "norm": 0.5, "rate": 1e-4, **speed})
    yield LaunchEvent(
        "heldout", 1, 0, {"step": steps, "heldout_loss": 0.25, "heldout_psnr": 21.5, "heldout_loss_t3": 0.5}
    )
    about = {"step": steps, "doing": "computes", "memory": 7e8, "cpu": 1.9, "silent": 0.1}
    for rank in (0, 1):
        shares = {"waiting": 0.1 * (rank + 1), "exchange": 0.2}
        yield LaunchEvent("pulse", 1, rank, {**about, "shares": shares})
    yield LaunchEvent("checkpoint", 1, 0, {"step": steps})
    yield StageEnded("train")


def test_the_figures_of_a_training_are_those_of_its_ranks() -> None:
    state = folded(told(train_events(5_000)))
    assert (state.step, state.steps, state.ranks, state.attempt) == (5_000, 5_000, 2, 1)
    assert state.loss.last == (5_000, 1.0 / 5_000)
    assert next(iter(state.loss)) == (1, 1.0)
    assert len(state.loss) <= 600
    assert state.heldout.last == (5_000, 0.25)
    assert state.heldout_figures["heldout_psnr"] == 21.5
    assert state.by_level.last == (5_000, {"3": 0.5})
    assert state.mean_speed == 80.0, "as the ranks tell it"
    assert state.samples_per_second == {0: 80.0, 1: 80.0}, "in the last minute, by the clock"
    assert state.shares == {"waiting": 0.1, "exchange": 0.2}
    assert state.rank_figures[1]["memory"] == 7e8
    assert state.rank_shares == {0: {"waiting": 0.1, "exchange": 0.2}, 1: {"waiting": 0.2, "exchange": 0.2}}
    assert (state.checkpoint, state.about["precision"]) == (5_000, "bf16")


def test_the_memory_of_a_rank_that_has_ended_is_the_last_one_that_was_measured() -> None:
    over = {"step": 9, "doing": "finishes", "memory": 0, "cpu": 0.0, "silent": 0.0}
    events = [*list(train_events(9))[:-1], LaunchEvent("pulse", 1, 0, over), LaunchEvent("pulse", 1, 2, over)]
    events.append(StageEnded("train"))
    state = folded(told(events))
    assert (state.rank_figures[0]["memory"], state.rank_figures[0]["cpu"]) == (7e8, 1.9)
    assert (state.rank_figures[0]["doing"], state.rank_figures[0]["silent"]) == ("finishes", 0.0)
    assert "memory" not in state.rank_figures[2], "nothing was ever measured there"


def test_a_worker_has_the_name_and_the_threads_that_its_scheduler_knows() -> None:
    events = list(encode_events(chunks=4, workers=2))
    named = [
        ChunkDone(event.receipt, f"gpu-{event.receipt.worker[-1]}", 4) if isinstance(event, ChunkDone) else event
        for event in events
    ]
    assert {one["name"] for one in folded(told(named)).workers.values()} == {"gpu-0", "gpu-1"}
    assert {one["threads"] for one in folded(told(named)).workers.values()} == {4}
    assert all("name" not in one for one in folded(told(events)).workers.values())


def test_steps_that_are_repeated_after_a_restart_replace_the_first_ones() -> None:
    events = [*list(train_events(40))[:-5], *list(train_events(20))[1:-5]]
    state = folded(told(events))
    assert (state.step, state.loss.last) == (20, (20, 0.05))
    assert [step for step, _ in state.loss] == sorted({step for step, _ in state.loss})


def test_a_training_that_begins_anew_shows_none_of_the_old_curve_and_one_that_continues_shows_all() -> None:
    state = RunState("r")

    def hear(kind: str, **fields: Any) -> None:
        state.hear({"v": 1, "run": "r", "stage": "train", "kind": kind, "at": 1.0, **fields})

    hear("begin", total=9)
    hear("started", step=0)
    hear("step", step=1, loss=2.0)
    hear("checkpoint", step=1)
    hear("begin", total=9)
    hear("started", step=1)
    hear("step", step=2, loss=1.0)
    assert (list(state.loss), state.checkpoint) == ([(1, 2.0), (2, 1.0)], 1)
    hear("begin", total=9)
    hear("started", step=0)
    assert (list(state.loss), state.checkpoint) == ([], None)


def test_a_state_comes_back_from_json() -> None:
    state = folded([*told(encode_events(chunks=40)), *told(train_events(300))])
    again = RunState.from_json(json.loads(json.dumps(state.to_json(), allow_nan=False)))
    assert json.dumps(again.to_json()) == json.dumps(state.to_json())
    assert (again.loss, again.workers, again.newest_rejected) == (state.loss, state.workers, state.newest_rejected)


def test_who_hears_again_of_a_lost_stage_shows_it_as_running() -> None:
    state = folded(told(encode_events(chunks=3))[:-1])
    assert state.stages == {"encode": "running"}
    assert state.lose(90.0)
    assert (state.stages, state.lost, state.finished) == ({"encode": "lost"}, 90.0, True)
    state.hear({"v": 1, "kind": "alive", "at": 91.0, "client": "c"}, 191.0)
    assert (state.stages, state.lost) == ({"encode": "running"}, None)
    assert (state.silent(291.0), state.now(191.0)) == (100.0, 91.0), "its clock is 100 s behind"
    state.hear({"v": 1, "kind": "end", "stage": "encode", "at": 92.0}, 192.0)
    assert state.silent(1e9) == 0


def test_a_clock_that_is_set_back_loses_no_points() -> None:
    clock = [1_000_000.0]
    passed = [0.0]
    teller = Messages("a", "/data/a", clock=lambda: clock[0], watch=lambda: passed[0])
    state = RunState()
    for message in teller.begin("encode", 100):
        state.hear(message)
    found = []
    for jump in (0, 0, -3_600, 0, 7_200, -7_200, 0):
        clock[0] += jump + 1
        passed[0] += 1
        found.append(teller.alive()["at"])
    assert found == sorted(set(found))
    (begin,) = teller.begin("encode", 100)
    assert begin["at"] == clock[0], "the next stage trusts the clock"
    state.hear(begin)
    assert state.updated == clock[0]


DAMAGED = [
    *(None, 3, "text", [], {}, {"v": 2, "kind": "chunks"}, {"v": 1}, {"v": 1, "kind": "chunks"}, {"v": 1, "kind": 5}),
    {"v": 1, "kind": "chunks", "rejected": []},
    {"v": 1, "kind": "step", "step": None, "loss": "x"},
    {"v": 1, "kind": "step", "step": 10**400, "loss": 1.0},
    {"v": 1, "kind": "state", "state": 7},
    {"v": 1, "kind": "picture", "step": 1, "caption": "", "data": "javascript:alert(1)"},
]


@pytest.mark.parametrize("message", DAMAGED, ids=lambda one: str(one)[:40])
def test_a_damaged_message_changes_nothing(message: Any) -> None:
    state = folded(told(encode_events(chunks=3)))
    before = state.to_json()
    state.hear(message, 5.0)
    same = {"unknown": 0, "version": 0}
    assert {**state.to_json(), **same} == {**before, **same}


def test_secrets_are_hidden_and_long_sentences_are_cut() -> None:
    events = [StageStarted("encode", 1), Note("see https://me:pw12345@host/a " + "x" * 1_000)]
    events.append(Waiting("https://me:pw12345@host/b", "w:1", 3.0))
    text = json.dumps(told(events))
    assert "pw12345" not in text
    assert max(len(str(one.get("text", ""))) for one in json.loads(text)) <= 300


def test_a_picture_that_is_too_large_is_not_sent() -> None:
    messages = Messages("r", "/x")
    messages.begin("train", 10)
    assert messages.picture(3, "a dog", "data:image/png;base64," + "A" * MOST_PICTURE) == []
    (sent,) = messages.picture(3, "a dog", "data:image/png;base64,AAAA")
    assert folded([sent]).pictures[-1] == (3, "a dog", "data:image/png;base64,AAAA")


def test_a_long_series_keeps_its_first_and_last_point_and_its_shape() -> None:
    series = Series(((float(x), x) for x in range(100_000)), most=100)
    points = list(series)
    assert (points[0], points[-1]) == ((0.0, 0), (99_999.0, 99_999))
    assert 50 <= len(points) <= 100
    assert len({b[0] - a[0] for a, b in itertools.pairwise(points[:-1])}) == 1


def test_a_strip_says_what_matters_most_in_each_cell() -> None:
    strip = Strip(bytes(2_500))
    assert strip.letters() == "." * 1_000
    for chunk in range(0, 2_500, 2):
        strip.put(chunk, Strip.WRITTEN)
    strip.put(2_499, Strip.FAILED)
    strip.put(9_999, Strip.FAILED)
    letters = strip.letters()
    assert (letters[-1], set(letters[:-1]) <= set("12345678W.")) == ("f", True)
    assert strip.by_name() == {"waiting": 1_249, "written": 1_250, "running": 0, "again": 0, "failed": 1}


def test_values_outside_the_histogram_are_counted_at_its_ends() -> None:
    found = Histogram((0.0, 10.0, 20.0))
    found.add((-5.0, 3.0, 10.0, 99.0, float("nan")))
    assert (found.counts, found.lowest) == ([2, 2], -5.0)


def test_the_label_of_a_bar_has_a_line_of_its_own_that_begins_at_the_axis() -> None:
    """On a phone there is no room behind the longest bar."""
    made = frame.bars("share, %")
    source = made.renderers[0].data_source
    heights = []
    for count in (2, 3):
        rows = [(f"part {number}", 50.0 * number, "#000000", "50.0 % (12.1 to 60.3)") for number in range(1, count + 1)]
        frame.send_bars(made, source, rows)
        heights.append(made.height)
    bar, label = (one.glyph for one in made.renderers)
    assert (label.x, label.text_baseline) == (0, "bottom")
    assert bar.y.transform.value + bar.height / 2 < 0, "the bar ends below the middle, where the label begins"
    assert heights[1] - heights[0] == 34


def test_the_text_and_the_page_of_a_report_have_the_same_shares_of_the_ranks() -> None:
    state = folded(told(train_events(40)))
    rows = dict(ReportResult("out", state, "", ()).view().rows)
    assert rows["time of ranks"] == (
        "wait for data 15 %, exchange with other ranks 20 % (since the start, all ranks, the mean)"
    )
    figure = Shares()
    figure.update(state)
    assert list(figure.source.data["label"]) == ["20.0 %", "15.0 % (10.0 to 20.0)"]
    assert figure.plot.title.text == "Where the time of 2 ranks went since the start"
