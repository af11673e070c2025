"""The protocol of publishing, played: drivers, workers and a lock in any order, with crashes, sleepers and odd clocks.

The code is that of the product. Hypothesis chooses which process does its next operation on the folder or its next
request to the object store, who is killed or sleeps, what the network does, and how the time passes. After each step
the rules hold:

- each visible receipt is that of the bytes of its shards;
- only the run that began last changes what is visible;
- a chunk that was accepted stays so, or can be finished or taken back;
- the manifest counts what is visible.

At the end all is killed, and one calm driver completes the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from daskt2i.store import zarr_store
from daskt2i.store.publishing import lease
from daskt2i.store.publishing.attempts import staged_name
from daskt2i.store.publishing.exchange import BLANK, visible
from daskt2i.store.run_folder import MANIFEST, RunFolder

pytest.importorskip("greenlet")
from builders import bucket, interleaving
from builders.bucket import InTurn, make_bucket
from builders.interleaving import Process, World
from builders.protocol import KEYS, Driver, Protocol


class OnDisk(Protocol):
    """The run folder is on a file system without locks."""

    troubles = interleaving.TROUBLES
    exchange, take_over, life = 18, 36, 105

    def open(self) -> tuple[World, RunFolder]:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(dir=place)) / "run"
        for name in ("receipts", *(f"latents.zarr/{key.partition('/')[0]}" for key in KEYS)):
            (self.root / name).mkdir(parents=True)
        world = World(self.root.parent)
        self.stack.callback(shutil.rmtree, self.root.parent, ignore_errors=True)
        self.stack.enter_context(world.taking_turns())
        self.stack.enter_context(mock.patch.object(zarr_store, "ThreadPoolExecutor", InTurn))
        return world, RunFolder(self.root)

    def visible(self) -> dict[str, bytes]:
        found = {}
        for top in ("receipts", "latents.zarr"):
            for path in sorted(os.scandir(f"{self.root}/{top}"), key=lambda entry: entry.name):
                inner = os.scandir(path.path) if path.is_dir() else [path]
                found.update({self.name(one.path): _bytes(one.path) for one in inner if not one.name.startswith(".")})
        with contextlib.suppress(FileNotFoundError):
            found[MANIFEST] = _bytes(f"{self.root}/{MANIFEST}")
        return found

    def hidden(self) -> dict[str, bytes]:
        paths = [f"{folder}/{file}" for folder, _, files in os.walk(self.root) for file in files]
        found = {self.name(path): _bytes(path) for path in paths}
        folders = {"attempts/": b""} if (self.root / "attempts").is_dir() else {}
        return {**folders, **{name: data for name, data in found.items() if name not in self.before}}

    def name(self, path: str) -> str:
        return path.removeprefix(f"{self.root}/")


class InBucket(Protocol):
    """The run folder is on S3, or on a store like it."""

    conditions = True
    troubles = bucket.TROUBLES
    exchange, take_over, life = 20, 60, 148

    def open(self) -> tuple[World, RunFolder]:
        world = World(Path("/no folder"))
        self.bucket = make_bucket(world, self.conditions)
        self.stack.enter_context(mock.patch.object(zarr_store, "ThreadPoolExecutor", InTurn))
        return world, RunFolder("turns://run")

    def visible(self) -> dict[str, bytes]:
        tops = ("receipts/", "latents.zarr/", MANIFEST)
        return {name[4:]: data for name, data in self.bucket.objects.items() if name[4:].startswith(tops)}

    def hidden(self) -> dict[str, bytes]:
        return {name[4:]: data for name, data in self.bucket.objects.items() if name[4:] not in self.before}

    @rule()
    def a_late_request_takes_effect(self) -> None:
        if self.bucket.late:
            process = self.bucket.deliver()
            self.changed_by(next(one for one in self.drivers if process in (one.process, *one.workers)), process)

    def is_late(self, process: Process) -> bool:
        return super().is_late(process) or any(process is sender for sender, _ in self.bucket.late)

    def time_passes(self, seconds: float) -> None:
        """A request is late by 30 seconds at most."""
        if seconds >= 30:
            while self.bucket.late:
                self.a_late_request_takes_effect()
        super().time_passes(seconds)

    def end_calmly(self) -> None:
        self.world.trouble.clear()
        while self.bucket.late:
            self.a_late_request_takes_effect()
        super().end_calmly()


class InPlainBucket(InBucket):
    """The store ignores conditions, so two drivers may begin at once."""

    conditions = False
    one_holder = False


def _bytes(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, 1 << 20)
    finally:
        os.close(handle)


T = TypeVar("T")
STORES = pytest.mark.parametrize("store", [OnDisk, InBucket, InPlainBucket])
STORES_ONE_BY_ONE = pytest.mark.parametrize(
    "store", [OnDisk, InBucket, pytest.param(InPlainBucket, marks=pytest.mark.slow)]
)


@STORES
def test_no_order_of_steps_breaks_the_rules(store: type[Protocol], request: pytest.FixtureRequest) -> None:
    (examples,) = some(request, [4], [settings.default.max_examples])
    long = settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(store, settings=long)


# Each step of a driver, one after the other. Chance finds some of them only in thousands of examples.


@contextlib.contextmanager
def playing(store: type[Protocol], killed: int | None = None) -> Iterator[tuple[Protocol, Driver]]:
    """A driver that will encode finished chunks again.

    Args:
        killed: another one was killed, so many steps after it had begun to exchange a chunk; None for no other one.
    """
    world = store()
    world.there_may_be_a_finished_store(True)
    with contextlib.ExitStack() as stack:
        stack.callback(world.stop)
        if killed is not None:
            former = world.driver(again=True)
            world.comes_to(0, killed).process.kill()
            if former.claim is not None:
                lease.release(world.folder, former.claim)  # else all would wait for a minute
        yield world, world.driver(again=True, forgetful=True)
        stack.pop_all()
    world.teardown()


def some(request: pytest.FixtureRequest, few: Iterable[T], all_: Iterable[T]) -> Iterable[T]:
    """The few steps that found a mistake which was made by hand; all of them with `--slow`."""
    return all_ if request.config.getoption("--slow") else few


@STORES_ONE_BY_ONE
def test_who_sleeps_at_any_step_changes_nothing_when_it_wakes(
    store: type[Protocol], request: pytest.FixtureRequest
) -> None:
    """It may sleep while it takes the lock, while it takes over from another one, and while it publishes."""
    for killed in some(request, [5], [None, *range(0, store.exchange, 3)]):
        for at in some(request, (2, 6, 9, 24, 35, 57, 70, 92, 117), range(store.life)):
            with playing(store, killed) as (world, sleeper):
                world.lives(sleeper, at)
                other = world.follow(sleeper, again=at % 2 == 1)
                world.begins(other)
                world.lives(other, at % 30)
                world.lives(sleeper, 300)
                world.lives(other, 300)


@STORES_ONE_BY_ONE
def test_who_wakes_while_another_one_takes_over_loses_no_chunk(
    store: type[Protocol], request: pytest.FixtureRequest
) -> None:
    """What it publishes until it is removed is counted: the other one reads receipts after it has removed it."""
    every = [(at, wakes) for at in range(store.exchange) for wakes in range(store.take_over)]
    for at, wakes in some(request, [*every[::89], (9, 18)], every):
        with playing(store) as (world, sleeper):
            world.comes_to(0, at)
            other = world.follow(sleeper, again=False)
            world.lives(other, wakes)
            world.lives(sleeper, 300)
            world.lives(other, 300)


@STORES_ONE_BY_ONE
def test_who_is_killed_at_any_step_loses_no_chunk(store: type[Protocol], request: pytest.FixtureRequest) -> None:
    for killed in some(request, [5], [None, *range(0, store.exchange, 3)]):
        for at in some(request, range(4, store.life, 23), range(store.life)):
            with playing(store, killed) as (world, driver):
                world.lives(driver, at)


@pytest.mark.parametrize(("store", "what"), [(one, what) for one in (OnDisk, InBucket) for what in one.troubles])
def test_a_step_that_goes_wrong_loses_no_chunk(
    store: type[Protocol], what: str, request: pytest.FixtureRequest
) -> None:
    """Args: `more` are steps until a late request takes effect."""
    for at in some(request, range(4, store.exchange, 5), range(store.exchange)):
        for more in some(request, (5, 300), (*range(12), 300)) if what.startswith("late") else (0,):
            with playing(store) as (world, driver):
                world.comes_to(0, at)
                world.trouble(driver.process, (0, what))
                world.lives(driver, more)
                if isinstance(world, InBucket):
                    world.a_late_request_takes_effect()
                world.lives(driver, 100)


@pytest.mark.parametrize("store", [OnDisk, InBucket])
def test_two_steps_that_go_wrong_lose_no_chunk(store: type[Protocol], request: pytest.FixtureRequest) -> None:
    """The second one stops what the driver does about the first one. Then it tries again, or ends."""
    every = [(at, next_, patient) for at in range(store.exchange) for next_ in range(6) for patient in (True, False)]
    for at, next_, patient in some(request, every[::29], every):
        with playing(store) as (world, driver):
            driver.patient = patient
            world.comes_to(0, at)
            world.trouble(driver.process, (0, store.troubles[at % 2]), (next_, "lost"))
            world.lives(driver, 200)


@pytest.mark.parametrize("store", [OnDisk, InBucket])
def test_a_step_that_goes_wrong_while_a_driver_takes_over_loses_no_chunk(
    store: type[Protocol], request: pytest.FixtureRequest
) -> None:
    every = [(killed, at) for killed in range(store.exchange) for at in range(store.take_over)]
    for killed, at in some(request, [*every[::131], (5, 23)], every):
        with playing(store, killed) as (world, driver):
            world.trouble(driver.process, (at, "lost"))
            world.lives(driver, 200)


def test_no_late_request_changes_shards_below_a_receipt_that_is_taken_back() -> None:
    """A shard that the worker had written is lost in the store, so the exchange cannot be finished."""
    with playing(InBucket) as (world, driver):
        assert isinstance(world, InBucket)
        world.comes_to(0, 0)
        objects, chunk = world.bucket.objects, driver.brought[0].receipt.chunk
        while visible(world.folder, chunk) is not None or any(name.endswith(f"/{BLANK}") for name in objects):
            world.lives(driver, 1)
        del objects[next(name for name in objects if name.endswith(f"/{staged_name(KEYS[1].format(chunk))}"))]
        world.trouble(driver.process, (0, "late"))
        while visible(world.folder, chunk) is None:
            world.lives(driver, 1)
        assert world.bucket.late
        world.a_late_request_takes_effect()


def test_who_creates_its_claim_twice_does_not_wait_for_itself() -> None:
    """The library sends a request again whose answer was lost. The store refuses the second one."""
    with playing(InBucket) as (world, driver):
        world.trouble(driver.process, (0, "twice"))
        begun = world.world.now
        while driver.claim is None:
            world.go_or_wait(driver, 1.0)
        assert world.world.now - begun < 5.0
