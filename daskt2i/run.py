"""The front object: a run folder, its settings and the workers that work on it.

    import daskt2i

    run = daskt2i.Run("demo")           # or daskt2i.open_run("runs/demo")
    run.encode()
    run.train()
    run.sample("a red circle on a blue background")

Covers: one method for each stage, the contents of the run folder, workers that start once and close at the end.
Does not cover: what a stage does (`encode`, `train`, `sample`, `insights`), which settings apply
(`session.run_settings`), the number of workers (`session.worker_layout`), what a notebook shows (`view`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from daskt2i.config.settings import Workflow
from daskt2i.display.listener import listener_for
from daskt2i.doctor.run_doctor import RunDoctor
from daskt2i.errors import ConfigError
from daskt2i.events import Event, Listener, Note
from daskt2i.export.run_export import RunExport
from daskt2i.session.models.methods import RunModels
from daskt2i.session.rows.methods import RunRows
from daskt2i.session.run_reader import RunReader
from daskt2i.session.run_settings import (
    RunSettings,
    own_settings,
    refuse_strangers,
    run_settings,
    scheduler_of,
    with_changes,
)
from daskt2i.session.schedulers import Scheduler, address_of
from daskt2i.session.session import Session
from daskt2i.session.verbs import explain_arguments, nearest, verb
from daskt2i.view import View

if TYPE_CHECKING:
    from distributed import Client
    from rich.console import Console

    from daskt2i.encode.prepare import EncodePlan
    from daskt2i.encode.summary import EncodeResult
    from daskt2i.encode.verify import VerifyResult
    from daskt2i.estimate.result import EstimateResult
    from daskt2i.insights.report import InsightsResult
    from daskt2i.session.stages import Stages
    from daskt2i.train.plan import TrainPlan
    from daskt2i.train.whole_run import RunPlan, RunResult


class Run(RunReader, RunRows, RunModels, RunDoctor, RunExport):
    """A run folder, its settings, and workers. A context manager.

    Args:
        workflow: a shipped name (`"demo"`), the path of a YAML file, or a `Workflow`. None: the settings that the run
            folder keeps, or `"demo"` if it keeps none.
        out: the run folder, as a path or an fsspec address. None: `runs/` and the name of the workflow. If you give no
            workflow either and the current folder is a run folder, `Run` works on the current folder.
        images, captions, source: where images and captions are, and how they are read; as in `daskt2i.look`.
        where: an expression; only rows for which it is true are kept: `"people and not duplicate"`.
        settings: changes by dotted key: `{"train.steps": 100}`.
        client: a `distributed.Client` to work on. `Run` never closes it.
        scheduler: `"local:4"`, `"serial"`, `"tcp://host:8786"`, a cluster file, … Give `client` or `scheduler`, not
            both. If you give neither, `Run` uses Dask's current client, or else `run.scheduler` of the workflow.
        progress: True shows progress, in a notebook or on a terminal. False shows nothing. A function receives every
            event of `daskt2i.events`.

    The first method that needs workers starts them. All later methods use the same workers, until `close()`.

    Raises:
        ConfigError: an argument or a setting is wrong.
    """

    @explain_arguments
    def __init__(
        self,
        workflow: str | Path | Workflow | None = None,
        out: str | Path | None = None,
        *,
        source: str | None = None,
        images: str | None = None,
        captions: str | None = None,
        where: str | None = None,
        settings: Mapping[str, Any] | None = None,
        client: Client | None = None,
        scheduler: str | Path | None = None,
        progress: bool | Callable[[Event], None] = True,
    ) -> None:
        data = {"source": source, "images": images, "captions": captions, "where": where}
        self._begin(run_settings(workflow, out, **data, settings=settings), client, scheduler, progress)

    def _begin(
        self,
        found: RunSettings,
        client: Client | None,
        scheduler: str | Path | None,
        progress: bool | Callable[[Event], None],
        parent: Run | None = None,
    ) -> None:
        if client is not None and scheduler is not None:
            raise ConfigError("client and scheduler both say where to work; give one of them. Nothing was started.")
        scheduler = None if scheduler is None else str(scheduler)  # a cluster file may be a Path
        self._found, self._asked = found, scheduler
        self._parent, self._session = parent, None if parent is None else parent._workers()
        self._client, self._closed, self._turn = client, False, threading.RLock()
        self._listener: Listener = listener_for(progress, _console)
        if client is not None:
            address_of(client)  # raises now if the client cannot be used
        elif scheduler is not None:
            Scheduler.parse(scheduler)
        for note in found.workflow.notes:
            self._listener(Note(note))

    def __enter__(self) -> Run:
        self._ready()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the cluster that this run started. A client that you gave stays open. The run folder stays."""
        self._closed = True
        if self._session is not None and self._parent is None:
            self._session.close()

    @verb
    def with_settings(self, settings: Mapping[str, Any]) -> Run:
        """Make another run on the same workers, with changes by dotted key. Closing it does not close the workers.

        Raises:
            ConfigError: a setting is wrong, or it is `run.scheduler`.
        """
        other = Run.__new__(Run)
        other._begin(with_changes(self._found, settings), None, None, self._listener, self._parent or self)
        return other

    @property
    def client(self) -> Client | None:
        """The Dask client that you gave, or the client of the started workers. None before that, or without Dask."""
        return self._client if self._session is None else self._session.client

    @property
    def dashboard_link(self) -> str | None:
        """Address of Dask's dashboard. None before the workers start, or without Dask."""
        from daskt2i.deploy.connect import dashboard_of

        return None if (client := self.client) is None else dashboard_of(client) or None

    @verb
    def plan(self, stage: Literal["encode", "train", "run"] = "encode") -> EncodePlan | TrainPlan | RunPlan:
        """Show what `encode`, `train` or `run_all` would do. It starts and writes nothing.

        Raises:
            ConfigError: the stage is unknown, a setting is wrong, or `run_all` would fail later.
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
        """Encode images and captions into the store. It skips finished chunks. The result lists failed chunks.

        Raises:
            Daskt2iError: an error that every remaining chunk would meet too. What is committed stays.
        """
        return self._stages().encode()

    @verb
    def verify(self) -> VerifyResult:
        """Check the store: hash every shard again, count rows, decode a few latents.

        Raises:
            StoreMissing: there is no store.
        """
        from daskt2i.encode.parts.verify import verify_all

        found = self._found
        return verify_all(found.folder, found.workflow, self._listener, trusted=found.trusted)

    @verb
    def run_all(self) -> RunResult:
        """Encode, train and draw on the same workers, and measure `evaluate.metrics`. It skips what is done.

        Raises:
            ConfigError: training, drawing or measuring would fail later. Nothing was started.
            StoreError: chunks failed. All other chunks are in the store.
        """
        return self._stages().run()

    @verb
    def insights(self, *, pictures: bool = True, tokens: bool = True, top: int = 20) -> InsightsResult:
        """Write a report of the data set into `reports/` of the run folder.

        Args:
            pictures: whether to read the image files too.
            tokens: whether to count tokens with the text encoder of the workflow.
            top: how many activities to list.

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
        """Measure some rows, and predict time, disk, memory and cost of the whole encode.

        Args:
            workers: numbers of workers to predict for. None: the number that `encode` would use.
            devices: `"cpu"`, `"cuda"`, or both to compare. None: `run.device`.
            rows: number of rows to measure. None: as many as a minute allows.
        """
        from daskt2i.session.estimate import estimate

        refuse_strangers(self._found)
        counts = [int(n) for n in ([workers] if isinstance(workers, int | Integral) else workers or ())]
        kinds = devices.split(",") if isinstance(devices, str) else list(devices or ())
        return estimate(
            self.workflow,
            self.out,
            self._workers(),
            workers=counts,
            devices=[kind.strip() for kind in kinds],
            rows=None if rows is None else int(rows),
            listener=self._listener,
        )

    def view(self) -> View:
        """The state of the run folder: rows, training, the newest pictures."""
        from daskt2i.session.run_view import run_view, who_works

        workers = who_works(self._session, self.client, self._is_closed())
        return run_view(self.workflow, self._found.folder, workers)

    def __getattr__(self, name: str) -> Any:
        """Explain an unknown name. Python calls this only for names that do not exist."""
        if hasattr(type(self), name):  # a property failed: its own error says more
            return object.__getattribute__(self, name)
        names = sorted(one for one in dir(type(self)) if not one.startswith("_"))
        hint = "" if name.startswith("_") else f"{nearest(name, names)} It has {', '.join(names)}."
        raise AttributeError(f"Run has no attribute {name!r}.{hint}")

    def __reduce__(self) -> Any:
        raise TypeError("A Run holds workers, so it cannot be copied or pickled. Send run.out, and use open_run there.")

    def _ready(self) -> None:
        """Refuse a closed run. Each verb calls this first."""
        if self._is_closed():
            raise ConfigError(
                f"This run is closed. {self.out} did not change; make a new run with daskt2i.Run or daskt2i.open_run."
            )

    def _is_closed(self) -> bool:
        """Whether this run is closed, or the run whose workers it shares."""
        return self._closed or (self._parent is not None and self._parent._closed)

    def _succeeded(self) -> None:
        """Note changed settings after a verb that succeeded. The error of a refused verb already names them."""
        if self._found.differs:
            self._listener(Note(self._found.differs))
            self._found = replace(self._found, differs="")

    def _named(self) -> frozenset[str]:
        return self._found.named

    def _stages(self) -> Stages:
        """The stages, after the check that the workflow may name its classes."""
        from daskt2i.session.stages import Stages

        refuse_strangers(self._found)
        return Stages(self.workflow, self._found.folder, self._workers(), self._listener)

    def _workers(self) -> Session:
        with self._turn:  # two threads must not make two sets of workers
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
                    self._listener(Note(f"This run uses Dask's current client: {self._session.scheduler.address}."))
            return self._session


@explain_arguments
def open_run(
    path: str | Path,
    *,
    client: Client | None = None,
    scheduler: str | Path | None = None,
    storage_options: Mapping[str, Any] | None = None,
    progress: bool | Callable[[Event], None] = True,
) -> Run:
    """Open a run folder with the settings that it keeps. Classes from outside daskt2i are not run.

    Args:
        path: the run folder, as a path or an fsspec address.
        client, scheduler, progress: as in `Run`.
        storage_options: passed to fsspec.

    Raises:
        StoreMissing: there is no run folder.
        ConfigError: the settings of the folder cannot be read, for example because another version wrote them.
    """
    run = Run.__new__(Run)
    run._begin(own_settings(path, storage_options), client, scheduler, progress)
    return run


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)
