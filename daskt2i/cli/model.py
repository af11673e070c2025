"""The commands about models: train, train-vae, sample, evaluate, and run, which encodes first.

Covers: reading options, calling the method that does the work, showing its result.
Does not cover: how output and errors look (`console`, `front`), the commands about data (`cli.data`).
"""

from __future__ import annotations

import json

from daskt2i.cli.front import answer, opened, parse_sets
from daskt2i.cli.options import (
    AddedLoraOption,
    CaptionsOption,
    CountOption,
    DrawingPipelineOption,
    DryRunOption,
    GuidanceOption,
    ImagesOption,
    JsonOption,
    LoraOption,
    LoraScaleOption,
    MetricsOption,
    OutOption,
    PretrainedOption,
    PromptOption,
    PromptsOption,
    ReferenceOption,
    ResumeWithOption,
    SamplerOption,
    SamplesOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    SourceOption,
    StepsOption,
    TrainStepsOption,
    WeightsOption,
    WhereOption,
    WorkflowOption,
)


def run(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    where: WhereOption = None,
    set_: SetOption = [],  # noqa: B006  # typer only reads it
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode, train and draw on the same workers, and measure the figures of the workflow. Finished work is skipped.

    Run the same command again to continue after a stop.
    """
    given = {"source": source, "images": images, "captions": captions, "where": where, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as opened_run:
        if dry_run:
            answer(opened_run.plan("run"), as_json)
        else:
            answer(opened_run.run_all(), as_json)


def train(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    where: WhereOption = None,
    pretrained: PretrainedOption = None,
    lora: LoraOption = None,
    steps: TrainStepsOption = None,
    set_: SetOption = [],  # noqa: B006
    resume_with: ResumeWithOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a text-to-image model on a store, one rank per worker.

    Run the same command again to continue from the last checkpoint.
    """
    if pretrained and any(text.startswith("train.pretrained.") for text in set_):  # these settings need its model
        set_ = [f"train.pretrained.model={json.dumps(pretrained)}", *set_]
    with opened(workflow, out_folder, set_, train_where=where, scheduler=scheduler, as_json=as_json) as run:
        given = {"pretrained": pretrained, "lora": lora, "steps": steps}
        changed = parse_sets(resume_with)
        if dry_run:
            answer(run.with_training(**given).with_settings(changed).plan("train"), as_json)  # type: ignore[arg-type]
        else:
            answer(run.train(**given, resume_with=changed), as_json)  # type: ignore[arg-type]


def train_vae(
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    source: SourceOption = None,
    images: ImagesOption = None,
    captions: CaptionsOption = None,
    set_: SetOption = [],  # noqa: B006
    resume_with: ResumeWithOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Train or fine-tune an autoencoder on the images of a source.

    It writes a diffusers folder. To encode with it: encode --set dataset.encoders.image.model=RUN/vae
    """
    given = {"source": source, "images": images, "captions": captions, "scheduler": scheduler}
    with opened(workflow, out_folder, set_, **given, as_json=as_json) as run:
        answer(run.train_vae(resume_with=parse_sets(resume_with)), as_json)


def sample(
    prompt: PromptOption = [],  # noqa: B006
    prompts: PromptsOption = None,
    seed: SeedOption = None,
    count: CountOption = 1,
    steps: StepsOption = None,
    guidance: GuidanceOption = None,
    sampler: SamplerOption = None,
    pretrained: DrawingPipelineOption = None,
    lora: AddedLoraOption = None,
    lora_scale: LoraScaleOption = 1.0,
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Draw pictures from prompts with the trained model.

    The same prompt and seed always give the same picture.
    """
    with opened(workflow, out_folder, set_, scheduler=scheduler, as_json=as_json) as run:
        from daskt2i.sample.driver import read_prompts

        texts = [*prompt, *(read_prompts(prompts) if prompts is not None else [])] or None
        drawn = run.sample(
            texts,
            seed=seed,
            count=count,
            steps=steps,
            guidance=guidance,
            sampler=sampler,  # type: ignore[arg-type]  # checked with the other settings
            pretrained=pretrained,
            lora=lora,
            lora_scale=lora_scale,
        )
        answer(drawn, as_json)


def evaluate(
    prompts: PromptsOption = None,
    metrics: MetricsOption = None,
    reference: ReferenceOption = None,
    weights: WeightsOption = [],  # noqa: B006
    samples: SamplesOption = None,
    workflow: WorkflowOption = None,
    scheduler: SchedulerOption = None,
    out_folder: OutOption = None,
    set_: SetOption = [],  # noqa: B006
    as_json: JsonOption = False,
) -> None:
    """Measure whether pictures match their prompts, or figures such as FID.

    A judge program checks pictures of drawn scenes. Other data is scored with CLIP (--set evaluate.clip_model=FOLDER).
    With --metrics pictures are compared with real ones. Run the same command again to go on after a stop.
    """
    with opened(workflow, out_folder, set_, scheduler=scheduler, as_json=as_json) as run:
        from daskt2i.sample.driver import read_prompts

        measured = run.evaluate(
            read_prompts(prompts) if prompts is not None else None,
            metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
            reference=reference,
            weights=weights or None,
            samples=samples,
        )
        answer(measured, as_json)
