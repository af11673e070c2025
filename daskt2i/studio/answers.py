"""What the studio answers: values as JSON, errors as one sentence.

Covers: running a blocking question beside the server's loop, errors of a run as HTTP answers, numbers in a request.
Does not cover: the questions (`training`, `drawing`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse

from daskt2i.errors import ConfigError, Daskt2iError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

V = TypeVar("V")

_log = logging.getLogger("daskt2i.studio")

MOST_BODY = 64 * 2**10
"""Bytes of a request. What the page sends is far smaller."""


class TooMany(Daskt2iError):
    """More visitors or drawings wait than the studio lets wait."""


class TooLarge(Daskt2iError):
    """A request is larger than the studio reads."""


async def beside(question: Callable[[], V]) -> V:
    """The answer to a blocking question, while the server goes on answering others."""
    return await run_in_threadpool(question)


async def sent(request: Request) -> dict[str, Any]:
    """The JSON object that a request holds.

    Raises:
        TooLarge: it is larger than `MOST_BODY`. No more than that is read.
        ConfigError: it is not a JSON object.
    """
    import json

    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BODY:
            raise TooLarge(f"The request is larger than {MOST_BODY // 1024} KiB, so nothing was done. Send less.")
    try:
        found = json.loads(bytes(data))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError("The request is not a JSON object, so nothing was done. Send one.")
    return found


def refused(request: Request, error: Exception) -> Response:
    """An error as an answer: a sentence, in the place where a page and a program look for it."""
    if isinstance(error, Daskt2iError):
        status = _status(error)
        message = " ".join(str(error).split())
    else:
        _log.exception("the studio failed to answer %s", request.url.path)
        status = 500
        message = (
            f"The studio failed to answer ({type(error).__name__}): this is a bug in daskt2i. Nothing was changed."
        )
    return JSONResponse({"error": {"message": message, "type": type(error).__name__}}, status)


def _status(error: Daskt2iError) -> int:
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, TooLarge):
        return 413
    if isinstance(error, TooMany):
        return 429
    return 400 if isinstance(error, ValueError) else 500


def number(request: Request, name: str, default: float) -> float:
    """A number in the query of a request.

    Raises:
        ConfigError: it is none.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        found = float(text)
    except ValueError:
        found = float("nan")
    if found != found:
        raise ConfigError(f"{name} is not a number, so nothing was read. Give one.")
    return found
