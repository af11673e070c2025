"""The stages of a workflow on one set of workers, each skipped where it is done: encode, train, draw, evaluate.

Covers: what `run` does in order and the single commands do alone, with progress for a person.
Does not cover: the stages themselves (`encode`, `training`, `sample`, `evaluate`), options and output (`workflow`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from daskt2i.config.settings import Workflow
from daskt2i.display import encode as terminal
from daskt2i.display.train import TrainProgress
from daskt2i.encode.driver import encode
from daskt2i.encode.prepare import Prepared
from daskt2i.encode.summary import Summary
from daskt2i.errors import ConfigError, Stopped
from daskt2i.model.pipeline import about
from daskt2i.sample.driver import draw, wishes_for, write
from daskt2i.sample.evaluate import ClipScores, Fidelity, by_clip, by_judge, unseen_prompts
from daskt2i.sample.image_grid import png, sheet
from daskt2i.sample.painter import Look, Picture, Wish
from daskt2i.session.schedulers import Scheduler
from daskt2i.session.session import Session
from daskt2i.session.worker_layout import crew_for, crew_of, ranks_for
from daskt2i.store.run_folder import REPORTS, SAMPLES, RunFolder
from daskt2i.store.zarr_store import ZarrStore
from daskt2i.train.driver import Trained, train, train_vae

_SAMPLES = f"{SAMPLES}/samples.json"
_SHEET_PICTURES = 128


@dataclass(frozen=True, slots=True)
class Drawn:
    """What `sample` made.

    Attributes:
        files: addresses, the sheet's first.
        pictures: how many.
        seconds: of this command; 0 where they were there.
    """

    files: tuple[str, ...]
    pictures: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The object that `sample --json` prints."""
        return {"files": list(self.files), "pictures": self.pictures, "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What `evaluate` found: shares by the judge, or CLIP scores.

    Attributes:
        prompts, seeds: how many of each.
        sheet: address of the contact sheet.
    """

    prompts: int
    seeds: int
    sheet: str
    fidelity: Fidelity | None = None
    clip: ClipScores | None = None

    def to_json(self) -> dict[str, Any]:
        """The object that `evaluate --json` prints: each share and its count."""
        found: dict[str, Any] = {"prompts": self.prompts, "seeds": self.seeds}
        if self.fidelity is not None:
            found |= self.fidelity.overall.to_json()
            found |= {"single": self.fidelity.single.to_json(), "pair": self.fidelity.pair.to_json()}
        if self.clip is not None:
            found |= self.clip.to_json()
        return {**found, "sheet": self.sheet}


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
        console: for progress, i.e. standard error.
    """

    def __init__(self, workflow: Workflow, folder: RunFolder, session: Session, console: Console) -> None:
        self.workflow, self.folder, self.session, self.console = workflow, folder, session, console

    def encode(self, prepared: Prepared) -> Summary:
        """Encode what is open."""
        with terminal.EncodeProgress(self.console, prepared.source_info.rows) as progress:
            return encode(prepared, self.session.executor(), progress)

    def train(self) -> Trained:
        """Train the denoiser from its newest checkpoint on."""
        hands, there = self.session.hands()
        ways, settings = self.workflow.launch, self.workflow.train
        ranks = ranks_for(settings.batch, ways.ranks, there.workers)
        threads = ways.threads if isinstance(ways.threads, int) else there.threads
        self._dashboard()
        tell = terminal.counting(self.console, "chunks checked:")
        with TrainProgress(self.console, settings.steps, settings.batch) as progress:
            try:
                return train(self.workflow, self.folder, hands, ranks, threads, progress, tell)
            except KeyboardInterrupt:
                raise self._stopped("train") from None

    def train_vae(self) -> Trained:
        """Train the autoencoder from its newest checkpoint on."""
        hands, there = self.session.hands()
        ways, settings = self.workflow.launch, self.workflow.vae
        ranks = ranks_for(settings.batch, ways.ranks, there.workers)
        threads = ways.threads if isinstance(ways.threads, int) else there.threads
        self._dashboard()
        with TrainProgress(self.console, settings.steps, settings.batch) as progress:
            try:
                return train_vae(self.workflow, self.folder, hands, ranks, threads, progress)
            except KeyboardInterrupt:
                raise self._stopped("train-vae") from None

    def _stopped(self, name: str) -> Stopped:
        from daskt2i.train.checkpoint import Checkpoints

        newest = Checkpoints(self.folder, f"{name}/checkpoints").newest(tensors=False)
        stands = f"The checkpoint of step {newest.step:,} stands" if newest else "There is no checkpoint yet"
        return Stopped(f"Stopped; no rank is left running. {stands}, and the same command goes on.")

    def sample(self, wishes: Sequence[Wish], look: Look) -> Drawn:
        """Draw into `samples/`; nothing where the same pictures of the same pipeline are there."""
        mark = {
            "pipeline": about(self.folder).get("fingerprint"),
            "wishes": [[wish.prompt, wish.seed] for wish in wishes],
            "look": [look.steps, look.guidance, look.sampler],
        }
        there = _read_json(self.folder, _SAMPLES)
        names = [f"{SAMPLES}/{name}" for name in there.get("files", [])]
        if mark["pipeline"] and there.get("made_from") == mark and all(map(self.folder.exists, names)):
            return Drawn(tuple(map(self.folder.address, names)), len(wishes), 0.0)
        begun = perf_counter()
        pictures = self._draw(wishes, look)
        files = tuple(write(self.folder, pictures, look))
        names = [name.rpartition("/")[2] for name in files]
        self.folder.write(_SAMPLES, json.dumps({"made_from": mark, "files": names}, indent=1).encode())
        return Drawn(files, len(pictures), perf_counter() - begun)

    def evaluate(self, prompts: Sequence[str] | None = None) -> Evaluated:
        """Draw unseen prompts with several seeds each, and see whether the pictures show what they say.

        Args:
            prompts: other ones than those of the workflow.
        """
        wanted, sample = self.workflow.evaluate, self.workflow.sample
        if prompts is None:
            prompts = self._prompts(wanted.prompts)
        look = Look(sample.steps, sample.guidance, sample.sampler, sample.batch)
        wishes = wishes_for(prompts, sample.seed, wanted.seeds)
        pictures = self._draw(wishes, look)
        found = Evaluated(len(prompts), wanted.seeds, self.folder.address(f"{REPORTS}/evaluate.png"))
        marks: list[bool | None] | None = None
        labels = [wish.prompt for wish in wishes]
        if wanted.clip_model is None:
            fidelity = by_judge(pictures, terminal.counting(self.console, "pictures judged:"))
            found, marks = replace(found, fidelity=fidelity), list(fidelity.right)
            labels = [f"{text} [{why}]" if why else text for text, why in zip(labels, fidelity.problems, strict=True)]
        else:
            device = "cpu" if self.workflow.run.device == "auto" else self.workflow.run.device
            found = replace(found, clip=by_clip(pictures, wanted.clip_model, device))
        # One seed after the other, so that the sheet shows as many prompts as it can.
        order = sorted(range(len(pictures)), key=lambda i: (i % wanted.seeds, i))[:_SHEET_PICTURES]
        page = sheet(
            [pictures[i].pixels for i in order], [labels[i] for i in order], marks=marks and [marks[i] for i in order]
        )
        self.folder.write(f"{REPORTS}/evaluate.png", png(page, {"Software": "daskt2i"}))
        self.folder.write(f"{REPORTS}/evaluate.json", (json.dumps(found.to_json(), indent=1) + "\n").encode())
        return found

    def _prompts(self, count: int) -> list[str]:
        """Of drawn scenes: sentences that the data does not hold. Of other data: captions of held-out rows."""
        if self.workflow.scenes is not None:
            known: list[str] = []
            if ZarrStore(self.folder).attributes() is not None:
                store = ZarrStore(self.folder)
                known = [str(text) for text in store.read("caption", 0, store.layout()["rows"]).ravel()]
            return unseen_prompts(count, known, self.workflow.scenes.shapes)
        from daskt2i.loader.dataset import LatentDataset

        settings = self.workflow.train
        if not settings.heldout:
            raise ConfigError(
                "evaluate takes its prompts from rows that training never saw, and train.heldout is 0. Give --prompts."
            )
        data = LatentDataset(
            self.folder, seed=settings.seed, batch=settings.batch, window=settings.window, heldout=settings.heldout
        )
        rows = np.concatenate([batch.rows for batch in data.heldout_batches(64)])
        data.close()
        store = ZarrStore(self.folder)
        return [str(store.read("caption", int(row), int(row) + 1)[0, 0]) for row in rows[:count]]

    def _draw(self, wishes: Sequence[Wish], look: Look) -> list[Picture]:
        executor = self.session.executor()
        with closing(executor):
            workforce = executor.start()
            tell = terminal.counting(self.console, "pictures drawn:")
            return draw(self.folder, wishes, look, executor, workforce, self.workflow.run.device, tell)

    def _dashboard(self) -> None:
        if self.session.dashboard:
            self.console.print(f"dashboard {self.session.dashboard}", soft_wrap=True)


def _read_json(folder: RunFolder, name: str) -> dict[str, Any]:
    try:
        found = json.loads(folder.read(name))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
