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
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from daskt2i.store import zarr_store
from daskt2i.store.run_folder import MANIFEST, RunFolder

pytest.importorskip("greenlet")
from builders.bucket import TROUBLES, InTurn, make_bucket
from builders.interleaving import World
from builders.protocol import KEYS, Driver, Protocol


class OnDisk(Protocol):
    """The run folder is on a file system without locks."""

    exchange = 14

    def open(self) -> tuple[World, RunFolder]:
        place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.root = Path(tempfile.mkdtemp(dir=place)) / "run"
        for name in ("receipts", *(f"latents.zarr/{key.partition('/')[0]}" for key in KEYS)):
            (self.root / name).mkdir(parents=True)
        world = World(self.root.parent)
        self.stack.callback(shutil.rmtree, self.root.parent, ignore_errors=True)
        self.stack.enter_context(world.taking_turns())
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
    exchange = 26

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

    @rule(which=st.integers(0, 30), after=st.integers(0, 20), what=st.sampled_from(TROUBLES))
    def a_request_goes_wrong(self, which: int, after: int, what: str) -> None:
        able = [process for _, process in self.able() if process.can_go_on]
        if able and (self.one_holder or not what.startswith("late")):
            self.bucket.trouble[able[which % len(able)]] = after, what

    @rule(which=st.integers(0, 3), at=st.integers(0, 30), what=st.sampled_from(TROUBLES), more=st.integers(0, 60))
    def a_request_goes_wrong_while_a_driver_publishes(self, which: int, at: int, what: str, more: int) -> None:
        if self.one_holder or not what.startswith("late"):
            driver = self.comes_to(which, 0)
            self.bucket.trouble[driver.process] = at, what
            self.steps(driver, more)

    @rule()
    def a_late_request_takes_effect(self) -> None:
        if self.bucket.late:
            process = self.bucket.deliver()
            self.changed_by(next(one for one in self.drivers if process in (one.process, *one.workers)), process)

    def time_passes(self, seconds: float) -> None:
        """A request is late by 30 seconds at most."""
        if seconds >= 30:
            while self.bucket.late:
                self.a_late_request_takes_effect()
        super().time_passes(seconds)

    def end_calmly(self) -> None:
        self.bucket.trouble.clear()
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


STORES = pytest.mark.parametrize("store", [OnDisk, InBucket, InPlainBucket])


@STORES
def test_no_order_of_steps_breaks_the_rules(store: type[Protocol]) -> None:
    long = settings(stateful_step_count=40, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(store, settings=long)


# Each step of the exchange of a chunk, one after the other. Chance finds some of them only in thousands of examples.


@contextlib.contextmanager
def exchanging(store: type[Protocol], at: int) -> Iterator[tuple[Protocol, Driver]]:
    """A driver that encodes finished chunks again, `at` steps after its workers have brought the first one."""
    world = store()
    world.there_may_be_a_finished_store(True)
    with contextlib.ExitStack() as stack:
        stack.callback(world.stop)
        world.driver(again=True, forgetful=True)
        yield world, world.comes_to(0, at)
        stack.pop_all()
    world.teardown()


def steps(request: pytest.FixtureRequest, number: int, apart: int = 2) -> range:
    return range(0, number, 1 if request.config.getoption("--slow") else apart)


@STORES
def test_who_sleeps_at_any_step_changes_nothing_when_it_wakes(
    store: type[Protocol], request: pytest.FixtureRequest
) -> None:
    for at in steps(request, store.exchange, 1):
        with exchanging(store, at) as (world, sleeper):
            other = world.follow(sleeper, again=at % 2 == 1)
            while other.publication is None:
                world.go_or_wait(other)
            world.steps(other, at)
            world.steps(sleeper, 300)
            world.together(other, 300)


@STORES
def test_what_a_sleeper_publishes_until_it_is_removed_is_counted(
    store: type[Protocol], request: pytest.FixtureRequest
) -> None:
    """It wakes while the next driver begins. That one must read receipts after it has removed the sleeper's run."""
    for wakes in steps(request, 32, 3):
        with exchanging(store, 0) as (world, sleeper):
            other = world.follow(sleeper, again=False)
            world.steps(other, wakes)
            world.steps(sleeper, 300)
            world.together(other, 300)


@STORES
def test_who_is_killed_at_any_step_loses_no_chunk(store: type[Protocol], request: pytest.FixtureRequest) -> None:
    for at in steps(request, store.exchange):
        with exchanging(store, at) as (_, driver):
            driver.process.kill()


@pytest.mark.parametrize("what", TROUBLES)
def test_a_request_that_goes_wrong_at_any_step_loses_no_chunk(what: str, request: pytest.FixtureRequest) -> None:
    for at in steps(request, InBucket.exchange, 3):
        for more in (0, 300):  # steps until a late request takes effect
            with exchanging(InBucket, at) as (world, driver):
                assert isinstance(world, InBucket)
                world.bucket.trouble[driver.process] = 0, what
                world.steps(driver, more)
                world.a_late_request_takes_effect()
                world.together(driver, 100)
