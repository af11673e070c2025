"""The hardware of this computer: cores, memory, GPUs, processor, and the precision that it runs fast.

In here: the cores, memory and GPUs that this process may use (`machine`), the name and instructions of the processor
(`processor`), which floating-point format a device runs fast (`precision`), keeping freed memory (`allocator`).
Not in here: how many workers to start (`plan`), settings, models.
Imports: `errors` and `types`. Every room below may import this one.
To add a fact about hardware: a module here that asks the operating system or torch, and imports no other room.
"""
