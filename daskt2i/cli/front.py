"""From the options of a command to a `Run`, and from a result to its printed form.

    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.verify(), as_json)

Covers: parsing `--set`, printing the plan before a stage, results between stages, and one JSON object or table.
Does not cover: how errors and signals end a command (`endings`), what tables look like (`display.tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.text import Text

from daskt2i import documents
from daskt2i.cli.console import as_options, err, out, write
from daskt2i.cli.endings import STOPPED, follow_stages, report_errors
from daskt2i.errors import ConfigError, Daskt2iError
from daskt2i.events import Event, Listener, Note, PlanReady, ResultReady

if TYPE_CHECKING:
    from daskt2i.config.settings import Workflow
    from daskt2i.run import Run
    from daskt2i.view import Viewed

V = TypeVar("V", bound="Viewed")


@contextmanager
def opened(
    workflow: str | None,
    out_folder: str | None,
    sets: Sequence[str],
    *,
    source: str | None = None,
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    scheduler: str | None = None,
    train_where: str | None = None,
    as_json: bool = False,
) -> Iterator[Run]:
    """Open the run of a command. The end of the block closes its workers. Every error is printed as one message.

    Args:
        sets: texts of `--set`.
        where, train_where: which rows are encoded, and which of them train.
    """
    done: dict[str, Any] = {}
    with report_errors(), _stages_before_an_error(done):
        from daskt2i.run import Run

        with Run(
            workflow,
            out_folder,
            source=source,
            images=images,
            captions=captions,
            where=where,
            settings={**parse_sets(sets), **({} if train_where is None else {"train.where": train_where})},
            scheduler=scheduler,
            progress=_listener(as_json, done),
        ) as run:
            yield run


def answer(result: V, as_json: bool) -> V:
    """Print the result of a command: one JSON object on standard output, or a table."""
    from daskt2i.display.tables import result_table

    if as_json:
        for note in getattr(result, "notes", ()):
            err.print(Text(note, style="yellow"), soft_wrap=True)
    made: Any = result
    write(made.to_json(), as_json, None if as_json else result_table(result))
    if not as_json and (script := getattr(result, "script", "")):  # of a plan: what a batch system or Kubernetes gets
        write({}, False, Text(f"\n{script}"))
    return result


def load(
    workflow: str,
    sets: Sequence[str],
    images: str | None = None,
    captions: str | None = None,
    source: str | None = None,
) -> Workflow:
    """Load the workflow of a command that has no run folder, and print its notes.

    Raises:
        ConfigError: a setting is wrong.
    """
    from daskt2i.session.data.choice import load_workflow

    found = load_workflow(workflow, parse_sets(sets), images=images, captions=captions, source=source)
    for note in found.notes:
        err.print(Text(as_options(note), style="yellow"), soft_wrap=True)
    return found


def parse_sets(texts: Sequence[str]) -> dict[str, Any]:
    """Parse texts of the form `section.key=value`, with values in YAML, into settings by dotted key.

    If a key occurs twice, the last one wins.

    Raises:
        ConfigError: a text does not have this form.
    """

    def fits(parts: list[str]) -> bool:
        return len(parts) > 1 or parts in (["name"], ["scenes"])

    return _parsed(texts, "--set", "section.key=value", "run.batch=4", fits)


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """Parse texts of the form `key=value`, with values in YAML, into arguments of an encoder.

    Raises:
        ConfigError: a text does not have this form.
    """
    return _parsed(texts, "--arg", "key=value", "subfolder=vae", lambda parts: len(parts) == 1)


def _parsed(
    texts: Sequence[str], option: str, form: str, example: str, fits: Callable[[list[str]], bool]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not fits(parts) or not all(parts):
            raise ConfigError(
                f"{option} {text!r} does not have the form {form}. Nothing was started; write it like {option} "
                f"{example}."
            )
        found.pop(key.strip(), None)
        try:
            found[key.strip()] = documents.read_yaml(value)
        except documents.BadDocument as error:
            raise ConfigError(
                f"The value of {option} {documents.shown(text)} is not valid YAML ({error}). Nothing was started; put "
                "special characters in quotes."
            ) from error
    return found


@contextmanager
def _stages_before_an_error(done: dict[str, Any]) -> Iterator[None]:
    """With --json an error after a stage prints one object too: the results of the stages before it, and the error.

    Args:
        done: result of each stage by its name; empty without --json.
    """
    try:
        yield
    except (Daskt2iError, KeyboardInterrupt) as error:
        if done:
            write({**done, "error": " ".join(str(error).split()) or STOPPED}, True, None)
        raise


def _listener(as_json: bool, done: dict[str, Any]) -> Listener:
    """Make a listener that prints progress on standard error. Without --json it also prints plans and results.

    Args:
        done: with --json it gets the result of each stage.
    """
    from daskt2i.display.listener import progress_for
    from daskt2i.display.tables import result_table

    show = progress_for(err, as_json)

    def hear(event: Event) -> None:
        follow_stages(event)
        if isinstance(event, PlanReady):
            if not as_json:
                err.print(result_table(event.plan))
        elif isinstance(event, ResultReady):
            if as_json:
                result: Any = event.result
                done[event.stage] = result.to_json()
            else:
                out.print(result_table(event.result))
        else:
            show(Note(as_options(event.text)) if isinstance(event, Note) else event)

    return hear
