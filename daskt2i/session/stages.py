"""The stages of a workflow on one set of workers, each skipped where it is done: encode, train, draw, evaluate.

Covers: what `run` does in order and the single commands do alone.
Does not cover: the stages themselves (`encode`, `train`, `sample`), how they look (`display`), options (`cli`).
"""

from __future__ import annotations

from collections.abc import Sequence

from daskt2i.config.settings import OptimiserSettings, Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import EncodePlan
from daskt2i.encode.summary import EncodeResult
from daskt2i.events import DashboardReady, Listener, ignore
from daskt2i.launch.rank_spawners import RankSpawner
from daskt2i.sample.driver import SampleResult, sample
from daskt2i.sample.evaluate import EvaluateResult, evaluate
from daskt2i.sample.painter import SampleRequest, SamplerSettings
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import encode_layout, ranks_for, train_layout
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.driver import TrainResult, train, train_vae


def open_session(scheduler: Scheduler, workflow: Workflow, prepared: EncodePlan | None = None) -> Session:
    """Workers for a workflow's stages; nothing is started yet.

    Args:
        prepared: where chunks will be encoded too, whose memory then counts.
    """
    return Session(scheduler, encode_layout(scheduler, prepared) if prepared else train_layout(scheduler, workflow))


class Stages:
    """The stages of one workflow in one run folder.

    Args:
        session: the workers.
        listener: told what happens, in this thread.
    """

    def __init__(self, workflow: Workflow, folder: RunFolder, session: Session, listener: Listener = ignore) -> None:
        self.workflow, self.folder, self.session, self.listener = workflow, folder, session, listener

    def encode(self, prepared: EncodePlan) -> EncodeResult:
        """Encode what is open."""
        return encode(prepared, self.session.executor(), self.listener)

    def train(self) -> TrainResult:
        """Train the denoiser from its newest checkpoint on."""
        return train(self.workflow, self.folder, *self._ranks(self.workflow.train), self.listener)

    def train_vae(self) -> TrainResult:
        """Train the autoencoder from its newest checkpoint on."""
        return train_vae(self.workflow, self.folder, *self._ranks(self.workflow.vae), self.listener)

    def sample(self, requests: Sequence[SampleRequest], settings: SamplerSettings) -> SampleResult:
        """Draw into `samples/`; nothing where the same pictures of the same pipeline are there."""
        executor, device = self.session.executor(), self.workflow.run.device
        return sample(self.folder, requests, settings, executor, device, self.listener)

    def evaluate(self, prompts: Sequence[str] | None = None) -> EvaluateResult:
        """Draw unseen prompts with several seeds each, and see whether the pictures show what they say."""
        return evaluate(self.workflow, self.folder, self.session.executor(), prompts, self.listener)

    def _ranks(self, settings: OptimiserSettings) -> tuple[RankSpawner, int, int]:
        """Where ranks run, how many there are, and the threads of each."""
        spawner, there = self.session.spawner()
        ways = self.workflow.launch
        ranks = ranks_for(settings.batch, ways.ranks, there.workers)
        threads = ways.threads if isinstance(ways.threads, int) else there.threads
        if self.session.dashboard:
            self.listener(DashboardReady(self.session.dashboard))
        return spawner, ranks, threads
