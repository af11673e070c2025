"""A studio in this process, as a browser or a program reaches it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from daskt2i.studio.app import make_app
from daskt2i.studio.serve import listen

TOKEN = "a-token-of-a-test"


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def said(self) -> str:
        """The sentence of an error."""
        return str(self.json()["error"]["message"])


@dataclass(frozen=True)
class Visitor:
    """Asks a studio. Its token goes with each question, unless `headers` say otherwise."""

    port: int
    address: str

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
        given = {"authorization": f"Bearer {TOKEN}", **{name.replace("_", "-"): text for name, text in headers.items()}}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, data, given)
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask(path, "POST", body, **headers)


@contextmanager
def studio_of(*places: Path) -> Iterator[Visitor]:
    """A studio that shows these folders."""
    served = listen([str(place) for place in places], port=0, token=TOKEN)
    config = uvicorn.Config(make_app([str(one) for one in places], served.token, served.hosts), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([served.socket],))
    thread.start()
    try:
        yield Visitor(served.socket.getsockname()[1], served.address)
    finally:
        server.should_exit = True
        thread.join(60)
        served.socket.close()
