"""What the page asks for pictures: previews while somebody types, pictures step by step, suggestions.

Covers: these questions, their limits, the form that clients of OpenAI's images know.
Does not cover: whose turn it is (`draw_queue`), the drawing itself (`daskt2i.Run.painter`).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from daskt2i.errors import ConfigError
from daskt2i.studio.answers import beside, refused, sent
from daskt2i.studio.draw_queue import DrawQueue, Gone
from daskt2i.studio.library import Library

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

MOST_LETTERS, MOST_STEPS, MOST_PICTURES = 2000, 100, 16
SUGGESTIONS = 8
PREVIEW_STEPS, PREVIEW_GUIDANCE = 4, 2.0
"""A preview is there to be fast. On a demo four steps show what the picture will be."""

_GONE = 499
"""Nginx's number for a request whose sender left."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked wish for pictures. What is None has its value in the settings of the run."""

    prompt: str
    seed: int | None
    steps: int | None
    guidance: float | None
    sampler: str | None
    count: int

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Asked:
        """From the JSON object of a request.

        Raises:
            ConfigError: a value is wrong, or more than the studio draws at once.
        """
        prompt = given.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ConfigError("There is no prompt, so nothing was drawn. Write what the picture should show.")
        if len(prompt) > MOST_LETTERS:
            raise ConfigError(
                f"The prompt has {len(prompt):,} letters, so nothing was drawn. Write at most {MOST_LETTERS:,}."
            )
        steps, count = _whole(given, "steps", MOST_STEPS), _whole(given, "count", MOST_PICTURES)
        guidance, sampler = given.get("guidance"), given.get("sampler")
        if guidance is not None and not (isinstance(guidance, int | float) and 0 <= guidance <= 50):
            raise ConfigError("The guidance is not a number from 0 to 50, so nothing was drawn. Give one.")
        if sampler is not None and not isinstance(sampler, str):
            raise ConfigError("The sampler is not a text, so nothing was drawn. Give its name.")
        return cls(prompt, _whole(given, "seed", 2**53, 0), steps, guidance, sampler, count or 1)


def _whole(given: Mapping[str, Any], name: str, most: int, least: int = 1) -> int | None:
    found = given.get(name)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise ConfigError(f"{name} is not a whole number from {least}, so nothing was drawn. Give one.")
    if found > most:
        raise ConfigError(f"{name} is {found:,}, so nothing was drawn. Give at most {most:,}.")
    return found


