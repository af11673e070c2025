"""The command line.

    python -m daskt2i.workflow run [--workflow NAME|FILE] [--scheduler local] [--out DIR] [--set section.key=value] …

Covers: the list of commands.
Does not cover: what each command does (`cli`), how it prints (`cli.console`), how it ends
(`cli.endings`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated

import typer

from daskt2i import __version__
from daskt2i.cli import bench, bench_training, data, model
from daskt2i.cli.console import out
from daskt2i.cli.endings import end_of_command, handle_stops
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
    *(data.status, data.verify, data.insights, data.estimate, data.suggest),
    data.scenes,
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
for command in (bench_training.read, bench_training.loaders, bench_training.train, bench_training.sample):
    bench.app.command(command.__name__)(command)
app.add_typer(bench.app)


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
    handle_stops()
    try:
        app()
    finally:
        end_of_command()


if __name__ == "__main__":
    main()
