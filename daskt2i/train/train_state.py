"""What learns on one rank: a model with its optimiser, its loss scale and the moving average of its weights.

Covers: one step of learning, what of it a checkpoint holds, the moving average in place of the weights.
Does not cover: what is fitted to what, when, and together with whom (`loop`), files (`checkpoint`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from daskt2i.config.settings import OptimiserSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


LARGE = 100_000_000
"""Parameters from which on the average is taken one tensor at a time: all at once holds one more copy of the weights
(3.4 GB for sd15's), and saves nothing there."""


class TrainState:
    """A model that is fitted.

    Args:
        model: on its device, the same on every rank.
        precision: `fp32`, `bf16` or `fp16`, of the arithmetic inside the model; weights stay as they are.
        world: ranks of the run; with more than one the process group must be there.
        profile_allreduce: time the exchange of gradients apart from the rest of the backward pass, as `exchange`.

    Attributes:
        wrapped: the model as it learns, perhaps compiled, its gradients the mean over all ranks.
        seconds: host time so far in `forward`, `backward` (the exchange of gradients runs beside it) and `optimiser`;
            with `profile_allreduce` and several ranks also in `exchange`: from the moment the last gradients are there
            and sent until those of all ranks are back. That is what the exchange costs: the part of it that runs beside
            the backward pass costs no time, and waiting for a slower rank is in it. A GPU works behind the host's back:
            there it is the time to queue the work.
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
    ) -> None:
        import torch

        self.model, self.device, self.precision, self.max_grad_norm = model, device, precision, settings.max_grad_norm
        self.parameters, self.optimisers = _optimisers(model, settings, world)
        self.ema: Any = None
        if settings.ema:
            from diffusers.training_utils import EMAModel

            # diffusers' own warm-up is (1 + step) / (10 + step), up to the decay.
            size = sum(parameter.numel() for parameter in self.parameters)
            self.ema = EMAModel(self.parameters, decay=settings.ema, foreach=size < LARGE)
        self.scaler = torch.amp.GradScaler(device.partition(":")[0], enabled=precision == "fp16")
        self.wrapped: Any = torch.compile(model) if compiled else model
        self._distributed = world > 1
        if self._distributed:
            self.wrapped = torch.nn.parallel.DistributedDataParallel(self.wrapped, gradient_as_bucket_view=True)
        self.seconds = {"forward": 0.0, "backward": 0.0, "optimiser": 0.0}
        self._sent = 0.0
        if self._distributed and profile_allreduce:
            self.seconds["exchange"] = 0.0
            self.wrapped.register_comm_hook(None, lambda state, bucket: self._send(bucket))

    def learn(
        self,
        parts: Sequence[tuple[Any, float]],
        loss_of: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]],
        rate: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step. Where the gradient is not finite, fp16 leaves the weights alone; otherwise they are spoilt.

        Args:
            parts: of a batch, each with its share of the samples.
            rate: the learning rate.

        Returns:
            Loss and figures of this rank, `norm` among them: that of the gradient before it is clipped.
        """
        import torch

        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.zero_grad(set_to_none=True)
        total: Any = 0.0
        figures: dict[str, Any] = {}
        for number, (part, share) in enumerate(parts):
            last = number == len(parts) - 1
            # The ranks exchange their gradients once, with the last part.
            with contextlib.nullcontext() if last or not self._distributed else self.wrapped.no_sync():
                with self._timed("forward"), self.autocast():
                    loss, found = loss_of(self.wrapped, part)
                with self._timed("backward"):
                    self.scaler.scale(loss * share).backward()
                if last and "exchange" in self.seconds:
                    waited = perf_counter() - self._sent
                    self.seconds["backward"] -= waited
                    self.seconds["exchange"] += waited
            total = total + loss.detach() * share
            for name, value in found.items():
                figures[name] = figures.get(name, 0.0) + value.detach() * share
        with self._timed("optimiser"):
            for optimiser in self.optimisers:
                self.scaler.unscale_(optimiser)
            figures["norm"] = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm or math.inf)
            # The scaler judges each optimiser's gradients alone: with two, one would move while the other stood still.
            if not self.scaler.is_enabled() or figures["norm"].isfinite():
                for optimiser in self.optimisers:
                    self.scaler.step(optimiser)
            self.scaler.update()
            if self.ema is not None:
                self.ema.step(self.parameters)
        return total, figures

    def _send(self, bucket: Any) -> Any:
        """What DDP does with a bucket of gradients, and when. It calls this for the last one when all are computed."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        self._sent = perf_counter()
        return allreduce_hook(None, bucket)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = perf_counter()
        yield
        self.seconds[name] += perf_counter() - begun

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Arithmetic in `precision`."""
        import torch

        formats = {"bf16": torch.bfloat16, "fp16": torch.float16}
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], dtype=formats[self.precision])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with the moving average in place of its weights, where there is one, and nothing learned."""
        import torch

        self.model.eval()
        if self.ema is not None:
            self.ema.store(self.parameters)
            self.ema.copy_to(self.parameters)
        try:
            with torch.no_grad():
                yield self.model
        finally:
            if self.ema is not None:
                self.ema.restore(self.parameters)
            self.model.train()

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint must hold; not copies."""
        found = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for first, optimiser in self._numbered():
            for index, entry in optimiser.state_dict()["state"].items():
                found |= {f"optimiser/{first + index:05d}/{key}": value for key, value in entry.items()}
        if self.ema is not None:
            found |= {f"ema/{index:05d}": value for index, value in enumerate(self.ema.shadow_params)}
        return found

    def _numbered(self) -> Iterator[tuple[int, torch.optim.Optimizer]]:
        """The optimisers, each with the place of its first weight in `parameters`."""
        first = 0
        for optimiser in self.optimisers:
            yield first, optimiser
            first += len(optimiser.param_groups[0]["params"])

    def _kinds(self) -> list[str]:
        return [type(optimiser).__name__ for optimiser in self.optimisers]

    def about(self) -> dict[str, Any]:
        """What belongs to the tensors, as JSON values."""
        return {
            "optimisers": self._kinds(),
            "scaler": self.scaler.state_dict(),
            "ema_step": None if self.ema is None else self.ema.optimization_step,
        }

    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Go back to what `tensors` and `about` gave.

        Raises:
            RuntimeError, ValueError, KeyError, IndexError: they are of another model.
        """
        import torch

        if (kinds := about.get("optimisers", self._kinds())) != self._kinds():
            raise ValueError(f"its optimisers are {' and '.join(kinds)}, not {' and '.join(self._kinds())}")
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "optimiser": {}, "ema": {}}
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            groups[part][rest] = value
        self.model.load_state_dict(groups["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            number, _, key = name.partition("/")
            index = int(number)
            state.setdefault(index, {})[key] = _laid_out_as(self.parameters[index], value)
        for first, optimiser in self._numbered():
            fresh = optimiser.state_dict()["param_groups"]
            mine = range(first, first + len(fresh[0]["params"]))
            own = {index - first: state[index] for index in mine if index in state}
            optimiser.load_state_dict({"state": own, "param_groups": fresh})
        if self.ema is not None:
            with torch.no_grad():
                for index, shadow in enumerate(self.ema.shadow_params):
                    average = groups["ema"][f"{index:05d}"]
                    if average.shape != shadow.shape:
                        raise ValueError(
                            f"its average {index} has the shape {list(average.shape)}, not {list(shadow.shape)}"
                        )
                    shadow.copy_(average)
            self.ema.optimization_step = int(about["ema_step"])
        if about["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(about["scaler"]))


def _optimisers(
    model: nn.Module, settings: OptimiserSettings, world: int
) -> tuple[list[nn.Parameter], list[torch.optim.Optimizer]]:
    """The weights that learn, and their optimisers; these have them in the same order, one after the other."""
    import torch

    from daskt2i.train.muon import inner_matrices, muon

    matrices: list[nn.Parameter] = []
    others = [weight for weight in model.parameters() if weight.requires_grad]
    if settings.optimiser == "muon":
        matrices, others = inner_matrices(model)
    found: list[torch.optim.Optimizer] = []
    if matrices:
        rank = torch.distributed.get_rank() if world > 1 else 0
        found.append(muon(matrices, settings.learning_rate, settings.weight_decay, world, rank))
    if others:
        # Fused is one kernel for all weights. Its CPU version is as exact, and twice as fast as the loop.
        rates = {"lr": settings.learning_rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
        found.append(torch.optim.AdamW(others, **rates, fused=True))  # type: ignore[arg-type]
    return [*matrices, *others], found


def _laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """The value in the parameter's memory order, e.g. channels_last.

    Fused AdamW walks through memory without a look at strides (seen with torch 2.13 on a CPU): a mean of gradients in
    another order would move other weights than its own, and nothing would say so.
    """
    import torch

    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
