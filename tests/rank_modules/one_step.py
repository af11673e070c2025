"""Loss and gradient of one step on real ranks, for several models, objectives and numbers of parts.

Rank 0 writes them as `NUMBER-LAYOUT-OBJECTIVE-PARTS.safetensors`, with the loss as `loss`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daskt2i.launch import rank as ranks
from daskt2i.launch.process_group import ProcessGroup, joined


def gradients(layout: Any, task: Any, parts: int, group: ProcessGroup) -> dict[str, Any]:
    """The gradient of every weight, and the loss over all ranks."""
    import torch

    from daskt2i.train.task import cut

    weights = list(layout.model.parameters())
    held = layout.held(weights)
    layout.clear()
    layout.model.zero_grad()
    total = torch.zeros(1)
    pieces = cut(next(task.batches(0)), parts)
    for number, (part, share) in enumerate(pieces):
        with layout.one_part(number == len(pieces) - 1):
            loss = task.loss(layout.wrapped, part)[0] * share
            loss.backward()
        total += loss.detach()
    layout.norm(held, None)
    found = {"loss": group.sum(total) / group.world}
    for (name, _), part in zip(layout.model.named_parameters(), held, strict=True):
        found[name] = layout.whole(part.grad, part).contiguous().clone()
    return found


def main() -> None:
    """Run one rank."""
    import torch
    from builders.denoisers import disturbed
    from safetensors.torch import save_file

    from daskt2i.model.diffusion import Diffusion
    from daskt2i.train.denoiser_rank import Denoiser, DenoiserJob
    from daskt2i.train.optimisation.replicas import Replicas
    from daskt2i.train.optimisation.shards import Shards

    me, job = ranks.rank(), ranks.job()
    torch.set_num_threads(me.threads)
    with joined(me) as group:
        for number, case in enumerate(job["cases"]):
            task = Denoiser(DenoiserJob(**case["job"]))
            for name in ("replicas", "shards"):
                model = disturbed(task.build("cpu"))
                layout: Any = Replicas(model, me.world) if name == "replicas" else Shards(model, "cpu", me.world)
                for objective in case["objectives"]:
                    task.diffusion = Diffusion(objective, shift=task.settings.shift)
                    for parts in (1, 2):
                        found = gradients(layout, task, parts, group)
                        if me.rank == 0:
                            save_file(found, Path(job["folder"]) / f"{number}-{name}-{objective}-{parts}.safetensors")
            task.close()
    ranks.tell("done")


if __name__ == "__main__":
    main()
