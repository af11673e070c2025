"""From the options of a command to a `Run`, and back to what is printed of its result.

    with opened(workflow, out_folder, set_, as_json=as_json) as run:
        answer(run.verify(), as_json)

Covers: `--set` texts, the plan before a stage and results on the way, one JSON object or a table at the end.
Does not cover: how errors and signals end a command (`console`), what tables look like (`display.tables`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from rich.text import Text

from daskt2i.cli.console import err, out, report_errors, write
from daskt2i.errors import ConfigError
from daskt2i.events import Event, Listener, PlanReady, ResultReady

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
    images: str | None = None,
    captions: str | None = None,
    where: str | None = None,
    scheduler: str | None = None,
    as_json: bool = False,
) -> Iterator[Run]:
    """The run that a command works on; workers end with the block. Every error becomes one sentence."""
    with report_errors():
        from daskt2i.run import Run

        with Run(
            workflow,
            out_folder,
            images=images,
            captions=captions,
            where=where,
            settings=parse_sets(sets),
            scheduler=scheduler,
            progress=_listener(as_json),
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
    return result


def load(workflow: str, sets: Sequence[str], images: str | None = None, captions: str | None = None) -> Workflow:
    """A workflow for a command that has no run folder; its notes are printed.

    Raises:
        ConfigError: a setting is wrong.
    """
    from daskt2i.config.workflow_file import load_workflow

    found = load_workflow(workflow, parse_sets(sets), images=images, captions=captions)
    for note in found.notes:
        err.print(Text(note, style="yellow"), soft_wrap=True)
    return found


def parse_sets(texts: Sequence[str]) -> dict[str, Any]:
    """Settings by dotted key, of `section.key=value` texts whose values are YAML. The last of equal keys wins.

    Raises:
        ConfigError: a text is not of that form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or (len(parts) < 2 and parts not in (["name"], ["scenes"])) or not all(parts):
            raise ConfigError(f"--set {text!r} is not of the form section.key=value, e.g. --set run.batch=4.")
        found.pop(key.strip(), None)
        try:
            found[key.strip()] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--set {text!r}: the value is not YAML.") from error
    return found


def _listener(as_json: bool) -> Listener:
    """Progress on standard error; the plan of a stage too, and results on the way, for a person alone."""
    from daskt2i.display.listener import progress_for
    from daskt2i.display.tables import result_table

    show = progress_for(err, as_json)

    def hear(event: Event) -> None:
        if isinstance(event, PlanReady):
            if not as_json:
                err.print(result_table(event.plan))
        elif isinstance(event, ResultReady):
            if not as_json:
                out.print(result_table(event.result))
        else:
            show(event)

    return hear
