"""The training state on one rank: a model, its optimisers, its loss scale and the moving average of its weights.

Covers: one training step, the tensors for a checkpoint, using the moving average in place of the weights.
Does not cover: the loop over steps and ranks (`loop`), files (`checkpoint`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daskt2i.config.settings import OptimiserSettings
from daskt2i.train.optimisation.replicas import Replicas
from daskt2i.train.optimisation.shards import Shards

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Layout = Replicas | Shards

LARGE = 100_000_000
"""A model with this many parameters or more updates its average one tensor at a time. An update of all tensors at once
holds one more copy of the weights (3.4 GB for sd15), and is not faster for large models."""


class TrainState:
    """A model in training.

    Args:
        model: on its device, the same on every rank.
        precision: `fp32`, `bf16` or `fp16`, for the arithmetic inside the model. The weights keep their type.
        world: number of ranks; if it is more than one, the process group must exist.
        profile_allreduce: measure the exchange of gradients (all-reduce) separately, as `exchange`.
        sharded: whether each rank keeps a part of every weight. It changes nothing if there is one rank.

    Attributes:
        layout: where the weights are: `replicas.Replicas`, or `shards.Shards`.
        parameters: what this rank holds of the trained weights, in the order of the optimisers.
        further: the averages of `emas`, by decay; their names are as in `str(0.99)`.
        seconds: host time so far in `forward`, `backward` (gradients are exchanged at the same time) and `optimiser`.
            With `profile_allreduce` and several ranks also `exchange`: the time from sending the last gradients until
            those of all ranks have arrived. This is the cost of the exchange. The part of the exchange that runs during
            the backward pass costs no time; waiting for a slower rank is included. On a GPU all these are only the
            times to queue the work.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: OptimiserSettings,
        device: str,
        precision: str,
        world: int = 1,
        compiled: bool = False,
        profile_allreduce: bool = False,
        sharded: bool = False,
    ) -> None:
        import torch

        self.model, self.device, self.precision, self.max_grad_norm = model, device, precision, settings.max_grad_norm
        self.layout: Layout = (
            Shards(model, device, world, compiled)
            if sharded and world > 1
            else Replicas(model, world, compiled, profile_allreduce)
        )
        self.parameters, self.optimisers = _optimisers(model, settings, world, self.layout)
        self.ema: Any = _average(self.parameters, settings.ema) if settings.ema else None
        self.further = {str(decay): _average(self.parameters, decay) for decay in settings.further_emas()}
        self.scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=precision == "fp16")
        self.seconds = {"forward": 0.0, "backward": 0.0, "optimiser": 0.0}
        if self.layout.sent is not None:
            self.seconds["exchange"] = 0.0

    def learn(
        self,
        parts: Sequence[tuple[Any, float]],
        loss_of: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]],
        rate: float,
        takes: Callable[[Tensor, Tensor], bool] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Do one step. If the gradient is not finite, fp16 keeps the weights; in other precisions they are damaged.

        Args:
            parts: parts of a batch, each with its share of the samples.
            loss_of: computes the mean loss and the figures of a part.
            rate: the learning rate.
            takes: gets the loss and the norm of the gradient, and decides whether weights and average change.

        Returns:
            Loss and figures of this rank. One of them is `norm`: the norm of the gradient before clipping.
        """
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        self.layout.clear()
        total: Any = 0.0
        figures: dict[str, Any] = {}
        for number, (part, share) in enumerate(parts):
            last = number == len(parts) - 1
            with self.layout.one_part(last):
                with self._timed("forward"), self.autocast():
                    loss, found = loss_of(self.layout.wrapped, part)
                with self._timed("backward"):
                    self.scaler.scale(loss * share).backward()
                if last and self.layout.sent is not None:
                    waited = perf_counter() - self.layout.sent
                    self.seconds["backward"] -= waited
                    self.seconds["exchange"] += waited
            total = total + loss.detach() * share
            for name, value in found.items():
                figures[name] = figures.get(name, 0.0) + value.detach() * share
        with self._timed("optimiser"):
            for optimiser in self.optimisers:
                self.scaler.unscale_(optimiser)
            figures["norm"] = self.layout.norm(self.parameters, self.max_grad_norm)
            # The scaler checks each optimiser's gradients separately. With two optimisers, one could step alone.
            taken = takes is None or takes(total, figures["norm"])
            if taken and (not self.scaler.is_enabled() or figures["norm"].isfinite()):
                for optimiser in self.optimisers:
                    self.scaler.step(optimiser)
            self.scaler.update(None if taken else self.scaler.get_scale())  # its count of good steps stays then
            for average in self._averages().values() if taken else ():
                average.step(self.parameters)
        return total, figures

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = perf_counter()
        yield
        self.seconds[name] += perf_counter() - begun

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context for arithmetic in `precision`."""
        import torch

        formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], dtype=formats[self.precision])

    @contextlib.contextmanager
    def averaged(self, decay: str | None = None) -> Iterator[nn.Module]:
        """The model with the moving average, if there is one, in place of its weights, and without gradients.

        Args:
            decay: one of `further`; None for the average of `ema`.
        """
        import torch

        average = self.ema if decay is None else self.further[decay]
        self.model.eval()
        if average is not None:
            average.store(self.parameters)
            average.copy_to(self.parameters)
        try:
            with torch.no_grad():
                yield self.model
        finally:
            if average is not None:
                average.restore(self.parameters)
            self.model.train()

    def tensors(self) -> dict[str, Any]:
        """All tensors for a checkpoint. They are not copies. If weights are spread, they are `shards.Spread`."""
        frozen = self._frozen()
        found = {f"model/{name}": value for name, value in self.layout.state().items() if name not in frozen}
        for first, optimiser in self._numbered():
            for index, entry in optimiser.state_dict()["state"].items():
                weight = self.parameters[first + index]
                for key, value in entry.items():
                    kept = self.layout.kept(value, weight) if value.ndim else value
                    found[f"optimiser/{first + index:05d}/{key}"] = kept
        for prefix, average in self._averages().items():
            for index, value in enumerate(average.shadow_params):
                found[f"{prefix}/{index:05d}"] = self.layout.kept(value, self.parameters[index])
        return found

    def _averages(self) -> dict[str, Any]:
        """All averages by their name in a checkpoint: `ema`, `ema0.99`."""
        further = {f"ema{decay}": average for decay, average in self.further.items()}
        return further if self.ema is None else {"ema": self.ema, **further}

    def _frozen(self) -> set[str]:
        """Names of the weights that are not trained. They are those of a pretrained model, and in no checkpoint."""
        return {name for name, weight in self.model.named_parameters() if not weight.requires_grad}

    def _numbered(self) -> Iterator[tuple[int, torch.optim.Optimizer]]:
        """The optimisers, each with the index of its first weight in `parameters`."""
        first = 0
        for optimiser in self.optimisers:
            yield first, optimiser
            first += len(optimiser.param_groups[0]["params"])

    def _kinds(self) -> list[str]:
        return [type(optimiser).__name__ for optimiser in self.optimisers]

    def about(self) -> dict[str, Any]:
        """The state that is not in `tensors`, as JSON values."""
        return {
            "optimisers": self._kinds(),
            "scaler": self.scaler.state_dict(),
            "ema_step": next((one.optimization_step for one in self._averages().values()), None),
        }

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Restore the state from the results of `tensors` and `about`.

        Raises:
            RuntimeError, ValueError, KeyError, IndexError: they belong to another model.
        """
        import torch

        if (kinds := about.get("optimisers", self._kinds())) != self._kinds():
            raise ValueError(f"its optimisers are {' and '.join(kinds)}, not {' and '.join(self._kinds())}")
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "ema": {}}
        groups |= {prefix: {} for prefix in self._averages()}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            groups[part][rest] = value
        frozen = self._frozen()
        kept = {name: value for name, value in self.layout.state().items() if name in frozen}
        self.layout.load({**kept, **groups["model"]})
        entries: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            number, _, key = name.partition("/")
            index = int(number)
            weight = self.parameters[index]
            own = self.layout.own(value, weight) if value.ndim else value
            entries.setdefault(index, {})[key] = _laid_out_as(weight, own)
        for first, optimiser in self._numbered():
            fresh = optimiser.state_dict()["param_groups"]
            mine = range(first, first + len(fresh[0]["params"]))
            own_entries = {index - first: entries[index] for index in mine if index in entries}
            optimiser.load_state_dict({"state": own_entries, "param_groups": fresh})
        for prefix, kept_average in self._averages().items():
            with torch.no_grad():
                for index, shadow in enumerate(kept_average.shadow_params):
                    average = self.layout.own(groups[prefix][f"{index:05d}"], self.parameters[index])
                    if average.shape != shadow.shape:
                        raise ValueError(
                            f"its average {index} has the shape {list(average.shape)}, not {list(shadow.shape)}"
                        )
                    shadow.copy_(average)
            kept_average.optimization_step = int(about["ema_step"])
        if about["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(about["scaler"]))


def _average(parameters: Sequence[nn.Parameter], decay: float) -> Any:
    """A moving average that starts at these weights. The warm-up is (1 + step) / (10 + step), up to the decay."""
    from diffusers.training_utils import EMAModel

    size = sum(parameter.numel() for parameter in parameters)
    return EMAModel(parameters, decay=decay, foreach=size < LARGE)


def _optimisers(
    model: nn.Module, settings: OptimiserSettings, world: int, layout: Layout
) -> tuple[list[nn.Parameter], list[torch.optim.Optimizer]]:
    """What this rank holds of the trainable weights, and their optimisers. The order is that of the optimisers."""
    import torch

    from daskt2i.train.optimisation.muon import inner_matrices, muon

    matrices: list[nn.Parameter] = []
    others = [weight for weight in model.parameters() if weight.requires_grad]
    if settings.optimiser == "muon":
        matrices, others = inner_matrices(model)
    matrices, others = layout.held(matrices), layout.held(others)
    found: list[torch.optim.Optimizer] = []
    if matrices:
        rank = torch.distributed.get_rank() if world > 1 else 0
        found.append(muon(matrices, settings.learning_rate, settings.weight_decay, world, rank, layout))
    if others:
        # The fused version uses one kernel for all weights. On a CPU it is as exact as the loop, and twice as fast.
        rates = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
        found.append(torch.optim.AdamW(others, **rates, fused=True))  # type: ignore[arg-type]
    return [*matrices, *others], found


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the parameter's memory order, e.g. channels_last.

    Fused AdamW ignores strides (seen with torch 2.13 on a CPU). With another memory order, a mean of gradients would
    silently change the wrong weights.
    """
    import torch

    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
