"""The application: its addresses, the page, health and metrics.

Covers: putting together what answers.
Does not cover: the answers (`training`, `drawing`), who may ask (`access`), the address (`serve`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from daskt2i.errors import Daskt2iError
from daskt2i.studio.access import OPEN, Access
from daskt2i.studio.answers import refused
from daskt2i.studio.draw_queue import DrawQueue
from daskt2i.studio.drawing import Drawing
from daskt2i.studio.library import Library
from daskt2i.studio.training import Training

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

STATIC = Path(__file__).parent / "static"


def make_app(places: Sequence[str], token: str | None, hosts: Collection[str] = ()) -> ASGIApp:
    """The application.

    Args:
        places: run folders, or folders that hold some.
        token, hosts: as in `access.Access`.
    """
    library, queue = Library(places), DrawQueue()
    training, drawing = Training(library), Drawing(library, queue)

    async def page(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def metrics(request: Request) -> Response:
        lines = {
            ("daskt2i_studio_pictures_total", "counter", "Drawings that ended."): queue.drawn,
            ("daskt2i_studio_given_up_total", "counter", "Drawings that nobody waited for any more."): queue.given_up,
            ("daskt2i_studio_drawing_seconds_total", "counter", "Time of the thread that draws."): drawing.seconds,
            ("daskt2i_studio_waiting", "gauge", "Drawings that wait for their turn."): len(queue),
        }
        text = "".join(f"# HELP {n} {h}\n# TYPE {n} {k}\n{n} {value}\n" for (n, k, h), value in lines.items())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        queue.close()
        library.close()

    app = Starlette(
        routes=[
            Route("/", page),
            Route(OPEN, health),
            Route("/metrics", metrics),
            *training.routes(),
            *drawing.routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        exception_handlers={Daskt2iError: refused, Exception: refused},
        lifespan=lifespan,
    )
    return Access(app, token, hosts)
