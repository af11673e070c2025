"""The command line.

    python -m daskt2i.workflow run [--workflow NAME|FILE] [--scheduler local] [--out DIR] [--set section.key=value] …

Covers: the list of commands.
Does not cover: what each command does (`cli`), how it prints (`cli.console`), how it ends
(`cli.endings`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # A Ctrl-C while the modules below are imported ends the process without a traceback: nothing was started.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

from typing import Annotated

import typer

from daskt2i import __version__
from daskt2i.cli import cluster, data, doctor, model, rows, studio
from daskt2i.cli.bench import command as bench
from daskt2i.cli.bench import device, peers, training
from daskt2i.cli.console import complain, out
from daskt2i.cli.endings import STOPPED, ExitCode, end_of_command, end_of_stop, fail, handle_stops
from daskt2i.cli.streams import guard_streams

app = typer.Typer(
    name="daskt2i",
    help="Encode images with captions into latents, and train a text-to-image model on them, with Dask.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

COMMANDS: tuple[Callable[..., None], ...] = (
    *(model.run, data.encode, model.train, model.train_vae, model.sample, model.evaluate),
    *(
        data.add,
        data.status,
        data.rejected,
        data.report,
        data.verify,
        data.export,
        data.push,
        data.insights,
        data.look,
        data.estimate,
    ),
    *(data.suggest, data.scenes, studio.studio, doctor.doctor, rows.append, rows.remove, rows.replace),
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
_BENCHES = (
    *(peers.peers, training.read, training.loaders, training.train, training.sample),
    device.device,
)
for command in _BENCHES:
    bench.app.command(command.__name__)(command)
app.add_typer(bench.app)
app.add_typer(cluster.app)


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Encode images with captions into latents, and train a text-to-image model on them, with Dask."""
    if version:
        out.print(f"daskt2i {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line, as the script `daskt2i` does."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers already use all cores
    guard_streams()
    if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    handle_stops()
    try:
        run()
    finally:
        end_of_command()


def run() -> None:
    """Run the application. Errors outside of its commands, as of a disk that cannot hold the help, end here."""
    try:
        app()
    except KeyboardInterrupt:  # before a command has begun
        end_of_stop()
        complain(STOPPED, "yellow")
        raise SystemExit(ExitCode.STOPPED) from None
    except Exception as error:
        try:
            fail(error)
        except typer.Exit as end:
            raise SystemExit(end.exit_code) from None


if __name__ == "__main__":
    main()