class Drawing:
    """Answers with pictures.

    Args:
        library: the runs.
        queue: whose turn it is.
    """

    def __init__(self, library: Library, queue: DrawQueue) -> None:
        self._library, self._queue = library, queue
        self._painters: dict[str, Any] = {}
        self._captions: dict[str, Any] = {}
        self._reading = threading.Lock()
        self.seconds = 0.0

    def routes(self) -> list[BaseRoute]:
        """The addresses of this module."""
        return [
            Route("/api/runs/{name}/preview", self.preview, methods=["POST"]),
            Route("/api/runs/{name}/pictures", self.pictures, methods=["POST"]),
            Route("/api/runs/{name}/suggest", self.suggest),
            Route("/v1/images/generations", self.generations, methods=["POST"]),
        ]

    async def preview(self, request: Request) -> Response:
        """One picture in few steps, as WebP. A newer preview of the same visitor takes its place in the queue."""
        given = await sent(request)
        asked, name = replace(Asked.of(given), count=1), request.path_params["name"]
        steps = PREVIEW_STEPS if asked.steps is None else asked.steps

        def work(check: Callable[[], None]) -> bytes:
            found = self._draw(
                name, asked, steps, PREVIEW_GUIDANCE if asked.guidance is None else asked.guidance, check
            )
            return _webp(found[0].drawn.pixels)

        try:
            data = await _while_here(request, self._queue.draw(_visitor(given), work, preview=True))
        except Gone:
            return Response(status_code=_GONE)
        return Response(data, media_type="image/webp", headers={"Cache-Control": "no-store"})

    async def pictures(self, request: Request) -> Response:
        """Pictures step by step: a JSON object a line. The last line has the pictures, or an error."""
        given = await sent(request)
        asked, name = Asked.of(given), request.path_params["name"]
        return StreamingResponse(
            self._lines(request, name, asked, _visitor(given)),
            media_type="application/x-ndjson",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    async def _lines(self, request: Request, name: str, asked: Asked, visitor: str) -> AsyncIterator[bytes]:
        loop, told = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any] | None]()

        def tell(line: dict[str, Any]) -> None:
            loop.call_soon_threadsafe(told.put_nowait, line)

        def work(check: Callable[[], None]) -> list[dict[str, Any]]:
            def after(step: int, of: int, small: Any) -> None:
                tell({"step": step, "of": of, "picture": _data_uri(_webp(small))})

            found = self._draw(name, asked, asked.steps, asked.guidance, check, after)
            return [{"png": base64.b64encode(one.png()).decode(), "about": one.about()} for one in found]

        async def draw() -> None:
            try:
                made = await self._queue.draw(visitor, work)
                told.put_nowait({"pictures": made})
            except Gone:
                pass
            except Exception as error:  # the answer has begun: the error is its last line
                told.put_nowait(json.loads(bytes(refused(request, error).body)))
            finally:
                told.put_nowait(None)

        task = asyncio.create_task(draw())
        try:
            yield _line({"place": self._queue.place(visitor)})
            while (line := await told.get()) is not None:
                yield _line(line)
        finally:
            task.cancel()

    def _draw(
        self,
        name: str,
        asked: Asked,
        steps: int | None,
        guidance: float | None,
        check: Callable[[], None],
        after: Callable[[int, int, Any], None] = lambda step, of, small: None,
    ) -> list[Any]:
        """On the drawing thread: the pictures."""
        run = self._library.run(name)
        if run.out not in self._painters:
            self._painters = {run.out: run.painter()}
        begun = time.perf_counter()

        def on_preview(step: int, of: int, small: Any) -> None:
            check()
            after(step, of, small)

        how: dict[str, Any] = {"steps": steps, "guidance": guidance, "sampler": asked.sampler, "count": asked.count}
        try:
            return self._painters[run.out].draw(asked.prompt, asked.seed, **how, on_preview=on_preview)
        finally:
            self.seconds += time.perf_counter() - begun

    async def suggest(self, request: Request) -> Response:
        """Prompts that continue a text: captions of the run's store."""
        name, text = request.path_params["name"], request.query_params.get("text", "")[:MOST_LETTERS]

        def find() -> list[dict[str, Any]]:
            found = self._suggestions(name).suggest(text, SUGGESTIONS)
            return [{"text": one.text, "times": one.times, "why": one.why} for one in found]

        return JSONResponse({"suggestions": await beside(find)})

    def _suggestions(self, name: str) -> Any:
        """The captions of a run. They are read once: reading them takes longer than a key."""
        run = self._library.run(name)
        with self._reading:
            if run.out not in self._captions:
                self._captions[run.out] = run.suggestions()
            return self._captions[run.out]

    async def generations(self, request: Request) -> Response:
        """OpenAI's form: `{"prompt", "n", "model"}` gives `{"created", "data": [{"b64_json"}]}`."""
        given = await sent(request)
        names = self._library.names()
        name = given.get("model") or next(iter(names), "")
        if given.get("response_format") not in (None, "b64_json"):
            raise ConfigError("The studio keeps no pictures at addresses, so nothing was drawn. Ask for b64_json.")
        asked = Asked.of({**given, "count": given.get("n")})

        def work(check: Callable[[], None]) -> list[bytes]:
            return [one.png() for one in self._draw(str(name), asked, asked.steps, asked.guidance, check)]

        visitor = request.client.host if request.client else ""
        try:
            made = await _while_here(request, self._queue.draw(f"api {visitor}", work))
        except Gone:
            return Response(status_code=_GONE)
        data = [{"b64_json": base64.b64encode(one).decode()} for one in made]
        return JSONResponse({"created": int(time.time()), "data": data})


async def _while_here(request: Request, drawing: Any) -> Any:
    """The result of a drawing. It is given up when its visitor leaves.

    Raises:
        Gone: the visitor left.
    """
    task = asyncio.ensure_future(drawing)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        left.cancel()


async def _left(request: Request) -> None:
    """Returns when the visitor has closed the connection. The body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _visitor(given: Mapping[str, Any]) -> str:
    """The tab that asks."""
    return str(given.get("visitor", ""))[:64]


def _webp(pixels: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=90, method=0)
    return buffer.getvalue()


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
