"""Serve the studio: its address, its token, TLS, and the browser.

Covers: from the options of the command to a server that runs until Ctrl-C.
Does not cover: what is served (`app`), who may ask (`access`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import socket
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daskt2i.errors import ConfigError
from daskt2i.studio.library import require_places

PORT = 8600
"""The port unless one is given. If it is taken, the next free one of `TRIES` is used."""

TRIES = 20

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Served:
    """Where the studio is.

    Attributes:
        address: for the browser, with the token.
        socket: listens already, so the address is known before the server starts.
    """

    address: str
    socket: socket.socket
    token: str | None
    hosts: tuple[str, ...]


def listen(
    places: Sequence[str],
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    *,
    without_token: bool = False,
) -> Served:
    """Take the address.

    Args:
        places: run folders, or folders that hold some.
        port: None: `PORT`, or the next free one.
        token: None: a new one.
        without_token: answer everybody; on loopback only.

    Raises:
        ConfigError: the port is taken, the host cannot be used, or everybody of the network would be answered.
        StoreMissing: there is no such folder.
    """
    require_places(places)
    loopback = _is_loopback(host)
    if without_token and not loopback:
        raise ConfigError(
            f"Without a token everybody who reaches {host} could use the studio, so it was not started. Leave out "
            "--no-token, or --host."
        )
    if token is not None and (len(token) < 8 or not token.isascii() or not token.isprintable() or " " in token):
        raise ConfigError("The token is not 8 or more letters without blanks, so the studio was not started. Give one.")
    found = _bound(host, port)
    own = None if without_token else token or secrets.token_urlsafe(24)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{found.getsockname()[1]}/" + ("" if own is None else f"?token={own}")
    return Served(address, found, own, (*_LOOPBACK_NAMES, host.lower()) if loopback else ())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _bound(host: str, port: int | None) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: there is no such host, or the port is taken.
    """
    why: OSError | None = None
    for one in range(PORT, PORT + TRIES) if port is None else (port,):
        try:
            return socket.create_server((host, one), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except (OSError, OverflowError) as error:
            why = error if isinstance(error, OSError) else OSError(str(error))
    where = f"{host}:{port}" if port is not None else f"{host}, ports {PORT} to {PORT + TRIES - 1}"
    said = why.strerror if why is not None and why.strerror else str(why)
    raise ConfigError(
        f"The studio cannot listen on {where} ({said}), so it was not started. Give another --port or --host."
    )


def serve(
    places: Sequence[str],
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    *,
    without_token: bool = False,
    browser: bool = True,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer until Ctrl-C. Other arguments and errors as in `listen`.

    Args:
        browser: whether to open the page in the browser of this machine.
        ready: gets the address, when the studio answers.
    """
    import uvicorn

    from daskt2i.studio.app import make_app

    served = listen(places, host, port, token, without_token=without_token)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(served.address)
                if browser:
                    webbrowser.open(served.address)

    config = uvicorn.Config(
        make_app(places, served.token, served.hosts), log_level="warning", access_log=False, timeout_graceful_shutdown=2
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in order, and sends the signal once more
        Server(config).run([served.socket])
