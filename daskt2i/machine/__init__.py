"""What this computer is and what it can do: cores, memory, GPUs, processor, precisions.

In here: the cores, memory and GPUs that we may use (`machine`), the name and instructions of the processor
(`processor`), which floating-point format a device runs fast (`precision`).
Not in here: how many workers are sensible (`plan`), settings, models.
Imports: `errors` and `types`. Every room below may import this one.
To add a fact about hardware: a module here that asks the operating system or torch, and no room of ours.
"""
