"""What the driver tells of a run: events.jsonl of its folder, equal to its store; a failure of it is one note."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from builders.disks import disk_of
from builders.workflows import fake_settings
from distributed import Client, LocalCluster
from PIL import Image

import daskt2i
from daskt2i.config.settings import Workflow
from daskt2i.dashboard import event_file
from daskt2i.dashboard.event_file import EventFile, read_events
from daskt2i.dashboard.listener import Watched, run_id
from daskt2i.dashboard.messages import Messages
from daskt2i.dashboard.run_state import RunState
from daskt2i.errors import Daskt2iError
from daskt2i.events import Event, LaunchEvent, Note, StageEnded, StageStarted
from daskt2i.store.ownership import claim
from daskt2i.store.run_folder import EVENTS, RunFolder
from daskt2i.store.status import status


def encode(workflow: Workflow, out: str | Path, heard: list[Event] | None = None) -> None:
    """Encode with fakes in this process, through the front object."""
    events: list[Event] = [] if heard is None else heard
    with daskt2i.Run(workflow, out, scheduler="serial", progress=events.append) as run:
        run.encode()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / EVENTS).read_text(encoding="utf-8").splitlines()]


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def assert_equal_to_status(state: RunState, folder: RunFolder) -> None:
    there = status(folder).to_json()
    for name in ("rows", "rows_done", "accepted", "rejected", "captions", "bytes"):
        assert getattr(state, name) == there[name], name
    assert (state.chunk_states["written"], state.chunks) == (there["chunks"]["done"], sum(there["chunks"].values()))


def bad_rows(**changes: Any) -> Workflow:
    return fake_settings(**{"rows": 40, "source": {"missing": [3], "unreadable": [5], "uncaptioned": [9]}, **changes})


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A run folder of 40 rows in 5 chunks, with three bad rows, and its events."""
    out, events = tmp_path_factory.mktemp("watched") / "run", list[Event]()
    encode(bad_rows(), out, events)
    return out, events


def test_events_of_an_encode_give_the_numbers_of_status(encoded: tuple[Path, list[Event]]) -> None:
    out, events = encoded
    state, wrong = read_events(RunFolder(out))
    assert wrong == ""
    assert_equal_to_status(state, RunFolder(out))
    assert (state.stages, state.strip, state.label) == ({"encode": "done"}, "WWWWW", "run")
    assert not notes(events)


def test_a_second_encode_with_nothing_to_do_keeps_what_the_first_one_told(encoded: tuple[Path, list[Event]]) -> None:
    out, _ = encoded
    before = (out / EVENTS).read_bytes()
    encode(bad_rows(), out)
    assert (out / EVENTS).read_bytes() == before


def test_rejected_rows_have_their_reason_and_caption(encoded: tuple[Path, list[Event]]) -> None:
    state, _ = read_events(RunFolder(encoded[0]))
    assert state.rejected == {"missing-file": 1, "unreadable-image": 1, "no-caption": 1}
    assert {(row, reason) for row, reason, *_ in state.newest_rejected} >= {(3, "missing-file"), (9, "no-caption")}


def test_a_run_in_an_object_store_has_one_object_with_its_state() -> None:
    address = f"memory://{uuid4().hex}/run"
    encode(fake_settings(), address)
    folder = RunFolder(address)
    (line,) = folder.read(EVENTS).splitlines()
    assert json.loads(line)["kind"] == "state"
    assert_equal_to_status(read_events(folder)[0], folder)


def test_a_stage_that_is_refused_changes_nothing(encoded: tuple[Path, list[Event]]) -> None:
    out, _ = encoded
    before = (out / EVENTS).read_bytes()
    with pytest.raises(Daskt2iError):
        encode(bad_rows(rows_per_chunk=4), out)
    assert (out / EVENTS).read_bytes() == before


