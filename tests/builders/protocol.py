"""Drivers, workers and a lock that share a run folder, as processes of `interleaving`; and what must hold.

Covers: the code of the product, from taking the lock to ending the run; the rules of what may happen next, and of what
holds after each step.
Does not cover: the store below (`store/test_protocol.py`: a folder, and an object store).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from builders.bucket import Cut
from builders.interleaving import Process, World
from daskt2i.errors import StoreBusy, StoreError, TakenOver
from daskt2i.store.publishing import lease, lock
from daskt2i.store.publishing.attempts import RECEIPT, REPLACED, Attempt, begin_attempt, goes_on, staged_name
from daskt2i.store.publishing.publication import Publication, publishing
from daskt2i.store.receipts import Receipts
from daskt2i.store.run_folder import LOCK, MANIFEST, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.testing.store import receipt_for
from daskt2i.types import Chunk, Receipt, Shard, Staged

CHUNKS = 2
KEYS = ("a/c.{0}", "b/c.{0}")
TAKE = lease.take


def is_allowed(error: BaseException | None) -> bool:
    """Whether a process may end with this error: it was too late, or something went wrong."""
    if isinstance(error, StoreError) and error.__cause__ is not None:
        return is_allowed(error.__cause__)
    return isinstance(error, (TakenOver, StoreBusy, Cut)) or (isinstance(error, OSError) and error.errno == errno.EIO)


class Driver:
    """An encode: it takes the lock, begins a run, publishes what its workers bring, writes the manifest.

    Args:
        again: it encodes chunks again that are finished.
        late: seconds that its clock is off.
        forgetful: it has no clock that goes on while it sleeps.
        patient: it repeats what fails.

    Attributes:
        heard: time of its last sign of life, since it has a claim; `silent` is its longest silence until then.
        holds: whether it has the lock: it has a claim, and has found nothing against it at its first look.
        runs: whether its run has begun, and nobody has removed it; `leaves` once it removes the run itself.
        may_lose_it: its claim follows that of a holder that slept while it released the lock, and may wake.
    """

    def __init__(
        self,
        world: World,
        folder: RunFolder,
        again: bool = False,
        late: float = 0.0,
        forgetful: bool = False,
        patient: bool = True,
    ) -> None:
        self.world, self.folder = world, folder
        self.again, self.forgetful, self.patient = again, forgetful, patient
        self.seen = self.heard = self.silent = 0.0
        self.looked = self.holds = self.runs = self.leaves = self.may_lose_it = False
        self.publication: Publication | None = None
        self.claim: lease.Claim | None = None
        self.lost = self.sleeps = self.done = False
        self.brought: list[Staged] = []
        self.published: set[int] = set()
        self.workers: list[Process] = []
        self.beats = 0
        self.process = world.start(self.encode, late)

    def check(self) -> None:
        """What `lock.hold` yields: at first, and after a long silence, the driver looks whether the lock is its own."""
        first, self.looked = not self.looked, True
        silent = not self.forgetful and self.world.now - self.seen > lock.DEAD_SECONDS / 2
        if not self.lost and (first or silent):
            self.look()
        if self.lost:
            raise TakenOver("the lock is lost")
        self.holds = True

    def look(self) -> None:
        assert self.claim is not None
        self.lost = self.lost or not lease.holds(self.folder, self.claim)
        self.seen = self.world.now

    def encode(self) -> None:
        self.claim = lock._claimed(self.folder, {"label": "encode", "token": uuid.uuid4().hex}, lambda text: None)
        self.seen = self.world.now
        try:
            with publishing(self.folder, self.check) as self.publication:
                try:
                    self.publish_all(self.publication)
                finally:
                    self.leaves = not self.process.dead
            self.done = True
        finally:
            self.leaves = not self.process.dead
            with contextlib.suppress(Exception):
                lease.release(self.folder, self.claim)

    def publish_all(self, publication: Publication) -> None:
        found = self.found()
        for chunk in range(CHUNKS):
            for _ in range(2 if self.again or chunk not in found else 0):  # one task was thought lost, and runs twice
                self.give(publication.run, chunk)
        while open_ := self.still_open(found):
            staged = next((one for one in self.brought if one.receipt.chunk in open_), None)
            if staged is None:
                self.world.hand_over()
                continue
            self.brought.remove(staged)
            chunk = staged.receipt.chunk
            try:
                publication.publish(staged)
            except (Cut, OSError, StoreError) as error:
                if not is_allowed(error) or isinstance(error, TakenOver):
                    raise
                publication.discard(staged.attempt)
                if not self.patient:
                    raise
                self.give(publication.run, chunk)
                continue
            found[chunk] = staged.receipt
            self.published.add(chunk)
        publication.require()
        counted = {str(chunk): receipt.shards[0].sha256 for chunk, receipt in found.items()}
        publication.folder.write(MANIFEST, json.dumps(counted).encode())

    def found(self) -> dict[int, Receipt]:
        """Finished chunks, and their receipts."""
        receipts, store = Receipts(self.folder).read(), ZarrStore(self.folder)
        return {receipt.chunk: receipt for receipt in receipts if store.check(receipt.shards) is None}

    def give(self, run: str, chunk: int) -> None:
        """Give a chunk to a new worker."""
        self.workers.append(self.world.start(lambda: self.work(run, chunk)))

    def still_open(self, found: dict[int, Receipt]) -> set[int]:
        return {i for i in range(CHUNKS) if i not in self.published and (self.again or i not in found)}

    def work(self, run: str, chunk: int) -> None:
        """A worker: each attempt writes bytes of its own. An attempt that fails is repeated."""
        while True:
            try:
                attempt = begin_attempt(self.folder, run, chunk)
                try:
                    self.brought.append(self.attempt(attempt, chunk))
                    return
                except BaseException:
                    attempt.discard()
                    raise
            except (Cut, OSError, StoreError) as error:
                if not is_allowed(error) or isinstance(error, TakenOver):
                    raise

    def attempt(self, attempt: Attempt, chunk: int) -> Staged:
        shards = []
        for key in KEYS:
            data = f"{attempt.name} {key}".encode()
            attempt.write(staged_name(key.format(chunk)), data)
            shards.append(Shard(key.format(chunk), hashlib.sha256(data).hexdigest(), len(data)))
        receipt = receipt_for(Chunk(chunk, chunk, chunk + 1), tuple(shards))
        Receipts(self.folder).write(receipt, attempt)
        return Staged(receipt, attempt.name)

    def beat(self) -> None:
        """What the thread of the lock does every few seconds."""
        if self.claim is None or self.sleeps or self.process.dead or self.process.ended:
            return
        self.look()
        if self.lost:
            return
        self.silent, self.heard = max(self.silent, self.world.now - self.heard), self.world.now
        self.beats += 1
        lease.beat(self.folder, self.claim, self.beats)


class Protocol(RuleBasedStateMachine):
    """The rules are what may happen next. A subclass has the store, and says how many steps something takes there.

    Attributes:
        troubles: what may go wrong in a step.
        exchange: steps from the first chunk that a worker has brought until it is published.
        take_over: steps from having the lock until the run has begun.
        life: steps of a driver from its start to its end.
    """

    troubles: Sequence[str]
    exchange: int
    take_over: int
    life: int

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.world, self.folder = self.open()
        self.drivers: list[Driver] = []
        self.claimed: list[Driver] = []
        self.holders: list[Driver] = []
        self.begun: list[Driver] = []
        self.over: list[Driver] = []
        self.accepted: set[int] = set()
        clock = SimpleNamespace(monotonic=self.world.monotonic, sleep=self.world.sleep)
        self.stack.enter_context(mock.patch.object(lock, "time", clock))
        self.stack.enter_context(mock.patch.object(lease, "take", self.take))
        self.before = self.visible()

    @abstractmethod
    def open(self) -> tuple[World, RunFolder]:
        """Make the store. `stack` closes it."""

    @abstractmethod
    def visible(self) -> dict[str, bytes]:
        """What a reader sees: receipts, shards, the manifest."""

    @abstractmethod
    def hidden(self) -> dict[str, bytes]:
        """All else."""

    def teardown(self) -> None:
        try:
            self.end_calmly()
        finally:
            self.stop()

    def stop(self) -> None:
        """Kill all, and close the store."""
        for process in self.world.processes:
            process.kill()
        self.stack.close()

    # What happens

    def driver(self, again: bool = False, late: float = 0.0, forgetful: bool = False, patient: bool = True) -> Driver:
        self.drivers.append(Driver(self.world, self.folder, again, late, forgetful, patient))
        return self.drivers[-1]

    def there_is_room(self) -> bool:
        return len(self.drivers) < 12 and sum(not driver.process.ended for driver in self.drivers) < 4

    @initialize(finished=st.booleans())
    def there_may_be_a_finished_store(self, finished: bool) -> None:
        if finished:
            driver = self.driver()
            while not driver.process.ended:
                self.together(driver, 20)
                self.world.now += 1.0
            assert driver.done, driver.process.error
            self.drivers.remove(driver)

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

    @rule(
        again=st.sampled_from([True, True, False]),
        late=st.sampled_from([-3600.0, 0.0, 3600.0]),
        odd=st.booleans(),
        patient=st.booleans(),
    )
    def a_driver_starts(self, again: bool, late: float, odd: bool, patient: bool) -> None:
        if self.there_is_room():
            self.driver(again, late, odd, patient)

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

    @rule(
        which=st.integers(0, 3),
        at=st.none() | st.integers(0, 30),
        steps=st.integers(0, 150),
        more=st.integers(0, 150),
        pace=st.sampled_from([0, 0, 1, 3, 20]),
        again=st.booleans(),
    )
    def a_driver_sleeps_until_another_one_holds_the_lock_and_wakes(
        self, which: int, at: int | None, steps: int, more: int, pace: int, again: bool
    ) -> None:
        """The way to a zombie, which chance alone would rarely find.

        Args:
            at: it falls asleep so many steps after its first worker has brought a chunk; None for `steps` steps.
            pace: its steps for each step of the other one that begins its run.
        """
        if self.there_is_room():
            sleeper = self.comes_to(which, at, steps)
            other = self.follow(sleeper, again)
            self.begins(other, sleeper, pace)
            self.together(other, more)
            sleeper.sleeps = False
            self.steps(sleeper, 300)

    @rule(which=st.integers(0, 3), at=st.integers(0, 30), workers=st.booleans())
    def a_driver_is_killed_while_it_publishes(self, which: int, at: int, workers: bool) -> None:
        driver = self.comes_to(which, at)
        driver.process.kill()
        for worker in driver.workers if workers else ():
            worker.kill()

    @rule(which=st.integers(0, 30), after=st.integers(0, 20), what=st.integers(0, 4))
    def a_step_goes_wrong(self, which: int, after: int, what: int) -> None:
        able = [process for _, process in self.able() if process.can_go_on]
        if able:
            self.trouble(able[which % len(able)], (after, self.troubles[what % len(self.troubles)]))

    @rule(
        which=st.integers(0, 3),
        at=st.integers(0, 30),
        what=st.integers(0, 4),
        second=st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)),
        more=st.integers(0, 60),
    )
    def a_step_goes_wrong_while_a_driver_publishes(
        self, which: int, at: int, what: int, second: tuple[int, int] | None, more: int
    ) -> None:
        driver = self.comes_to(which, 0)
        for after, number in [(at, what), *([] if second is None else [second])]:
            self.trouble(driver.process, (after, self.troubles[number % len(self.troubles)]))
        self.steps(driver, more)

    def trouble(self, process: Process, *what: tuple[int, str]) -> None:
        """What goes wrong in the next steps of a process.

        One request at a time is late; none where two may hold the lock. Two of one exchange that are sent twice, and
        come late in their order, may blank a receipt (decision 0012).
        """
        waiting = self.world.trouble.setdefault(process, [])
        for one in what:
            if not one[1].startswith("late") or (self.one_holder and not self.is_late(process)):
                waiting.append(one)

    def is_late(self, process: Process) -> bool:
        """Whether a request of a process is late, or will be."""
        return any(what.startswith("late") for _, what in self.world.trouble[process])

    def comes_to(self, which: int, at: int | None, steps: int = 0) -> Driver:
        """A driver, so many steps after its first worker has brought a chunk."""
        living = [driver for driver in self.drivers if not driver.process.ended]
        driver = living[which % len(living)] if living else self.driver(again=True)
        driver.sleeps = False
        if at is None:
            self.together(driver, steps)
            return driver
        for _ in range(300):
            if driver.brought or driver.process.ended:
                break
            self.together(driver, 1)
            if not driver.process.can_go_on:
                self.time_passes(5.0)
        self.steps(driver, at)
        return driver

    def follow(self, sleeper: Driver, again: bool) -> Driver:
        """A driver falls asleep, and another one takes the lock after it."""
        sleeper.sleeps = True
        other = self.driver(again)
        for _ in range(1000):
            if other.claim is not None or other.process.ended:
                break
            self.go_or_wait(other, 70.0)  # more than a minute, so that it need not look often
        return other

    def begins(self, other: Driver, sleeper: Driver | None = None, pace: int = 0) -> None:
        """A driver takes over, while a sleeper does `pace` steps for each of its steps."""
        for _ in range(1000):
            if other.publication is not None or other.process.ended:
                break
            self.go_or_wait(other)
            if sleeper is not None:
                self.steps(sleeper, pace)

    def go_or_wait(self, driver: Driver, seconds: float = 5.0) -> None:
        if driver.process.can_go_on:
            self.go(driver, driver.process)
        else:
            self.time_passes(seconds)

    def lives(self, driver: Driver, steps: int) -> None:
        """So many steps of a driver, which waits for what it has to wait for. Its workers are much faster."""
        for _ in range(steps):
            if driver.process.ended:
                break
            for worker in driver.workers:
                while worker.can_go_on:
                    self.go(driver, worker)
            while not driver.process.can_go_on and not driver.process.ended:
                self.time_passes(5.0)
            if driver.process.can_go_on:
                self.go(driver, driver.process)

    def steps(self, driver: Driver, steps: int) -> None:
        for _ in range(steps):
            if driver.process.can_go_on:
                self.go(driver, driver.process)

    # What holds

    def able(self) -> Iterator[tuple[Driver, Process]]:
        for driver in self.drivers:
            if not driver.sleeps:
                yield driver, driver.process
            for worker in driver.workers:
                yield driver, worker

    def go(self, driver: Driver, process: Process) -> None:
        """One step, and what it may have changed."""
        had, claim, held = driver.publication, driver.claim, driver.holds
        process.step()
        if driver.claim is not claim:
            driver.may_lose_it = any(one.leaves and not one.process.ended for one in self.claimed)
            self.claimed.append(driver)
        if driver.holds and not held:
            self.nobody_else_holds_the_lock()
            self.holders.append(driver)
        if driver.publication is not None and driver.publication is not had:
            # A run may be over before it knows that it has begun.
            driver.runs = goes_on(self.folder, driver.publication.run)
            (self.begun if driver.runs else self.over).append(driver)
        if self.world.changed:
            self.changed_by(driver, process)
        if process.error is not None and not is_allowed(process.error):
            raise process.error

    def changed_by(self, driver: Driver, process: Process) -> None:
        """Look what is visible now, after a request of a process."""
        last = self.begun[-1] if self.begun else None
        if last is not None and last.runs and last is not driver and not last.leaves:
            last.runs = last.publication is not None and goes_on(self.folder, last.publication.run)
            assert last.runs or last not in self.later(driver), "a run that was taken over removed a later one"
        after = self.visible()
        if after == self.before:
            return
        assert process is driver.process, "a worker changed what is visible"
        assert not self.later(driver), "a run that was taken over changed what is visible"
        manifest = after.get(MANIFEST)
        written, self.before = manifest != self.before.get(MANIFEST), after
        counted = self.receipts_are_true()
        assert not written or json.loads(manifest or b"{}") == counted, "the manifest counts other chunks"

    def later(self, driver: Driver) -> list[Driver]:
        """Drivers that have begun after this one; itself if its run was over at once."""
        if driver in self.over:
            return [driver]
        if driver in self.begun:
            return self.begun[self.begun.index(driver) + 1 :]
        if driver in self.claimed and self.one_holder:
            return [one for one in self.claimed[self.claimed.index(driver) + 1 :] if one in self.begun]
        return []

    one_holder = True
    """Whether the lock never has two holders."""

    def take(self, *arguments: Any) -> lease.Claim | None:
        """`lease.take`, and when that was."""
        process, claim = self.world.current, TAKE(*arguments)
        for driver in self.drivers:
            if driver.process is process:
                driver.silent, driver.heard = 0.0, self.world.now
        return claim

    def nobody_else_holds_the_lock(self) -> None:
        """A driver has the lock now: all others have ended, or gave no sign of life for a minute."""
        for one in self.holders if self.one_holder else ():
            silent = max(one.silent, self.world.now - one.heard)
            free = one.process.ended or one.leaves or one.may_lose_it
            assert free or silent >= 60.0, "two drivers hold the lock"

    def receipts_are_true(self) -> dict[str, str]:
        """Compare receipts with shards. Returns the first hash of each visible chunk."""
        there = {}
        for name, data in self.before.items():
            if name.startswith("receipts/") and (receipt := _receipt(data)) is not None:
                there[receipt.chunk] = receipt.shards[0].sha256
                for shard in receipt.shards:
                    assert self.is_there(shard), f"{name} is not true"
        for chunk in self.accepted - there.keys():
            assert self.can_be_finished(chunk), f"chunk {chunk} was accepted, and is gone"
        self.accepted |= there.keys()
        return {str(chunk): first for chunk, first in there.items()}

    def is_there(self, shard: Shard) -> bool:
        """Whether a shard is visible, bit for bit."""
        return _hash(self.before.get(f"latents.zarr/{shard.key}", b"")) == shard.sha256

    def can_be_finished(self, chunk: int) -> bool:
        """Whether a place holds what is needed to finish the exchange of a chunk, or to take it back."""
        hidden = self.hidden()
        for name in hidden:
            place, _, last = name.rpartition("/")
            if last == REPLACED:
                new, old = _receipt(hidden.get(f"{place}/{RECEIPT}", b"")), _receipt(hidden[name])
                if old is not None and old.chunk == chunk and all(self.is_there(shard) for shard in old.shards):
                    return True
                if new is not None and new.chunk == chunk:
                    staged = {
                        shard: _hash(hidden.get(f"{place}/{staged_name(shard.key)}", b"")) for shard in new.shards
                    }
                    if all(hash_ == shard.sha256 or self.is_there(shard) for shard, hash_ in staged.items()):
                        return True
        return False

    @invariant()
    def what_was_accepted_is_there_or_waits(self) -> None:
        self.before = self.visible()
        self.receipts_are_true()

    def end_calmly(self) -> None:
        self.world.trouble.clear()
        for process in self.world.processes:
            process.kill()
        calm = self.driver()
        for _ in range(1000):
            if calm.process.ended:
                break
            self.together(calm, 20)
            self.world.now += 1.0
        assert calm.done, f"a calm driver does not come to its end: {calm.process.error!r}"
        shards = {f"latents.zarr/{key.format(i)}" for key in KEYS for i in range(CHUNKS)}
        receipts = {f"receipts/chunk-{i:07d}.json" for i in range(CHUNKS)}
        assert set(self.visible()) == {*shards, *receipts, MANIFEST}
        assert self.accepted == set(range(CHUNKS))
        left = self.hidden()
        assert not [name for name in left if name.startswith("attempts")]
        assert LOCK not in left


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _receipt(data: bytes) -> Receipt | None:
    try:
        return Receipt.from_json(data)
    except ValueError:
        return None
