"""Methods of `Run` that train a model, draw with it, or measure what it draws.

Covers: their arguments, and the settings that follow from them.
Does not cover: the stages (`session.stages`), training and drawing (`train`, `sample`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from daskt2i.config.changes import Changes, by_dotted_key
from daskt2i.config.samplers import Sampler
from daskt2i.config.settings import Workflow
from daskt2i.config.workflow_file import changed
from daskt2i.errors import ConfigError
from daskt2i.model.pretrained.pipeline_folder import find, named
from daskt2i.session.verbs import verb
from daskt2i.store.artifacts.finished import PIPELINE_FOLDER, VAE_FOLDER

if TYPE_CHECKING:
    from daskt2i.evaluation.result import EvaluateResult
    from daskt2i.sample.driver import SampleResult
    from daskt2i.sample.live_painter import LivePainter
    from daskt2i.session.stages import Stages
    from daskt2i.train.driver import TrainResult


class RunModels:
    """The methods of a run about models. A `Run` has the settings and the workers."""

    @property
    def workflow(self) -> Workflow:
        """The settings."""
        raise NotImplementedError

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """This run with other settings, on the same workers."""
        raise NotImplementedError

    def _named(self) -> frozenset[str]:
        """Dotted keys of the settings that the user gave besides a workflow."""
        raise NotImplementedError

    def _stages(self) -> Stages:
        raise NotImplementedError

    @verb
    def train(
        self,
        *,
        where: str | None = None,
        pretrained: str | Path | None = None,
        lora: int | None = None,
        steps: int | None = None,
        resume_with: Mapping[str, Any] | None = None,
    ) -> TrainResult:
        """Train the denoiser on the store, from its newest checkpoint. A finished training is not repeated.

        Args:
            where: an expression; only rows for which it is true train. None: `train.where` of the workflow.
            pretrained: folder or hub id (`org/name@revision`) of a pipeline; its denoiser is tuned, with its objective.
                None: `train.pretrained` of the workflow.
            lora: rank of a low-rank adapter that alone is trained. None: `train.pretrained.method` of the workflow.
            steps: the last step. None: `train.steps` of the workflow.
            resume_with: settings by dotted key that change from the newest checkpoint on, such as more `train.steps` or
                another `train.learning_rate`. docs/how-to/training-run.md lists those that may change.

        Raises:
            StoreMissing, StoreError: the store cannot be trained on.
            FingerprintMismatch: the checkpoints belong to other settings, or the store to other encoders than those of
                the pipeline.
            ModelMissing, ModelError: there is no such pipeline, or it cannot be used.
            ConfigError: a setting of `resume_with` may not change, or there is no checkpoint.
        """
        run = self.with_training(where=where, pretrained=pretrained, lora=lora, steps=steps)
        return run._resumed(resume_with, PIPELINE_FOLDER.checkpoints).train()

    def with_training(
        self,
        *,
        where: str | None = None,
        pretrained: str | Path | None = None,
        lora: int | None = None,
        steps: int | None = None,
    ) -> Self:
        """This run with the settings that the arguments of `train` mean, on the same workers.

        Raises:
            ConfigError: a value is wrong, or they contradict each other.
        """
        given = self.workflow.train
        asked: dict[str, Any] = {"train.where": where, "train.steps": steps}
        if lora is not None and pretrained is None and given.pretrained is None:
            raise ConfigError(
                "A rank of LoRA was given, but no pipeline that gets the adapter. Nothing was started; give its folder "
                "or hub id too (pretrained)."
            )
        if pretrained is not None:
            base = named(str(pretrained))
            asked |= {"train.pretrained.model": base.model, "train.pretrained.revision": base.revision}
            if "train.objective" not in self._named():  # it follows the pipeline
                asked["train.objective"] = find(base).objective
        if lora is not None:
            asked |= {"train.pretrained.method": "lora", "train.pretrained.lora.rank": lora}
        changes = {name: value for name, value in asked.items() if value is not None}
        return self.with_settings(changes) if changes else self

    @verb
    def train_vae(self, *, resume_with: Mapping[str, Any] | None = None) -> TrainResult:
        """Train or fine-tune an autoencoder on the images of the source. A finished training is not repeated.

        Args:
            resume_with: as for `train`, with settings of `vae`.
        """
        return self._resumed(resume_with, VAE_FOLDER.checkpoints).train_vae()

    def _resumed(self, changes: Mapping[str, Any] | None, checkpoints: str) -> Stages:
        """The stages, with changes for a training that goes on."""
        if not changes:
            return self._stages()
        from daskt2i.train.checkpoint import Checkpoints
        from daskt2i.train.resume import check_changes

        check_changes(dict(by_dotted_key(changes)), Checkpoints(self._stages().folder, checkpoints))
        return self.with_settings(changes)._stages()

    @verb
    def request_pictures(self) -> str:
        """Ask the training that runs on this run folder for a sheet of pictures at its next step.

        The training may run in another process, and so may this run. The sheet has the prompts and seeds of `sample`,
        and is written to `train/sheets`; that of `train-vae` has held-out pictures beside their reconstructions, in
        `train-vae/sheets`. Returns the address of the request, which goes when the sheet is there.

        Raises:
            StoreError, StoreFull: the request cannot be written.
        """
        return self._request("pictures")

    @verb
    def request_stop(self) -> str:
        """Ask the training that runs on this run folder to end at its next step, with a checkpoint and its model.

        Train again to go on. Returns the address of the request, which goes when the model is written.

        Raises:
            StoreError, StoreFull: the request cannot be written.
        """
        return self._request("stop")

    def _request(self, what: str) -> str:
        from daskt2i.store.publishing.lock import holder
        from daskt2i.train.upkeep.requests import request

        folder = self._stages().folder
        stage = VAE_FOLDER.training if holder(folder).label == VAE_FOLDER.training else PIPELINE_FOLDER.training
        return request(folder, what, stage)

    @verb
    def sample(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        seed: int | None = None,
        count: int = 1,
        steps: int | None = None,
        guidance: float | None = None,
        sampler: Sampler | None = None,
        pretrained: str | Path | None = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
    ) -> SampleResult:
        """Draw pictures with the trained model. The same prompt and seed give the same picture.

        Args:
            prompts: one or several texts. None: `sample.prompts` of the workflow.
            seed: seed of the first picture of each prompt. None: `sample.seed` of the workflow.
            count: pictures of each prompt; their seeds are `seed`, `seed + 1`, …
            steps, guidance, sampler: how to sample. None: the values in `sample` of the workflow.
            pretrained: folder or hub id (`org/name@revision`) of a pipeline that draws in place of the trained model.
            lora: safetensors file, folder or hub id of a LoRA that is added to the model.
            lora_scale: what the change by the LoRA is multiplied by.

        Raises:
            ModelMissing: there is no trained model, no such pipeline, or no such LoRA.
            ModelError: the LoRA belongs to another model, or its values are not finite.
            ConfigError: there is no prompt, or a setting is wrong.
        """
        asked = {"seed": seed, "steps": steps, "guidance": guidance, "sampler": sampler}
        changes = Changes({f"sample.{name}": value for name, value in asked.items() if value is not None})
        settings = changed(self.workflow, changes, self.workflow.name).sample
        from daskt2i.sample.other_model import OtherModel

        pipeline, adapter = (None if one is None else str(one) for one in (pretrained, lora))
        other = OtherModel(pipeline, adapter, lora_scale)
        return self._stages().sample([prompts] if isinstance(prompts, str) else prompts, settings, count, other)

    @verb
    def painter(self, device: str | None = None) -> LivePainter:
        """The trained model in this process, to draw one picture after the other without workers.

        Args:
            device: `auto`, `cpu`, `cuda` or `cuda:N`. None: `run.device` of the workflow.

        Raises:
            ModelMissing, ModelError: there is no trained model, or it cannot be used.
        """
        from daskt2i.sample.live_painter import LivePainter

        given = self.workflow
        return LivePainter(self._stages().folder, given.dataset, given.sample, device or given.run.device)

    @verb
    def evaluate(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        metrics: str | Sequence[str] | None = None,
        reference: str | None = None,
        weights: str | Sequence[str] | None = None,
        samples: int | None = None,
    ) -> EvaluateResult:
        """Draw unseen prompts with several seeds each, and measure whether the pictures match their prompts.

        With `metrics` it measures figures that papers print. What is None has its value in `evaluate` of the workflow.

        Args:
            prompts: one or several texts. None: sentences, or captions of validation rows, that the model did not see;
                for figures, captions of the reference if it has some.
            metrics: `judge`, `fid`, `kid`, `cmmd`, `clip`, `precision`.
            reference: a place of pictures to compare with, or a file of their statistics.
            weights: folders or hub ids of models that make features of pictures.
            samples: number of drawn pictures that are compared.

        Raises:
            ModelMissing: there is no trained model, or a model of features is missing.
            ConfigError: there are no prompts, the judge cannot read them, or a figure lacks something.
        """
        asked = {"metrics": _listed(metrics), "reference": reference, "weights": _listed(weights), "samples": samples}
        changes = {f"evaluate.{name}": value for name, value in asked.items() if value is not None}
        run = self.with_settings(changes) if changes else self
        return run._stages().evaluate(_listed(prompts))


def _listed(texts: str | Sequence[str] | None) -> list[str] | None:
    """One or several texts as a list."""
    return [texts] if isinstance(texts, str) else None if texts is None else list(texts)