def test_nothing_is_written_into_a_folder_that_nobody_claimed(tmp_path: Path) -> None:
    watched = Watched(RunFolder(tmp_path), lambda: None, lambda event: None)
    watched(StageStarted("train", 5))
    watched(LaunchEvent("started", 1, 0, {"step": 0}))
    watched(StageEnded("train"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    claim(folder)
    return folder


def train(watched: Watched, steps: int = 3) -> None:
    watched(StageStarted("train", steps))
    watched(LaunchEvent("started", 1, 0, {"step": 0, "steps": steps}))
    for step in range(1, steps + 1):
        watched(LaunchEvent("step", 1, 0, {"step": step, "loss": 0.5, "rate": 1e-3}))
    watched(StageEnded("train"))


def test_a_folder_that_cannot_be_written_costs_one_note_and_the_run_goes_on(folder: RunFolder) -> None:
    folder.local_path(EVENTS).mkdir()  # it cannot be opened as a file, by anybody
    heard: list[Event] = []
    train(Watched(folder, lambda: None, heard.append), steps=5)
    assert sum(isinstance(event, LaunchEvent) for event in heard) == 6
    (note,) = notes(heard)
    assert "events.jsonl of the run folder cannot be written" in note
    assert "Errno" not in note
    assert "The run goes on" in note


def test_a_link_to_a_file_elsewhere_is_not_followed(folder: RunFolder, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine\n")
    folder.local_path(EVENTS).symlink_to(mine)
    heard: list[Event] = []
    train(Watched(folder, lambda: None, heard.append))
    assert mine.read_text() == "mine\n"
    assert len(notes(heard)) == 1


def test_half_a_line_of_a_killed_run_spoils_only_itself(folder: RunFolder) -> None:
    train(Watched(folder, lambda: None, lambda event: None), steps=3)
    path = folder.local_path(EVENTS)
    path.write_bytes(path.read_bytes()[:-20])
    train(Watched(folder, lambda: None, lambda event: None), steps=6)
    state, wrong = read_events(folder)
    assert (state.step, state.stages) == (6, {"train": "done"})
    assert wrong.startswith("1 of its")


@pytest.mark.parametrize("damage", [b"", b"\x00" * 99, b"[1, 2]\n{}\nnull\n", b"[" * 100_000, "é\n".encode("latin-1")])
def test_a_damaged_file_gives_a_state_and_says_what_is_wrong(folder: RunFolder, damage: bytes) -> None:
    folder.local_path(EVENTS).write_bytes(damage)
    state, wrong = read_events(folder)
    assert wrong
    assert state.stages == {}


def test_a_large_file_becomes_one_line_that_gives_the_same_state(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Watched(folder, lambda: None, lambda event: None), steps=40)
    before, _ = read_events(folder)
    monkeypatch.setattr(event_file, "MOST_BYTES", 1_000)
    EventFile(folder).write(Messages("r", "/x").begin("sample"))
    (line,) = lines(folder.local_path())
    after, wrong = read_events(folder)
    assert (line["kind"], wrong) == ("state", "")
    assert (after.loss, after.step, after.stages) == (before.loss, 40, {"train": "done", "sample": "running"})


def test_of_a_huge_file_the_end_is_read_and_a_line_that_is_too_long_is_left_out(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(Watched(folder, lambda: None, lambda event: None), steps=40)
    path = folder.local_path(EVENTS)
    lines = path.read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(event_file, "MOST_LINE", 5_000)
    path.write_bytes(b"".join([*lines[:3], b"x" * 20_000 + b"\n", *lines[3:]]))
    state, wrong = read_events(folder)
    assert (state.step, len(state.loss)) == (40, 40)
    assert wrong.startswith("1 of its")
    monkeypatch.setattr(event_file, "MOST_READ", 2_000)
    state, wrong = read_events(folder)
    assert (state.step, state.loss.last) == (40, (40, 0.5))
    assert len(state.loss) < 40
    assert "of which the last 2.0 KiB were read" in wrong
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read_events(folder)[1] == "it is a pipe or a device"


def test_a_file_that_is_removed_while_the_stage_runs_begins_again_with_what_was_told(folder: RunFolder) -> None:
    watched = Watched(folder, lambda: None, lambda event: None)
    watched(StageStarted("train", 9))
    watched(LaunchEvent("started", 1, 0, {"step": 0, "steps": 9}))
    for step in range(1, 10):
        watched(LaunchEvent("step", 1, 0, {"step": step, "loss": 0.5, "rate": 1e-3}))
        if step in (3, 6):
            folder.local_path(EVENTS).unlink()
    watched(StageEnded("train"))
    state, wrong = read_events(folder)
    assert (wrong, state.stages, state.steps, len(state.loss)) == ("", {"train": "done"}, 9, 9)
    assert state.train_begun is not None


def test_an_error_of_the_listener_behind_ends_the_stage_as_before(folder: RunFolder) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        Watched(folder, lambda: None, broken)(StageStarted("train", 1))


def test_the_same_path_on_another_machine_is_another_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here, bucket = run_id(RunFolder(tmp_path)), run_id(RunFolder("s3://b/run"))
    monkeypatch.setattr("socket.gethostname", lambda: "other")
    assert run_id(RunFolder(tmp_path)) != here
    assert run_id(RunFolder("s3://b/run")) == bucket


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of the user on a cluster that daskt2i did not start."""
    here = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **here) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def states(client: Client) -> dict[str, dict[str, Any]]:
    """Id of a run -> its state, as the scheduler knows it."""

    def look(dask_scheduler: Any) -> dict[str, dict[str, Any]]:
        return {run: state.to_json() for run, state in dask_scheduler.plugins["daskt2i-dashboard"].runs.items()}

    found: dict[str, dict[str, Any]] = client.run_on_scheduler(look)
    return found


def test_a_scheduler_of_the_user_knows_the_run_and_where_its_time_went(client: Client, tmp_path: Path) -> None:
    heard: list[Event] = []
    with daskt2i.Run(bad_rows(), tmp_path / "run", client=client, progress=heard.append) as run:
        run.encode()
    assert notes(heard) == []
    folder = RunFolder(tmp_path / "run")
    (known,) = (state for run, state in states(client).items() if run == run_id(folder))
    there, _ = read_events(folder)
    assert_equal_to_status(there, folder)
    same = ("rows_done", "accepted", "rejected", "bytes", "chunk_states", "strip", "parts", "stages", "psnr_counts")
    assert {name: known[name] for name in same} == {name: there.to_json()[name] for name in same}

    def names(dask_scheduler: Any) -> tuple[int, set[str]]:
        spans = dask_scheduler.extensions["spans"].spans_search_by_name["daskt2i-encode",]
        labels = {key[-2] for span in spans for key in span.cumulative_worker_metrics if key[-1] == "seconds"}
        return len(spans), {prefix.name for prefix in dask_scheduler.task_prefixes.values()} | labels

    wanted, found = {"encode-chunk", "inspect", "model", "read", "write"}, set[str]()
    deadline = time.monotonic() + 20  # the seconds come with the heartbeat of the worker
    while not wanted <= found and time.monotonic() < deadline:
        spans, found = client.run_on_scheduler(names)
        time.sleep(0.05)
    assert wanted <= found
    assert spans == 2, "one for the look at the first worker, one for all chunks: the scheduler keeps them for ever"


def test_a_scheduler_that_is_new_to_a_folder_hears_its_past(client: Client, tmp_path: Path) -> None:
    """A run that continues has other workers: its page shows the rows of before, and all losses."""
    folder = RunFolder(tmp_path)
    claim(folder)
    before = Watched(folder, lambda: None, lambda event: None)
    before(StageStarted("train", 9, 4))
    for step in (1, 2, 3):
        before(LaunchEvent("step", 1, 0, {"step": step, "loss": 1 / step}))
    before(StageEnded("train", KeyboardInterrupt()))
    again = Watched(folder, lambda: client, lambda event: None)
    again(StageStarted("train", 9, 4))
    again(LaunchEvent("step", 2, 0, {"step": 4, "loss": 0.25}))
    again(StageEnded("train"))
    state = RunState(run_id(folder))
    for _, message in client.get_events("daskt2i-train"):
        if message.get("run") == run_id(folder):
            state.hear(message)
    assert list(state.loss) == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert state.stages == {"train": "done"}


def test_a_scheduler_that_takes_no_plugin_costs_one_note(client: Client, tmp_path: Path) -> None:
    def refuse(dask_scheduler: Any) -> None:
        dask_scheduler.handlers["register_scheduler_plugin"] = None

    def allow(dask_scheduler: Any) -> None:
        dask_scheduler.handlers["register_scheduler_plugin"] = dask_scheduler.register_scheduler_plugin

    heard: list[Event] = []
    client.run_on_scheduler(refuse)
    try:
        with daskt2i.Run(fake_settings(), tmp_path / "run", client=client, progress=heard.append) as run:
            assert run.encode().accepted == 20
    finally:
        client.run_on_scheduler(allow)
    (note,) = notes(heard)
    assert "shows no pages of daskt2i" in note
    assert_equal_to_status(read_events(RunFolder(tmp_path / "run"))[0], RunFolder(tmp_path / "run"))


def test_a_client_that_is_closed_in_the_middle_stops_only_the_telling(folder: RunFolder, client: Client) -> None:
    heard: list[Event] = []
    with Client(client.scheduler.address, set_as_default=False) as mine:
        watched = Watched(folder, lambda: mine, heard.append)
        watched(StageStarted("train", 5))
        watched(LaunchEvent("started", 1, 0, {"step": 0, "steps": 5}))
    watched(LaunchEvent("step", 1, 0, {"step": 5, "loss": 0.5}))
    watched(StageEnded("train"))
    assert notes(heard) == []
    assert read_events(folder)[0].step == 5


def test_on_a_full_disk_one_note_is_told_and_whole_lines_stay(tmp_path: Path) -> None:
    with disk_of(tmp_path / "disk", "64k") as disk:
        folder = RunFolder(disk / "run")
        claim(folder)
        (disk / "filler").write_bytes(b"0" * 40_000)
        heard: list[Event] = []
        train(Watched(folder, lambda: None, heard.append), steps=400)
        assert sum(isinstance(event, LaunchEvent) for event in heard) == 401
        (note,) = notes(heard)
        assert "events.jsonl of the run folder cannot be written" in note
        state, _ = read_events(folder)
        assert state.loss.last is not None
        assert state.stages == {"train": "running"}


def test_a_sheet_that_a_training_draws_is_shown(folder: RunFolder) -> None:
    picture = io.BytesIO()
    Image.linear_gradient("L").save(picture, "PNG")
    folder.write("train/sheets/step-0000002.png", picture.getvalue())
    heard: list[Event] = []
    watched = Watched(folder, lambda: None, heard.append)
    watched(StageStarted("train", 5))
    watched(LaunchEvent("started", 1, 0, {"step": 0, "steps": 5}))
    watched(LaunchEvent("sheet", 1, 0, {"step": 2, "file": "train/sheets/step-0000002.png"}))
    watched(LaunchEvent("sheet", 1, 0, {"step": 4, "file": "train/sheets/gone.png"}))
    watched(LaunchEvent("sheet", 1, 0, {"step": 5, "file": None}))
    watched(StageEnded("train"))
    ((step, _, data),) = read_events(folder)[0].pictures
    assert (step, data[:23]) == (2, "data:image/jpeg;base64,")
    assert notes(heard) == []
    assert len(heard) == 6
