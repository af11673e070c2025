"""A module as one writes it for torchrun: it has never heard of daskt2i."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([float(os.environ["RANK"]) + 1])
dist.all_reduce(total)
if dist.get_rank() == 1:
    Path(os.environ["RESULT"]).write_text(f"{total.item()} of {dist.get_world_size()}")
dist.barrier()
dist.destroy_process_group()
