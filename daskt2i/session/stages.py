"""The stages of a workflow on one set of workers: each with its plan, its layout and its events.

Covers: the work of the methods of the front object.
Does not cover: the stages themselves (`encode`, `train`, `sample`, `insights`), arguments and closing (`daskt2i.run`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from daskt2i.config.settings import OptimiserSettings, SampleSettings, Workflow
from daskt2i.dashboard.listener import Watched
from daskt2i.encode.columns.pictures import other_pictures
from daskt2i.encode.columns.workflow import column_workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.parts.workflow import member_workflow
from daskt2i.encode.prepare import EncodePlan, prepare
from daskt2i.encode.saved_workflow import keep_first_settings
from daskt2i.encode.summary import EncodeResult, together
from daskt2i.encode.verify import unfinished
from daskt2i.errors import ConfigError
from daskt2i.evaluation.driver import check_figures, evaluate
from daskt2i.evaluation.heldout_captions import heldout_captions
from daskt2i.evaluation.result import EvaluateResult
from daskt2i.events import DashboardReady, Listener, Note, PlanReady, ResultReady
from daskt2i.formatting import many
from daskt2i.insights.driver import insights, settled
from daskt2i.insights.report import InsightsResult
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.model.denoisers.kinds import kind_of
from daskt2i.model.own_encoders import how_drawn
from daskt2i.model.pipeline_forms import form_of
from daskt2i.model.pretrained.pipeline_folder import following
from daskt2i.plan import WorkerLayout
from daskt2i.sample.driver import SampleResult, requests_for, sample
from daskt2i.sample.other_model import NO_OTHER, OtherModel
from daskt2i.sample.painter import SamplerSettings
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import encode_layout, insights_layout, ranks_for, train_layout
from daskt2i.store.columns.places import column_folder
from daskt2i.store.parts.rows_file import Member, members
from daskt2i.store.run_folder import SAMPLES, RunFolder
from daskt2i.store.status import status
from daskt2i.train.driver import TrainResult, train, train_vae, trained_steps
from daskt2i.train.plan import TrainPlan
from daskt2i.train.samples import known_split, rows_of_training, store_facts
from daskt2i.train.upkeep.model_size import parameters_of
from daskt2i.train.upkeep.rank_memory import encoder_bytes
from daskt2i.train.upkeep.tuning_checks import planned_pipeline
from daskt2i.train.whole_run import HELDOUT_PROMPTS, RunPlan, RunResult, check_whole_run, planned_facts

_NAMED = 5
"""Rows that a message names."""


class Stages:
    """The stages of one workflow in one run folder.

    Args:
        workers: a session; it starts workers when a stage needs them. The caller closes it.
        listener: receives the events, in this thread.
    """

    def __init__(self, workflow: Workflow, folder: RunFolder, workers: Session, listener: Listener) -> None:
        self.workflow, self.folder, self.workers, self._tell = workflow, folder, workers, listener
        self.listener = self.watched = Watched(folder, lambda: workers.client, listener)
        workers.tell = lambda text: self.listener(Note(text))

    def at(self, workflow: Workflow, folder: RunFolder | None = None) -> Stages:
        """The stages of another workflow or another run folder, on the same workers."""
        return Stages(workflow, folder or self.folder, self.workers, self._tell)

    def encode_plan(self, *, draw: bool = True) -> EncodePlan:
        """Plan what `encode` would do.

        Args:
            draw: whether to draw the scenes of the workflow if they do not exist yet. Otherwise they are only counted.
        """
        plan = prepare(self.workflow, self.folder.root, draw=draw)
        return replace(plan, layout=encode_layout(self.workers.scheduler, plan))

    def train_plan(self, before: EncodePlan | None = None) -> TrainPlan:
        """Plan what `train` would do: on the store, or on the workers and rows of an encode that runs before it."""
        layout = self._layout() if before is None else _layout_of(before)
        if before is None:
            there = status(self.folder)
            if there.done < there.chunks:
                raise unfinished(self.folder.root, there.chunks - there.done, there.chunks)
        given, launch = following(self.workflow.train), self.workflow.launch
        rows = len(rows_of_training(self.folder, given.where)) if before is None else before.source_info.rows
        if rows <= given.validation:
            raise ConfigError(
                f"train.validation is {given.validation}, but there {'is' if rows == 1 else 'are'} only "
                f"{many(rows, 'row')}, so no rows are left "
                f"for training. Nothing was started; set train.validation={rows // 10}, a tenth of them, or encode "
                "more rows into another run folder (out)."
            )
        ranks = ranks_for(given.batch, launch.ranks, layout.workers) if layout.workers else 0
        title = "Plan of train" if before is None else "Then train"
        done = trained_steps(self.workflow, self.folder)
        tuned = planned_pipeline(given, None if before is not None else self.folder)
        split = known_split(self.folder, given) if before is None else None
        pictures = how_drawn(self.workflow.dataset, form_of(kind_of(given.model).pipeline))
        plan = TrainPlan(self.folder.root, rows, ranks, layout.threads, given, launch, title, done, pictures, split)
        facts = store_facts(self.folder, given.view) if before is None else planned_facts(before, given.view)
        encoder, parameters = encoder_bytes(self.workflow.dataset), parameters_of(given, facts)
        plan = replace(plan, tuned=tuned, encoder_bytes=encoder, parameters=parameters)
        return plan if layout.here or before is not None else replace(plan, asked=layout.reason, script=layout.script)

    def run_plan(self, *, draw: bool = True) -> RunPlan:
        """Plan what `run` would do. Refuse a run whose training or drawing would fail later."""
        plan = self.encode_plan(draw=draw)
        check_whole_run(plan)
        check_figures(plan.workflow, self.folder, plan.source_info.rows)
        return RunPlan(plan, self.train_plan(plan))

    def run(self) -> RunResult:
        """Encode, train and draw on the workers of the encode, and measure the figures that the workflow names."""
        plan = self.run_plan()
        self.listener(PlanReady(plan))
        layout = _layout_of(plan.encode)
        encoded = self._encode(plan.encode).raise_for_failed()
        self.listener(ResultReady("encode", encoded))
        layout = replace(layout, only=self.workflow.launch.only)
        trained = self._train(layout)
        self.listener(ResultReady("train", trained))
        drawn = self._sample(self._prompts(), self.workflow.sample, 1, layout)
        if not self.workflow.evaluate.metrics:
            return RunResult(encoded, trained, drawn)
        self.listener(ResultReady("sample", drawn))
        return RunResult(encoded, trained, drawn, self._evaluate(None, layout))

    def encode(self) -> EncodeResult:
        """Encode the chunks that are not done."""
        plan = self.encode_plan()
        self.listener(PlanReady(plan))
        return self._encode(plan)

    def add(self, column: str, encoder: str, arguments: Mapping[str, Any]) -> EncodeResult:
        """Encode a column of the store, and of each of its parts."""
        found: list[EncodeResult] = []
        for store in members(self.folder):
            found.append(self._add(store, column, encoder, arguments))
            if found[-1].failed or found[-1].too_few:
                return found[-1]
        return together(found)

    def _add(self, store: Member, column: str, encoder: str, arguments: Mapping[str, Any]) -> EncodeResult:
        place = column_folder(store.folder, column)
        workflow = member_workflow(self.workflow, store)
        workflow = column_workflow(workflow, store.folder, column, encoder, arguments)
        added = self.at(workflow, place).encode()
        if not added.failed and (others := other_pictures(store.folder, place)):
            self._tell(
                Note(
                    f"The picture of {many(len(others), 'row')} is not the one that the store was encoded from: rows "
                    f"{', '.join(map(str, others[:_NAMED]))}{' and others' if len(others) > _NAMED else ''}. Put the "
                    "original images back and run add again, or encode the store again with "
                    "run.on_changed_images=encode."
                )
            )
        return added

    def train(self) -> TrainResult:
        """Train the denoiser, from its newest checkpoint."""
        self.listener(PlanReady(self.train_plan()))
        return self._train(self._layout())

    def train_vae(self) -> TrainResult:
        """Train the autoencoder, from its newest checkpoint."""
        return train_vae(
            self.workflow, self.folder, *self._ranks(self.workflow.vae, self._layout()), listener=self.listener
        )

    def sample(
        self, prompts: Sequence[str] | None, settings: SampleSettings, count: int, other: OtherModel
    ) -> SampleResult:
        """Draw into `samples/`. Pictures that the same pipeline drew before are not drawn again."""
        return self._sample(prompts, settings, count, self._layout(), other)

    def evaluate(self, prompts: Sequence[str] | None) -> EvaluateResult:
        """Draw unseen prompts, and measure whether the pictures match them, or the figures of the workflow."""
        return self._evaluate(prompts, self._layout())

    def insights(self, *, pictures: bool, tokens: bool, top: int) -> InsightsResult:
        """Write the report of the data set."""
        layout = replace(insights_layout(self.workers.scheduler, tokens=tokens), only=self.workflow.run.only)
        executor, dataset = self.workers.executor(layout), settled(self.workflow)
        how = {"pictures": pictures, "tokens": tokens}
        keep_first_settings(self.workflow, self.folder)  # the folder alone continues, also if no encode ran before
        with self.watched.stage("insights"):
            return insights(dataset, self.folder, executor, **how, top=top, listener=self.listener)

    def _encode(self, plan: EncodePlan) -> EncodeResult:
        return encode(plan, self.workers.executor(_layout_of(plan)), self.listener)

    def _train(self, layout: WorkerLayout) -> TrainResult:
        return train(self.workflow, self.folder, *self._ranks(self.workflow.train, layout), listener=self.listener)

    def _sample(
        self,
        prompts: Sequence[str] | None,
        settings: SampleSettings,
        count: int,
        layout: WorkerLayout,
        other: OtherModel = NO_OTHER,
    ) -> SampleResult:
        requests = requests_for(settings.prompts if prompts is None else prompts, settings.seed, count)
        device, keep_memory = self.workflow.run.device, self.workflow.run.keep_memory
        how = SamplerSettings(settings.steps, settings.guidance, settings.sampler, settings.batch, keep_memory)
        executor = self.workers.executor(layout)
        with self.watched.stage("sample", len(requests)):
            dataset = self.workflow.dataset
            limit = self.workflow.run.send_bytes()
            drawn = sample(self.folder, requests, how, executor, device, self.listener, dataset, other, limit)
            self.watched.show_file(f"{SAMPLES}/sheet.png", ", ".join(dict.fromkeys(one.prompt for one in requests)))
            return drawn

    def _evaluate(self, prompts: Sequence[str] | None, layout: WorkerLayout) -> EvaluateResult:
        with self.watched.stage("evaluate"):
            return evaluate(self.workflow, self.folder, lambda: self.workers.executor(layout), prompts, self.listener)

    def _prompts(self) -> list[str]:
        """What `run` draws: the prompts of the workflow, else captions that the model did not learn."""
        given = self.workflow.sample.prompts
        return list(given) or heldout_captions(self.workflow.train, self.folder, HELDOUT_PROMPTS)

    def _layout(self) -> WorkerLayout:
        """The layout of workers for a stage that does not encode."""
        return train_layout(self.workers.scheduler, self.workflow)

    def _ranks(self, settings: OptimiserSettings, layout: WorkerLayout) -> tuple[RankSpawner, int, int]:
        """The spawner of ranks, the number of ranks, and the threads of each rank."""
        spawner, there = self.workers.spawner(layout)
        launch = self.workflow.launch
        ranks = ranks_for(settings.batch, launch.ranks, there.workers)
        if there.dashboard:
            self.listener(DashboardReady(there.dashboard))
        return spawner, ranks, launch.threads if isinstance(launch.threads, int) else there.threads


def _layout_of(plan: EncodePlan) -> WorkerLayout:
    assert plan.layout is not None
    return plan.layout
