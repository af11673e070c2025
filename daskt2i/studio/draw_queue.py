"""Who draws next: visitors take turns at the one thread that draws.

Covers: turns, places, a newer preview in the place of an older one that waits, visitors that vanish.
Does not cover: what is drawn (`drawing`), HTTP.

One picture uses all cores, so two at once would each take twice as long. A visitor with ten wishes waits behind a
visitor with one: turns go round by visitor.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from daskt2i.studio.answers import TooMany

MOST_VISITORS, MOST_WISHES = 200, 8
"""Visitors that wait at once, and what one of them may wait for."""


class Gone(Exception):
    """Nobody waits for this picture any more: the visitor left, or asked for a newer one."""


@dataclass(eq=False, slots=True)
class Wish:
    """One drawing that somebody waits for.

    Attributes:
        work: draws. It gets a function that raises `Gone` when nobody waits any more, and calls it after each step.
        preview: whether a newer wish of the same visitor takes its place.
        done: gets the result of `work`.
    """

    work: Callable[[Callable[[], None]], Any]
    preview: bool
    done: asyncio.Future[Any]
    gone: Event = field(default_factory=Event)

    def check(self) -> None:
        """Raises:
        Gone: nobody waits any more.
        """
        if self.gone.is_set():
            raise Gone


class DrawQueue:
    """The turns. All methods run on the server's loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Wish]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._runner: asyncio.Task[None] | None = None
        self.drawn = self.given_up = 0

    def __len__(self) -> int:
        """Number of wishes that wait."""
        return sum(map(len, self._waiting.values()))

    def place(self, visitor: str) -> int:
        """Turns before the next one of a visitor; 0 if it is the next, or waits for nothing."""
        return list(self._waiting).index(visitor) if visitor in self._waiting else 0

    async def draw(self, visitor: str, work: Callable[[Callable[[], None]], Any], *, preview: bool = False) -> Any:
        """The result of a drawing, when it had its turn. A caller that is cancelled gives up its place.

        Raises:
            Gone: the same visitor asked for a newer preview.
            TooMany: too many wait.
        """
        own = self._waiting.get(visitor)
        if preview and own:
            for older in [one for one in own if one.preview]:
                self._give_up(visitor, older)
            own = self._waiting.get(visitor)
        if own is None and len(self._waiting) >= MOST_VISITORS:
            raise TooMany(f"{MOST_VISITORS} visitors wait for a picture already. Nothing was drawn; try again later.")
        if own is not None and len(own) >= MOST_WISHES:
            raise TooMany(f"You wait for {MOST_WISHES} pictures already. Nothing was drawn; wait for one of them.")
        wish = Wish(work, preview, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(visitor, deque()).append(wish)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        try:
            return await wish.done
        except asyncio.CancelledError:
            self._give_up(visitor, wish)
            raise

    def _give_up(self, visitor: str, wish: Wish) -> None:
        wish.gone.set()
        self.given_up += 1
        own = self._waiting.get(visitor)
        if own is not None and wish in own:
            own.remove(wish)
            if not own:
                del self._waiting[visitor]
        if not wish.done.done():
            wish.done.set_exception(Gone())

    async def _run(self) -> None:
        """Draw until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            visitor, own = self._waiting.popitem(last=False)
            wish = own.popleft()
            if own:
                self._waiting[visitor] = own  # behind all others
            try:
                result = await loop.run_in_executor(self._thread, _drawn, wish)
            except Exception as error:  # of the drawing: it is the answer to this wish, and the next one gets its turn
                if not wish.done.done():
                    wish.done.set_exception(error)
            else:
                self.drawn += 1
                if not wish.done.done():
                    wish.done.set_result(result)

    def close(self) -> None:
        """End the thread. What is being drawn ends after its step."""
        for own in self._waiting.values():
            for wish in own:
                wish.gone.set()
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _drawn(wish: Wish) -> Any:
    wish.check()
    return wish.work(wish.check)
