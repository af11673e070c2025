"""The stages of a workflow on one set of workers, each skipped where it is done: encode, train, draw, evaluate.

Covers: what `run` does in order and the single commands do alone.
Does not cover: the stages themselves (`encode`, `train`, `sample`), how they look (`display`), options (`cli`).
"""

from __future__ import annotations

from collections.abc import Sequence

from daskt2i.config.settings import OptimiserSettings, Workflow
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import Prepared
from daskt2i.encode.summary import Summary
from daskt2i.events import DashboardReady, Listener, ignore
from daskt2i.launch.rank_spawners import Hands
from daskt2i.sample.driver import Drawn, sample
from daskt2i.sample.evaluation import Evaluated, evaluate
from daskt2i.sample.painter import Look, Wish
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import crew_for, crew_of, ranks_for
from daskt2i.store.run_folder import RunFolder
from daskt2i.train.driver import Trained, train, train_vae


def open_session(scheduler: Scheduler, workflow: Workflow, prepared: Prepared | None = None) -> Session:
    """Workers for a workflow's stages; nothing is started yet.

    Args:
        prepared: where chunks will be encoded too, whose memory then counts.
    """
    return Session(scheduler, crew_for(scheduler, prepared) if prepared else crew_of(scheduler, workflow))


class Stages:
    """The stages of one workflow in one run folder.

    Args:
        session: the workers.
        listener: told what happens, in this thread.
    """

    def __init__(self, workflow: Workflow, folder: RunFolder, session: Session, listener: Listener = ignore) -> None:
        self.workflow, self.folder, self.session, self.listener = workflow, folder, session, listener

    def encode(self, prepared: Prepared) -> Summary:
        """Encode what is open."""
        return encode(prepared, self.session.executor(), self.listener)

    def train(self) -> Trained:
        """Train the denoiser from its newest checkpoint on."""
        return train(self.workflow, self.folder, *self._ranks(self.workflow.train), self.listener)

    def train_vae(self) -> Trained:
        """Train the autoencoder from its newest checkpoint on."""
        return train_vae(self.workflow, self.folder, *self._ranks(self.workflow.vae), self.listener)

    def sample(self, wishes: Sequence[Wish], look: Look) -> Drawn:
        """Draw into `samples/`; nothing where the same pictures of the same pipeline are there."""
        executor, device = self.session.executor(), self.workflow.run.device
        return sample(self.folder, wishes, look, executor, device, self.listener)

    def evaluate(self, prompts: Sequence[str] | None = None) -> Evaluated:
        """Draw unseen prompts with several seeds each, and see whether the pictures show what they say."""
        return evaluate(self.workflow, self.folder, self.session.executor(), prompts, self.listener)

    def _ranks(self, settings: OptimiserSettings) -> tuple[Hands, int, int]:
        """Where ranks run, how many there are, and the threads of each."""
        hands, there = self.session.hands()
        ways = self.workflow.launch
        if self.session.dashboard:
            self.listener(DashboardReady(self.session.dashboard))
        threads = ways.threads if isinstance(ways.threads, int) else there.threads
        return hands, ranks_for(settings.batch, ways.ranks, there.workers), threads
