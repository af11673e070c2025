"""What the page asks about runs and trainings: the list, the state of one, curves, sheets, and requests.

Covers: these questions, answered by `daskt2i.Run`.
Does not cover: drawing (`drawing`), which runs there are (`library`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from daskt2i.errors import ConfigError, Daskt2iError, StoreMissing
from daskt2i.studio.answers import beside, number
from daskt2i.studio.library import Library, problem

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from daskt2i.run import Run

MOST_POINTS = 4000

_REQUESTS = ("pictures", "stop")


class Training:
    """Answers about runs and trainings.

    Args:
        library: the runs.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self._curves: dict[str, Any] = {}

    def routes(self) -> list[BaseRoute]:
        """The addresses of this module."""
        return [
            Route("/api/runs", self.runs),
            Route("/api/runs/{name}", self.run),
            Route("/api/runs/{name}/curve", self.curve),
            Route("/api/runs/{name}/sheets/{step:int}", self.sheet),
            Route("/api/runs/{name}/requests/{what}", self.request, methods=["POST"]),
        ]

    async def runs(self, request: Request) -> Response:
        """All runs, with the state of each."""
        return JSONResponse(await beside(self._all))

    def _all(self) -> dict[str, Any]:
        return {"runs": [self._state(name, out) for name, out in self._library.names().items()]}

    def _state(self, name: str, out: str) -> dict[str, Any]:
        """The state of one run. A run that cannot be opened is shown with the reason."""
        try:
            run = self._library.run(name)
        except Daskt2iError as error:
            return {"name": name, "out": out, "problem": problem(error)}
        about = {"name": name, "out": out, "workflow": run.workflow.name, "training": self._training(name, run)}
        try:
            return {**about, "store": run.status().to_json()}
        except StoreMissing:
            return {**about, "store": None}
        except Daskt2iError as error:
            return {**about, "problem": problem(error)}

    def _training(self, name: str, run: Run) -> dict[str, Any]:
        figures = self._followed(name, run).figures()
        given = run.workflow.train
        return {"step": figures.get("loss", 0), "steps": given.steps, "batch": given.batch, "figures": dict(figures)}

    def _followed(self, name: str, run: Run) -> Any:
        """The curves of a run. They remember what they have read, so they are kept."""
        key = f"{name} {run.out}"
        if key not in self._curves:
            self._curves[key] = run.curves()
        return self._curves[key]

    async def run(self, request: Request) -> Response:
        """One run: its state, the steps with a sheet, its prompts, its settings."""
        name = request.path_params["name"]
        return JSONResponse(await beside(lambda: self._one(name)))

    def _one(self, name: str) -> dict[str, Any]:
        run = self._library.run(name)
        return {
            **self._state(name, run.out),
            "sheets": list(run.sheets().steps()),
            "sample": run.workflow.sample.model_dump(),
            "settings": run.workflow.train.model_dump(by_alias=True),
        }

    async def curve(self, request: Request) -> Response:
        """A part of a curve: four rows of float32, which are step, smallest, mean and largest value of each bucket."""
        name, figure = request.path_params["name"], request.query_params.get("figure", "loss")
        first, last = number(request, "first", 0), number(request, "last", float("inf"))
        points = int(min(MOST_POINTS, max(1, number(request, "points", 600))))

        def part() -> bytes:
            window = self._followed(name, self._library.run(name)).window(figure, first, last, points)
            return np.stack([window.steps, window.low, window.mean, window.high]).astype("<f4").tobytes()

        return Response(await beside(part), media_type="application/octet-stream", headers=_FRESH)

    async def sheet(self, request: Request) -> Response:
        """The sheet of a step."""
        name, step = request.path_params["name"], request.path_params["step"]

        def file() -> bytes:
            try:
                return self._library.run(name).sheets().read(step)
            except FileNotFoundError:
                raise StoreMissing(f"There is no sheet of step {step:,} in this run. Choose another step.") from None

        return Response(await beside(file), media_type="image/png", headers=_FRESH)

    async def request(self, request: Request) -> Response:
        """Ask the training that runs for pictures, or to end early."""
        name, what = request.path_params["name"], request.path_params["what"]
        if what not in _REQUESTS:
            raise ConfigError(f"A training cannot be asked for {what}. Ask for {' or '.join(_REQUESTS)}.")

        def ask() -> None:
            run = self._library.run(name)
            if what == "pictures":
                run.request_pictures()
            else:
                run.request_stop()

        await beside(ask)
        return JSONResponse({"asked": what}, 202)


_FRESH = {"Cache-Control": "no-cache"}
