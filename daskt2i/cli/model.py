"""The commands about models: train, train-vae, sample, evaluate, and run, which encodes first.

Covers: reading options, calling what does the work, showing what came of it.
Does not cover: how output and errors look (`console`), the commands about data (`cli.data`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Group
from rich.text import Text

from daskt2i.cli.console import answer, err, report_errors, say
from daskt2i.cli.data import plan_json, run_folder, with_where
from daskt2i.cli.options import (
    CaptionsOption,
    CountOption,
    DryRunOption,
    GuidanceOption,
    ImagesOption,
    JsonOption,
    OutOption,
    PromptOption,
    PromptsOption,
    SamplerOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    StepsOption,
    WhereOption,
    WorkflowOption,
)


def run(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer reads it, nobody changes it
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode, train and draw, on the same workers. What is done is skipped.

    The same command again goes on where it stopped.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.encode import plan_table, summary_table
        from daskt2i.display.train import samples_table, train_plan, trained_table
        from daskt2i.encode.prepare import prepare
        from daskt2i.session.schedulers import Scheduler
        from daskt2i.session.worker_layout import encode_layout

        settings = load_workflow(workflow, with_where(set_, where), images, captions)
        chosen = Scheduler.parse(scheduler or settings.run.scheduler)
        prepared = prepare(settings, out_folder or f"runs/{settings.name}", draw=not dry_run)
        layout = encode_layout(chosen, prepared)
        rows, place = prepared.source_info.rows, str(prepared.folder)
        plan = Group(
            plan_table(prepared, None if chosen.address else layout),
            train_plan("Then train", settings.train, settings.launch, rows, layout.workers, layout.threads, place),
        )
        if dry_run:
            answer(plan_json(prepared, layout), as_json, plan)
            return
        from daskt2i.display.listener import progress_for
        from daskt2i.encode.driver import failed_for_good
        from daskt2i.sample.driver import requests_for
        from daskt2i.session.stages import Stages, open_session

        if not as_json:
            err.print(plan)
        with open_session(chosen, settings, prepared) as session:
            stages = Stages(settings, prepared.folder, session, progress_for(err, as_json))
            summary = stages.encode(prepared)
            if summary.failed:
                raise failed_for_good(summary, prepared.folder)
            say(summary_table(summary), as_json)
            trained = stages.train()
            say(trained_table(trained), as_json)
            drawn = stages.sample(
                requests_for(settings.sample.prompts, settings.sample.seed), sampler_settings(settings)
            )
        answer(
            {"encode": summary.to_json(), "train": trained.to_json(), "sample": drawn.to_json()},
            as_json,
            samples_table(drawn.files, drawn.pictures, drawn.seconds),
        )


def train(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a text-to-image model on a store, one rank per worker.

    The same command again goes on from the last checkpoint.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow

        settings = load_workflow(workflow, set_)
        folder = run_folder(settings, out_folder)
        if dry_run:
            answer(*_train_plan(settings, scheduler, folder, as_json))
            return
        from daskt2i.display.train import trained_table

        with stages_of(settings, folder, scheduler, as_json) as stages:
            trained = stages.train()
        answer(trained.to_json(), as_json, trained_table(trained))


def train_vae(
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Train or fine-tune an autoencoder on a source's images.

    What comes out is a diffusers folder that encode takes: --set dataset.encoders.image.model=RUN/vae
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.train import trained_table

        settings = load_workflow(workflow, set_, images, captions)
        with stages_of(settings, run_folder(settings, out_folder), scheduler, as_json) as stages:
            trained = stages.train_vae()
        answer(trained.to_json("vae"), as_json, trained_table(trained))


def sample(
    prompt: PromptOption = [],  # noqa: B006
    prompts: PromptsOption = None,
    seed: SeedOption = None,
    count: CountOption = 1,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    sampler: SamplerOption = None,
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Draw pictures from prompts with the trained model.

    The same prompt and seed give the same picture, however many are drawn.
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.train import samples_table
        from daskt2i.sample.driver import read_prompts, requests_for

        words = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler}
        given = [f"sample.{name}={value}" for name, value in words.items() if value is not None]
        settings = load_workflow(workflow, [*set_, *given])
        texts = [*prompt, *(read_prompts(prompts) if prompts else [])] or settings.sample.prompts
        requests = requests_for(texts, settings.sample.seed, count)
        with stages_of(settings, run_folder(settings, out_folder), scheduler, as_json) as stages:
            drawn = stages.sample(requests, sampler_settings(settings))
        answer(drawn.to_json(), as_json, samples_table(drawn.files, drawn.pictures, drawn.seconds))


def evaluate(
    prompts: PromptsOption = None,
    workflow: WorkflowOption = "demo",
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Measure whether pictures show what their prompts say.

    Drawn scenes are read back by a judge; other data gets CLIP scores (--set evaluate.clip_model=FOLDER).
    """
    with report_errors():
        from daskt2i.config.workflow_file import load_workflow
        from daskt2i.display.train import clip_table, fidelity_table
        from daskt2i.sample.driver import read_prompts

        settings = load_workflow(workflow, set_)
        texts = read_prompts(prompts) if prompts else None
        with stages_of(settings, run_folder(settings, out_folder), scheduler, as_json) as stages:
            found = stages.evaluate(texts)
        tables = [fidelity_table(found.fidelity)] if found.fidelity else []
        tables += [clip_table(found.clip)] if found.clip else []
        answer(found.to_json(), as_json, Group(*tables, Text(f"contact sheet {found.sheet}")))


def _train_plan(settings: Any, scheduler: str | None, folder: Any, as_json: bool) -> tuple[dict[str, Any], bool, Any]:
    """What `train --dry-run` prints: the arguments of `answer`."""
    from daskt2i.display.train import train_plan
    from daskt2i.session.schedulers import Scheduler
    from daskt2i.session.worker_layout import ranks_for, train_layout
    from daskt2i.store.status import status

    chosen = Scheduler.parse(scheduler or settings.run.scheduler)
    layout, rows, given = train_layout(chosen, settings), status(folder).accepted, settings.train
    ranks = ranks_for(given.batch, settings.launch.ranks, layout.workers) if layout.workers else 0
    table = train_plan("Plan of train", given, settings.launch, rows, ranks, layout.threads, str(folder))
    data = {"rows": rows, "steps": given.steps, "batch": given.batch, "ranks": ranks, "threads": layout.threads}
    return {**data, "out": str(folder)}, as_json, table


@contextmanager
def stages_of(settings: Any, folder: Any, scheduler: str | None, as_json: bool) -> Iterator[Any]:
    """The stages after encoding, on workers of their own."""
    from daskt2i.display.listener import progress_for
    from daskt2i.session.schedulers import Scheduler
    from daskt2i.session.stages import Stages, open_session

    chosen = Scheduler.parse(scheduler or settings.run.scheduler)
    with open_session(chosen, settings) as session:
        yield Stages(settings, folder, session, progress_for(err, as_json))


def sampler_settings(settings: Any) -> Any:
    from daskt2i.sample.painter import SamplerSettings

    given = settings.sample
    return SamplerSettings(given.steps, given.guidance, given.sampler, given.batch)
