"""The protocol of publishing, played: drivers, workers and a lock in any order, with crashes, sleepers and odd clocks.

The code is that of the product. Hypothesis chooses which process does its next operation on the folder, who is killed
or sleeps, and how the time passes. After each step the rules hold:

- each visible receipt is that of the bytes of its shards;
- only the run that began last changes what is visible;
- a chunk that was accepted stays so, or its successor is whole and waits to be published;
- the manifest counts what is visible.

At the end all is killed, and one calm driver completes the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from daskt2i.errors import StoreBusy, TakenOver
from daskt2i.store import lock
from daskt2i.store.publishing import lease
from daskt2i.store.publishing.attempts import REPLACED, begin_attempt, staged_name
from daskt2i.store.publishing.publication import Publication, begin
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import MANIFEST, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Receipt, Shard, Staged

pytest.importorskip("greenlet")
from builders.interleaving import Process, World

CHUNKS = 2
KEYS = ("a/c.{0}", "b/c.{0}")


class Driver:
    """An encode: it takes the lock, begins a run, publishes what its workers bring, writes the manifest."""

    def __init__(self, world: World, folder: RunFolder, again: bool, late: float) -> None:
        self.world, self.folder, self.again = world, folder, again
        self.publication: Publication | None = None
        self.claim: lease.Claim | None = None
        self.lost = self.sleeps = self.done = False
        self.brought: list[Staged] = []
        self.workers: list[Process] = []
        self.beats = 0
        self.process = world.start(self.encode, late)

    def check(self) -> None:
        if self.lost:
            raise TakenOver("the lock is lost")

    def encode(self) -> None:
        self.claim = lock._claimed(self.folder, {"label": "encode", "token": uuid.uuid4().hex}, lambda text: None)
        publication = begin(self.folder, self.check)
        self.publication = publication
        found = {r.chunk: r for r in Receipts(self.folder).read() if ZarrStore(self.folder).check(r.shards) is None}
        for chunk in range(CHUNKS):
            if chunk in found and not self.again:
                continue
            for _ in range(2):  # one task was thought lost, and runs twice
                self.workers.append(self.world.start(lambda chunk=chunk: self.work(publication.run, chunk)))
        while open_ := self.still_open(found):
            staged = next((one for one in self.brought if one.receipt.chunk in open_), None)
            if staged is None:
                self.world.hand_over()
                continue
            publication.publish(staged)
            found[staged.receipt.chunk] = staged.receipt
            open_.discard(staged.receipt.chunk)
            self.published.add(staged.receipt.chunk)
        publication.require()
        counted = {str(chunk): receipt.shards[0].sha256 for chunk, receipt in found.items()}
        publication.folder.write(MANIFEST, json.dumps(counted).encode())
        publication.end()
        lease.release(self.folder, self.claim)
        self.done = True

    @property
    def published(self) -> set[int]:
        return self.__dict__.setdefault("_published", set())

    def still_open(self, found: dict[int, Receipt]) -> set[int]:
        return {i for i in range(CHUNKS) if i not in self.published and (self.again or i not in found)}

    def work(self, run: str, chunk: int) -> None:
        """A worker: each attempt writes bytes of its own."""
        attempt = begin_attempt(self.folder, run, chunk)
        shards = []
        for key in KEYS:
            data = f"{attempt.name} {key}".encode()
            attempt.write(staged_name(key.format(chunk)), data)
            shards.append(Shard(key.format(chunk), hashlib.sha256(data).hexdigest(), len(data)))
        receipt = receipt_for(Chunk(chunk, chunk, chunk + 1), tuple(shards))
        Receipts(self.folder).write(receipt, attempt)
        self.brought.append(Staged(receipt, attempt.name))

    def beat(self) -> None:
        """What the thread of the lock does every few seconds."""
        if self.claim is None or self.sleeps or self.process.dead or self.process.ended:
            return
        if not lease.holds(self.folder, self.claim):
            self.lost = True
            return
        self.beats += 1
        lease.beat(self.folder, self.claim, self.beats)


class Protocol(RuleBasedStateMachine):
    """The rules are what may happen next."""

    def __init__(self) -> None:
        super().__init__()
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(dir=place))
        self.folder = RunFolder(self.root / "run")
        for name in ("receipts", *(f"latents.zarr/{key.partition('/')[0]}" for key in KEYS)):
            (self.root / "run" / name).mkdir(parents=True)
        self.world = World(self.root)
        self.drivers: list[Driver] = []
        self.begun: list[Driver] = []
        self.accepted: set[int] = set()
        self.stack = contextlib.ExitStack()
        clock = SimpleNamespace(monotonic=self.world.monotonic, sleep=self.world.sleep)
        self.stack.enter_context(mock.patch.object(lock, "time", clock))
        self.stack.enter_context(self.world.taking_turns())
        self.before = self.visible()

    def teardown(self) -> None:
        try:
            self.end_calmly()
        finally:
            for process in self.world.processes:
                process.kill()
            self.stack.close()
            shutil.rmtree(self.root, ignore_errors=True)

    # What happens

    @initialize(finished=st.booleans())
    def there_may_be_a_finished_store(self, finished: bool) -> None:
        if finished:
            self.drivers.append(Driver(self.world, self.folder, again=False, late=0.0))
            self.together(self.drivers[-1], 5000)
            assert self.drivers.pop().done

    @rule(which=st.integers(0, 3), steps=st.integers(1, 120))
    def a_driver_and_its_workers_go_on(self, which: int, steps: int) -> None:
        if self.drivers:
            self.together(self.drivers[which % len(self.drivers)], steps)

    def together(self, driver: Driver, steps: int) -> None:
        """Steps of the driver, and of its workers until they have brought their chunks."""
        for _ in range(steps):
            for process in (driver.process, *driver.workers):
                if process.can_go_on and not (process is driver.process and driver.sleeps):
                    self.go(driver, process)

    @rule(again=st.sampled_from([True, True, False]), late=st.sampled_from([-3600.0, 0.0, 3600.0]))
    def a_driver_starts(self, again: bool, late: float) -> None:
        if len(self.drivers) < 4:
            self.drivers.append(Driver(self.world, self.folder, again, late))

    @rule(which=st.integers(0, 30), steps=st.sampled_from([1, 2, 3, 5, 8, 20, 60]))
    def a_process_goes_on(self, which: int, steps: int) -> None:
        able = [(driver, process) for driver, process in self.able() if process.can_go_on]
        if able:
            driver, process = able[which % len(able)]
            for _ in range(steps):
                if process.can_go_on:
                    self.go(driver, process)

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(int(max(1, seconds // lock.BEAT_SECONDS))):
            self.world.now += min(seconds, lock.BEAT_SECONDS)
            for driver in self.drivers:
                driver.beat()

    @rule(which=st.integers(0, 3), workers=st.booleans())
    def a_driver_is_killed(self, which: int, workers: bool) -> None:
        if self.drivers:
            driver = self.drivers[which % len(self.drivers)]
            driver.process.kill()
            for worker in driver.workers if workers else ():
                worker.kill()

    @rule(which=st.integers(0, 30))
    def a_worker_is_killed(self, which: int) -> None:
        workers = [worker for driver in self.drivers for worker in driver.workers]
        if workers:
            workers[which % len(workers)].kill()

    @rule(which=st.integers(0, 3))
    def a_driver_falls_asleep_or_wakes(self, which: int) -> None:
        if self.drivers:
            driver = self.drivers[which % len(self.drivers)]
            driver.sleeps = not driver.sleeps

    @rule(which=st.integers(0, 3), steps=st.integers(0, 150), more=st.integers(0, 150))
    def a_driver_sleeps_until_another_one_holds_the_lock_and_wakes(self, which: int, steps: int, more: int) -> None:
        """The way to a zombie, which chance alone would rarely find."""
        if self.drivers and len(self.drivers) < 4:
            sleeper = self.drivers[which % len(self.drivers)]
            sleeper.sleeps = False
            self.together(sleeper, steps)
            sleeper.sleeps = True
            other = Driver(self.world, self.folder, again=True, late=0.0)
            self.drivers.append(other)
            for _ in range(1000):
                if other.publication is not None or other.process.ended:
                    break
                if other.process.can_go_on:
                    self.go(other, other.process)
                else:
                    self.time_passes(5.0)
            self.together(other, more)
            sleeper.sleeps = False
            for _ in range(300):
                if sleeper.process.can_go_on:
                    self.go(sleeper, sleeper.process)

    # What holds

    def able(self) -> Iterator[tuple[Driver, Process]]:
        for driver in self.drivers:
            if not driver.sleeps:
                yield driver, driver.process
            for worker in driver.workers:
                yield driver, worker

    def go(self, driver: Driver, process: Process) -> None:
        """One step, and what it may have changed."""
        had = driver.publication
        process.step()
        if driver.publication is not had:
            self.begun.append(driver)
        after = self.visible()
        if after != self.before:
            assert process is driver.process, "a worker changed what is visible"
            later = self.begun[self.begun.index(driver) + 1 :] if driver in self.begun else []
            assert not later, "a run that was taken over changed what is visible"
            manifest = after.get(MANIFEST)
            written, self.before = manifest != self.before.get(MANIFEST), after
            counted = self.receipts_are_true()
            assert not written or json.loads(manifest or b"{}") == counted, "the manifest counts other chunks"
        if process.error is not None and not isinstance(process.error, (TakenOver, StoreBusy)):
            raise process.error

    def visible(self) -> dict[str, bytes]:
        found = {}
        for top in ("receipts", "latents.zarr"):
            for path in sorted(os.scandir(f"{self.root}/run/{top}"), key=lambda entry: entry.name):
                inner = os.scandir(path.path) if path.is_dir() else [path]
                found.update({entry.path: _bytes(entry.path) for entry in inner if not entry.name.startswith(".")})
        with contextlib.suppress(FileNotFoundError):
            found[MANIFEST] = _bytes(f"{self.root}/run/{MANIFEST}")
        return found

    def receipts_are_true(self) -> dict[str, str]:
        """Compare receipts with shards. Returns the first hash of each visible chunk."""
        visible = {name.removeprefix(f"{self.root}/run/"): data for name, data in self.before.items()}
        there = {}
        for name, data in visible.items():
            if name.startswith("receipts/"):
                receipt = Receipt.from_json(data)
                there[receipt.chunk] = receipt.shards[0].sha256
                for shard in receipt.shards:
                    data = visible.get(f"latents.zarr/{shard.key}", b"")
                    assert hashlib.sha256(data).hexdigest() == shard.sha256, f"{name} is not true"
        for chunk in self.accepted - there.keys():
            assert chunk in self.waiting(), f"chunk {chunk} was accepted, and is gone"
        self.accepted |= there.keys()
        return {str(chunk): first for chunk, first in there.items()}

    def waiting(self) -> set[int]:
        """Chunks whose successor is whole, and is being published."""
        found = set()
        for folder, _, files in os.walk(f"{self.root}/run/attempts"):
            if REPLACED in files and "receipt.json" in files:
                found.add(Receipt.from_json(_bytes(f"{folder}/receipt.json")).chunk)
        return found

    @invariant()
    def what_was_accepted_is_there_or_waits(self) -> None:
        self.before = self.visible()
        self.receipts_are_true()

    def end_calmly(self) -> None:
        for process in self.world.processes:
            process.kill()
        calm = Driver(self.world, self.folder, again=False, late=0.0)
        self.drivers.append(calm)
        while not calm.process.ended:
            self.together(calm, 20)
            self.world.now += 1.0
        assert calm.done, f"a calm driver does not come to its end: {calm.process.error!r}"
        shards = {f"{self.root}/run/latents.zarr/{key.format(i)}" for key in KEYS for i in range(CHUNKS)}
        receipts = {f"{self.root}/run/receipts/chunk-{i:07d}.json" for i in range(CHUNKS)}
        assert set(self.visible()) == {*shards, *receipts, MANIFEST}
        left = {entry.name for entry in os.scandir(f"{self.root}/run")}
        assert "attempts" not in left
        assert "encode.lock" not in left


def _bytes(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 1 << 20)
    finally:
        os.close(handle)


def test_no_order_of_steps_breaks_the_rules() -> None:
    steps = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Protocol, settings=steps)
