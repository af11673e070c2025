"""Options that several commands share, each with one name and one help text.

Covers: names, types and help texts.
Does not cover: the commands (the other modules).
"""

from __future__ import annotations

from typing import Annotated

import typer

from daskt2i.config.samplers import SAMPLERS_TEXT
from daskt2i.sources.names import IMG2DATASET, NAMES

SOURCES_TEXT = ", ".join([*NAMES, IMG2DATASET])

WorkflowOption = Annotated[
    str | None,
    typer.Option(
        "--workflow", "-w", help="A shipped workflow, or a YAML file. [default: settings of the run folder, or demo]"
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option("--out", "-o", help="The run folder. [default: this folder if it is one, or runs/WORKFLOW]"),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        "-s",
        help="serial, multiprocessing[:N], joblib[:N], local[:N], tcp://host:port, or a cluster file. [default: local]",
    ),
]
SetOption = Annotated[list[str], typer.Option("--set", help="section.key=value, for any setting; may be repeated.")]
ResumeWithOption = Annotated[
    list[str],
    typer.Option("--resume-with", help="section.key=value from the newest checkpoint on, e.g. train.steps=2000."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")]
ImagesOption = Annotated[
    str | None, typer.Option("--images", help="A folder, zip, table or address of images, for any workflow.")
]
CaptionsOption = Annotated[
    str | None, typer.Option("--captions", help="The file of the captions, e.g. in COCO's format.")
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source", help=f"How to read the images: {SOURCES_TEXT}, or a class path. [default: guessed]", metavar="NAME"
    ),
]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Keep only rows for which this is true, e.g. 'people and not duplicate'.")
]
PromptOption = Annotated[list[str], typer.Option("--prompt", "-p", help="The text to draw; may be repeated.")]
PromptsOption = Annotated[str | None, typer.Option("--prompts", help="A text file with one prompt on each line.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="The first seed. [default: sample.seed]")]
CountOption = Annotated[
    int, typer.Option("--count", "-n", min=1, help="Pictures of each prompt, with different seeds.")
]
PretrainedOption = Annotated[
    str | None,
    typer.Option("--pretrained", help="A pipeline of diffusers (folder or hub id) to tune.", metavar="FOLDER_OR_ID"),
]
DrawingPipelineOption = Annotated[
    str | None,
    typer.Option(
        "--pretrained", help="A pipeline (folder or hub id) that draws. [default: RUN/pipeline]", metavar="FOLDER_OR_ID"
    ),
]
AddedLoraOption = Annotated[
    str | None,
    typer.Option("--lora", help="A LoRA (file, folder or hub id) that is added.", metavar="FILE_OR_FOLDER"),
]
LoraScaleOption = Annotated[float, typer.Option("--lora-scale", help="How much of the LoRA is added.")]
LoraOption = Annotated[
    int | None, typer.Option("--lora", min=1, help="Train a LoRA of this rank, and nothing else.", metavar="RANK")
]
TrainStepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="The last step. [default: train.steps]")]
StepsOption = Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps. [default: sample.steps]")]
GuidanceOption = Annotated[
    float | None, typer.Option("--guidance", min=0, help="Weight of the prompt. [default: sample.guidance]")
]
SamplerOption = Annotated[str | None, typer.Option("--sampler", help=f"{SAMPLERS_TEXT}. [default: sample.sampler]")]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", help="judge, fid, kid, cmmd, clip, precision, with commas. [default: evaluate.metrics]"),
]
ReferenceOption = Annotated[
    str | None, typer.Option("--reference", help="A place of pictures to compare with, or a file of their statistics.")
]
WeightsOption = Annotated[
    list[str], typer.Option("--weights", help="A folder or hub id of Inception, CLIP, …; may be repeated.")
]
SamplesOption = Annotated[int | None, typer.Option("--samples", min=1, help="Pictures to draw and compare.")]
