"""The command studio.

Covers: reading options, the line that tells the address, a missing package.
Does not cover: the server and the page (`daskt2i.studio`).
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer
from rich.text import Text

from daskt2i.cli.console import err
from daskt2i.cli.endings import report_errors
from daskt2i.errors import ConfigError

NEEDED = ("starlette", "uvicorn")


def studio(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run folders, or folders that hold some. [default: this folder]", metavar="[RUN]…"),
    ] = [],  # noqa: B006  # typer only reads it
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="[default: the first free one from 8600 on]")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    token: Annotated[str | None, typer.Option("--token", help="What a visitor must know. [default: a new one]")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Answer every program of this machine.")] = False,
) -> None:
    """Show runs in the browser, follow trainings, and draw while you type.

    It serves on this machine alone unless --host says otherwise. Trainings that run elsewhere are watched. Ctrl-C ends
    it.
    """
    with report_errors():
        require_packages()
        from daskt2i.studio.serve import serve

        serve(runs or ["."], host, port, token, without_token=no_token, browser=browser, ready=_tell)


def _tell(address: str) -> None:
    err.print(Text(f"The studio is at {address}\nCtrl-C ends it."), soft_wrap=True)


def require_packages() -> None:
    """Refuse to start without the packages of the studio.

    Raises:
        ConfigError: they are not installed.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"The studio needs {' and '.join(missing)}, so it was not started. Run: pip install 'daskt2i[studio]'"
        )
