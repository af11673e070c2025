"""The plan of a training: rows, steps, ranks, and the settings that decide them.

Covers: the JSON of `train --dry-run`, the view in a terminal and a notebook.
Does not cover: choosing the number of ranks (`session.worker_layout`), training (`driver`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskt2i.config.settings import LaunchSettings, OptimiserSettings, TrainSettings
from daskt2i.formatting import many, size
from daskt2i.loader.content import Split
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.model.pretrained.pipeline_folder import PretrainedPipeline
from daskt2i.model.pretrained.tuning import cost_of
from daskt2i.train.checkpoint import CHECKPOINTS
from daskt2i.train.upkeep.rank_memory import average_bytes, rank_bytes
from daskt2i.view import View, Viewed


@dataclass(frozen=True, slots=True, repr=False)
class TrainPlan(Viewed):
    """The plan of a training.

    Attributes:
        out: address of the run folder.
        rows: accepted rows of the store that `train.where` keeps, including validation rows.
        ranks, threads: as planned on this machine; 0 if the workers decide.
        settings, launch: sections of the workflow.
        done: step of the newest checkpoint.
        split: the rows for training and validation; None if they are not known yet.
        title: title of the view.
        asked, script: what a cluster on other machines is asked for, in words and as a job script or manifest.
        encoder_bytes: memory of the text encoder in each rank, if the ranks encode captions; else 0.
        tuned: the pipeline whose denoiser is tuned; None for a new one.
        pictures: how pictures will be drawn, if not by a pipeline that diffusers can load; "" else.
        parameters: of a model without a preset; 0 if it is not known.
    """

    out: str
    rows: int
    ranks: int
    threads: int
    settings: OptimiserSettings
    launch: LaunchSettings
    title: str = "Plan of train"
    done: int = 0
    pictures: str = ""
    split: Split | None = None
    asked: str = ""
    script: str = ""
    encoder_bytes: int = 0
    tuned: PretrainedPipeline | None = None
    parameters: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that `train --dry-run --json` prints."""
        given = {"steps": self.settings.steps, "batch": self.settings.batch}
        asked = {"asked": self.asked, "script": self.script} if self.asked else {}
        found = {"rows": self.rows, **given, "ranks": self.ranks, "threads": self.threads, "out": self.out, **asked}
        if self.tuned is None:
            return found
        cost = cost_of(self.tuned)
        figures = {"parameters": cost.weights, "trained": cost.trained, "optimiser_bytes": cost.state_bytes}
        return {**found, "pretrained": self.tuned.name, "method": self.tuned.given.method, **figures}

    def view(self) -> View:
        """Rows, model, steps, ranks, rate, precision and checkpoints."""
        settings, ways = self.settings, self.launch
        heldout = min(self.rows, settings.validation) if self.split is None else len(self.split.heldout)
        left_out = 0 if self.split is None else self.split.left_out
        trained = self.rows - heldout - left_out
        epochs = settings.steps * settings.batch / trained if trained else 0.0
        parts = ways.gradient_accumulation_steps
        done = f"; goes on from the checkpoint of step {self.done:,}" if self.done else ""
        if self.done >= settings.steps:
            done = f"; {many(settings.steps, 'step')} {'is' if settings.steps == 1 else 'are'} done, so nothing is left"
        batch = f"{many(settings.batch, 'sample')} over all ranks" + f", in {parts} parts" * (parts > 1)
        rows = (
            ("rows", f"{trained:,} for training, {heldout:,} held out" + f", {left_out:,} left out" * bool(left_out)),
            *([("where", settings.where)] if isinstance(settings, TrainSettings) and settings.where else []),
            *([("model", self._model(settings))] if isinstance(settings, TrainSettings) else []),
            *([] if self.tuned is None else [("tuned", _tuned(self.tuned))]),
            ("steps", f"{many(settings.steps, 'step')} of {batch}: {epochs:.1f} epochs{done}"),
            ("ranks", _ranks(self.ranks, self.threads)),
            *([("workers", self.asked)] if self.asked else []),
            ("rate", _rate(settings)),
            ("precision", _precision(ways.precision)),
            (
                "checkpoints",
                f"every {many(ways.checkpoint_every, 'step')}, the newest {ways.keep_checkpoints} kept "
                f"in {CHECKPOINTS}",
            ),
            ("memory", self._memory()),
            *([("pictures", self.pictures)] if self.pictures else []),
            ("run folder", self.out),
        )
        return View(self.title, rows)

    def _model(self, settings: TrainSettings) -> str:
        return (
            _model(settings, self.parameters)
            if self.tuned is None
            else f"denoiser of {self.tuned.name}, {settings.objective}"
        )

    def _memory(self) -> str:
        tuned = 0
        if self.tuned is not None:
            cost = cost_of(self.tuned)
            tuned = cost.bytes + cost.trained * average_bytes(self.settings)
            tuned //= self.ranks if self.launch.is_sharded(self.ranks) else 1
        need = size(rank_bytes(self.settings, self.launch, self.encoder_bytes, self.parameters, self.ranks) + tuned)
        part = f", {size(self.encoder_bytes)} of it for the text encoder" if self.encoder_bytes else ""
        spread = ", which holds its part of the weights" if self.launch.is_sharded(self.ranks) else ""
        return f"about {need} or more for each rank{spread}{part}"


def _ranks(ranks: int, threads: int) -> str:
    """`"2 ranks (processes) with 1 thread each"`. 0 means that the workers decide."""
    if not ranks:
        count = "one rank (a process) on each worker"
    else:
        count = "1 rank (a process)" if ranks == 1 else f"{ranks:,} ranks (processes)"
    if not threads:
        return f"{count}, with all threads of its worker"
    return f"{count} with {threads:,} thread{'s' * (threads != 1)}{' each' * (ranks > 1)}"


def _model(settings: TrainSettings, parameters: int) -> str:
    """`"demo, about 4.1 M parameters"`."""
    preset, config, kind = settings.model.preset, settings.model.config, kind_of(settings.model)
    name = preset or ("UNet" if settings.model.class_path is None else kind.class_path) + " of train.model.config"
    known = parameters if preset is None else 0 if config else kind.presets.get(preset, 0)
    about = f", about {known / 1e6:,.1f} M parameters" if known else ""
    return name + about + (", changed by train.model.config" if preset and config else "")


def _tuned(given: PretrainedPipeline) -> str:
    """`"lora of rank 4: 797,184 of 859.5 M parameters, 6.4 MB of optimiser state"`."""
    cost, how = cost_of(given), given.given
    more = {"lora": f" of rank {how.lora.rank}", "layers": f" {', '.join(how.layers)}"}.get(how.method, "")
    return (
        f"{how.method}{more}: {cost.trained:,} of {cost.weights / 1e6:,.1f} M parameters are trained, with "
        f"{size(cost.state_bytes)} of optimiser state"
    )


def _precision(asked: str) -> str:
    return "chosen when the training starts, by the time of a step in each" if asked == "auto" else asked


def _rate(settings: OptimiserSettings) -> str:
    if settings.warmup >= settings.steps:
        return f"rises until the end; it would reach {settings.learning_rate:g} after {many(settings.warmup, 'step')}"
    ways = {"constant": "then constant", "wsd": "then constant, and down at the end"}
    then = ways.get(settings.schedule, "then a cosine down")
    return f"{settings.learning_rate:g} after {many(settings.warmup, 'step')}, {then}"
