"""A small distributed run with checkpoints: its value depends on the steps alone, not on ranks or interruptions.

Begun anew, rank `hold` waits after step 5 for what the test does to it, and the others wait for this rank.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

from daskt2i.errors import NonFiniteLoss
from daskt2i.launch import rank


def share(step: int, batch: int, me: int, world: int) -> float:
    size = batch // world
    return sum(math.sin(step * batch + n) for n in range(me * size, (me + 1) * size))


def expected(steps: int, batch: int) -> float:
    value = 0.0
    for step in range(1, steps + 1):
        value = 0.5 * value + share(step, batch, 0, 1)
    return value


def main() -> None:
    import torch
    from torch import distributed

    job, me = rank.job(), rank.rank()
    torch.set_num_threads(me.threads)
    distributed.init_process_group(os.environ["DASKT2I_BACKEND"])
    path = Path(job["folder"]) / "checkpoint.json"
    state = json.loads(path.read_text()) if path.exists() else {"step": 0, "value": 0.0}
    step, value = state["step"], state["value"]
    hold = job.get("hold") if step == 0 else None
    while step < job["steps"]:
        step += 1
        part = torch.tensor([share(step, job["batch"], me.rank, me.world)], dtype=torch.float64)
        distributed.all_reduce(part)
        value = 0.5 * value + part.item()
        rank.tell("step", step=step)
        if me.rank == job.get("blown_up") and step == 2:
            raise NonFiniteLoss("The loss is no number any more at step 2.")
        if me.rank == hold and step == 5:
            time.sleep(120)
        if me.rank == 0 and step % job["every"] == 0:
            beside = path.with_suffix(".part")
            beside.write_text(json.dumps({"step": step, "value": value}))
            beside.replace(path)
            rank.tell("checkpoint", step=step)
        time.sleep(job["seconds"])
    rank.tell("result", value=value)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
