"""Turns at the thread that draws."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from daskt2i.studio import draw_queue
from daskt2i.studio.answers import TooMany
from daskt2i.studio.draw_queue import DrawQueue, Gone


class Desk:
    """A queue whose first wish holds the thread until `go` is set."""

    def __init__(self) -> None:
        self.queue = DrawQueue()
        self.go, self.begun = threading.Event(), threading.Event()
        self.order: list[str] = []

    def holds(self, check: Callable[[], None]) -> str:
        self.begun.set()
        for _ in range(4000):
            if self.go.wait(0.005):
                return "held"
            check()
        raise AssertionError("nobody let it go")

    def notes(self, name: str) -> Callable[[Callable[[], None]], str]:
        def work(check: Callable[[], None]) -> str:
            self.order.append(name)
            return name

        return work

    async def busy(self) -> asyncio.Task[Any]:
        task = asyncio.create_task(self.queue.draw("first", self.holds))
        await asyncio.to_thread(self.begun.wait, 10)
        return task


def test_turns_go_round_by_visitor() -> None:
    async def go() -> None:
        desk = Desk()
        held = await desk.busy()
        many = [asyncio.create_task(desk.queue.draw("many", desk.notes(f"many {n}"))) for n in range(3)]
        await asyncio.sleep(0)
        one = asyncio.create_task(desk.queue.draw("one", desk.notes("one")))
        await asyncio.sleep(0)
        assert (desk.queue.place("many"), desk.queue.place("one"), len(desk.queue)) == (0, 1, 4)
        desk.go.set()
        await asyncio.gather(held, one, *many)
        assert desk.order == ["many 0", "one", "many 1", "many 2"]
        desk.queue.close()

    asyncio.run(go())


def test_a_newer_preview_takes_the_place_of_one_that_waits_and_of_no_picture() -> None:
    async def go() -> None:
        desk = Desk()
        held = await desk.busy()
        picture = asyncio.create_task(desk.queue.draw("me", desk.notes("picture")))
        await asyncio.sleep(0)
        old = asyncio.create_task(desk.queue.draw("me", desk.notes("old"), preview=True))
        await asyncio.sleep(0)
        new = asyncio.create_task(desk.queue.draw("me", desk.notes("new"), preview=True))
        await asyncio.sleep(0)
        desk.go.set()
        assert await asyncio.gather(held, picture, new) == ["held", "picture", "new"]
        with pytest.raises(Gone):
            await old
        assert desk.order == ["picture", "new"]
        desk.queue.close()

    asyncio.run(go())


def test_who_leaves_frees_the_thread_after_a_step_and_the_place_at_once() -> None:
    async def go() -> None:
        desk = Desk()
        held = await desk.busy()
        waits = asyncio.create_task(desk.queue.draw("gone", desk.notes("gone")))
        await asyncio.sleep(0)
        held.cancel()
        waits.cancel()
        assert await desk.queue.draw("me", desk.notes("me")) == "me"
        assert desk.order == ["me"]
        assert len(desk.queue) == 0
        desk.queue.close()

    asyncio.run(go())


def test_an_error_is_the_answer_to_its_own_wish() -> None:
    def fails(check: Callable[[], None]) -> None:
        raise ValueError("no such sampler")

    async def go() -> None:
        queue = DrawQueue()
        with pytest.raises(ValueError, match="no such sampler"):
            await queue.draw("me", fails)
        assert await queue.draw("me", lambda check: "drawn") == "drawn"
        queue.close()

    asyncio.run(go())


def test_more_than_a_few_wishes_and_visitors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw_queue, "MOST_VISITORS", 2)
    monkeypatch.setattr(draw_queue, "MOST_WISHES", 2)

    async def go() -> None:
        desk = Desk()
        held = await desk.busy()
        waiting = [asyncio.create_task(desk.queue.draw(name, desk.notes(name))) for name in ("a", "a", "b")]
        await asyncio.sleep(0)
        with pytest.raises(TooMany, match="wait for one of them"):
            await desk.queue.draw("a", desk.notes("a"))
        with pytest.raises(TooMany, match="try again later"):
            await desk.queue.draw("c", desk.notes("c"))
        desk.go.set()
        await asyncio.gather(held, *waiting)
        desk.queue.close()

    asyncio.run(go())
