"""The front object: a run folder, its settings and the workers that work on it.

    import daskt2i

    run = daskt2i.Run("demo")           # or daskt2i.open_run("runs/demo")
    run.encode()
    run.train()
    run.sample("a red circle on a blue background")

Covers: one method for each stage, what is in the run folder, workers that are started once and closed at the end.
Does not cover: what a stage does (`encode`, `train`, `sample`, `insights`), which settings hold
(`session.run_settings`), how many workers there are (`session.worker_layout`), what a notebook shows (`view`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from daskt2i.config.changes import Changes
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import changed
from daskt2i.display.listener import progress_for
from daskt2i.errors import ConfigError
from daskt2i.events import Event, Listener, Note, ignore
from daskt2i.session.run_reader import RunReader
from daskt2i.session.run_settings import RunSettings, own_settings, refuse_strangers, run_settings, scheduler_of
from daskt2i.session.schedulers import Scheduler, address_of
from daskt2i.session.session import Session
from daskt2i.session.verbs import explain_arguments, nearest, verb
from daskt2i.view import View

if TYPE_CHECKING:
    from distributed import Client

    from daskt2i.encode.prepare import EncodePlan
    from daskt2i.encode.summary import EncodeResult
    from daskt2i.encode.verify import VerifyResult
    from daskt2i.estimate.result import EstimateResult
    from daskt2i.insights.report import InsightsResult
    from daskt2i.sample.driver import SampleResult
    from daskt2i.sample.evaluate import EvaluateResult
    from daskt2i.session.stages import Stages
    from daskt2i.train.driver import TrainResult
    from daskt2i.train.plan import TrainPlan
    from daskt2i.train.whole_run import RunPlan, RunResult


class Run(RunReader):
    """A run folder, its settings, and workers. A context manager.

    Args:
        workflow: a shipped name (`"demo"`), the path of a YAML file, or a `Workflow`; None: the settings that the run
            folder keeps, and `"demo"` where it keeps none.
        out: the run folder, a path or an fsspec address; None: `runs/` and the name of the workflow.
        images, captions: a folder, zip or address of images and the COCO caption file that goes with them.
        where: keeps the rows of which it is true: `"people and not duplicate"`.
        settings: changes by dotted key: `{"train.steps": 100}`.
        client: a `distributed.Client` to work on. It is never closed.
        scheduler: `"local:4"`, `"serial"`, `"tcp://host:8786"`, a cluster file, … Give `client` or `scheduler`, not
            both. With neither, Dask's current client is used if there is one, else `run.scheduler` of the workflow.
        progress: True shows what happens, in a notebook or on a terminal; False shows nothing; a function gets every
            event of `daskt2i.events`.

    Nothing is started before a method needs workers. They serve every method after it, until `close()`.

    Raises:
        ConfigError: an argument or a setting is wrong.
    """

    @explain_arguments
    def __init__(
        self,
        workflow: str | Path | Workflow | None = None,
        out: str | Path | None = None,
        *,
        images: str | None = None,
        captions: str | None = None,
        where: str | None = None,
        settings: Mapping[str, Any] | None = None,
        client: Client | None = None,
        scheduler: str | None = None,
        progress: bool | Callable[[Event], None] = True,
    ) -> None:
        found = run_settings(workflow, out, images=images, captions=captions, where=where, settings=settings)
        self._begin(found, client, scheduler, progress)

    def _begin(
        self,
        found: RunSettings,
        client: Client | None,
        scheduler: str | None,
        progress: bool | Callable[[Event], None],
        session: Session | None = None,
    ) -> None:
        if client is not None and scheduler is not None:
            raise ConfigError("client and scheduler both say where to work; give one of them. Nothing was started.")
        self._found, self._asked = found, scheduler
        self._session, self._owns_session = session, session is None
        self._client, self._closed = client, False
        self._listener: Listener = _listener(progress)
        if client is not None:
            address_of(client)  # refused now if it cannot be used
        elif scheduler is not None:
            Scheduler.parse(scheduler)
        for note in found.workflow.notes:
            self._listener(Note(note))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cluster that was started, if any; a client that was given stays as it is. The run folder stays."""
        self._closed = True
        if self._session is not None and self._owns_session:
            self._session.close()

    def with_settings(self, settings: Mapping[str, Any]) -> Run:
        """Another run on the same workers, with changes by dotted key. Closing it leaves the workers to this one.

        Raises:
            ConfigError: a setting is wrong.
        """
        given = self._found
        changed = run_settings(given.workflow, given.folder.root, settings=settings)
        other = Run.__new__(Run)
        other._begin(replace(changed, trusted=given.trusted), None, None, self._listener, self._workers())
        return other

    @property
    def client(self) -> Client | None:
        """The Dask client that was given, or that of the workers that were started; None before, and without Dask."""
        return self._client if self._session is None else self._session.client

    @property
    def dashboard_link(self) -> str | None:
        """Where Dask's dashboard is; None before workers are started, and without Dask."""
        client = self.client
        return None if client is None else (client.dashboard_link or None)

    @verb
    def plan(self, stage: Literal["encode", "train", "run"] = "encode") -> EncodePlan | TrainPlan | RunPlan:
        """What `encode`, `train` or `run_all` would do; nothing is started or written.

        Raises:
            ConfigError: there is no such stage, a setting is wrong, or `run_all` could not train or draw at its end.
            SourceError, ModelMissing, FingerprintMismatch, PlanError: the stage could not start.
        """
        if stage == "encode":
            return self._stages().encode_plan(draw=False)
        if stage == "train":
            return self._stages().train_plan()
        if stage == "run":
            return self._stages().run_plan(draw=False)
        raise ConfigError(f"There is no plan of {stage!r}; there are plans of encode, train and run.")

    @verb
    def encode(self) -> EncodeResult:
        """Encode images and captions into the store. What is done is skipped; failed chunks are in the result.

        Raises:
            Daskt2iError: what makes the remaining chunks pointless. What is committed stays.
        """
        return self._stages().encode()

    @verb
    def verify(self) -> VerifyResult:
        """Hash every shard again, count rows, decode a sample back.

        Raises:
            StoreMissing: there is no store.
        """
        from daskt2i.encode.verify import verify

        found = self._found
        return verify(found.folder, found.workflow, self._listener, trusted=found.trusted)

    @verb
    def train(self) -> TrainResult:
        """Train the denoiser on the store, from its newest checkpoint on; nothing if it is done.

        Raises:
            StoreMissing, StoreError: the store cannot be trained on.
            FingerprintMismatch: the checkpoints belong to other settings.
        """
        return self._stages().train()

    @verb
    def train_vae(self) -> TrainResult:
        """Train or fine-tune an autoencoder on the images of the source; nothing if it is done."""
        return self._stages().train_vae()

    @verb
    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        seed: int | None = None,
        count: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: Literal["dpm++", "ddim", "euler"] | None = None,
    ) -> SampleResult:
        """Draw pictures with the trained model. The same prompt and seed give the same picture.

        Args:
            prompts: None: `sample.prompts` of the workflow.
            seed: the first seed; `count`: pictures of each prompt, seeds one by one.
            steps, guidance, sampler: None: as `sample` of the workflow.

        Raises:
            ModelMissing: there is no trained model.
            ConfigError: there is no prompt, or a setting is wrong.
        """
        asked = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler}
        changes = Changes({f"sample.{name}": value for name, value in asked.items() if value is not None})
        settings = changed(self.workflow, changes, self.workflow.name).sample
        return self._stages().sample([prompts] if isinstance(prompts, str) else prompts, settings, count)

    @verb
    def evaluate(self, prompts: Sequence[str] | None = None) -> EvaluateResult:
        """Draw unseen prompts with several seeds each, and measure whether the pictures show what they say.

        Args:
            prompts: None: sentences, or captions of held-out rows, that the model never saw.

        Raises:
            ModelMissing: there is no trained model.
            ConfigError: there are no prompts, or the judge cannot read them.
        """
        return self._stages().evaluate(prompts)

    @verb
    def run_all(self) -> RunResult:
        """Encode, train and draw on the same workers. What is done is skipped.

        Raises:
            ConfigError: the run could not train or draw at its end; nothing was started.
            StoreError: chunks failed. All others are in the store.
        """
        return self._stages().run()

    @verb
    def insights(self, *, pictures: bool = True, tokens: bool = True, top: int = 20) -> InsightsResult:
        """Report what the data set holds, into `reports/` of the run folder.

        Args:
            pictures: read the image files too.
            tokens: count tokens with the text encoder of the workflow.
            top: activities that are listed.

        Raises:
            SourceError: the source cannot be used.
        """
        return self._stages().insights(pictures=pictures, tokens=tokens, top=top)

    @verb
    def estimate(
        self,
        workers: int | Sequence[int] | None = None,
        devices: str | Sequence[str] | None = None,
        rows: int | None = None,
    ) -> EstimateResult:
        """Measure some rows, and forecast time, disk, memory and cost of the whole encode.

        Args:
            workers: numbers of workers to forecast; None: as `encode` would take.
            devices: `"cpu"`, `"cuda"`, or both to compare; None: `run.device`.
            rows: rows to measure; None: as many as a minute allows.
        """
        from daskt2i.session.estimate import estimate

        refuse_strangers(self._found)
        counts = [workers] if isinstance(workers, int) else list(workers or ())
        kinds = devices.split(",") if isinstance(devices, str) else list(devices or ())
        return estimate(
            self.workflow,
            self.out,
            self._workers(),
            workers=counts,
            devices=[kind.strip() for kind in kinds],
            rows=rows,
            listener=self._listener,
        )

    def view(self) -> View:
        """How far the run folder has come: rows, training, the newest pictures."""
        from daskt2i.session.run_view import run_view

        client = self.client
        workers = "not started" if client is None else str(client.scheduler.address)
        return run_view(self.workflow, self._found.folder, "closed" if self._closed else workers)

    def __getattr__(self, name: str) -> Any:
        """Only for names that are not there."""
        names = sorted(one for one in dir(type(self)) if not one.startswith("_"))
        hint = "" if name.startswith("_") else f"{nearest(name, names)} It has {', '.join(names)}."
        raise AttributeError(f"Run has no attribute {name!r}.{hint}")

    def _ready(self) -> None:
        """Before each verb."""
        if self._closed:
            raise ConfigError(
                f"This run is closed. {self.out} is as it was. Make the run again, with daskt2i.Run or "
                "daskt2i.open_run as before."
            )

    def _succeeded(self) -> None:
        """After each verb that ended well. One that is refused has named what differs itself."""
        if self._found.differs:
            self._listener(Note(self._found.differs))
            self._found = replace(self._found, differs="")

    def _stages(self) -> Stages:
        """The stages, with a workflow that may name classes."""
        from daskt2i.session.stages import Stages

        refuse_strangers(self._found)
        return Stages(self.workflow, self._found.folder, self._workers(), self._listener)

    def _workers(self) -> Session:
        if self._session is None:
            client = self._client
            if client is None and self._asked is None:
                from daskt2i.deploy.connect import current_client

                client = current_client()
            if client is None:
                self._session = Session(Scheduler.parse(self._asked or scheduler_of(self._found)))
            else:
                self._session = Session(Scheduler("address", address=address_of(client)), client)
            if client is not self._client:
                self._listener(Note(f"Dask's current client is used: {self._session.scheduler.address}."))
        return self._session


@explain_arguments
def open_run(
    path: str | Path,
    *,
    client: Client | None = None,
    scheduler: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool | Callable[[Event], None] = True,
) -> Run:
    """A run folder with the settings that it keeps. It runs no code that only the folder names.

    Args:
        path: a run folder, a path or an fsspec address.
        client, scheduler, progress: as in `Run`.
        storage_options: passed to fsspec.

    Raises:
        StoreMissing: there is no run folder.
        ConfigError: its settings cannot be read, as when another version of daskt2i wrote them.
    """
    run = Run.__new__(Run)
    run._begin(own_settings(path, storage_options), client, scheduler, progress)
    return run


def _listener(progress: bool | Callable[[Event], None]) -> Listener:
    if isinstance(progress, bool):
        if not progress:
            return ignore
        from rich.console import Console

        return progress_for(Console(stderr=True))
    if not callable(progress):
        raise ConfigError(
            f"progress is {progress!r}; give True, False, or a function that takes an event. Nothing was started."
        )
    return progress
